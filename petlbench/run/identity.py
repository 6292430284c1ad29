"""The identity of a run: a hash of what decides its result, on every machine.

Contents decide and places do not: the digests of the files that a run reads (contents.py) stand
for the checkpoint and, with all settings of its reader, for the data; two folders of equal images
are one task, whatever their names.

Records keep their identity while the code moves on. A key that is added later joins the hash only
if it differs from its neutral value; a class that was renamed is hashed under the name that the
first records had (petlbench/config/renamed.yaml).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

from petlbench.config import renamed
from petlbench.config.construct import flat
from petlbench.config.job_nodes import PROBE

Plain = Mapping[str, Any]

IDENTITY = (
    *("method", "backbone", "dataset", "input", "train", "protocol", "seed", "probe"),
    "contents",
)
# A key that joins one of these nodes needs a row here: without it no earlier record is found.
NEUTRAL: Mapping[str, Any] = {
    "dataset.on_bad_image": "error",
    "dataset.folds": None,
    "dataset.fold": 0,
    "input.resize": None,
    "input.aspect": "squash",
    "input.augment": None,
    "backbone.fused_attention": True,
    "backbone.head_start": "small_normal",
    "backbone.weights": "fp32",
    "train.accumulate": 1,
    "train.clip_grad": None,
    "train.optimizer": "adamw",
    "train.momentum": 0.9,
    "train.label_smoothing": 0.0,
    "train.mixup": 0.0,
    "train.cutmix": 0.0,
    "train.memory": "fast",
    "train.compile": False,
    "train.schedule.cosine_from": 0,
    "probe.tasks": None,
    "probe.images": None,
}
# They change no result: folders of the machine, what lies beside a record, how often a training is
# saved, the memory for outputs of frozen blocks, and a budget that only the printed table uses.
PLACES = (
    *("dataset.cache", "dataset.root", "data.root", "results.root", "results.predictions"),
    *("train.checkpoint_every", "train.prefix_cache", "probe.budget_gib"),
)
# Where the digest of the first is known, the others say nothing more of the result.
KNOWN_BY = {
    "contents.checkpoint": ("backbone.checkpoint",),
    "contents.splits": ("dataset.name", "dataset.task", "dataset.title"),
}
# absolute paths, also from ~: '/a b/c' in quotes; /a/b without, but no https://host/a and no a/b
QUOTED = re.compile(r"""(['"])~?/(?:[^'"]*/)?([^/'"]+)/?\1""")
UNQUOTED = re.compile(r"""(?<![\w.:/'"<~-])~?/(?:[^\s/'"]+/)*(?=[^\s/])""")
BACKBONE = {"_target_": "petlbench.backbone.create", "_partial_": True}  # in the first records


def identity(config: Plain) -> str:
    """16 hex digits that name a run: equal for equal results, whatever machine or folder.

    config: what `contents.identified` returns, or the configuration of a record.
    """
    first = first_form(placeless(config))
    replaced = _replaced(first.get("contents") or {})
    chosen = {
        key: value
        for key, value in flat({key: first[key] for key in IDENTITY if first.get(key) is not None})
        if key not in replaced and not (key in NEUTRAL and NEUTRAL[key] == value)
    }
    # 0 and 0.0 differ in JSON: values must have the types of the schema
    text = json.dumps(chosen, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _replaced(contents: Plain) -> set[str]:
    """The keys for which digests stand."""
    known = {f"contents.{name}" for name in contents}
    return {key for digest, keys in KNOWN_BY.items() if digest in known for key in keys}


def first_form(config: Plain) -> dict[str, Any]:
    """A configuration with the names that the first records had, so that all can be compared."""
    form = {key: node for key, node in config.items() if node is not None}
    if "backbone" in form:
        form["backbone"] = {**form["backbone"], **BACKBONE}
    for node in ("method", "dataset"):
        if node in form:
            form[node] = renamed.first_name(form[node])
    if form.get("protocol", {}).get("name") == PROBE:
        form["protocol"] = {"name": PROBE}  # a probe has no other role for a split
    return form


def completed(config: Plain) -> dict[str, Any]:
    """A record's configuration in its first form, with later keys at their neutral values.

    It shares the nodes that it does not change with `config`.
    """
    whole = first_form(config)
    for place, values in _neutral_nodes().items():
        node: Any = whole
        for part in place:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and node and not values.keys() <= node.keys():
            _put(whole, place, {**node, **{k: values[k] for k in values if k not in node}})
    return whole


@cache
def _neutral_nodes() -> dict[tuple[str, ...], dict[str, Any]]:
    """NEUTRAL by nodes, whose names are parts."""
    nodes: dict[tuple[str, ...], dict[str, Any]] = {}
    for place, value in NEUTRAL.items():
        *above, key = place.split(".")
        nodes.setdefault(tuple(above), {})[key] = value
    return nodes


def _put(whole: dict[str, Any], place: tuple[str, ...], node: dict[str, Any]) -> None:
    """Replace a node by its place; nodes above it are copied, since others share them."""
    *above, key = place
    for part in above:
        whole[part] = dict(whole[part])
        whole = whole[part]
    whole[key] = node


def placeless(config: Plain) -> dict[str, Any]:
    """The configuration without the folders of a machine, as a record and W&B keep it.

    A file of weights keeps its name; which one it was is in the provenance, by its SHA-256.
    """
    kept = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    for place in PLACES:
        node, _, key = place.partition(".")
        if isinstance(kept.get(node), dict):
            kept[node].pop(key, None)
    if isinstance(file := (kept.get("backbone") or {}).get("checkpoint"), str):
        kept["backbone"]["checkpoint"] = PurePath(file).name
    return kept


def without_folders(text: str) -> str:
    """A text with the name of each file alone, in the place of its absolute path."""
    return UNQUOTED.sub("", QUOTED.sub(r"\1\2\1", text))

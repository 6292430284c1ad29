"""What is wrong with a record that others contribute: a line for each fault."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from petlbench.checks import inner_path, is_number, is_whole
from petlbench.config import labels, options, renamed
from petlbench.config.construct import flat
from petlbench.config.job_nodes import PROBE
from petlbench.errors import UserError, one_line, printable
from petlbench.run.identity import completed, identity, without_folders
from petlbench.run.record import Record, Store

NEEDED = ("versions", "device", "started")  # of the provenance; of runs on data also the splits
# drives and shares of Windows, addresses of files, other people's homes
MACHINE = re.compile(r"\b[A-Za-z]:[\\/]|\\\\\w|\bfile:/|~\w+/")
NAME = re.compile(r"[\w.+-]+")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{12,40}(-dirty)?")
CLOCKS = timedelta(days=1)  # that two clocks may differ
LONGEST = 300  # characters of a line
OF_DATA = {"suite": "suite", "group": "group", "task_title": "title"}
SIGNED = "percent"  # in the name of a cost that may be below 0
Faults = Iterator[str]


def faults(file: Path, record: Record) -> Faults:
    """What is wrong with a record, each in one line. file: where it lies."""
    if record["status"] != "finished":
        yield f"status is {record['status']}; only finished runs are compared"
        return
    parts = (_names, _provenance, _splits, _paths, _costs, _scores, _network)
    for line in chain(_place(file, record), *(part(record) for part in parts)):
        shown = printable(line)
        yield shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


def _names(record: Record) -> Faults:
    """Faults of the labels, which the identity does not cover, against the values."""
    config, factors = record["config"], record["factors"]
    dataset = config.get("dataset") or {}
    stated = {
        "factors": (factors, config.get("factors")),
        "factors.seed": (factors["seed"], config.get("seed")),
        "title": (record["title"], config.get("title")),
        "protocol": (record["protocol"], (config.get("protocol") or {}).get("name")),
        **{name: (record[name], dataset.get(key)) for name, key in OF_DATA.items()},
    }
    for name, (label, value) in stated.items():
        if label != value:
            yield f"{name} is {label!r}, but its configuration has {value!r}"
    for key in ("method", "backbone"):
        if not NAME.fullmatch(factors[key]):
            yield f"factors.{key} is {factors[key]!r}; it must be a name"
    try:
        inner_path("factors.task", factors["task"])
        labels.check(_of_today(config), _options(factors, record["protocol"]))
    except UserError as error:
        yield str(error)


def _of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that name options, by the names that classes have today."""
    nodes = {key: dict(config.get(key) or {}) for key in labels.NAMING}
    return {key: renamed.current_name(node) for key, node in nodes.items()}


def _options(factors: Mapping[str, Any], protocol: str) -> dict[str, str]:
    """The options whose names a record has, without those of others, such as own data sets."""
    chosen = {"method": factors["method"], "dataset": factors["task"], "protocol": protocol}
    return {group: name for group, name in chosen.items() if name in options.names(group)}


def _place(file: Path, record: Record) -> Faults:
    if (own := identity(record["config"])) != record["id"]:
        yield f"id is {record['id']}, but its values have {own}; they were changed by hand"
    if file.name != (name := Store("").path(record).name):
        yield f"the file must be named {name}"


def _provenance(record: Record) -> Faults:
    own = record["provenance"]
    # a probe opens no data
    needed = NEEDED if record["protocol"] == PROBE else ("splits", *NEEDED)
    yield from (f"provenance.{key} is missing" for key in needed if not own.get(key))
    if own.get("started") and not _is_past(own["started"]):
        yield f"provenance.started is {own['started']!r}; it must be a past time with its zone"
    versions = own.get("versions") or {}
    if not isinstance(versions.get("petlbench"), str):
        yield "provenance.versions.petlbench is missing"
    if (commit := versions.get("commit")) is not None and not _is(COMMIT, commit):
        yield f"provenance.versions.commit is {commit!r}; it must be a commit of git, or null"
    checkpoint, backbone = own.get("checkpoint") or {}, record["config"].get("backbone") or {}
    if backbone and not checkpoint:
        yield "provenance.checkpoint is missing"
    # a probe loads no weights
    loads = backbone.get("pretrained") and record["protocol"] != PROBE
    if checkpoint and loads and not _is(SHA256, checkpoint.get("sha256")):
        yield "provenance.checkpoint.sha256 must be 64 hexadecimal digits"


def _is_past(started: object) -> bool:
    try:
        return datetime.fromisoformat(str(started)) <= datetime.now(UTC) + CLOCKS
    except (ValueError, TypeError):  # no date; a time without a zone
        return False


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _splits(record: Record) -> Faults:
    splits = record["provenance"].get("splits") or {}
    if record["protocol"] != PROBE and record["selection"].get("fit_on") not in splits:
        yield "provenance.splits must have the split of selection.fit_on"
    for name, split in splits.items():
        if not _is(SHA256, split.get("sha256")):
            yield f"provenance.splits.{name}.sha256 must be 64 hexadecimal digits"
        labels, images = split.get("labels"), split.get("images")
        counts = labels.values() if isinstance(labels, dict) else [None]
        if not all(map(is_whole, [images, *counts])) or sum(counts) != images:
            yield f"provenance.splits.{name}.images must be the sum of its labels"


def _paths(record: Record) -> Faults:
    for text in dict.fromkeys(_texts(record)):
        if without_folders(text) != text or MACHINE.search(text):
            yield f"'{text}' names a path of a machine"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, also the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *_texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _costs(record: Record) -> Faults:
    numbers = {"provenance.seconds": record["provenance"]["seconds"]}
    numbers |= {f"cost.{key}": value for key, value in flat(record["cost"])}
    for key, value in numbers.items():
        if is_number(value) and value < 0 and SIGNED not in key:
            yield f"{key} is {value}; it must be a number of at least 0"


def _scores(record: Record) -> Faults:
    """Faults of the scores, whose ratio and range reading has checked."""
    if record["protocol"] == PROBE:
        return
    if not record["scores"]:
        yield "scores is empty"
    protocol, selection = record["config"].get("protocol") or {}, record["selection"]
    own = {key: protocol.get(key) for key in ("fit_on", "select_on")}
    own["honest"] = own["select_on"] != "tests"
    for key, value in own.items():
        if selection.get(key) != value:
            yield f"selection.{key} is {selection.get(key)!r}, but its protocol has {value!r}"
    splits = record["provenance"].get("splits") or {}
    for name, score in record["scores"].items():
        images = splits.get(name.partition("@")[0], {}).get("images")
        if images != score["total"]:
            yield f"scores.{name}.total is {score['total']}, but its split has {images} images"


def _network(record: Record) -> Faults:
    """Faults of the method, and of the parameters, which are counted on the network's shapes."""
    from petlbench import registry  # imports torch

    config, name = completed(record["config"]), record["factors"]["method"]
    if name not in registry.names():
        yield f"method {name} is not registered here; contribute it first"
        return
    if (other := _other_name(config.get("method") or {}, name)) is not None:
        yield f"factors.method is {name}, but its values are those of {other}"
    try:
        own = counted(config, name)
    except UserError as error:
        yield str(error)
    except Exception as error:  # whatever a constructor makes of strange values
        yield f"its values build no network ({one_line(error)})"
    else:
        stated = record["cost"].get("parameters")
        if own is not None and own != stated:
            yield f"cost.parameters is {stated}, but its network has {own}"


def _other_name(node: Mapping[str, Any], name: str) -> str | None:
    """The method whose yaml has exactly these values, if it is another one."""
    today = renamed.current_name(node)
    contents = {key: content.get("method") for key, content in options.contents("method").items()}
    if contents[name] == today:
        return None
    return next((other for other, own in contents.items() if own == today), None)


def counted(config: Mapping[str, Any], name: str) -> dict[str, int] | None:
    """`cost.parameters` of a completed configuration; None if its shapes do not determine them.

    That is so for a method that reads the weights of the backbone or has a training plan of its
    own, such as a search.
    """
    classes, size = config["dataset"].get("classes"), (config.get("input") or {}).get("size")
    if not (is_whole(classes) and is_whole(size) and config.get("backbone")):
        return None
    nodes = {key: config[key] for key in ("backbone", "method")}
    return _counted(json.dumps(nodes, sort_keys=True), name, classes, size)


@cache
def _counted(nodes: str, name: str, classes: int, size: int) -> dict[str, int] | None:
    import torch

    from petlbench import registry
    from petlbench.commands.predictor import node
    from petlbench.config.nodes import BackboneConfig
    from petlbench.cost.section import parameters
    from petlbench.method import Method
    from petlbench.model.backbone import create

    plain = json.loads(nodes)
    target = registry.recorded(name, plain["method"])
    backbone = node(BackboneConfig, plain["backbone"], "backbone")

    with torch.device("meta"):
        network = create(backbone, classes=classes, image_size=size)
        if registry.needs_weights(target):  # a stranger's values are not built in real tensors
            registry.check(network, target)
            return None
        method = registry.adapt(network, target)
    return None if type(method).fit is not Method.fit else parameters(method)

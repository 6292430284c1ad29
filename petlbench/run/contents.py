"""What the files that a run reads hold: digests, which join its identity instead of their places.

A task that makes its images has none, and weights of the package or the hub are named by their
tag.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.errors import UserError
from petlbench.run import splits
from petlbench.system import sha256_of

Contents = dict[str, Any]


class Reader:
    """Reads the digests of the files of configurations, those of equal files once.

    A new one notices every change of the files that the reader lists; one serves all runs of a
    plan.
    """

    def __init__(self) -> None:
        self._checkpoint = cache(_checkpoint)
        self._splits: dict[str, Contents] = {}

    def identified(self, config: Config) -> dict[str, Any]:
        """`config.plain()` with a node `contents`, if the run reads files that exist.

        Keys of `contents`: `checkpoint`, the SHA-256 of `backbone.checkpoint`, and `splits`, a
        digest of each split that the run may open.
        """
        plain = config.plain()
        contents: Contents = {}
        if (digest := self._checkpoint(config.backbone.checkpoint)) is not None:
            contents["checkpoint"] = digest
        # without files nothing is read and imported, since torch takes seconds
        if _has_files(config) and config.protocol.fit_on is not None:
            nodes = [plain[node] for node in ("dataset", "input", "protocol")]
            key = json.dumps(nodes, sort_keys=True)
            if key not in self._splits:
                self._splits[key] = _splits(config)
            contents |= self._splits[key]
        return plain | ({"contents": contents} if contents else {})


def identified(config: Config) -> dict[str, Any]:
    """`config.plain()` with the digests of its files as they are now."""
    return Reader().identified(config)


def _has_files(config: Config) -> bool:
    """Whether the reader has a root, as readers of files have, and it exists."""
    root = config.dataset.target.values.get("root")
    try:
        return isinstance(root, str) and Path(root).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def _checkpoint(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return sha256_of(Path(file).expanduser())
    except (OSError, RuntimeError):  # RuntimeError: an unknown home folder
        return None  # a plan may be made where the file is missing; a run refuses it


def _splits(config: Config) -> Contents:
    try:
        task = configured.task(config)
        names = splits.opened_names(config, task)
    except UserError:
        return {}  # as above
    if task.digest is None:
        return {}
    digests = {}
    for name in names:
        try:
            digests[name] = task.digest(name)
        except UserError:
            continue
    return {"splits": digests} if digests else {}

"""The unfinished work of a run, from which a later start goes on.

It is a folder beside the record, with a file for each part of the work: a SHA-256, then plain data
and tensors as torch.save writes them, read with `weights_only`, so that a file runs no code. A
part also holds the states of all random generators and what the run has cost: what follows it
draws and counts as if the run had not been stopped. It names the part before it by its digest, so
that the scores of a search go with the network that they are of.
"""

import hashlib
import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from petlbench.system import replacing
from petlbench.train import random_states

SUFFIX = ".pt"
KEYS = {"stamp", "at", "state", "random", "spent", "after"}  # of a part
DIGEST = hashlib.sha256().digest_size  # bytes
Part = dict[str, Any]
log = logging.getLogger("petlbench")


class Spent:
    """What a run has cost so far, in all its starts.

    seconds: since this object was made, and of the starts that it goes on from; it can be set.
    scored_s: seconds of these that scores of splits took.
    devices: names of those at work.
    """

    def __init__(self, device: str) -> None:
        self.images_seen = 0
        self.images_scored = 0
        self.scored_s = 0.0
        self.devices = [device]
        self.seconds = 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._beginning

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._beginning = time.perf_counter() - value

    def state(self) -> Part:
        """Plain data for `restore`."""
        return {
            "images": (self.images_seen, self.images_scored),
            "scored_s": self.scored_s,
            "devices": self.devices,
            "seconds": self.seconds,
        }

    def restore(self, state: Part) -> None:
        """Go on from what an earlier start has spent."""
        self.images_seen, self.images_scored = state["images"]
        self.scored_s = state["scored_s"]
        self.devices = list(dict.fromkeys([*state["devices"], self.devices[-1]]))
        self.seconds = state["seconds"]


class Unfinished:
    """The parts of one run in a folder.

    stamp: what must be equal for a part to be used: the run, versions, kind of device. device: the
    one whose random state belongs to a part. name: of the device, for `spent`. resumed: the parts
    that this start goes on from.
    """

    def __init__(
        self, folder: Path, stamp: Mapping[str, object], device: torch.device, name: str
    ) -> None:
        self.folder = folder
        self.stamp = dict(stamp)
        self.device = device
        self.spent = Spent(name)
        self.resumed: list[str] = []
        self._digests: dict[str, str] = {}  # of the parts so far, in their order
        self._is_refused = False

    def load(self, name: str, fits: Callable[[Any], bool] = lambda state: True) -> Any:
        """What an earlier start has saved under this name; None, with a warning if it is unusable.

        fits: whether the state belongs to what is there now.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            part, digest = self._read(path, name, fits)
        except ValueError as error:
            log.warning("'%s' %s; %s starts from the beginning", path, error, name)
            return None
        self._digests[name] = digest
        random_states.restore(part["random"], self.device)
        self.spent.restore(part["spent"])
        self.resumed.append(f"{name} after {part['at']}")
        log.info("%s: goes on from '%s'", self.resumed[-1], path)
        return part["state"]

    def save(self, name: str, state: Any, at: str) -> None:
        """Replace a part. A disk that refuses it costs a warning: it is no result.

        state: plain data and tensors. at: how far the part is, such as `epoch 3 of 10`.
        """
        seconds = self.spent.seconds
        part = {
            "stamp": self.stamp,
            "after": self._before(name),
            "at": at,
            "state": state,
            "random": random_states.taken(self.device),
            "spent": self.spent.state(),
        }
        content = io.BytesIO()
        torch.save(part, content)
        digest = hashlib.sha256(content.getbuffer()).digest()
        self._digests[name] = digest.hex()
        try:
            with replacing(self._path(name)) as file:
                file.write(digest)
                file.write(content.getbuffer())
        except OSError as error:
            self._warn(name, error)
        self.spent.seconds = seconds  # saving is no training

    def _warn(self, name: str, error: OSError) -> None:
        if not self._is_refused:  # once: it may come again after every epoch
            reason, path = error.strerror or error, self._path(name)
            log.warning("cannot save '%s' (%s); the run goes on without it", path, reason)
        self._is_refused = True

    def _before(self, name: str) -> str:
        """The digest of the part before one; empty for the first."""
        others = [digest for other, digest in self._digests.items() if other != name]
        return others[-1] if others else ""

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _read(self, path: Path, name: str, fits: Callable[[Any], bool]) -> tuple[Part, str]:
        """The part in a file, and its digest.

        Raises ValueError, whose text ends a sentence, if it is unusable.
        """
        try:
            part, digest = _content(path)
            stamp = part["stamp"]
            is_fit = stamp == self.stamp and fits(part["state"])
        except Exception as error:  # a damaged archive raises anything
            raise ValueError("is damaged") from error
        if stamp != self.stamp:
            names = sorted(stamp.keys() | self.stamp.keys())
            other = [name for name in names if stamp.get(name) != self.stamp.get(name)]
            raise ValueError(f"was saved with another {', '.join(other)}")
        if part["after"] != self._before(name):
            raise ValueError("goes on from a part that is lost")
        if not is_fit:
            raise ValueError("is of another network")
        return part, digest


def _content(path: Path) -> tuple[Part, str]:
    content = path.read_bytes()
    digest = content[:DIGEST]
    if hashlib.sha256(content[DIGEST:]).digest() != digest:
        raise ValueError("its digest is another one")
    part = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True, map_location="cpu")
    return {key: part[key] for key in KEYS}, digest.hex()

"""How long runs take: one estimate for the plan of a sweep, its status and the time that is left.

A run takes for each epoch what finished runs of its method, backbone and suite took on the same
machine. If there are none, it takes the FLOPs of its training images at the rate that the machine
reached on its backbone. Imports no torch.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from petlbench.checks import is_number
from petlbench.config.schema import Config
from petlbench.run.record import Record


@dataclass(frozen=True)
class Work:
    """What the time of a run depends on, beside the machine."""

    method: str
    backbone: str
    suite: str
    epochs: int

    @classmethod
    def of(cls, config: Config) -> "Work":
        """The work of a run."""
        factors = config.factors
        return cls(factors.method, factors.backbone, config.dataset.suite, config.train.epochs)


class Pace:
    """How fast machines are, from the records of finished runs; a machine is its device's name."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        # by method and backbone: GFLOP of an image in a training step, on any machine
        self._gflops: dict[tuple[str, str], float] = {}
        # methods on backbones that read each image once, whatever the epochs
        self._once: set[tuple[str, str]] = set()
        # by machine, method, backbone and suite: seconds of a run for each pass over the images
        self._seconds: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        # by machine and suite: images of an epoch
        self._images: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        # by machine and backbone: GFLOP and seconds of trainings
        self._work: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learn from a record; one without times gives FLOPs only, an unfinished one nothing."""
        if record["status"] != "finished":
            return
        method, backbone = (record["factors"][key] for key in ("method", "backbone"))
        cost, suite, machine = record["cost"], record["suite"], record["provenance"].get("device")
        gflops = _positive((cost.get("gflops") or {}).get("step"))
        if gflops is not None:
            self._gflops[method, backbone] = gflops
        # a method that makes no training step, as k-NN, keeps no byte for backward
        if cost.get("saved_mb") == 0:
            self._once.add((method, backbone))
        epochs = _positive(record["config"]["train"].get("epochs"))
        if epochs is None:
            return
        epochs = self._passes(method, backbone, epochs)
        notes = record.get("notes") or {}
        # the seconds of a resumed run are of its last start
        if (seconds := seconds_of(record)) is not None and "resumed" not in notes:
            self._seconds[machine, method, backbone, suite].append(seconds / epochs)
        train_s, images = _positive(cost.get("train_s")), _positive(cost.get("images_seen"))
        if train_s is None or images is None:
            return
        # not those it has seen: k-NN reads each once, a search scores many
        splits = record["provenance"].get("splits") or {}
        split = splits.get(record["selection"].get("fit_on")) or {}
        if size := _positive(split.get("images")):
            self._images[machine, suite].append(size)
        # a replayed prefix is part of the FLOPs that are counted, and was not computed
        if gflops is not None and "prefix_cache" not in notes:
            seconds = train_s - (_positive(cost.get("scored_s")) or 0.0)
            self._work[machine, backbone].append((gflops * images, seconds))

    def seconds(self, work: Work, machine: str | None) -> float | None:
        """Seconds of a run on a machine; None if no record tells."""
        if machine is None:
            return None
        passes = self._passes(work.method, work.backbone, work.epochs)
        if own := self._seconds.get((machine, work.method, work.backbone, work.suite)):
            return _mean(own) * passes
        gflops = self._gflops.get((work.method, work.backbone))
        images = self._images.get((machine, work.suite))
        done = self._work.get((machine, work.backbone))
        if gflops is None or not images or not done:
            return None
        rate = sum(work for work, _ in done) / sum(seconds for _, seconds in done)
        return gflops * _mean(images) / rate * passes

    def _passes(self, method: str, backbone: str, epochs: float) -> float:
        """How often a run reads its training images."""
        return 1.0 if (method, backbone) in self._once else epochs


def seconds_of(record: Record) -> float | None:
    """Seconds that a run took; None if its record has none."""
    return _positive(record["provenance"].get("seconds"))


def _positive(value: object) -> float | None:
    return float(value) if is_number(value) and value > 0 else None


def machine_of(records: Iterable[Record]) -> str | None:
    """The machine of most finished runs; None without any."""
    found = Counter(r["provenance"].get("device") for r in records if r["status"] == "finished")
    return found.most_common(1)[0][0] if found else None


@dataclass(frozen=True)
class Left:
    """seconds: of the runs with an estimate, one after another. unknown: number of the others."""

    seconds: float
    unknown: int


def left(runs: Mapping[Work | None, int], pace: Pace, machine: str | None) -> Left:
    """The time of runs on a machine. runs: how many there are of each work, None if unknown."""
    seconds, unknown = 0.0, 0
    for work, count in runs.items():
        each = pace.seconds(work, machine) if work is not None else None
        unknown += count if each is None else 0
        seconds += (each or 0.0) * count
    return Left(seconds, unknown)


class Eta:
    """The time until a sweep ends, if it goes on as it went.

    The estimate of the runs that are left, times the share of their time that the sweep took for
    those that finished: two workers need half of it. Runs without an estimate take the mean.
    """

    def __init__(self, runs: Iterable[Config], records: Iterable[Record]) -> None:
        """records: of runs that finished before."""
        self.runs: Counter[Work | None] = Counter(map(Work.of, runs))
        self.pace = Pace(records)
        self.done: list[float] = []  # seconds of the finished runs
        self.machine: str | None = None
        self.started = time.monotonic()

    def ended(self, run: Config, record: Record) -> None:
        """Note that a run has ended; one that failed says nothing of the time of others."""
        self.runs[Work.of(run)] -= 1
        if record["status"] == "finished" and (seconds := seconds_of(record)):
            self.pace.add(record)
            self.done.append(seconds)
            self.machine = record["provenance"].get("device")

    def seconds(self) -> float:
        """Until the end; 0 before a run has finished."""
        if not self.done:
            return 0.0
        rest = left(self.runs, self.pace, self.machine)
        known = sum(self.runs.values()) - rest.unknown + len(self.done)
        mean = (rest.seconds + sum(self.done)) / known
        share = (time.monotonic() - self.started) / sum(self.done)
        return share * (rest.seconds + rest.unknown * mean)


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

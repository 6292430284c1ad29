"""What a plan asks of this machine: weights, pixels, epochs, data, hours. Imports torch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from petlbench.checks import is_number
from petlbench.config.schema import Config
from petlbench.cost import shapes
from petlbench.data import configured
from petlbench.errors import UserError
from petlbench.run import build, provenance
from petlbench.run.record import Record, Store
from petlbench.sweep.eta import duration, step_gflops
from petlbench.sweep.plan import TO_RUN, Planned

SHOWN = 3  # tasks without data in a line


@dataclass(frozen=True)
class Pace:
    """How fast this machine is, from the records of finished runs on its device.

    seconds: of a run for each epoch, by method, backbone and suite. gflops: of an image in a
    training step, by method and backbone, on any device. images: of an epoch, by suite. rate:
    GFLOP in a second of training, by backbone.
    """

    seconds: dict[tuple[str, str, str], float]
    gflops: dict[tuple[str, str], float]
    images: dict[str, float]
    rate: dict[str, float]

    def of(self, run: Planned) -> float | None:
        """Seconds of a run; None if no record tells."""
        factors, suite = run.config.factors, run.config.dataset.suite
        pair = (factors.method, factors.backbone)
        found = self.seconds.get((*pair, suite))
        parts = (self.gflops.get(pair), self.images.get(suite), self.rate.get(factors.backbone))
        if found is None and None not in parts:
            gflops, images, rate = (part for part in parts if part is not None)
            found = gflops * images / rate
        return None if found is None else found * run.config.train.epochs


def lines(
    runs: Sequence[Planned], store: Callable[[str], Store], tflops: float | None
) -> list[str]:
    """A line for each backbone, its input, epochs and recipe in the runs to do.

    store: the records below a results.root. tflops: speed of the machine, if no record tells.
    """
    groups: dict[str, list[Planned]] = defaultdict(list)
    for run in runs:
        if run.state == TO_RUN:
            groups[_about(run.config)].append(run)
    paces = cache(partial(_pace, store))
    return [
        f"  {about}: {len(own)} runs{_hours(own, paces, tflops)}{_missing(own)}"
        for about, own in groups.items()
    ]


def _about(config: Config) -> str:
    trains = config.protocol.fit_on is not None
    parts = [
        f"{config.factors.backbone} ({build.source(config.backbone).place})",
        f"{config.input.size} px",
        *([f"{config.train.epochs} epochs"] if trains else []),
        f"recipe {config.recipe.name}",
    ]
    return ", ".join(parts)


def _missing(runs: Iterable[Planned]) -> str:
    """The tasks whose data are not on this machine."""
    found = []
    for task, config in {run.config.factors.task: run.config for run in runs}.items():
        try:
            build.data(config)
        except UserError:
            found.append(task)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; no data for {', '.join(found[:SHOWN])}{more}" if found else ""


def _hours(
    runs: Sequence[Planned], paces: Callable[[str, str], Pace | None], tflops: float | None
) -> str:
    """How long the runs take one after another."""
    if runs[0].config.protocol.fit_on is None:
        return ""
    measured, stated = 0.0, 0.0
    left: list[Planned] = []
    for run in runs:
        known = paces(run.config.results.root, run.config.device)
        if (seconds := known.of(run) if known else None) is not None:
            measured += seconds
        elif tflops and (work := _training_gflop(run.config)) is not None:
            stated += work / (1000 * tflops)
        else:
            left.append(run)
    return _time(measured, stated, tflops) + _untold(len(left), len(runs), tflops)


def _time(measured: float, stated: float, tflops: float | None) -> str:
    """Seconds of runs by their origin, as text; empty if there are none."""
    parts = [f"about {duration(measured)} of runs, from the records of this machine"]
    speed = f"about {duration(stated)} of runs at {tflops} TFLOP/s, as stated"
    shown = [*(parts if measured else []), *([speed] if stated else [])]
    return "".join(f"; {part}" for part in shown)


def _untold(left: int, runs: int, tflops: float | None) -> str:
    if not left:
        return ""
    part = "time" if left == runs else f"time of {left} of them"
    if tflops:
        return f"; {part} unknown: no count of images or operations"
    return f"; {part} unknown: no record of this machine; hydra.sweeper.tflops=N states its speed"


def _training_gflop(config: Config) -> float | None:
    """1e9 operations of a training; None if they cannot be counted without weights or images."""
    try:
        images = configured.task(config).size(str(config.protocol.fit_on))
    except UserError:  # its list is not on this machine
        return None
    if images is None:
        return None
    pair = _Counted(repr((config.method, config.backbone, config.input, config.train)), config)
    try:
        return _step_gflop(pair) * images * config.train.epochs
    except Exception:  # a method that needs its weights, or reads values, raises whatever it does
        return None


@dataclass(frozen=True)
class _Counted:
    """A pair whose step is counted once. key: what the count depends on."""

    key: str
    config: Config = field(compare=False)


@cache
def _step_gflop(pair: _Counted) -> float:
    """Of one image in a training step."""
    config = pair.config
    method = build.on_meta(config)
    return shapes.gflops(method, batch=config.train.batch_size, size=config.input.size)["step"]


def _pace(store: Callable[[str], Store], root: str, device: str) -> Pace | None:
    try:
        name = provenance.device_name(build.device(device))
    except UserError:  # a plan may be made on a machine without the GPU of its runs
        return None
    return pace((r for r in store(root).records() if r["status"] == "finished"), name)


def pace(records: Iterable[Record], device: str) -> Pace:
    """From finished records; those of other devices tell FLOPs alone."""
    gflops: dict[tuple[str, str], float] = {}
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    images: dict[str, list[float]] = defaultdict(list)
    work: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        factors, cost = record["factors"], record["cost"]
        pair = (factors["method"], factors["backbone"])
        if (flops := step_gflops(record)) is not None:
            gflops[pair] = flops
        seen, train_s = cost.get("images_seen"), cost.get("train_s")
        epochs = record["config"]["train"].get("epochs")
        is_timed = all(is_number(value) and value > 0 for value in (seen, train_s, epochs))
        if record["provenance"].get("device") != device or not is_timed:
            continue
        seconds[*pair, record["suite"]].append(record["provenance"]["seconds"] / epochs)
        images[record["suite"]].append(seen / epochs)
        # a replayed prefix is part of the FLOPs that are counted, and was not computed
        if flops is not None and "prefix_cache" not in (record.get("notes") or {}):
            work[pair[1]].append((flops * seen, train_s))
    return Pace(
        {key: _mean(values) for key, values in seconds.items()},
        gflops,
        {key: _mean(values) for key, values in images.items()},
        {key: sum(w for w, _ in own) / sum(s for _, s in own) for key, own in work.items()},
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""What a plan asks of this machine: weights, pixels, epochs, data, hours. Imports torch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from petlbench.config.schema import Config
from petlbench.cost import shapes
from petlbench.data import configured
from petlbench.errors import UserError
from petlbench.run import build, provenance, splits
from petlbench.run.record import Store
from petlbench.sweep.estimate import Pace, Work, duration
from petlbench.sweep.plan import TO_RUN, Planned
from petlbench.units import counted

SHOWN = 3  # tasks without data in a line


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
    pace = cache(lambda root: Pace(store(root).records()))  # of each results.root
    return [
        f"  {about}: {counted(len(own), 'run')}{_hours(own, pace, tflops)}{_missing(own)}"
        for about, own in groups.items()
    ]


def _about(config: Config) -> str:
    trains = config.protocol.fit_on is not None
    parts = [
        f"{config.factors.backbone} ({build.source(config.backbone).place})",
        f"{config.input.size} px",
        *([counted(config.train.epochs, "epoch")] if trains else []),
        f"recipe {config.recipe.name}",
    ]
    return ", ".join(parts)


def _missing(runs: Iterable[Planned]) -> str:
    """The tasks whose data are not on this machine."""
    found: dict[str, str] = {}
    for task, config in {run.config.factors.task: run.config for run in runs}.items():
        try:
            splits.data(config)
        except UserError as error:
            found[task] = str(error)
    if not found:
        return ""
    (_, reason), tasks = next(iter(found.items())), [*found]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; no data for {', '.join(tasks[:SHOWN])}{more} ({reason})"


def _hours(runs: Sequence[Planned], pace: Callable[[str], Pace], tflops: float | None) -> str:
    """How long the runs take one after another."""
    if runs[0].config.protocol.fit_on is None:
        return ""
    measured, stated, unknown = 0.0, 0.0, 0
    for config in (run.config for run in runs):
        known = pace(config.results.root).seconds(Work.of(config), _machine(config.device))
        if known is not None:
            measured += known
        elif tflops and (work := _training_gflop(config)) is not None:
            stated += work / (1000 * tflops)
        else:
            unknown += 1
    return _time(measured, stated, tflops) + _untold(unknown, len(runs), tflops)


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
        return _image_gflop(pair) * images
    except Exception:  # a method that needs its weights, or reads values, raises whatever it does
        return None


@dataclass(frozen=True)
class _Counted:
    """A pair whose step is counted once. key: what the count depends on."""

    key: str
    config: Config = field(compare=False)


@cache
def _image_gflop(pair: _Counted) -> float:
    """Of one image in a whole training."""
    config = pair.config
    method = build.on_meta(config)
    step = shapes.gflops(method, batch=config.train.batch_size, size=config.input.size)["step"]
    return step * (config.train.epochs if method.takes_steps else 1)


@cache
def _machine(device: str) -> str | None:
    """The name of a device; None if it is not here, as for a plan of another machine's runs."""
    try:
        return provenance.device_name(build.device(device))
    except UserError:
        return None

"""Whether runs that share a GPU fit into their shares of its memory, by their predicted peaks."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence

from petlbench.errors import UserError, one_line
from petlbench.sweep.plan import TO_RUN, Planned
from petlbench.units import MIB_OF_GIB

# what a peak depends on, but for the number of classes: each network is tried with the most
NODES = ("method", "backbone", "input", "train")
_PEAKS: dict[tuple[str, int], float] = {}  # of a network and its number of classes, in MiB
log = logging.getLogger("petlbench")


def check(runs: Sequence[Planned], share: float, smallest: Callable[[], float]) -> None:
    """Refuse the first run whose predicted peak is above its share of a GPU.

    smallest: returns the MiB of the smallest GPU. CUDA's own memory is not part of a predicted
    peak. A run whose peak cannot be predicted is named in a warning.
    """
    if share == 1:  # alone it may take what there is
        return
    memory_mib = smallest()  # not before: it starts CUDA
    for run in _differing(runs):
        peak = _peak_mib(run)
        if peak is not None and peak > share * memory_mib:
            raise UserError(
                f"{run.name} takes {peak / MIB_OF_GIB:.2f} GiB at its predicted peak; "
                f"gpus_per_run={share:g} of a GPU with {memory_mib / MIB_OF_GIB:.2f} GiB is "
                f"{share * memory_mib / MIB_OF_GIB:.2f} GiB; {_advice(peak / memory_mib)}"
            )


def _advice(part: float) -> str:
    if part > 1:
        return "it fits on no GPU; set a smaller train.batch_size"
    return f"set hydra.launcher.gpus_per_run={math.ceil(part * 100) / 100:g}"


def _differing(runs: Sequence[Planned]) -> Iterable[Planned]:
    """For each network and its training one run, that with the most classes."""
    found: dict[str, Planned] = {}
    for run in sorted(runs, key=lambda run: run.config.dataset.classes):
        if run.state == TO_RUN and run.config.device != "cpu":
            found[_network(run)] = run
    return found.values()


def _network(run: Planned) -> str:
    plain = run.config.plain()
    return json.dumps([plain[node] for node in NODES], sort_keys=True)


def _peak_mib(run: Planned) -> float | None:
    """Predicted once in a process: trials and the final runs after them share a network."""
    key = (_network(run), run.config.dataset.classes)
    if key not in _PEAKS:
        peak = _predicted_mib(run)
        if peak is None:
            return None
        _PEAKS[key] = peak
    return _PEAKS[key]


def _predicted_mib(run: Planned) -> float | None:
    from petlbench.cost import forecast  # imports torch
    from petlbench.run import build, probing

    config = run.config
    try:
        method = build.on_meta(config)
        if not method.takes_steps:
            return 0.0
        peak = forecast.peak_mib(
            method,
            precision=probing.predicted_precision(config.train),
            train=config.train,
            batch=config.train.batch_size,
            size=config.input.size,
        )
    except Exception as error:  # of a method that needs weights, or whose steps need values
        log.warning("%s: its memory cannot be predicted (%s)", run.name, one_line(error))
        return None
    return float(peak["allocated"])

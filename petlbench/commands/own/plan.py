"""Which methods `petlbench try` runs: the first of its list, and of the others those that fit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from petlbench.commands.own.estimate import Estimate
from petlbench.config import compose
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.main_memory import available
from petlbench.run import build
from petlbench.sweep import plan
from petlbench.sweep.estimate import duration
from petlbench.units import GIB, counted

MOST = 3  # methods beside the first one
TRAINS = "dataset.fold={}"


@dataclass(frozen=True)
class Candidate:
    """A method with its runs. estimate: of one run, None if all are finished or refused.

    reason: why it is left out; None if it is run.
    """

    method: str
    runs: tuple[plan.Planned, ...]
    estimate: Estimate | None = None
    reason: str | None = None

    @property
    def left(self) -> int:
        """Runs that are not finished."""
        return sum(run.state == plan.TO_RUN for run in self.runs)

    @property
    def seconds(self) -> float:
        """Of all runs that are left, without what could not be measured."""
        each = self.estimate.seconds if self.estimate else None
        return self.left * (each or 0.0)

    def line(self) -> str:
        """The method, its runs, memory and time, or why it is left out."""
        found = self.estimate
        total = len(self.runs)
        finished = sum(run.state == plan.FINISHED for run in self.runs)
        parts = [counted(total, "run")]
        if finished:
            parts.append(f"{finished} finished")
        if found and found.peak_gib is not None:
            mode = f" with train.memory={found.memory}" if found.memory != "fast" else ""
            parts.append(f"{found.peak_gib:.2f} GiB{mode}")
        if found and found.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        if found and found.seconds is None and self.reason is None:
            parts.append("time not measured")
        if self.reason is not None:
            parts.append(f"left out: {self.reason}")
        return f"{self.method}: {', '.join(parts)}"


Combinations = Callable[[str, Sequence[str]], list[plan.Combination]]


def combinations(common: Sequence[str], folds: int) -> Combinations:
    """The function of a method and further overrides that returns its runs, one for each fold."""

    def of(method: str, more: Sequence[str] = ()) -> list[plan.Combination]:
        own = [TRAINS.format(fold) for fold in range(folds)] if folds > 1 else [""]
        texts = [[*common, f"method={method}", *more, *filter(None, [fold])] for fold in own]
        return [
            (compose.single(overrides), tuple(filter(None, [fold])), tuple(overrides))
            for overrides, fold in zip(texts, own, strict=True)
        ]

    return of


def candidates(
    methods: Iterable[str],
    of: Combinations,
    planned: Callable[[Sequence[plan.Combination]], list[plan.Planned]],
    estimated: Callable[[Sequence[Config]], Estimate],
    *,
    budget_gib: float,
    minutes: float,
) -> list[Candidate]:
    """The methods in their order; each that does not fit has the reason.

    Raises UserError if the first one does not fit: without it there is nothing to compare with.
    """
    found: list[Candidate] = []
    for method in methods:
        left_s = 60 * minutes - sum(one.seconds for one in found if one.reason is None)
        taken = sum(one.reason is None for one in found)
        one = Candidate(method, tuple(planned(of(method, ()))))
        if taken > MOST:
            one = replace(one, reason=f"{MOST} others and the first are enough")
        elif refused := next((run.reason for run in one.runs if run.reason), None):
            one = replace(one, reason=refused)
        elif one.left:
            one = _judged(one, of, planned, estimated, budget_gib, left_s)
        if not found and one.reason is not None:
            raise UserError(f"{one.line()}; {_advice(one, budget_gib, left_s)}")
        found.append(one)
    return found


def lack(found: Sequence[Candidate], minutes: float) -> str | None:
    """Why there will be nothing to compare; None if two methods are run, or one was asked for."""
    taken = [one.method for one in found if one.reason is None]
    if len(found) == 1 or len(taken) > 1:
        return None
    only = f"Only {taken[0]} fits, which leaves nothing to compare it with"
    if not any(one.estimate and one.estimate.refusal is None for one in found[1:]):
        return f"{only}; choose other --methods."
    epochs = _pair_epochs(found, minutes)
    fewer = f"train.epochs={epochs}" if epochs else "a smaller train.epochs"
    return f"{only}; give more --minutes or --budget-gib, or {fewer}."


def _judged(
    one: Candidate,
    of: Combinations,
    planned: Callable[[Sequence[plan.Combination]], list[plan.Planned]],
    estimated: Callable[[Sequence[Config]], Estimate],
    budget_gib: float,
    left_s: float,
) -> Candidate:
    """A candidate with its estimate, and the memory mode or the reason that follows from it."""
    config = one.runs[0].config
    found = estimated([run.config for run in one.runs])
    one = replace(one, estimate=found)
    if found.refusal is not None:
        return replace(one, reason=found.refusal)
    if found.peak_gib is not None and found.peak_gib > budget_gib:
        return replace(one, reason=f"more than {budget_gib:g} GiB")
    if found.memory != config.train.memory:
        runs = planned(of(one.method, [f"train.memory={found.memory}"]))
        one = replace(one, runs=tuple(runs))
    if one.seconds > left_s:
        return replace(one, reason=f"more than the {duration(max(0.0, left_s))} that are left")
    return one


def _pair_epochs(found: Sequence[Candidate], minutes: float) -> int:
    """Epochs with which the first method and the fastest other one fit; 0 if there are none."""
    others = [one.seconds for one in found if one.reason is not None and one.seconds]
    if not others:
        return 0
    taken = sum(one.seconds for one in found if one.reason is None)
    epochs = found[0].runs[0].config.train.epochs
    return int(epochs * 60 * minutes / (taken + min(others)))


def _advice(one: Candidate, budget_gib: float, left_s: float) -> str:
    """What lets the first method fit."""
    found = one.estimate
    if found is not None and found.refusal is not None:
        return "choose other --methods, or add images"
    if found is None:
        return "choose another --backbone, or other --methods"
    if found.peak_gib is not None and found.peak_gib > budget_gib:
        return "give more --budget-gib, or choose another --backbone"
    epochs = _fitting_epochs(one, left_s)
    fewer = f", or set train.epochs={epochs}" if epochs else ""
    return f"give more --minutes, or choose another --backbone{fewer}"


def _fitting_epochs(one: Candidate, left_s: float) -> int:
    """Epochs that take a third of the time, for others fit then; 0 if there are none."""
    epochs = one.runs[0].config.train.epochs
    return int(epochs * left_s / one.seconds / 3) if one.seconds else 0


def budget(device: str) -> float:
    """GiB of the GPU that is used, or of the main memory that is free."""
    import torch

    chosen = build.device(device)
    if chosen.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(chosen)[0]
    else:
        free = available()
    return (free or 0) / GIB or float("inf")

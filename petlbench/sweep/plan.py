"""The plan of a sweep: its runs, and which are finished, unsupported or broken. No Hydra."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from petlbench.config import recipes
from petlbench.config.schema import Config
from petlbench.errors import Unsupported, UserError, one_line
from petlbench.progress import progress
from petlbench.run import contents
from petlbench.run.identity import identity
from petlbench.units import counted

# and the overrides that the sweep varies in it, and all that Hydra needs to compose it
Combination = tuple[Config, tuple[str, ...], tuple[str, ...]]
TO_RUN, FINISHED, UNSUPPORTED, BROKEN = "to run", "finished", "unsupported", "broken"
# nodes that a check depends on: runs that differ in task or seed alone share a verdict
CHECKED = ("method", "backbone", "input", "train", "protocol", "recipe", "job", "probe")


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    overrides: with which Hydra composes it. reason: why an unsupported or broken one does not
    run. error: the bug of a broken one. twins: other tasks of the sweep with equal data.
    """

    config: Config
    id: str
    state: str
    varied: tuple[str, ...] = ()
    reason: str | None = None
    error: Exception | None = None
    overrides: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For example `lora mini/digits seed 0 method.rank=4`."""
        factors = self.config.factors
        return " ".join((f"{factors.method} {factors.task} seed {factors.seed}", *self.varied))

    @property
    def full_name(self) -> str:
        """Unlike all others below a results.root: `lora on vit_b16 mini/digits seed 0`."""
        factors = self.config.factors
        others = (text for text in self.varied if not text.startswith("backbone="))
        return " ".join((f"{self.pair} {factors.task} seed {factors.seed}", *others))

    @property
    def pair(self) -> str:
        """For example `lora on vit_b16`."""
        return f"{self.config.factors.method} on {self.config.factors.backbone}"


@dataclass(frozen=True)
class Verdict:
    """The result of checking a pair of method and backbone."""

    state: str = TO_RUN
    reason: str | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Wanted:
    """A combination. pair: the values that a check depends on."""

    config: Config
    varied: tuple[str, ...]
    overrides: tuple[str, ...]
    id: str
    pair: str
    is_finished: bool

    def planned(self, verdict: Verdict, twins: Iterable[str]) -> Planned:
        # a refused pair stays refused, even if some of its runs were finished before
        state = FINISHED if verdict.state == TO_RUN and self.is_finished else verdict.state
        return Planned(
            *(self.config, self.id, state, self.varied, verdict.reason, verdict.error),
            overrides=self.overrides,
            twins=tuple(twins),
        )


def build(
    combinations: Iterable[Combination],
    finished: Callable[[str], Collection[str]],
    check: Callable[[Config], None],
) -> list[Planned]:
    """The runs of a sweep, each once in each results.root, in the order of the combinations.

    finished: the identities of the finished runs below a results.root. check is called once for
    each method on each backbone with their values, if one of its runs is not finished. Unsupported
    from it marks the pair's runs; another UserError is a mistake of the command and ends planning;
    any other error is a bug of the method, which costs its own runs.
    """
    reader = contents.Reader()
    wanted: dict[tuple[Path, str], _Wanted] = {}  # a, a/ and ./a are one folder
    tasks: dict[tuple[Path, str], dict[str, None]] = {}
    for config, varied, overrides in combinations:
        plain = reader.identified(config)
        name, root = identity(plain), config.results.root
        is_finished = name in finished(root) and _has_its_recipe(config)
        pair = json.dumps([plain[key] for key in CHECKED], sort_keys=True)
        # two combinations are one run if they differ in nothing that decides the result
        run = _Wanted(config, varied, overrides, name, pair, is_finished)
        wanted.setdefault((Path(root), name), run)
        tasks.setdefault((Path(root), name), {})[config.factors.task] = None
    pairs: dict[str, Config] = {}
    for run in wanted.values():
        if not run.is_finished:
            pairs.setdefault(run.pair, run.config)
    checked = progress(pairs.items(), "checking methods", len(pairs))
    verdicts = {pair: _verdict(config, check) for pair, config in checked}
    if not wanted:
        raise UserError("this sweep has no runs; name some, e.g. method=paper dataset=mini")
    return [
        run.planned(verdicts.get(run.pair, Verdict()), list(tasks[place])[1:])
        for place, run in wanted.items()
    ]


def _has_its_recipe(config: Config) -> bool:
    """Whether a finished record with the same values is the run that was asked for."""
    try:
        recipes.check(config)
    except Unsupported:  # `recipe` is not part of the identity: the values are the default ones
        return False
    return True


def _verdict(config: Config, check: Callable[[Config], None]) -> Verdict:
    try:
        check(config)
    except Unsupported as error:  # a UserError too, so it comes first
        return Verdict(UNSUPPORTED, str(error))
    except UserError as error:
        factors = config.factors
        raise UserError(f"{factors.method} on {factors.backbone}: {error}") from error
    except Exception as error:
        return Verdict(BROKEN, one_line(error), error)
    return Verdict()


def headline(runs: Sequence[Planned], what: str = "run") -> str:
    """plan: 114 runs, 12 finished (skipped), 102 to run"""
    states = Counter(run.state for run in runs)
    line = f"plan: {counted(len(runs), what)}, {states[FINISHED]} finished (skipped)"
    line += f", {states[TO_RUN]} to run"
    for state in (UNSUPPORTED, BROKEN):
        line += f", {states[state]} {state}" if states[state] else ""
    return line


def listing(runs: Sequence[Planned]) -> list[str]:
    """One line per run, for a dry run."""
    return [f"  {run.state:<12}{run.name}" for run in runs]


def refusals(runs: Sequence[Planned]) -> list[str]:
    """One line per pair of method and backbone that does not run."""
    pairs = {
        (run.state, run.pair): run.reason for run in runs if run.state in (UNSUPPORTED, BROKEN)
    }
    return [f"{state}: {pair}: {reason}" for (state, pair), reason in pairs.items()]


def doubles(runs: Sequence[Planned]) -> list[str]:
    """One line per task that has no runs of its own, since its data are those of another."""
    pairs = {(twin, run.config.factors.task): None for run in runs for twin in run.twins}
    return [
        f"same data: {twin} has the images and labels of {task}, whose records stand for both"
        for twin, task in pairs
    ]

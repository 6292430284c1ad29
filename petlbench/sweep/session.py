"""Runs from Python, for example in a notebook: overrides in, records out."""

from collections.abc import Sequence
from functools import cache

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from petlbench.config import command_line, compositions, mistakes
from petlbench.errors import UserError
from petlbench.run.record import Record, Store, read
from petlbench.sweep import conduct
from petlbench.sweep.expansion import expand
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.plan import Combination, Planned


def run(overrides: Sequence[str]) -> list[Record]:
    """The records of `python -m petlbench -m OVERRIDES`, in the order of its runs.

    What is finished below `results.root` is not done again. A run that fails, or a pair of method
    and backbone that does not work together, has a record with its status and reason. Raises
    UserError for a mistake, before any run. Leaves the process, and the global state of Hydra, as
    they were.
    """
    store = cache(Store)  # one for each results.root, which may be swept too
    runs = conduct.planned(_combinations(overrides), store)
    launcher = Basic()
    conduct.check(runs, launcher, dry_run=False)
    conduct.done(runs, store, launcher)
    return [_record(planned, store(planned.config.results.root)) for planned in runs]


def _combinations(overrides: Sequence[str]) -> list[Combination]:
    """The runs of the overrides; what Hydra refuses is a UserError."""
    try:
        return expand(overrides).combinations
    except (HydraException, OmegaConfBaseException) as error:
        chosen = [text for text in overrides if text.partition("=")[0] in command_line.GROUPS]
        line = mistakes.explain(error, lambda: compositions.keys_with(chosen))
        raise UserError(line) from error


def _record(planned: Planned, store: Store) -> Record:
    factors = vars(planned.config.factors)
    return read(store.find(planned.id) or store.path({"id": planned.id, "factors": factors}))

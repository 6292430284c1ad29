"""Runs from Python, for example in a notebook: overrides in, records out."""

from collections.abc import Sequence
from functools import cache

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
    # a text is a sequence of texts too
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise UserError(
            f"the overrides are {overrides!r}; they must be a list such as ['method=lora']"
        )
    with mistakes.as_user_errors(lambda: compositions.keys_with(command_line.chosen(overrides))):
        return expand(overrides).combinations


def _record(planned: Planned, store: Store) -> Record:
    factors = vars(planned.config.factors)
    return read(store.find(planned.id) or store.path({"id": planned.id, "factors": factors}))

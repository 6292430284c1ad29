"""Runs from Python, for example in a notebook: overrides in, records out."""

from collections.abc import Sequence
from functools import cache

from petlbench.config import command_line, compositions, mistakes
from petlbench.data.readers import tree
from petlbench.errors import UserError
from petlbench.run.record import Record, Store, read
from petlbench.sweep import conduct, select
from petlbench.sweep.expansion import written
from petlbench.sweep.launchers.basic import Basic
from petlbench.sweep.plan import Combination, Planned


def run(overrides: Sequence[str]) -> list[Record]:
    """The records of `python -m petlbench -m OVERRIDES`, in the order of its runs.

    What is finished below `results.root` is not done again. A run that fails, or a pair of method
    and backbone that does not work together, has a record with its status and reason. With
    protocol=select the trials come first and then the final runs: `protocol` of a record is
    `trial` or `final`. Raises UserError for a mistake, before any run. Leaves the process, and the
    global state of Hydra, as they were.
    """
    # a text is a sequence of texts too
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise UserError(
            f"the overrides are {overrides!r}; they must be a list such as ['method=lora']"
        )
    tree.scan.cache_clear()  # images may have come since the last call
    # what Hydra refuses; a search composes its final runs after its trials
    with mistakes.as_user_errors(lambda: compositions.keys_with(command_line.chosen(overrides))):
        sweep = written(overrides)
        if sweep.is_search:
            runs = select.sweep(*sweep.cells(), Basic(), dry_run=False, tflops=None).runs
        else:
            runs = _done(sweep.combinations())
    store = cache(Store)
    return [_record(planned, store(planned.config.results.root)) for planned in runs]


def _done(combinations: Sequence[Combination]) -> list[Planned]:
    """The runs of the combinations, all of which have ended."""
    store = cache(Store)  # one for each results.root, which may be swept too
    runs = conduct.planned(combinations, store)
    launcher = Basic()
    conduct.check(runs, launcher, dry_run=False)
    conduct.done(runs, store, launcher)
    return runs


def _record(planned: Planned, store: Store) -> Record:
    factors = vars(planned.config.factors)
    return read(store.find(planned.id) or store.path({"id": planned.id, "factors": factors}))

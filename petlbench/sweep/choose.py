"""Choose values from trials: python -m petlbench.sweep.choose --records DIR.

Trials are runs under protocol=trial: trained on train, scored on val. Every method needs the same
number of trials. The point with the highest mean val accuracy over all tasks is chosen, of equal
ones that with the smallest values; each task is averaged over its seeds. Points that miss a task,
or one of whose trials failed, are shown and never chosen.
"""

import sys
from collections.abc import Iterable
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from petlbench.arguments import Parser, command
from petlbench.cells import cells
from petlbench.checks import is_number
from petlbench.config.job_nodes import TRIAL
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.report.read.fields import differences
from petlbench.report.read.records import read
from petlbench.report.read.select import DRAWN, FOLDED, PER_RUN, refuse_mixtures
from petlbench.run.identity import IDENTITY
from petlbench.run.record import Record
from petlbench.sweep.select import DIGITS

KEY = ["method", "backbone"]
ADVICE = "name the key with --values (as {}) or give separate folders"


def tried(records: Iterable[Record]) -> list[Record]:
    """The trials, failed ones too, without those of what a method does not support."""
    return [r for r in records if r["protocol"] == TRIAL and r["status"] != "unsupported"]


def trials(records: list[Record], values: list[str]) -> pd.DataFrame:
    """One row per trial: method, backbone, task, seed, top1 on val, the values.

    records: as `tried` returns them. top1 is NaN where the trial failed. values: dotted keys of
    the configuration. Raises UserError if there is no finished trial, if a trial has no such key,
    or if two trials of one point differ in another setting.
    """
    rows = [
        {key: record["factors"][key] for key in (*KEY, "task", "seed")}
        | {"top1": _top1(record)}
        | {value: _look_up(record["config"], value) for value in values}
        for record in records
    ]
    refuse_mixtures([r for r in records if r["status"] == "finished"], values, ADVICE)
    if all(isnan(row["top1"]) for row in rows):
        raise UserError("no finished trial among the records; run a sweep with protocol=trial")
    return pd.DataFrame(rows)


def _top1(record: Record) -> float:
    # a run may fail after its test, for example when its delta is stored
    is_scored = record["status"] == "finished" and "val" in record["scores"]
    return float(record["scores"]["val"]["top1"]) if is_scored else nan


def points(table: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Mean val accuracy of each point over tasks, the number of its tasks, and the best marked.

    at_edge names the values of the best point that lie at an end of their grid.
    """
    # dropna: a value may be null, and pandas leaves such groups out by default
    by_task = table.groupby([*KEY, *values, "task"], as_index=False, sort=False, dropna=False)[
        "top1"
    ].agg(_mean)
    scores = by_task.groupby([*KEY, *values], sort=False, dropna=False)["top1"]
    grid = scores.agg(val=_mean, tasks="size").reset_index()
    grid["val"] = grid["val"].round(DIGITS)
    # means over different tasks cannot be compared
    complete = grid[(grid["tasks"] == table["task"].nunique()) & grid["val"].notna()]
    # of equal means idxmax takes the first: that of the smallest values
    complete = complete.sort_values(values, key=partial(pd.to_numeric, errors="coerce"))
    best = complete.loc[complete.groupby(KEY, sort=False)["val"].idxmax()].index
    grid["chosen"] = grid.index.isin(best)
    grid["at_edge"] = [
        " ".join(value for value in values if row["chosen"] and _at_edge(grid, row, value))
        for _, row in grid.iterrows()
    ]
    ordered: pd.DataFrame = grid.sort_values(
        [*KEY, "val"], ascending=[True, True, False], ignore_index=True
    )
    return ordered


def _mean(scores: pd.Series) -> float:
    """NaN if one of them is: the mean of the others would leave out what failed."""
    return float(scores.mean(skipna=False))


def _at_edge(grid: pd.DataFrame, row: pd.Series, value: str) -> bool:
    axis = grid.loc[(grid[KEY] == row[KEY]).all(axis=1), value].tolist()
    # neither a value that is not varied nor a word has an edge
    numbers = [each for each in axis if is_number(each)]
    return len(set(axis)) > 1 and bool(numbers) and row[value] in (min(numbers), max(numbers))


def unchosen(grid: pd.DataFrame) -> str | None:
    """A warning if a method has no point with finished trials on all tasks."""
    chosen = grid.groupby(KEY)["chosen"].any()
    names = [f"{method} on {backbone}" for (method, backbone), one in chosen.items() if not one]
    if not names:
        return None
    return f"no point with finished trials on all tasks, so none is chosen: {', '.join(names)}"


def unequal(grid: pd.DataFrame) -> str | None:
    """A warning if the methods have different numbers of complete points."""
    complete = grid["tasks"] == grid["tasks"].max()
    counts = complete.groupby([grid[key] for key in KEY]).sum()
    if counts.nunique() == 1:
        return None
    listed = ", ".join(f"{method} on {backbone} {n}" for (method, backbone), n in counts.items())
    return f"the methods have different numbers of complete points: {listed}"


def uneven(table: pd.DataFrame, values: list[str]) -> str | None:
    """A warning if points have different numbers of seeds."""
    seeds = table.groupby([*KEY, *values, "task"], sort=False, dropna=False)["seed"].nunique()
    if seeds.nunique() == 1:
        return None
    return f"the points have {seeds.min()} to {seeds.max()} seeds on a task"


def varied(records: list[Record], values: list[str]) -> str | None:
    """A warning if the points of a method differ in a setting other than the values and the seed.

    records: as `tried` returns them. It names the first method whose points do.
    """
    keys = [key for key in IDENTITY if key != "seed"]
    known = (*values, *PER_RUN, *DRAWN, *FOLDED)
    first: dict[tuple[Any, ...], Record] = {}
    for record in records:
        method, backbone, task = (record["factors"][key] for key in (*KEY, "task"))
        other = first.setdefault((method, backbone, task), record)
        for key, pair in differences(other, record, keys).items():
            if not any(key == name or key.startswith(f"{name}.") for name in known):
                return (
                    f"the points of {method} on {backbone} differ in {key} "
                    f"({pair[0]}, {pair[1]}), which --values does not name"
                )
    return None


def _look_up(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        if not isinstance(config, dict) or key not in config:
            raise UserError(f"no value '{dotted}' in the configuration of the trials")
        config = config[key]
    # pandas groups by what can be a key only
    return str(config) if isinstance(config, dict | list) else config


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the points of each method, the chosen one marked; returns 2 after an error."""
    parser = Parser(prog="python -m petlbench.sweep.choose", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="folder of trial records")
    parser.add_argument(
        "--values", nargs="+", default=["train.lr", "train.head_lr"], help="keys of the grid"
    )
    parser.add_argument("--out", type=Path, help="write the points as CSV")
    options = parser.parse_args(arguments)
    records = tried(read([options.records]))
    table = trials(records, options.values)
    grid = points(table, options.values)
    print(grid.to_string(index=False, float_format="{:.5g}".format))
    warnings = (
        unchosen(grid),
        unequal(grid),
        uneven(table, options.values),
        varied(records, options.values),
    )
    for warning in filter(None, warnings):
        say(f"warning: {warning}")
    if options.out is not None:
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            cells(grid).to_csv(options.out, index=False, float_format="%.5g")
        except OSError as error:
            raise UserError(
                f"--out '{options.out}' cannot be written: {error.strerror}; give another file"
            ) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())

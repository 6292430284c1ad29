"""Choose values from trials: python -m petlbench.sweep.choose --records DIR.

Trials are runs under protocol=trial (trained on train, scored on val). Every method must have been
given the same number of them; the choice is the point with the best mean val accuracy over all
tasks (each task averaged over its seeds). Points that miss a task are shown and never chosen.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from petlbench.errors import UserError
from petlbench.run.record import Record, Store

KEY = ["method", "backbone"]


def trials(records: Iterable[Record], values: list[str]) -> pd.DataFrame:
    """One row per finished trial: method, backbone, task, seed, top1 on val, the values."""
    rows = [
        {key: record["factors"][key] for key in (*KEY, "task", "seed")}
        | {"top1": record["scores"]["val"]["top1"]}
        | {value: _look_up(record["config"], value) for value in values}
        for record in records
        if record["protocol"] == "trial" and record["status"] == "finished"
    ]
    if not rows:
        raise UserError("no finished trial among the records; run a sweep with protocol=trial")
    return pd.DataFrame(rows)


def points(table: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Mean val accuracy of each point over tasks, the number of its tasks, and the best marked.

    at_edge names the values of the best point that lie at an end of their grid.
    """
    by_task = table.groupby([*KEY, *values, "task"], as_index=False, sort=False, dropna=False)[
        "top1"
    ].mean()
    scores = by_task.groupby([*KEY, *values], sort=False, dropna=False)["top1"]
    found = scores.agg(val="mean", tasks="count").reset_index()
    complete = found[found["tasks"] == table["task"].nunique()]
    best = complete.loc[complete.groupby(KEY, sort=False)["val"].idxmax()].index
    found["chosen"] = found.index.isin(best)
    found["at_edge"] = [
        " ".join(value for value in values if row["chosen"] and _at_edge(found, row, value))
        for _, row in found.iterrows()
    ]
    ordered: pd.DataFrame = found.sort_values(
        [*KEY, "val"], ascending=[True, True, False], ignore_index=True
    )
    return ordered


def _at_edge(found: pd.DataFrame, row: pd.Series, value: str) -> bool:
    tried = found.loc[(found[KEY] == row[KEY]).all(axis=1), value]
    return bool(tried.nunique() > 1 and row[value] in (tried.min(), tried.max()))


def unequal(found: pd.DataFrame) -> str | None:
    """A warning if the methods were not given equally many complete points."""
    complete = found["tasks"] == found["tasks"].max()
    counts = complete.groupby([found[key] for key in KEY]).sum()
    if counts.nunique() == 1:
        return None
    told = ", ".join(f"{method} on {backbone} {n}" for (method, backbone), n in counts.items())
    return f"unequal grids, so the choice is not on equal terms: {told}"


def _look_up(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        if key not in config:
            raise UserError(f"no value '{dotted}' in the trials' configuration")
        config = config[key]
    return config


def main(arguments: list[str] | None = None) -> int:
    """Print the points of each method, the chosen one marked."""
    parser = argparse.ArgumentParser(prog="python -m petlbench.sweep.choose", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="folder of trial records")
    parser.add_argument(
        "--values", nargs="+", default=["train.lr", "train.head_lr"], help="what the grid varies"
    )
    parser.add_argument("--out", type=Path, help="write the points as CSV")
    chosen = parser.parse_args(arguments)
    try:
        table = trials(Store(chosen.records).records(), chosen.values)
        found = points(table, chosen.values)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(found.to_string(index=False, float_format="{:.5g}".format))
    if (warning := unequal(found)) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    if chosen.out is not None:
        try:
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            found.to_csv(chosen.out, index=False, float_format="%.5g")
        except OSError as error:
            print(f"error: '{chosen.out}' cannot be written: {error.strerror}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

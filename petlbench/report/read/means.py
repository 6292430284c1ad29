"""Means and deviations over tasks and groups, a row a method."""

from collections.abc import Callable, Sequence

import pandas as pd

from petlbench.report.model.table import MEAN, Column, headed
from petlbench.report.read.fields import BEST

GROUP_MEAN, TASK_MEAN = "group mean", "task mean"
INFLATION = Column("inflation", "best epoch on test, points more", MEAN)
Average = Callable[[pd.DataFrame], pd.Series]  # over the columns of a frame


def columns(tasks: Sequence[Column]) -> list[Column]:
    """The mean of each group, the mean of those, and the mean over tasks."""
    groups = dict.fromkeys(task.group for task in tasks)
    return [
        *(Column(f"{group} mean", headed(group), MEAN, best="high") for group in groups),
        *(Column(key, key, MEAN, best="high") for key in (GROUP_MEAN, TASK_MEAN)),
    ]


def mean(cells: pd.DataFrame) -> pd.Series:
    """Mean of each row."""
    return cells.mean(axis=1)


def deviation(spread: pd.DataFrame) -> pd.Series:
    """Deviation of each row's mean, sqrt(sum s^2) / n for n independent cells of deviation s.

    NaN if a cell has no deviation.
    """
    # skipna: without it a cell of one run would count as a cell of deviation 0
    return (spread**2).sum(axis=1, skipna=False).pow(0.5) / max(1, spread.shape[1])


def averages(tasks: Sequence[Column], cells: pd.DataFrame, average: Average) -> pd.DataFrame:
    """The columns of `columns`, each by `average`; NaN if the row lacks one of its cells."""
    groups = dict.fromkeys(task.group for task in tasks)
    keys = {group: [task.key for task in tasks if task.group == group] for group in groups}
    by_group = pd.DataFrame(
        {f"{group} mean": complete_only(cells[own], average) for group, own in keys.items()}
    )
    return by_group.assign(
        **{
            GROUP_MEAN: complete_only(by_group, average),
            TASK_MEAN: complete_only(cells, average),
        }
    )


def complete_only(cells: pd.DataFrame, average: Average) -> pd.Series:
    """`average`, NaN in rows with a missing cell."""
    return average(cells).where(cells.notna().all(axis=1))


def inflation(finished: pd.DataFrame, keys: Sequence[str]) -> list[pd.Series]:
    """Points that the best epoch on the test set gains over the last, mean over all tasks.

    Empty without records of the protocol `audit`.
    """
    best = finished[finished["test"].str.endswith(BEST)]
    best = best.assign(test=best["test"].str.removesuffix(BEST))
    last = finished[finished["main"]]
    # both scores of a pair are of the same run
    pairs = last.merge(best, on=["id", "row", "task", "test"], suffixes=("", "_best"))
    if not len(pairs):
        return []
    gain = (pairs["top1_best"] - pairs["top1"]).groupby([pairs["row"], pairs["task"]]).mean()
    cells = gain.unstack().reindex(columns=list(keys))
    # a row without all tasks has no mean, as for the scores
    return [cells.mean(axis=1, skipna=False).rename(INFLATION.key)]

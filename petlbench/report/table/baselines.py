"""The methods whose mean over tasks is below that of a cheap baseline, as a note of a table."""

import pandas as pd

from petlbench.report.read.scores import Scores
from petlbench.report.table import statistics
from petlbench.units import counted


def below(scores: Scores) -> list[str]:
    """A sentence; empty if no row is below a baseline, or there is none with all tasks.

    Each row is compared with the best baseline, in the printed digits. Rows without all tasks are
    left out.
    """
    means = statistics.complete(scores.means[scores.keys]).astype(float)
    # as printed: no 72.0 is below a 72.0; round(1) of pandas gives other digits for some halves
    averages = means.mean(axis=1).map(lambda mean: float(f"{mean:.1f}"))
    baselines = averages[[row for row in averages.index if row in scores.baselines]]
    if not len(baselines):
        return []
    best = str(baselines.idxmax())
    others = averages.drop(index=list(baselines.index))
    lower = others[others < baselines[best]].sort_values(kind="stable")
    if not len(lower):
        return []
    rows = ", ".join(f"{row} ({mean:.1f})" for row, mean in lower.items())
    where = f"the mean over {len(scores.keys)} {'test sets' if scores.tests else 'tasks'}"
    where = scores.tasks[0].title if len(scores.keys) == 1 else where
    sentence = f"Below a baseline on {where}: {rows} < {best} ({baselines[best]:.1f})."
    if len(scores.keys) == 1:
        return [sentence]
    return [f"{sentence} {_significance(means, list(map(str, lower.index)), best)}"]


def _significance(means: pd.DataFrame, rows: list[str], best: str) -> str:
    """Which of the rows differ significantly from the baseline."""
    tasks = means.shape[1]
    if statistics.least_p(tasks, len(rows)) >= statistics.LEVEL:
        return f"No signed-rank test of these differences ({counted(tasks, 'task')})."
    differences = [(means.loc[row] - means.loc[best]).round(statistics.DIGITS) for row in rows]
    values = statistics.holm([statistics.signed_rank(each.to_numpy()) for each in differences])
    tested = zip(rows, differences, values, strict=True)
    worse = [row for row, each, p in tested if statistics.is_below(each.to_numpy(), p)]
    return (
        f"Significantly: {', '.join(worse) or 'none'} (two-sided Wilcoxon signed-rank test over "
        f"{tasks} tasks; Holm's correction for {counted(len(rows), 'row')}; level "
        f"{statistics.LEVEL})."
    )

"""The table of accuracies that several kinds share: tasks or groups, means, costs, notes."""

from collections.abc import Mapping, Sequence

from petlbench.errors import unknown
from petlbench.report.model.table import CellKey, Column, Table
from petlbench.report.read import costs
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.scores import Scores
from petlbench.report.table import baselines, notes, published, statistics
from petlbench.report.table.costs import column, meaning
from petlbench.report.table.footnotes import footnotes
from petlbench.report.table.provenance import provenance
from petlbench.units import counted

CAPTION = "Top-1 accuracy (%) and cost. Best in bold, second underlined."
WORSE = "†"
MEANINGS = {
    GROUP_MEAN: "Group mean: mean of the groups' means",
    TASK_MEAN: "task mean: mean of all tasks",
}


def accuracy_table(
    scores: Scores, tasks: Sequence[Column], means: Sequence[str], cost_keys: Sequence[str]
) -> Table:
    """Columns `tasks`, then the named means, then the costs; published rows below.

    Raises UserError for an unknown mean or cost.
    """
    averages = [_average(scores, key) for key in means]
    keys = costs.resolved(cost_keys, scores.finished)
    columns = [*tasks, *averages, *scores.inflation, *(column(key) for key in keys)]
    test, flags = significance(scores)  # of the task mean: shown only with that column
    table = Table(
        rows=list(scores.rows),
        columns=columns,
        # also of tasks and costs without a column: charts and other kinds need them
        values=scores.means.join(scores.costs),
        spread=scores.spread,
        caption=CAPTION,
        sections=scores.families,
        marks=notes.cell_marks(scores),
        flags={cell: flag for cell, flag in flags.items() if cell[1] in means},
        provenance=provenance(scores),
        notes=[
            notes.scoring(scores.labelled, scores.tests),
            *notes.conditions(scores.labelled, scores.excluded),
            *_column_notes(scores, averages),
            *([test] if TASK_MEAN in means else []),
            *baselines.below(scores),
            *meaning(keys, scores.finished),
            *notes.failures(scores.labelled),
        ],
        footnotes=footnotes(scores.labelled),
    )
    # means over fewer tasks than the suite has must not stand beside published means
    partial = scores.averages if scores.tasks_without_column() else []
    for file in scores.spec.published:
        published.add(table, file, [c for c in columns if c not in partial])
    return table


def significance(scores: Scores) -> tuple[str, dict[CellKey, str]]:
    """The note on the test of means over tasks, and the flags of significantly worse rows."""
    means = scores.means[scores.keys]
    complete, tasks = statistics.complete(means), len(scores.keys)
    # a test that cannot reach the level would call every difference insignificant
    least = statistics.least_p(tasks, len(complete) - 1)
    if len(complete) < 2 or least >= statistics.LEVEL:
        return _no_test(tasks, len(complete), least), {}
    against = statistics.against_best(means)
    worse = list(against.index[against["below"]])
    # the row that against_best compares the others with
    best = complete.mean(axis=1).idxmax()
    text = (
        f"{WORSE}: task mean significantly below that of {best}, the highest (two-sided Wilcoxon "
        f"signed-rank test over {tasks} tasks, on means over runs; Holm's correction for "
        f"{counted(len(against), 'row')}; level {statistics.LEVEL}); unmarked "
        "rows are not significantly below it."
    )
    return text, {(row, TASK_MEAN): WORSE for row in worse}


def _no_test(tasks: int, rows: int, least: float) -> str:
    reason = f"{counted(tasks, 'task')}, {counted(rows, 'complete row')}"
    if rows > 1:
        reason += f": after Holm's correction its p cannot be below {least:.2g}"
    return f"No signed-rank test of the means over tasks ({reason})."


def _average(scores: Scores, key: str) -> Column:
    averages: Mapping[str, Column] = {column.key: column for column in scores.averages}
    if key not in averages:
        raise unknown("mean", key, averages)
    return averages[key]


def _column_notes(scores: Scores, averages: Sequence[Column]) -> list[str]:
    """Which tasks the means count, and how means and deviations are computed."""
    lines = []
    if missing := scores.missing_tasks():
        partial = bool(scores.tasks_without_column())
        begin = f"Means are over {len(scores.tasks)} tasks; no" if partial else "No"
        lines.append(f"{begin} records of {', '.join(missing)}.")
    if scores.means[scores.keys].isna().any(axis=None):
        lines.append("Rows without all tasks have no means; their costs are those of their runs.")
    if means := [MEANINGS[column.key] for column in averages if column.key in MEANINGS]:
        lines.append(f"{'; '.join(means)}.")
    if scores.inflation:
        lines.append(
            "Best epoch on test: gain of choosing the epoch on the test set over the last epoch, "
            "mean over tasks; not a valid selection rule (protocol audit)."
        )
    if scores.spread[scores.keys].notna().any(axis=None):
        lines.append(
            "Deviation of a mean: square root of the summed squares of its cells' deviations, "
            "divided by their number."
        )
    return lines

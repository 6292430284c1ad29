"""The table of accuracies that several kinds share: tasks or groups, means, costs, what to say."""

from collections.abc import Mapping, Sequence

import pandas as pd

from petlbench.errors import unknown
from petlbench.report import costs, notes, origin, published, statistics
from petlbench.report.notes import MARKS
from petlbench.report.scores import GROUP_MEAN, TASK_MEAN, Scores
from petlbench.report.table import Column, Table
from petlbench.run.record import Record

CAPTION = "Top-1 accuracy (%) and cost. Best in bold, second underlined."
WORSE = "†"


def table_of(
    scores: Scores, tasks: Sequence[Column], means: Sequence[str], cost_keys: Sequence[str]
) -> Table:
    """Columns `tasks`, then the named means, then the costs; published rows below."""
    chosen = [_average(scores, key) for key in means]
    keys = costs.chosen(cost_keys, scores.finished)
    columns = [*tasks, *chosen, *scores.inflation, *(costs.column(key) for key in keys)]
    compared, flags = significance(scores)
    table = Table(
        rows=list(scores.rows),
        columns=columns,
        values=scores.means.join(scores.costs),
        spread=scores.spread,
        caption=CAPTION,
        sections=scores.families,
        marks=marks(scores),
        flags={at: flag for at, flag in flags.items() if at[1] in means},
        origins=origins(scores),
        notes=[
            notes.scored(scores.labelled, scores.tests),
            *notes.made_with(scores.labelled, scores.left_out),
            *_of_columns(scores, chosen),
            *([compared] if TASK_MEAN in means else []),
            *costs.meaning(keys),
            *notes.reasons(scores.labelled),
        ],
        footnotes=notes.footnotes(scores.labelled),
    )
    comparable = [c for c in columns if not (scores.uncounted() and c in scores.averages)]
    for file in scores.view.published:
        published.add(table, file, comparable)
    return table


def significance(scores: Scores) -> tuple[str, dict[tuple[str, str], str]]:
    """What is said of differences between means over tasks, and the marks in that column."""
    means = scores.means[scores.keys]
    full, tasks = statistics.complete(means), len(scores.keys)
    least = statistics.least_p(tasks, len(full) - 1)
    if len(full) < 2 or least >= statistics.LEVEL:
        why = f"{tasks} tasks, {len(full)} complete rows"
        if len(full) > 1:
            why += f": a signed-rank test's p, corrected by Holm, could not be below {least:.2g}"
        return f"No test of means over tasks is made ({why}).", {}
    against = statistics.against_best(means)
    worse = list(against.index[(against["p"] < statistics.LEVEL) & (against["difference"] < 0)])
    best = full.mean(axis=1).idxmax()
    text = (
        f"{WORSE}: task mean below that of {best}, the highest (two-sided Wilcoxon signed-rank "
        f"test over {tasks} tasks, on means over runs; Holm's correction, {len(against)} rows; "
        f"level {statistics.LEVEL}); unmarked rows are not told apart from it."
    )
    return text, {(row, TASK_MEAN): WORSE for row in worse}


def marks(scores: Scores) -> dict[tuple[str, str], str]:
    """Why a cell has no score."""
    return {
        (row, record["factors"]["task"]): MARKS[record["status"]]
        for row, record in scores.labelled
        if record["status"] in MARKS
        and record["factors"]["task"] in scores.means
        and pd.isna(scores.means.loc[row, record["factors"]["task"]])
    }


def origins(scores: Scores) -> dict[tuple[str, str], str]:
    """The runs behind each row and each cell."""
    by_row: dict[str, list[Record]] = {row: [] for row in scores.rows}
    for row, record in scores.labelled:
        by_row[row].append(record)
    titles = {task.key: task.title for task in scores.tasks}
    runs: dict[tuple[str, str], list[tuple[Record, float]]] = {}
    records = {record["id"]: record for _, record in scores.labelled}
    for line in scores.finished[scores.finished["main"]].to_dict("records"):
        runs.setdefault((line["row"], line["task"]), []).append(
            (records[line["id"]], line["top1"])
        )
    cells = {at: origin.of_cell(at[0], titles[at[1]], found) for at, found in runs.items()}
    return {(row, ""): origin.of_row(row, found) for row, found in by_row.items()} | cells


def _average(scores: Scores, key: str) -> Column:
    found: Mapping[str, Column] = {column.key: column for column in scores.averages}
    if key not in found:
        raise unknown("mean", key, found)
    return found[key]


def _of_columns(scores: Scores, chosen: Sequence[Column]) -> list[str]:
    """What a reader of the scores must know."""
    said = []
    if missing := scores.lacking():
        begin = f"Means are over {len(scores.tasks)} tasks; no" if scores.uncounted() else "No"
        said.append(f"{begin} records of {', '.join(missing)}.")
    if scores.means[scores.keys].isna().any(axis=None):
        said.append("Rows that miss a task have no means; their costs are those of their runs.")
    meaning = {
        GROUP_MEAN: "Group mean: mean of the groups' means",
        TASK_MEAN: "task mean: mean of all tasks",
    }
    if told := [meaning[column.key] for column in chosen if column.key in meaning]:
        said.append(f"{'; '.join(told)}.")
    if scores.inflation:
        said.append(
            "Best epoch on test: what choosing the epoch on the test set adds to the last epoch's "
            "score, mean over tasks; nobody may choose so (protocol audit)."
        )
    if scores.spread[scores.keys].notna().any(axis=None):
        said.append(
            "Deviation of a mean: square root of the summed squares of its cells' deviations, "
            "divided by their number."
        )
    return said

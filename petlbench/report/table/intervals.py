"""Wilson's 95 % interval of every cell, as text in a table of its own."""

from dataclasses import replace

import pandas as pd

from petlbench.errors import UserError
from petlbench.report.model.table import Table
from petlbench.report.read.scores import Scores, by_fold
from petlbench.report.table import notes
from petlbench.report.table.images import interval_text

MEANING = (
    "Interval: Wilson's 95 % interval of the share of right images, a mean over runs, over the "
    "test images of one run, or of one run of each fold. Seeds and draws are no further images, "
    "so more runs do not shorten it; it says nothing of how another training or other data would "
    "differ."
)


def counted(scores: Scores) -> pd.DataFrame:
    """(row, task) with a mean -> its test images, and how many are right (mean over runs)."""
    figures = by_fold(scores.finished)
    # of the images first: the mean number of right ones can exceed the least number of images
    figures["correct"] = figures["top1"] / 100 * figures["images"]
    cells = figures[["correct", "images"]].groupby(["row", "task"]).sum()
    return cells[[bool(scores.means.notna().at[cell]) for cell in cells.index]]


def intervals(scores: Scores) -> pd.DataFrame:
    """The interval in percent as text, rows x tasks (or test sets); None without a score."""
    cells = counted(scores)
    texts = pd.Series(
        [interval_text(cell.correct, int(cell.images)) for cell in cells.itertuples()],
        index=cells.index,
        dtype=object,
    )
    return texts.unstack().reindex(index=scores.rows, columns=scores.keys)


def interval_table(scores: Scores) -> Table:
    """A row a method, a column a task or test set. Raises UserError if no record has a score."""
    if not scores.finished["main"].any():
        raise UserError("--intervals needs records with scores; these are of probes or failed")
    return Table(
        rows=list(scores.rows),
        columns=[replace(task, digits=None, best=None) for task in scores.tasks],
        values=intervals(scores),
        spread=pd.DataFrame(index=scores.rows),
        caption="95 % intervals of top-1 accuracy (%).",
        name="intervals",
        sections=scores.families,
        marks=notes.cell_marks(scores),
        notes=[MEANING],
    )

"""Wilson's 95 % interval of every cell, as text in a table of its own."""

from dataclasses import replace

import pandas as pd

from petlbench.errors import UserError
from petlbench.report.model.table import Table
from petlbench.report.read.scores import Scores
from petlbench.report.table import notes
from petlbench.report.table.images import interval_text

MEANING = (
    "Interval: Wilson's 95 % interval of the mean number of right images, over the test images "
    "of one run. Seeds and draws are no further images, so more runs do not shorten it; it says "
    "nothing of how another training or other data would differ."
)


def intervals(scores: Scores) -> pd.DataFrame:
    """The interval in percent as text, rows x tasks (or test sets); None without a score."""
    main = scores.finished[scores.finished["main"]]
    counted = main.assign(correct=main["top1"] * main["images"] / 100)
    cells = counted.groupby(["row", "task"]).agg({"correct": "mean", "images": "min"})
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

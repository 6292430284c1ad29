"""The table of costs, and the columns of costs of other tables."""

from collections.abc import Sequence

import pandas as pd

from petlbench.cost.figures import COSTS
from petlbench.errors import UserError
from petlbench.report.model.table import COST, Column, Table
from petlbench.report.read import costs
from petlbench.report.read.scores import Scores
from petlbench.report.table import notes, published
from petlbench.report.table.footnotes import footnotes
from petlbench.report.table.provenance import provenance

UNEQUAL = 0.01  # relative difference of a cost that should be the same in all runs of a row
MEANINGS = {
    "parameters_m": "Parameters: trainable parameters of the method in millions, head excluded.",
    "peak_mib": "Peak memory: memory allocated during training, MiB (2^20 bytes).",
    "activations_mib": "Weights to workspace: the parts of that peak.",
    "predicted_mib": "Predicted: the expected peak on a GPU in 16 bits, counted on shapes.",
    "saved_mb": "Saved for backward: bytes kept by one training step, MB (1e6 bytes).",
    "lean_saved_mb": "Lean, min: with train.memory=lean or min.",
    "gflops_forward": "GFLOP: 1e9 floating-point operations, two for a multiply-add.",
}


def column(key: str, *, ranked: bool = False) -> Column:
    """The column of a cost. ranked: mark the best and the second."""
    cost = COSTS[key]
    # beside accuracies only these are ranked
    return Column(key, cost.title, COST, cost.digits, cost.best if ranked else None)


def ranked(keys: Sequence[str], finished: pd.DataFrame) -> list[Column]:
    """The columns of costs, with marks; times of two devices have none.

    finished: tidy rows.
    """
    devices = {
        key: finished.loc[finished[key].notna(), "device"].nunique()
        for key in keys
        if COSTS[key].timed
    }
    return [column(key, ranked=devices.get(key, 1) <= 1) for key in keys]


def meaning(keys: Sequence[str], finished: pd.DataFrame) -> list[str]:
    """Definitions of the costs, in a note, and which of them are means of unequal runs.

    None without costs. finished: tidy rows.
    """
    if not keys:
        return []
    sentences = [MEANINGS[key] for key in keys if key in MEANINGS]
    unequal = [sentence for key in keys if (sentence := _unequal(key, finished))]
    return [" ".join([*sentences, "Costs are means over runs."]), *unequal]


def _unequal(key: str, finished: pd.DataFrame) -> str:
    """A sentence on rows whose runs differ in a cost that is counted; "" if there are none."""
    cost = COSTS[key]
    if cost.timed:
        return ""
    ends = finished.groupby("row", sort=False)[key].agg(["min", "max"])
    printed = ends.astype(float).round(cost.digits)
    differ = ends["max"] - ends["min"] > UNEQUAL * ends["max"].abs()
    apart = ends[differ & (printed["min"] != printed["max"])]
    listed = ", ".join(
        f"{row} ({low:.{cost.digits}f} to {high:.{cost.digits}f})"
        for row, low, high in apart.itertuples()
    )
    if not listed:
        return ""
    return (
        f"Means of runs that differ in {cost.title}, by version of the code or by task: {listed}."
    )


def cost_table(scores: Scores, keys: Sequence[str]) -> Table:
    """A column a cost. Raises UserError if no record has any of the costs."""
    keys = costs.resolved(keys, scores.finished)
    if not scores.costs[keys].notna().any(axis=None):
        raise UserError(
            f"none of {len(scores.labelled)} records has {', '.join(keys)}; "
            "give other folders with --records, or measure them: python -m petlbench.probe"
        )
    marks = notes.row_marks(scores)
    table = Table(
        rows=list(scores.rows),
        columns=ranked(keys, scores.finished),
        values=scores.costs[keys],
        spread=pd.DataFrame(index=scores.rows),  # costs have no deviations
        caption="Cost of each method. Best in bold, second underlined.",
        sections=scores.families,
        marks={(row, key): mark for row, mark in marks.items() for key in keys},
        provenance=provenance(scores),
        notes=cost_notes(scores, meaning(keys, scores.finished)),
        footnotes=footnotes(scores.labelled),
    )
    for file in scores.spec.published:
        published.add(table, file)
    return table


def cost_notes(scores: Scores, meaning: Sequence[str]) -> list[str]:
    """Conditions of the runs, the meaning of the figures, and failures."""
    return [
        *notes.conditions(scores.labelled, scores.excluded),
        *meaning,
        *notes.failures(scores.labelled),
    ]

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


def meaning(keys: Sequence[str]) -> list[str]:
    """Definitions of the costs, in a note; none without costs."""
    sentences = [MEANINGS[key] for key in keys if key in MEANINGS]
    return [" ".join([*sentences, "Costs are means over runs."])] if keys else []


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
        notes=cost_notes(scores, meaning(keys)),
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

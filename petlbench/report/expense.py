"""Tables of costs and of inference speed, from probes or from the costs of runs."""

from collections.abc import Sequence

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import accuracy, costs, notes, published
from petlbench.report.scores import Scores
from petlbench.report.table import Column, Table

SPREAD = "Distance of the quartiles over repeats, in images/s."


def costs_of(scores: Scores, keys: Sequence[str]) -> Table:
    """A column a cost; the best and second are marked."""
    chosen = costs.chosen(keys, scores.finished)
    if not scores.costs[chosen].notna().any(axis=None):
        raise UserError(
            f"none of {len(scores.labelled)} records has {', '.join(chosen)}; "
            "name others with --records, or make some: python -m petlbench.probe"
        )
    table = Table(
        rows=list(scores.rows),
        columns=[costs.column(key, ranked=True) for key in chosen],
        values=scores.costs[chosen],
        spread=pd.DataFrame(index=scores.rows),
        caption="Cost of each method. Best in bold, second underlined.",
        sections=scores.families,
        origins=accuracy.origins(scores),
        notes=_said(scores, costs.meaning(chosen)),
        footnotes=notes.footnotes(scores.labelled),
    )
    for file in scores.view.published:
        published.add(table, file)
    return table


def throughput_of(scores: Scores, batches: Sequence[int] | None, name: str = "") -> Table:
    """Inference images/s: a row a method and variant (merged, compiled), a column a batch size.

    Raises UserError where no record has any.
    """
    timed = _timed(scores)
    if timed.empty:
        raise UserError(
            f"none of {len(scores.labelled)} records has inference speeds; "
            "python -m petlbench.probe measures them on a GPU, with probe.speed=true anywhere"
        )
    shown = list(batches or sorted(timed["batch"].unique()))
    order = list(dict.fromkeys(timed.sort_values("variant", kind="stable")["label"]))
    order.sort(key=lambda label: scores.rows.index(_row_of(timed, label)))
    cells = timed.groupby(["label", "batch"])
    table = Table(
        rows=order,
        columns=[
            Column(str(batch), str(batch), "Images/s at batch size", 0, best="high")
            for batch in shown
        ],
        values=_wide(cells["images_per_s"].mean(), order, shown),
        spread=_wide(cells["spread"].mean(), order, shown),
        caption="Inference throughput. Best in bold, second underlined.",
        name=name,
        spread_is=SPREAD,
        sections={label: scores.families[_row_of(timed, label)] for label in order},
        notes=_said(scores, ["Throughput: median over repeats of one batch kept on the device."]),
        footnotes=notes.footnotes(scores.labelled),
    )
    for file in scores.view.published:
        published.add(table, file)
    return table


def has_throughput(scores: Scores) -> bool:
    """Whether any record has inference speeds."""
    return not _timed(scores).empty


def _timed(scores: Scores) -> pd.DataFrame:
    """A row a record, batch size and variant."""
    rows = [
        {"row": row, "label": ", ".join([row, *variant]), "variant": len(variant)}
        | {key: timing.get(key) for key in ("batch", "images_per_s", "spread")}
        for row, record in scores.labelled
        if record["status"] == "finished"
        for timing in record["cost"].get("inference") or []
        for variant in [[what for what in ("merged", "compiled") if timing.get(what)]]
    ]
    return pd.DataFrame(
        rows, columns=["row", "label", "variant", "batch", "images_per_s", "spread"]
    )


def _row_of(timed: pd.DataFrame, label: str) -> str:
    return str(timed.loc[timed["label"] == label, "row"].iloc[0])


def _wide(cells: pd.Series, order: Sequence[str], batches: Sequence[int]) -> pd.DataFrame:
    wide = cells.astype(float).unstack().reindex(index=order, columns=list(batches))
    return wide.rename(columns=str)


def _said(scores: Scores, meaning: Sequence[str]) -> list[str]:
    return [
        *notes.made_with(scores.labelled, scores.left_out),
        *meaning,
        *notes.reasons(scores.labelled),
    ]

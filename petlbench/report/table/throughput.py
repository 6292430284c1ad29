"""The table of inference speeds: a row a method and variant, a column a batch size."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from petlbench.errors import UserError
from petlbench.report.model.table import CellKey, Column, Table
from petlbench.report.read import fields
from petlbench.report.read.scores import Scores
from petlbench.report.table import notes, published
from petlbench.report.table.costs import cost_notes
from petlbench.report.table.footnotes import footnotes

VARIANTS = ("merged", "compiled")
FIGURES = ("batch", "images_per_s", "spread", "repeats", "reason")
CONTEXT = ["row", "method", "backbone", "seed", "id", "protocol", "title", "device", "precision"]
SPREAD = "Distance of the quartiles over repeats, in images/s."
MEANING = "Throughput: median over repeats of one batch kept on the device."


def throughput_table(scores: Scores, batches: Sequence[int] | None, name: str = "") -> Table:
    """Inference speed in images/s. batches: the batch sizes to show, default: all.

    Raises UserError if no record has an inference speed.
    """
    timings = _timings(scores)
    if timings.empty:
        raise UserError(
            f"none of {len(scores.labelled)} records has inference speeds; "
            "python -m petlbench.probe measures them: on a GPU, or with probe.speed=true"
        )
    sizes = list(batches or sorted(timings["batch"].unique()))
    failed = notes.row_marks(scores)
    labels = _labels(scores, timings, failed)
    cells = timings.groupby(["label", "batch"])
    lost = timings[timings["images_per_s"].isna()]
    table = Table(
        rows=list(labels),
        columns=[
            Column(str(size), str(size), "Images/s at batch size", 0, best="high")
            for size in sizes
        ],
        values=_wide(cells["images_per_s"].mean(), list(labels), sizes),
        spread=_wide(cells["spread"].mean(), list(labels), sizes),
        caption="Inference throughput. Best in bold, second underlined.",
        name=name,
        spread_meaning=SPREAD,
        sections={label: scores.families[row] for label, row in labels.items()},
        marks=_marks(failed, lost, sizes),
        notes=[*cost_notes(scores, [MEANING]), *_lost_batches(lost)],
        footnotes=footnotes(scores.labelled),
    )
    for file in scores.spec.published:
        published.add(table, file)
    return table


def has_throughput(scores: Scores) -> bool:
    """Whether any record has inference speeds."""
    return not _timings(scores).empty


def tidy_with_timings(scores: Scores) -> pd.DataFrame:
    """The tidy frame with a further row for each timing of a record."""
    # the row comes from the tidy frame, and the variants have columns of their own
    timings = _timings(scores).drop(columns=["row", "label"])
    if timings.empty:
        return scores.tidy
    context = scores.tidy.drop_duplicates("id")[CONTEXT]
    return pd.concat([scores.tidy, context.merge(timings, on="id")], ignore_index=True)


def _timings(scores: Scores) -> pd.DataFrame:
    """A row a record, batch size and variant; a timing without images_per_s has a reason."""
    timings = [
        {"id": record["id"], "row": row, "label": ", ".join([row, *_variant(timing)])}
        | {variant: bool(timing.get(variant)) for variant in VARIANTS}
        | {key: timing.get(key) for key in FIGURES}
        for row, record in fields.finished(scores.labelled)
        for timing in record["cost"].get("inference") or []
    ]
    # named, so that a frame without timings has its columns too
    return pd.DataFrame(timings, columns=["id", "row", "label", *VARIANTS, *FIGURES])


def _variant(timing: Mapping[str, Any]) -> list[str]:
    return [variant for variant in VARIANTS if timing.get(variant)]


def _labels(scores: Scores, timings: pd.DataFrame, failed: Mapping[str, str]) -> dict[str, str]:
    """Label of a method and variant -> row of the method, in the order of the rows."""
    # a variant follows the plain method, whatever the order in the record
    plain_first = timings.sort_values(["compiled", "merged"], kind="stable")
    # failed rows have no timing but are shown with their mark
    rows = {row: row for row in failed}
    rows |= dict(zip(plain_first["label"], plain_first["row"], strict=True))
    return dict(sorted(rows.items(), key=lambda item: scores.rows.index(item[1])))


def _marks(
    failed: Mapping[str, str], lost: pd.DataFrame, sizes: Sequence[int]
) -> dict[CellKey, str]:
    """Marks of failed rows and of single batches without a speed."""
    rows = {(row, str(size)): mark for row, mark in failed.items() for size in sizes}
    return rows | {(t.label, str(t.batch)): _mark(t.reason) for t in lost.itertuples()}


def _mark(reason: str | None) -> str:
    """`oom` if the batch did not fit into memory, else `fail`."""
    # torch.OutOfMemoryError is named in the reason
    return notes.MARKS["out_of_memory" if "OutOfMemory" in (reason or "") else "failed"]


def _lost_batches(lost: pd.DataFrame) -> list[str]:
    """`oom: LoRA at batch size 64, 256: reason`, one line a row and reason."""
    lost = lost.assign(reason=lost["reason"].fillna("no reason recorded"))
    return [
        f"{_mark(reason)}: {label} at batch size {fields.joined(part['batch'])}: {reason}"
        for (label, reason), part in lost.groupby(["label", "reason"], sort=False)
    ]


def _wide(cells: pd.Series, rows: Sequence[str], batches: Sequence[int]) -> pd.DataFrame:
    wide = cells.astype(float).unstack().reindex(index=rows, columns=list(batches))
    # keys of columns are text
    return wide.rename(columns=str)

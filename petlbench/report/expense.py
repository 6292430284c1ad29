"""Tables of costs and of inference speed, from probes or from the costs of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import accuracy, costs, notes, origin, published
from petlbench.report.notes import MARKS
from petlbench.report.scores import Scores
from petlbench.report.table import Column, Table

VARIANTS = ("merged", "compiled")
FIGURES = ("batch", "images_per_s", "spread", "repeats", "reason")
ABOUT = ["row", "method", "backbone", "seed", "id", "protocol", "title", "device", "precision"]
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
        marks={(row, key): mark for row, mark in failures(scores).items() for key in chosen},
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
    failed = failures(scores)
    rows = {row: row for row in failed} | dict(zip(timed["label"], timed["row"], strict=True))
    plain_first = timed.sort_values(["compiled", "merged"], kind="stable")["label"]
    order = list(dict.fromkeys([*failed, *plain_first]))
    order.sort(key=lambda label: scores.rows.index(rows[label]))
    cells = timed.groupby(["label", "batch"])
    lost = timed[timed["images_per_s"].isna()]
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
        sections={label: scores.families[rows[label]] for label in order},
        marks={(row, str(batch)): mark for row, mark in failed.items() for batch in shown}
        | {(line.label, str(line.batch)): _mark(line.reason) for line in lost.itertuples()},
        notes=[
            *_said(scores, ["Throughput: median over repeats of one batch kept on the device."]),
            *_lost(lost),
        ],
        footnotes=notes.footnotes(scores.labelled),
    )
    for file in scores.view.published:
        published.add(table, file)
    return table


def has_throughput(scores: Scores) -> bool:
    """Whether any record has inference speeds."""
    return not _timed(scores).empty


def with_speeds(scores: Scores) -> pd.DataFrame:
    """The tidy frame with a further row for each timing of a record."""
    timed = _timed(scores).drop(columns=["row", "label"])
    if timed.empty:
        return scores.tidy
    about = scores.tidy.drop_duplicates("id")[ABOUT]
    return pd.concat([scores.tidy, about.merge(timed, on="id")], ignore_index=True)


def failures(scores: Scores) -> dict[str, str]:
    """Rows without a finished run -> the mark that says why."""
    finished = set(scores.finished["row"])
    return {row: MARKS[record["status"]] for row, record in scores.labelled if row not in finished}


def _timed(scores: Scores) -> pd.DataFrame:
    """A row a record, batch size and variant; images_per_s is missing where there is a reason."""
    rows = [
        {"id": record["id"], "row": row, "label": ", ".join([row, *_variant(timing)])}
        | {"merged": bool(timing.get("merged")), "compiled": bool(timing.get("compiled"))}
        | {key: timing.get(key) for key in ("batch", "images_per_s", "spread", "repeats")}
        | {"reason": timing.get("reason")}
        for row, record in scores.labelled
        if record["status"] == "finished"
        for timing in record["cost"].get("inference") or []
    ]
    return pd.DataFrame(rows, columns=["id", "row", "label", *VARIANTS, *FIGURES])


def _variant(timing: Mapping[str, Any]) -> list[str]:
    return [what for what in VARIANTS if timing.get(what)]


def _mark(reason: str | None) -> str:
    """`oom` for a batch that memory could not hold, else `fail`."""
    return MARKS["out_of_memory" if "OutOfMemory" in (reason or "") else "failed"]


def _lost(lost: pd.DataFrame) -> list[str]:
    """`oom: LoRA at batch size 64, 256: reason`, one line per row and reason."""
    lost = lost.assign(reason=lost["reason"].fillna("no reason recorded"))
    return [
        f"{_mark(reason)}: {label} at batch size {origin.listed(found['batch'])}: {reason}"
        for (label, reason), found in lost.groupby(["label", "reason"], sort=False)
    ]


def _wide(cells: pd.Series, order: Sequence[str], batches: Sequence[int]) -> pd.DataFrame:
    wide = cells.astype(float).unstack().reindex(index=order, columns=list(batches))
    return wide.rename(columns=str)


def _said(scores: Scores, meaning: Sequence[str]) -> list[str]:
    return [
        *notes.made_with(scores.labelled, scores.left_out),
        *meaning,
        *notes.reasons(scores.labelled),
    ]

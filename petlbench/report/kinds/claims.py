"""What a paper says in numbers, as a checklist: each figure beside the measured one.

A figure is measured by the code of the named reports, and only from records that the claim
accepts: other weights, data, recipes or devices leave it unmeasured, with the command that makes
such records.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from petlbench.config.job_nodes import FINAL
from petlbench.cost.figures import COSTS
from petlbench.errors import UserError
from petlbench.report import registry
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import MINUS, Column, Table
from petlbench.report.read.claims import Claim, Measurement, Row, read
from petlbench.report.read.rows import members
from petlbench.report.table.provenance import row_text
from petlbench.run.record import Record

DEFAULTS = {"title": "Claims of the DTL paper"}
EQUAL, DIFFERS, UNMEASURED = "equal", "differs", "not measured"
COLUMNS = [
    Column(key, key, "Figure", None)
    for key in ("id", "paper", "measured", "difference", "verdict")
]
MEANINGS = [
    "Equal: the measured figure, rounded to the digits that are printed, is the printed one; "
    "there is no other tolerance. Measured figures have one digit more than printed ones.",
    "Not measured: no record fulfils the conditions of the claim; its footnote states them, and "
    "the command that makes such records. Scores on single tasks are in the reports of tables.",
]


@dataclass(frozen=True)
class Figure:
    """A measured figure, NaN if there is none; the records behind it; why it could not be made."""

    value: float
    records: Sequence[Record]
    reason: str = ""


def build(
    records: Sequence[Record], spec: ReportSpec, *, file: str = "dtl_aaai2024/claims"
) -> Report:
    """file: the claims, a yaml of results/published. Without records no claim is measured."""
    if spec.suite or spec.backbone or spec.methods or spec.vary or spec.protocol != FINAL:
        raise UserError(
            "each claim has a suite, a protocol, a backbone and settings of its own; "
            "leave out --suite, --protocol, --backbone, --methods and --vary"
        )
    if spec.intervals:
        raise UserError("the claims are single figures; leave out --intervals")
    measurements, claims = read(file)
    figures = [_measure(claim, measurements, records) for claim in claims]
    table = _table(claims, figures)
    for name, measurement in measurements.items():
        _add_source(table, measurement, [c for c in claims if name in {r.by for r in c.rows}])
    _add_remarks(table, claims, figures)
    return Report(spec.title, [table], _tidy(claims, figures, measurements))


def _measure(
    claim: Claim, measurements: Mapping[str, Measurement], records: Sequence[Record]
) -> Figure:
    """The figure of a claim, from the records that its rows accept."""
    values, used, overridden = [], [], set()
    for row in claim.rows:
        measurement = measurements[row.by]
        taken = [r for r in records if r["status"] == "finished" and measurement.takes(r)]
        own, keys = _own(row, measurement, taken)
        beside, others = _beside(claim, row, measurement, taken)
        used += own
        overridden |= keys | others
        try:
            values.append(_figure(claim, row, measurement, [*own, *beside]))
        except UserError as error:  # e.g. of records of two settings, which are never averaged
            return Figure(math.nan, used, str(error))
    value = (values[0] - sum(values[1:])) / claim.divide
    reason = f"there are records with other values of {', '.join(sorted(overridden))}"
    return Figure(value, used, reason if overridden and math.isnan(value) else "")


def _own(
    row: Row, measurement: Measurement, records: Iterable[Record]
) -> tuple[list[Record], set[str]]:
    """The records of a row, and the keys that others of its setting have overridden."""
    found = [(one, row.overridden(one, measurement)) for one in records if row.is_of(one)]
    own = [record for record, overridden in found if not overridden]
    return own, set(itertools.chain(*(overridden for _, overridden in found)))


def _beside(
    claim: Claim, row: Row, measurement: Measurement, records: Sequence[Record]
) -> tuple[list[Record], set[str]]:
    """As `_own`, of the methods that a claim needs beside its row."""
    rows = [Row(row.by, name) for name in claim.beside if name != row.method]
    found = [_own(one, measurement, records) for one in rows]
    return list(itertools.chain(*(own for own, _ in found))), set().union(
        *(keys for _, keys in found)
    )


def _figure(claim: Claim, row: Row, measurement: Measurement, records: Sequence[Record]) -> float:
    """A cell of the report; NaN if it is missing, or a method beside the row lacks a task.

    A cost of a suite is a mean over all its tasks, as a mean of accuracies is.
    """
    tasks: dict[str, set[str]] = defaultdict(set)
    for record in records:
        tasks[record["factors"]["method"]].add(record["factors"]["task"])
    own = tasks[row.method]
    if not own or any(own - tasks[name] for name in claim.beside):
        return math.nan
    if claim.column in COSTS and own != set(members("dataset", measurement.accepts["suite"])):
        return math.nan
    report = registry.build(records, _spec(measurement))
    table = report.tables[0]
    key = {column.title: column.key for column in table.columns}.get(claim.column, claim.column)
    labels = list(report.tidy.loc[report.tidy["method"] == row.method, "row"].unique())
    if len(labels) > 1:
        raise UserError(f"its records have several titles: {', '.join(labels)}")
    return float(table.values[key].get(labels[0], math.nan)) if key in table.values else math.nan


def _spec(measurement: Measurement) -> ReportSpec:
    """The named report of the records that the measurement accepts, without published rows."""
    spec = registry.find(measurement.report)
    own = {key: measurement.accepts[key] for key in ("suite", "protocol", "backbone")}
    options = {**spec.options, **measurement.options}
    return replace(spec, **own, vary={}, published=(), options=options)


def _table(claims: Sequence[Claim], figures: Sequence[Figure]) -> Table:
    """A row a claim, under the place in the paper where it stands."""
    lines = {
        claim.text: [claim.id, claim.printed, *_printed(claim, figure), _verdict(claim, figure)]
        for claim, figure in zip(claims, figures, strict=True)
    }
    keys = [column.key for column in COLUMNS]
    counts = Counter(line[-1] for line in lines.values())
    total = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in (EQUAL, DIFFERS, UNMEASURED))
    return Table(
        rows=list(lines),
        columns=COLUMNS,
        values=pd.DataFrame.from_dict(lines, orient="index", columns=keys),
        spread=pd.DataFrame(index=list(lines)),
        caption="Figures that the paper states, and measured ones.",
        head="claim",
        sections={claim.text: claim.where for claim in claims},
        provenance={
            (claim.text, ""): row_text(claim.text, figure.records)
            for claim, figure in zip(claims, figures, strict=True)
            if figure.records
        },
        notes=[f"{len(lines)} claims; {total}.", *MEANINGS],
    )


def _printed(claim: Claim, figure: Figure) -> list[str | None]:
    """The measured figure and its distance to the printed one, as text; None: not measured."""
    if math.isnan(figure.value):
        return [None, None]
    digits = claim.digits + 1
    difference = round(figure.value - float(claim.printed), digits)
    sign = "+" if difference else ""  # of a zero too would be printed
    numbers = (f"{figure.value:.{digits}f}", f"{difference or 0.0:{sign}.{digits}f}")
    return [number.replace("-", MINUS) for number in numbers]


def _verdict(claim: Claim, figure: Figure) -> str:
    if math.isnan(figure.value):
        return UNMEASURED
    rounded = f"{figure.value:.{claim.digits}f}"
    return EQUAL if float(rounded) == float(claim.printed) else DIFFERS


def _add_source(table: Table, measurement: Measurement, claims: Sequence[Claim]) -> None:
    """A footnote of the claims of a measurement: which records count, and what makes them."""
    if claims:
        table.add_footnote(_source(measurement), tuple(claim.text for claim in claims))


def _source(measurement: Measurement) -> str:
    if not measurement.report:
        return f"Needs {measurement.needs}."
    return (
        f"Accepts records with {measurement.conditions}. "
        f"Made by: {measurement.command}; needs {measurement.needs}."
    )


def _add_remarks(table: Table, claims: Sequence[Claim], figures: Sequence[Figure]) -> None:
    """Footnotes of single claims: what to know of the figure, and why records gave none."""
    texts: dict[str, list[str]] = defaultdict(list)
    for claim, figure in zip(claims, figures, strict=True):
        if claim.note:
            texts[f"{claim.note}."].append(claim.text)
        if figure.reason:
            texts[f"Not measured: {figure.reason}."].append(claim.text)
    for text, of in texts.items():
        table.add_footnote(text, tuple(of))


def _tidy(
    claims: Sequence[Claim],
    figures: Sequence[Figure],
    measurements: Mapping[str, Measurement],
) -> pd.DataFrame:
    """A line a claim, figures unrounded."""
    return pd.DataFrame(
        [
            {
                "id": claim.id,
                "where": claim.where,
                "claim": claim.text,
                "published": claim.printed,
                "measured": figure.value,
                "difference": figure.value - float(claim.printed),
                "verdict": _verdict(claim, figure),
                "runs": len(figure.records),
                "records": " ".join(record["id"] for record in figure.records),
                "report": measurements[claim.row.by].report,
                "measured_by": " ".join(_source(measurements[row.by]) for row in claim.rows),
                "remark": " ".join(filter(None, [claim.note, figure.reason])),
            }
            for claim, figure in zip(claims, figures, strict=True)
        ]
    )

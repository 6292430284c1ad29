"""Published numbers of others, in separate rows: never ranked, always with their source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from petlbench.config.yaml_text import parsed
from petlbench.errors import unknown
from petlbench.report.model.table import COST, Column, Table
from petlbench.report.read.scores import Scores

PARAMETERS, MEMORY = "parameters_m", "memory_gb"
MEMORY_COLUMN = Column(MEMORY, "published memory (GB)", COST, 1)


@dataclass(frozen=True)
class PublishedRow:
    """method: its name in this project, "" if it has none. cells: title -> figure.

    backbone: the option of conf/backbone with the weights of this row.
    values: settings that distinguish rows of one method, for example {"M": 7}.
    """

    label: str
    method: str
    backbone: str
    source: str
    selection: str
    provenance: str
    cells: Mapping[str, float]
    values: Mapping[str, Any]

    def note(self) -> str:
        """Source, provenance and selection rule, in a line."""
        return f"{self.source}: {self.provenance}. Selection: {self.selection}."


def rows(file: str) -> list[PublishedRow]:
    """The rows of a file of results/published, in its order.

    Raises UserError for an unknown file.
    """
    sources = _sources()
    if file not in sources:
        raise unknown("file of published numbers", file, sources)
    frame = pd.read_csv(
        str(resources.files("petlbench.published") / f"{file}.csv"), keep_default_na=True
    )
    about = sources[file]
    # a file of several sources names them in a column, a file of one in sources.yaml
    if "source" not in frame or about["title"]:
        frame["source"] = about["title"]
    keys = ["source", "method", *about.get("rows", {})]
    # the files have a line a figure; sort=False keeps their order
    return [_row(part, about) for _, part in frame.groupby(keys, sort=False)]


def add(table: Table, file: str, cells: Sequence[Column] | None = None) -> None:
    """Append the rows of a file that have a figure in one of the table's columns.

    cells: the columns whose keys or titles are matched with published names; default: all.
    """
    figures = [(row, _matched(row, cells or table.columns)) for row in rows(file)]
    # files state the parameters of every method, which alone make no row of this table
    shown = [(row, values) for row, values in figures if set(values) - {PARAMETERS}]
    if any(MEMORY in row.cells for row, _ in shown):
        _add_memory(table)
    for row, values in shown:
        label = label_of(row)
        # never in a column of measured memory, which is defined otherwise
        memory = {key: row.cells[key] for key in (MEMORY,) if key in row.cells}
        table.append_unranked(
            label,
            row.label,
            values | memory,
            method=row.label,
            section=f"published: {row.source}",
            provenance=f"{label}\n{row.note()}",
        )
    add_footnotes(table, [(label_of(row), row) for row, _ in shown])


def add_footnotes(table: Table, labelled: Sequence[tuple[str, PublishedRow]]) -> None:
    """A footnote for each source and selection rule of the rows with these labels."""
    labels: dict[str, list[str]] = {}
    for label, row in labelled:
        labels.setdefault(row.note(), []).append(label)
    for text, of in labels.items():
        table.add_footnote(f"Published, as printed: {text}", tuple(of))


def label_of(row: PublishedRow) -> str:
    """The label of a published row in a table."""
    return f"{row.label} ({row.source})"


def methods(scores: Scores) -> dict[str, str]:
    """Row -> name of its method, of measured and published rows; "" if this project has none."""
    measured = {row: str(record["factors"]["method"]) for row, record in scores.labelled}
    others = (row for file in scores.spec.published for row in rows(file))
    return measured | {label_of(row): row.method for row in others}


def _add_memory(table: Table) -> None:
    """A column for published memory, which is another measure than ours."""
    if MEMORY not in table.values and any(column.group == COST for column in table.columns):
        table.columns = [*table.columns, MEMORY_COLUMN]
        table.values = table.values.assign(**{MEMORY: float("nan")})


def _matched(row: PublishedRow, columns: Sequence[Column]) -> dict[str, float]:
    """Column -> figure, by the column's key or title."""
    keys = {name.casefold(): c.key for c in columns for name in (c.title, c.key)}
    return {
        keys[cell.casefold()]: value
        for cell, value in row.cells.items()
        if cell.casefold() in keys
    }


def _row(part: pd.DataFrame, about: Mapping[str, Any]) -> PublishedRow:
    first = part.iloc[0]
    method = str(first["method"])
    cells = {
        about["called"].get(str(cell), str(cell)): float(value)
        for cell, value in zip(part[about["cell"]], part[about["value"]], strict=True)
    }
    source = str(first["source"])
    # every line of a row repeats them; the column is without the head
    parameters = None if source in about.get("with_head", ()) else first.get("params_m")
    costs = {PARAMETERS: parameters, MEMORY: first.get("gpu_mem_gb")}
    cells |= {key: float(value) for key, value in costs.items() if not pd.isna(value)}
    note = first.get("note")
    values = {title: first[key] for key, title in about.get("rows", {}).items()}
    backbone = about.get("backbones", {}).get(source, {}).get(method, about["backbone"])
    provenance = about["provenance"] + (f"; {note}" if isinstance(note, str) else "")
    if backbone != about["backbone"]:
        provenance += f"; trained from the weights of {backbone}, not of {about['backbone']}"
    return PublishedRow(
        label=", ".join([method, *(f"{title} {value}" for title, value in values.items())]),
        method=about["methods"].get(method, ""),
        backbone=backbone,
        source=source,
        # null in sources.yaml if each line states its own
        selection=about["selection"] or str(first["selection"]),
        provenance=provenance,
        cells=cells,
        values=values,
    )


@cache
def _sources() -> dict[str, Any]:
    text = (resources.files("petlbench.published") / "sources.yaml").read_text()
    sources: dict[str, Any] = parsed(text)
    return sources

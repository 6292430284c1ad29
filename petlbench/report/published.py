"""Numbers that others published, as rows of their own: never ranked, always with their source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from petlbench.errors import unknown
from petlbench.report.table import Column, Table

PARAMETERS, MEMORY = "parameters_m", "memory_gb"
MEMORY_COLUMN = Column(MEMORY, "published memory (GB)", "Cost", 1)


@dataclass(frozen=True)
class Row:
    """A published row. method: its name in this project, "" where it has none; cells: by title.

    values: of what else tells rows apart, for example {"M": 7}.
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
        """Where it comes from, in a line."""
        return f"{self.source}: {self.provenance}. Selection: {self.selection}."


def rows(file: str) -> list[Row]:
    """The rows of a file of results/published, in its order."""
    sources = _sources()
    if file not in sources:
        raise unknown("file of published numbers", file, sources)
    frame = pd.read_csv(
        str(resources.files("petlbench.published") / f"{file}.csv"), keep_default_na=True
    )
    about = sources[file]
    if "source" not in frame or about["title"]:
        frame["source"] = about["title"]
    keys = ["source", "method", *about.get("rows", {})]
    return [_row(part, about) for _, part in frame.groupby(keys, sort=False)]


def add(table: Table, file: str, cells: Sequence[Column] | None = None) -> None:
    """Append the rows of a file that have a figure in one of the table's columns.

    cells: the columns whose titles a published name may mean; default all.
    """
    found = [(row, _matched(row, cells or table.columns)) for row in rows(file)]
    shown = [(row, values) for row, values in found if set(values) - {PARAMETERS}]
    new = MEMORY not in table.values
    if new and any(MEMORY in row.cells for row, _ in shown) and _has_costs(table):
        table.columns = [*table.columns, MEMORY_COLUMN]
        table.values = table.values.assign(**{MEMORY: float("nan")})
    for row, values in shown:
        label = named(row)
        kept = values | {key: row.cells[key] for key in (MEMORY,) if key in row.cells}
        section = f"published: {row.source}"
        told = f"{label}\n{row.note()}"
        table.append(label, row.label, kept, method=row.label, section=section, origin=told)
    say(table, [(named(row), row) for row, _ in shown])


def say(table: Table, labelled: Sequence[tuple[str, Row]]) -> None:
    """A footnote for each source and selection rule of the rows with these labels."""
    labels: dict[str, list[str]] = {}
    for label, row in labelled:
        labels.setdefault(row.note(), []).append(label)
    for text, of in labels.items():
        table.remark(f"Published, as printed: {text}", tuple(of))


def named(row: Row) -> str:
    """The label of a published row in a table."""
    return f"{row.label} ({row.source})"


def _has_costs(table: Table) -> bool:
    return any(column.group == "Cost" for column in table.columns)


def _matched(row: Row, columns: Sequence[Column]) -> dict[str, float]:
    """Column -> figure, by the column's key or title."""
    named = {name.casefold(): c.key for c in columns for name in (c.title, c.key)}
    return {
        named[cell.casefold()]: value
        for cell, value in row.cells.items()
        if cell.casefold() in named
    }


def _row(part: pd.DataFrame, about: Mapping[str, Any]) -> Row:
    first = part.iloc[0]
    method = str(first["method"])
    cells = {
        about["called"].get(str(cell), str(cell)): float(value)
        for cell, value in zip(part[about["cell"]], part[about["value"]], strict=True)
    }
    costs = {PARAMETERS: first.get("params_m"), MEMORY: first.get("gpu_mem_gb")}
    cells |= {key: float(value) for key, value in costs.items() if not pd.isna(value)}
    note = first.get("note")
    values = {called: first[key] for key, called in about.get("rows", {}).items()}
    return Row(
        label=", ".join([method, *(f"{called} {value}" for called, value in values.items())]),
        method=about["methods"].get(method, ""),
        backbone=about["backbone"],
        source=str(first["source"]),
        selection=about["selection"] or str(first["selection"]),
        provenance=about["provenance"] + (f"; {note}" if isinstance(note, str) else ""),
        cells=cells,
        values=values,
    )


@cache
def _sources() -> dict[str, Any]:
    text = (resources.files("petlbench.published") / "sources.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found

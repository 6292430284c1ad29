"""The table that every renderer prints: figures with ranks, marks and notes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Literal

import pandas as pd

DASH, MINUS = "–", "−"
COST, MEAN = "Cost", "Mean"  # groups of columns that several tables share
CellKey = tuple[str, str]  # (row, key of a column)


@dataclass(frozen=True)
class Footnote:
    """A remark on rows (labels) or columns (keys)."""

    letter: str
    text: str
    of: tuple[str, ...]


def letter(place: int) -> str:
    """a, b, ..., z, aa, bb, ..."""
    return ascii_lowercase[place % 26] * (place // 26 + 1)


def headed(group: str) -> str:
    """The name of a group as a head; the rest of it stays, as in FGVC-Aircraft."""
    return group[:1].upper() + group[1:]


@dataclass(frozen=True)
class Column:
    """A column of figures with `digits` after the point, or of text if that is None."""

    key: str
    title: str
    group: str
    digits: int | None = 1
    best: Literal["high", "low"] | None = None  # None: the column is not ranked
    is_probability: bool = (
        False  # never printed as 0: one that rounds to it is below the last digit
    )


@dataclass
class Table:
    """values: rows (labels) x columns (keys), NaN if missing. marks: text of missing figures."""

    rows: list[str]
    columns: list[Column]
    values: pd.DataFrame
    spread: pd.DataFrame  # of some of the columns, in their units; NaN without a spread
    caption: str
    name: str = ""  # distinguishes it from the other tables of its report
    head: str = "method"  # over the labels
    spread_meaning: str = "Sample standard deviation over runs, in percentage points."
    sections: Mapping[str, str] = field(default_factory=dict)  # row -> title of its section
    names: dict[str, str] = field(default_factory=dict)  # row -> what is printed for its label
    methods: dict[str, str] = field(default_factory=dict)  # row -> text that the filter searches
    unranked: frozenset[str] = frozenset()  # published rows
    marks: dict[CellKey, str] = field(default_factory=dict)
    flags: dict[CellKey, str] = field(default_factory=dict)  # after a figure
    provenance: dict[CellKey, str] = field(default_factory=dict)  # the key "" means the row
    notes: list[str] = field(default_factory=list)
    footnotes: list[Footnote] = field(default_factory=list)

    @property
    def spread_columns(self) -> list[Column]:
        """The columns with at least one spread."""
        return [c for c in self.columns if c.key in self.spread and self._has_spread(c.key)]

    @property
    def spread_rows(self) -> list[str]:
        """The rows with a spread: single runs and published values have none."""
        known = self.spread.notna().any(axis="columns")
        return [row for row in self.rows if known.get(row, False)]

    @property
    def measured_rows(self) -> list[str]:
        """The rows without the published ones."""
        return [row for row in self.rows if row not in self.unranked]

    def parts(self, rows: list[str] | None = None) -> list[tuple[str, list[str]]]:
        """Rows (default: all) by section, in order; a single section has no title."""
        rows = self.rows if rows is None else rows
        if len({self.sections.get(row, "") for row in rows}) < 2:
            return [("", rows)]
        sections = itertools.groupby(rows, key=lambda row: self.sections.get(row, ""))
        return [(section, list(rows)) for section, rows in sections]

    def text(self, row: str, column: Column) -> str:
        """The figure as printed: rounded, or a mark or dash if it is missing."""
        value = self.values.at[row, column.key]
        if pd.isna(value):
            return self.marks.get((row, column.key), DASH)
        return str(value) if column.digits is None else _rounded(value, column)

    def deviation(self, row: str, column: Column) -> str:
        """The spread as printed."""
        value = self.spread.at[row, column.key]
        return DASH if pd.isna(value) else f"{value:.{column.digits}f}"

    def rank(self, row: str, column: Column) -> int | None:
        """1 for the best figure as printed, 2 for the second; equal figures share a rank."""
        if column.best is None or row in self.unranked:
            return None
        # the whole column at once: pandas takes 10 us to look up one figure
        values = self.values[column.key].items()
        figures = {
            name: _printed(value, column)
            for name, value in values
            if value == value and name not in self.unranked and name in self.rows
        }
        if row not in figures or len(figures) < 2:
            return None
        own, sign = figures[row], 1 if column.best == "high" else -1
        better = {value for value in figures.values() if sign * value > sign * own}
        return len(better) + 1 if len(better) < 2 else None

    def printed_label(self, row: str) -> str:
        """What is printed for a row's label, below the title of its section."""
        return self.names.get(row, row)

    def letters(self, of: str) -> str:
        """The footnotes of a row's label or a column's key, for example "a,c"."""
        return ",".join(note.letter for note in self.footnotes if of in note.of)

    def append_unranked(
        self,
        row: str,
        name: str,
        figures: Mapping[str, float],
        *,
        method: str,
        section: str,
        provenance: str,
    ) -> None:
        """Add a row without ranks; figures of columns that the table lacks are dropped."""
        cells = {key: [value] for key, value in figures.items() if key in self.values}
        self.values = pd.concat([self.values, pd.DataFrame(cells, index=[row])])
        self.spread = self.spread.reindex([*self.spread.index, row])
        self.rows = [*self.rows, row]
        self.sections = {**self.sections, row: section}
        self.names[row] = name
        self.methods[row] = method
        self.unranked |= {row}
        self.provenance[row, ""] = provenance

    def add_footnote(self, text: str, of: tuple[str, ...]) -> None:
        """Add a footnote with the next letter."""
        self.footnotes = [*self.footnotes, Footnote(letter(len(self.footnotes)), text, of)]

    def lines(self) -> list[str]:
        """Notes and footnotes, a line each."""
        return [*self.notes, *(f"({note.letter}) {note.text}" for note in self.footnotes)]

    def unrounded(self) -> pd.DataFrame:
        """The figures unrounded, a row a label, with the section if there are several."""
        frame = self.values.loc[self.rows, [column.key for column in self.columns]]
        if len(self.parts()) > 1:
            frame.insert(0, "section", [self.sections.get(row, "") for row in self.rows])
        return frame

    def _has_spread(self, key: str) -> bool:
        return bool(self.spread[key].notna().any())


def _rounded(value: float, column: Column) -> str:
    text = f"{value:z.{column.digits}f}"  # z: no zero has a sign
    if column.is_probability and not float(text):
        return f"< {text[:-1]}1"
    return text.replace("-", MINUS)


def _printed(value: float, column: Column) -> float:
    """A figure as a reader sees it."""
    return float(_rounded(value, column).replace(MINUS, "-"))

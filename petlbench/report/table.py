"""The table that every renderer prints: figures with ranks, marks, and what stands below."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Literal

import pandas as pd

DASH, MINUS = "–", "−"


@dataclass(frozen=True)
class Footnote:
    """A remark on rows (labels) or columns (keys)."""

    letter: str
    text: str
    of: tuple[str, ...]


def letter(place: int) -> str:
    """a, b, ..., z, aa, bb, ..."""
    return ascii_lowercase[place % 26] * (place // 26 + 1)


@dataclass(frozen=True)
class Column:
    """A column of figures with `digits` after the point, or of text where that is None."""

    key: str
    title: str
    group: str
    digits: int | None = 1
    best: Literal["high", "low"] | None = None  # None: nothing in it is better than another


@dataclass
class Table:
    """values: rows (labels) x columns (keys), NaN where missing. marks: cells without a figure."""

    rows: list[str]
    columns: list[Column]
    values: pd.DataFrame
    spread: pd.DataFrame  # of some of the columns, in their units; NaN where there is none
    caption: str
    name: str = ""  # what sets it apart from the other tables of its report
    head: str = "method"  # over the labels
    spread_is: str = "Sample standard deviation over runs, in percentage points."
    sections: Mapping[str, str] = field(default_factory=dict)  # row -> what stands above it
    names: dict[str, str] = field(default_factory=dict)  # row -> what is printed for its label
    methods: dict[str, str] = field(default_factory=dict)  # row -> by what a filter finds it
    aside: frozenset[str] = frozenset()  # rows that no rank counts: published ones
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    flags: dict[tuple[str, str], str] = field(default_factory=dict)  # after a figure
    origins: dict[tuple[str, str], str] = field(default_factory=dict)  # (row, key or "") -> text
    notes: list[str] = field(default_factory=list)
    footnotes: list[Footnote] = field(default_factory=list)

    @property
    def spread_columns(self) -> list[Column]:
        """The columns that have a spread somewhere."""
        return [c for c in self.columns if c.key in self.spread and self._spreads(c.key)]

    @property
    def spread_rows(self) -> list[str]:
        """The rows that can have a spread: not those that others published."""
        return [row for row in self.rows if row not in self.aside]

    def parts(self, rows: list[str] | None = None) -> list[tuple[str, list[str]]]:
        """Rows (default all) by section, in order; one part without a name if one section only."""
        rows = self.rows if rows is None else rows
        if len({self.sections.get(row, "") for row in rows}) < 2:
            return [("", rows)]
        found = itertools.groupby(rows, key=lambda row: self.sections.get(row, ""))
        return [(section, list(rows)) for section, rows in found]

    def text(self, row: str, column: Column) -> str:
        """The figure as printed: rounded, a mark, or a dash for what is missing."""
        value = self.values.loc[row, column.key]
        if pd.isna(value):
            return self.marks.get((row, column.key), DASH)
        if column.digits is None:
            return str(value)
        return f"{value:.{column.digits}f}".replace("-", MINUS)

    def deviation(self, row: str, column: Column) -> str:
        """The spread as printed."""
        value = self.spread.loc[row, column.key]
        return DASH if pd.isna(value) else f"{value:.{column.digits}f}"

    def rank(self, row: str, column: Column) -> int | None:
        """1 for the best figure as printed, 2 for the second; equal figures share a rank."""
        if column.best is None or not self._counts(row, column):
            return None
        shown = [self._printed(r, column) for r in self.rows if self._counts(r, column)]
        own, sign = self._printed(row, column), 1 if column.best == "high" else -1
        better = {value for value in shown if sign * value > sign * own}
        return len(better) + 1 if len(shown) > 1 and len(better) < 2 else None

    def named(self, row: str) -> str:
        """What is printed for a row's label, under the head of its section."""
        return self.names.get(row, row)

    def letters(self, of: str) -> str:
        """The footnotes of a row's label or a column's key, for example "a,c"."""
        return ",".join(note.letter for note in self.footnotes if of in note.of)

    def append(
        self,
        row: str,
        name: str,
        figures: Mapping[str, float],
        *,
        method: str,
        section: str,
        origin: str,
    ) -> None:
        """Add a row that no rank counts; figures of columns that the table lacks are left out."""
        shown = {key: [value] for key, value in figures.items() if key in self.values}
        self.values = pd.concat([self.values, pd.DataFrame(shown, index=[row])])
        self.spread = self.spread.reindex([*self.spread.index, row])
        self.rows = [*self.rows, row]
        self.sections = {**self.sections, row: section}
        self.names[row] = name
        self.methods[row] = method
        self.aside |= {row}
        self.origins[row, ""] = origin

    def remark(self, text: str, of: tuple[str, ...]) -> None:
        """Add a footnote."""
        self.footnotes = [*self.footnotes, Footnote(letter(len(self.footnotes)), text, of)]

    def lines(self) -> list[str]:
        """Everything to say below the table."""
        return [*self.notes, *(f"({note.letter}) {note.text}" for note in self.footnotes)]

    def wide(self) -> pd.DataFrame:
        """The figures unrounded, a row a label, with the section where there are several."""
        frame = self.values.loc[self.rows, [column.key for column in self.columns]]
        if len(self.parts()) > 1:
            frame.insert(0, "section", [self.sections.get(row, "") for row in self.rows])
        return frame

    def _printed(self, row: str, column: Column) -> float:
        return float(self.text(row, column).replace(MINUS, "-"))

    def _counts(self, row: str, column: Column) -> bool:
        return row not in self.aside and not pd.isna(self.values.loc[row, column.key])

    def _spreads(self, key: str) -> bool:
        return bool(self.spread[key].notna().any())

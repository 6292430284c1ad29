"""Texts as cells of CSV files, which people open in spreadsheets."""

from typing import TypeVar

import pandas as pd

from petlbench.errors import printable

DIGITS = 12  # of a figure: the last bits of a mean differ between processors
# OWASP, "CSV Injection"; also the full-width forms, which Excel reads alike
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
T = TypeVar("T")


def cell(value: T) -> T | str:
    """A value that no spreadsheet takes for a formula: such a text gets a leading apostrophe.

    Texts are one line of printable characters: a file may have any name, and a terminal obeys
    control characters.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """A table with all its texts, heads and labels as cells."""
    marked = table.copy(deep=False)
    for place in range(table.shape[1]):
        column = table.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            marked.isetitem(place, column.map(cell))
    return marked.rename(index=cell, columns=cell)

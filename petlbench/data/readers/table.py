"""A CSV file of images, as spreadsheets write it: commas, semicolons or tabs, UTF-8 or UTF-16."""

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

from petlbench.errors import UserError

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "split")
SEPARATORS = (",", ";", "\t")
Row = dict[str, str]


def rows(file: Path) -> list[tuple[int, Row]]:
    """Line numbers and rows with the keys path, label and split, "" where a value is missing.

    The first line names the columns, in any order and case; other columns are left out. Raises
    UserError if the file cannot be read, or lacks a column.
    """
    try:
        # not universal newlines: the csv module ends lines itself
        lines = io.StringIO(_decoded(file.read_bytes()), newline="")
        head = lines.readline()
        lines.seek(0)
        reader = csv.reader(lines, delimiter=_separator(head), skipinitialspace=True)
        # line_num and not a count: a quoted value may have several lines
        numbered = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{file}' cannot be read as CSV: {_reason(error)}") from error
    if not numbered:
        return []
    (_, names), *values = numbered
    places = _places(file, names)
    return [
        (number, {name: row[at].strip() if at < len(row) else "" for name, at in places.items()})
        for number, row in values
    ]


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    # the first character is one of ASCII: its other byte is 0 without a byte order mark
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    return content.decode("utf-8-sig")


def _separator(head: str) -> str:
    """The one that divides the first line into the needed columns; a comma if none does."""
    for separator in SEPARATORS:
        names = next(csv.reader([head], delimiter=separator, skipinitialspace=True), [])
        if set(NEEDED) <= {_plain(name) for name in names}:
            return separator
    return ","


def _places(file: Path, names: Sequence[str]) -> dict[str, int]:
    """The positions of the known columns."""
    plain = [_plain(name) for name in names]
    if not set(NEEDED) <= set(plain):
        raise UserError(
            f"'{file}' has the columns {', '.join(names)}; path and label are needed, split is "
            "optional"
        )
    for name in COLUMNS:
        if plain.count(name) > 1:
            raise UserError(f"'{file}' has {plain.count(name)} columns '{name}'; keep one")
    return {name: plain.index(name) for name in COLUMNS if name in plain}


def _plain(name: str) -> str:
    return name.strip().lower()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is neither UTF-8 nor UTF-16; save it as 'CSV UTF-8'"
    return getattr(error, "strerror", None) or str(error)

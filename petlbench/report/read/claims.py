"""The claims of a paper: what it says in numbers, and from which records each can be measured.

`results/published/dtl_aaai2024/claims.yaml` describes the keys of such a file.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from petlbench.config import deviations
from petlbench.config.yaml_text import parsed
from petlbench.errors import UserError, unknown
from petlbench.report.read import fields
from petlbench.run import identity
from petlbench.run.record import Record

PUBLISHED = "petlbench.published"


def _device_kind(record: Record) -> str:
    # the name of a CPU ends in its number of threads (run/provenance.py)
    return "CPU" if str(record["provenance"].get("device")).endswith(" threads") else "GPU"


def _weights(record: Record) -> str | None:
    """Tag of the pre-trained weights; None for random ones."""
    checkpoint = record["provenance"].get("checkpoint") or {}
    return str(checkpoint.get("tag")) if checkpoint.get("sha256") else None


# what a claim may ask of a record, beside values of the configuration by their dotted keys
CONDITIONS: Mapping[str, Callable[[Record], Any]] = {
    "suite": lambda record: record["suite"],
    "protocol": lambda record: record["protocol"],
    "backbone": lambda record: record["factors"]["backbone"],
    "weights": _weights,
    "device": lambda record: record["provenance"].get("device"),
    "on": _device_kind,
    "precision": lambda record: record["provenance"].get("precision"),
    "attention": fields.attention,
    "batch": fields.batch_size,
    "size": fields.image_size,
}


# conditions that are values of the configuration
SET_BY = {
    "precision": "train.precision",
    "attention": "backbone.fused_attention",
    "batch": "train.batch_size",
    "size": "input.size",
}


@dataclass(frozen=True)
class Measurement:
    """Where a figure comes from. report: empty if it cannot be measured.

    accepts: a key of CONDITIONS or of the configuration -> the value that a record must have.
    """

    needs: str
    report: str = ""
    accepts: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, record: Record) -> bool:
        """Whether the record may count for the claims."""
        return bool(self.report) and all(
            _value(record, key) == value for key, value in self.accepts.items()
        )

    @property
    def conditions(self) -> str:
        """What it accepts, in words."""
        named = {key: value for key, value in self.accepts.items() if value is not None}
        return ", ".join(f"{key} {_word(value)}" for key, value in named.items())


@dataclass(frozen=True)
class Row:
    """A method of a measurement, in one setting (configuration key -> value)."""

    by: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def is_of(self, record: Record) -> bool:
        """Whether the record is of this method in this setting."""
        return record["factors"]["method"] == self.method and all(
            fields.config_value(record, key) == value for key, value in self.settings.items()
        )

    def overridden(self, record: Record, measurement: Measurement) -> list[str]:
        """Values of a record of the row that are not those of its options.

        What the measurement asks for itself is left out, and so are keys that only the record or
        only the configuration of today has.
        """
        expected = deviations.decisive(composed(record, self.settings))
        own = deviations.decisive(record["config"])
        asked = {SET_BY.get(key, key) for key in measurement.accepts}
        shared = expected.keys() & own.keys() - asked
        return sorted(key for key in shared if expected[key] != own[key])


@dataclass(frozen=True)
class Claim:
    """A figure of a paper. text: what it is of; printed: as the paper prints it.

    column: key or title in the report's table. minus: the figure is the difference to this row.
    beside: methods without whose rows the figure has another meaning. divide: a factor of units.
    """

    id: str
    text: str
    where: str
    printed: str
    column: str
    row: Row
    minus: Row | None
    beside: Sequence[str]
    divide: float
    note: str

    @property
    def digits(self) -> int:
        """Digits after the point of the printed figure."""
        return len(self.printed.partition(".")[2])

    @property
    def rows(self) -> list[Row]:
        """The rows that it compares."""
        return [self.row] if self.minus is None else [self.row, self.minus]


def composed(record: Record, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the options of a record and of settings. Do not change it."""
    factors = record["factors"]
    options = (
        *(f"{key}={factors[key]}" for key in ("method", "backbone")),
        f"dataset={factors['task']}",
        f"protocol={record['protocol']}",
        f"recipe={fields.config_value(record, 'recipe.name') or 'default'}",
    )
    return _composed((*options, *(f"{k}={json.dumps(v)}" for k, v in settings.items())))


@cache  # a report asks for the same options once for each claim and seed
def _composed(overrides: tuple[str, ...]) -> Mapping[str, Any]:
    # named as in records
    return identity.completed(deviations.composed(overrides))


@cache  # nothing changes what it returns
def read(file: str) -> tuple[dict[str, Measurement], list[Claim]]:
    """The measurements by name, and the claims, of a file of results/published without .yaml.

    Raises UserError for an unknown file, condition or measurement.
    """
    path = resources.files(PUBLISHED) / f"{file}.yaml"
    if not path.is_file():
        raise UserError(f"results/published has no '{file}.yaml'")
    content = parsed(path.read_text())
    measurements = {key: Measurement(**values) for key, values in content["measured_by"].items()}
    for measurement in measurements.values():
        for key in measurement.accepts:
            if key not in CONDITIONS and "." not in key:
                raise unknown("condition of a measurement", key, CONDITIONS)
    claims = [claim for name, entry in content["claims"].items() for claim in _claims(name, entry)]
    for row in (row for claim in claims for row in claim.rows):
        if row.by not in measurements:
            raise unknown("measurement", row.by, measurements)
    return measurements, claims


def _claims(name: str, entry: Mapping[str, Any]) -> Iterator[Claim]:
    """A claim for each column and row of an entry."""
    for column, called in entry["columns"].items():
        says = entry["says"].format(column=column)
        for number, (label, settings) in enumerate(entry["rows"].items()):
            yield Claim(
                id=_id(name, entry, column, number),
                text=f"{label}: {says}",
                where=entry["where"],
                printed=_printed(entry, label, called),
                column=column,
                row=_row(entry["by"], settings),
                minus=_minus(entry.get("minus")),
                beside=entry.get("beside", ()),
                divide=entry.get("divide", 1),
                note=entry.get("note", ""),
            )


def _id(name: str, entry: Mapping[str, Any], column: str, number: int) -> str:
    """The name of the entry, numbered if it has several claims."""
    columns = list(entry["columns"])
    place = columns.index(column) * len(entry["rows"]) + number
    return name if len(columns) * len(entry["rows"]) == 1 else f"{name}-{place + 1}"


def _row(by: str, settings: str | Mapping[str, Any]) -> Row:
    """A method alone, or `method` and configuration keys."""
    if isinstance(settings, str):
        return Row(by, settings)
    return Row(by, settings["method"], {k: v for k, v in settings.items() if k != "method"})


def _minus(settings: Mapping[str, Any] | None) -> Row | None:
    if settings is None:
        return None
    return _row(settings["by"], {key: value for key, value in settings.items() if key != "by"})


def _printed(entry: Mapping[str, Any], label: str, called: str | None) -> str:
    """The figure as text, which has the number of its digits: of the entry, or of a file."""
    if "printed" in entry:
        return str(entry["printed"][label])
    file = entry["file"]
    frame = _texts(file["name"])
    lines = frame[frame["method"] == label]
    if "cell" in file:
        lines = lines[lines[file["cell"]] == called]
    [text] = lines[file["value"]].unique()
    return str(text)


@cache
def _texts(file: str) -> pd.DataFrame:
    return pd.read_csv(str(resources.files(PUBLISHED) / f"{file}.csv"), dtype=str)


def _value(record: Record, key: str) -> Any:
    own = CONDITIONS.get(key)
    return own(record) if own is not None else fields.config_value(record, key)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Selection of the records of a report; records of different settings are never averaged."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from petlbench.config.construct import flat
from petlbench.errors import UserError, unknown
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read import fields
from petlbench.report.read.fields import config_value, differences
from petlbench.run.identity import IDENTITY, PLACES
from petlbench.run.record import Record

CELL = ("method", "backbone", "task")
PER_RUN = ("dataset.draw", "dataset.fold", *PLACES)  # may differ between the runs of one cell
# differ between draws, which are other lists for training
DRAWN = ("contents.splits.train", "contents.splits.trainval")
FOLDED = ("contents.splits.val", "contents.splits.test")  # and between folds, test images too
MAX_KEYS = 4  # of differing settings in a message


def completed(records: Sequence[Record], spec: ReportSpec) -> ReportSpec:
    """The specification with a suite and a backbone, taken from the records if it names none.

    Raises UserError if there are no records, none of the suite or protocol, or two backbones.
    """
    if not records:
        raise UserError("this report needs records; add --records DIR, the results.root of runs")
    if spec.suite is None:
        # a folder may hold a few probes beside the runs of a suite
        suites = Counter(r["suite"] for r in records if r["protocol"] == spec.protocol)
        suites = suites or Counter(r["suite"] for r in records)
        spec = replace(spec, suite=suites.most_common(1)[0][0])
    rest = _of_protocol(of_suite(records, spec), spec)
    backbones = sorted({record["factors"]["backbone"] for record in rest})
    if spec.backbone is None and len(backbones) > 1:
        raise UserError(
            f"a table has one backbone, these records have {len(backbones)} "
            f"({', '.join(backbones)}); add --backbone {backbones[0]}"
        )
    if spec.backbone is not None and spec.backbone not in backbones:
        raise unknown("backbone among the records", spec.backbone, backbones)
    return replace(spec, backbone=backbones[0]) if spec.backbone is None else spec


def selected(records: Sequence[Record], spec: ReportSpec) -> list[Record]:
    """The records of a completed specification, in the given order.

    Raises UserError for a varied key that is no value, and if finished runs of one cell differ
    in more than draw, seed and the varied keys.
    """
    rest = [
        record
        for record in _of_protocol(of_suite(records, spec), spec)
        if record["factors"]["backbone"] == spec.backbone
    ]
    for key in spec.vary:
        _check_varied(rest, key)
    refuse_mixtures([r for r in rest if r["status"] == "finished"], list(spec.vary))
    return rest


def _check_varied(records: Sequence[Record], key: str) -> None:
    """Refuse the key of a node, and a key without a value in any record."""
    values = [config_value(record, key) for record in records]
    if nodes := [value for value in values if isinstance(value, Mapping)]:
        below = [f"{key}.{name}" for name in dict.fromkeys(k for v in nodes for k, _ in flat(v))]
        raise UserError(f"--vary '{key}' is a node, not a value; its values: {', '.join(below)}")
    if all(value is None for value in values):
        every = {name for record in records for name, _ in flat(record["config"])}
        raise _unknown_key(key, every)


def _unknown_key(key: str, every: set[str]) -> UserError:
    """The suggestion of `unknown` without its list of choices: a record has a hundred keys."""
    hint = str(unknown("key", key, every)).partition(" Known:")[0].partition("; ")[2]
    return UserError(
        f"--vary '{key}': no record has a value of this key; "
        f"{f'{hint} ' if hint else ''}--cfg job of a run prints the keys"
    )


def of_methods(records: Sequence[Record], spec: ReportSpec) -> Sequence[Record]:
    """The records of the specification's methods, of all if it names none.

    Raises UserError for a method without a record, unless there are no records at all.
    """
    if not spec.methods or not records:
        return records
    present = {record["factors"]["method"] for record in records}
    for method in spec.methods:
        if method not in present:
            raise unknown("method among the records", method, present)
    return [record for record in records if record["factors"]["method"] in spec.methods]


def of_suite(records: Sequence[Record], spec: ReportSpec) -> list[Record]:
    """The records of the suite. Raises UserError if there are none."""
    rest = [record for record in records if record["suite"] == spec.suite]
    if not rest:
        raise _of_others("dataset", str(spec.suite), (record["suite"] for record in records))
    return rest


def _of_protocol(records: Sequence[Record], spec: ReportSpec) -> list[Record]:
    rest = [record for record in records if record["protocol"] == spec.protocol]
    if not rest:
        raise _of_others("protocol", spec.protocol, (record["protocol"] for record in records))
    return rest


def _of_others(key: str, wanted: str, present: Iterable[str]) -> UserError:
    """No record has the value of a key that the report, or an option, asks for."""
    option, known = "suite" if key == "dataset" else key, sorted(set(present))
    near = get_close_matches(wanted, known, n=1)
    step = f"did you mean --{option} {near[0]}?" if near else f"give others, or --{option} NAME"
    return UserError(
        f"this report is of runs with {key}={wanted}, and --records has {key}="
        f"{', '.join(known)}; {step}"
    )


def refuse_mixtures(
    finished: Sequence[Record],
    vary: Sequence[str],
    advice: str = "give them separate rows (--vary {}) or separate folders",
) -> None:
    """Raise UserError if runs of one cell differ in more than draw, seed and the varied keys.

    advice: what to do, with a place for a key in which they differ.
    """
    runs: dict[tuple[Any, ...], Record] = {}
    cells: dict[tuple[Any, ...], Record] = {}
    for record in finished:
        factors = record["factors"]
        # as text: a list cannot be part of a key
        varied = tuple(str(config_value(record, key)) for key in vary)
        # two runs of equal factors, e.g. of two folders, must have been the same run
        other = runs.setdefault((*factors.values(), *varied), record)
        if other["id"] != record["id"]:
            raise _mixture(factors, differences(other, record, IDENTITY), advice)
        cell = tuple(factors[key] for key in CELL)
        # comparing with one run of the cell, and of its draw, is enough: equality is transitive
        drawn = DRAWN if fields.folds(record) is None else (*DRAWN, *FOLDED)
        for name, free in (((*cell, *varied), drawn), ((*cell, factors["draw"], *varied), ())):
            other = cells.setdefault(name, record)
            settings = differences(other, record, [key for key in IDENTITY if key != "seed"])
            pairs = {k: pair for k, pair in settings.items() if k not in (*PER_RUN, *free)}
            if pairs:
                raise _mixture(dict(zip(CELL, cell, strict=True)), pairs, advice)


def _mixture(
    factors: Mapping[str, Any], pairs: Mapping[str, tuple[Any, Any]], advice: str
) -> UserError:
    cell = " ".join(f"{key}={value}" for key, value in factors.items())
    shown = [f"{key} ({first}, {second})" for key, (first, second) in pairs.items()]
    more = f" and {len(shown) - MAX_KEYS} more" if len(shown) > MAX_KEYS else ""
    settings = ", ".join(shown[:MAX_KEYS]) + more or "settings outside their configurations"
    key = next(iter(pairs), "method.rank")
    return UserError(
        f"two finished runs of {cell} differ in {settings}; a mean never counts two settings: "
        f"{advice.format(key)}"
    )

"""Footnotes of a table: differences between its rows, or within a column."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from petlbench.report.model.table import Footnote, letter
from petlbench.report.read import fields
from petlbench.report.read.fields import Labelled
from petlbench.run.record import Record

Remark = tuple[str, tuple[str, ...]]  # text; rows or columns
Field = Callable[[Record], Any]


def _every(_: Record) -> str:
    return "all"


def _task(record: Record) -> str:
    return str(record["factors"]["task"])


def _backbone(record: Record) -> str:
    return str(record["factors"]["backbone"])


# name, value, and the records that a value is compared with
COMPARED: tuple[tuple[str, Field, Callable[[Record], str]], ...] = (
    ("device", lambda record: record["provenance"]["device"], _every),
    ("torch", lambda record: record["provenance"]["versions"]["torch"], _every),
    ("precision", lambda record: record["provenance"].get("precision"), _every),
    ("attention", fields.attention, _every),
    # a suite may set these per task, so they are compared within a task
    ("training batch", fields.batch_size, _task),
    ("image size", fields.image_size, _task),
    ("optimiser", fields.optimiser, _task),
    ("train.memory", fields.memory, _every),
    ("train.compile", fields.compiled, _every),
    # each backbone has its own weights and normalisation
    ("weights", fields.weights, _backbone),
    ("normalisation", fields.normalisation, _backbone),
    ("pooling", fields.pooling, _backbone),
    ("epochs", fields.epochs, _task),
)


def footnotes(labelled: Sequence[Labelled]) -> list[Footnote]:
    """The differences between finished runs, lettered in order."""
    finished = fields.finished(labelled)
    remarks = [
        *(remark for compared in COMPARED for remark in _deviating(finished, *compared)),
        *_different_images(finished),
        *_chosen_on_test(finished),
    ]
    return [Footnote(letter(n), text, of) for n, (text, of) in enumerate(remarks)]


def _deviating(
    labelled: Sequence[Labelled], name: str, field: Field, peers_of: Callable[[Record], str]
) -> list[Remark]:
    """Rows with a value other than the most common one among their peers; None is skipped."""
    # None: an older record without the field is no deviation
    lines = Counter((row, peers_of(r), field(r)) for row, r in labelled)
    values = {line: runs for line, runs in lines.items() if line[2] is not None}
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for (_, peers, value), runs in values.items():
        counts[peers][value] += runs
    usual = {peers: counter.most_common(1)[0][0] for peers, counter in counts.items()}
    # dict[str, None] is a set in the order of insertion
    rows: dict[tuple[Any, Any], dict[str, None]] = defaultdict(dict)
    for row, peers, value in values:
        if value != usual[peers]:
            rows[value, usual[peers]][row] = None
    return [
        (f"{', '.join(odd)}: {name} {value}, elsewhere {common}.", tuple(odd))
        for (value, common), odd in rows.items()
    ]


def _different_images(labelled: Iterable[Labelled]) -> list[Remark]:
    """Columns whose images, of any split, differ between runs of the same draw."""
    rows: dict[tuple[str, str, int], dict[str, dict[str, None]]] = {}
    titles = {}
    for row, record in labelled:
        factors = record["factors"]
        for split, fingerprint in (record["provenance"].get("splits") or {}).items():
            key = (factors["task"], split, factors["draw"])
            use = "tested" if split in record["scores"] else "trained"
            titles[key] = f"{record['task_title']}: rows were {use} on different images ({split})"
            rows.setdefault(key, {}).setdefault(fingerprint["sha256"][:12], {})[row] = None
    return [
        # the column is the task, or the split if the columns are test sets
        (f"{titles[key]}: {_by_hash(hashes)}.", key[:2])
        for key, hashes in rows.items()
        if len(hashes) > 1
    ]


def _by_hash(rows: dict[str, dict[str, None]]) -> str:
    return "; ".join(f"sha256 {value} ({', '.join(members)})" for value, members in rows.items())


def _chosen_on_test(labelled: Iterable[Labelled]) -> list[Remark]:
    rows = tuple(
        dict.fromkeys(row for row, r in labelled if not r["selection"].get("honest", True))
    )
    return [("The epoch was chosen on the test set.", rows)] if rows else []

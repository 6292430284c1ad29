"""What stands below a table: how it was made, what differs between rows, why cells are empty."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from petlbench.report.origin import listed, weights
from petlbench.report.select import differing
from petlbench.report.table import Footnote, letter
from petlbench.run.record import Record

MARKS = {
    "failed": "fail",
    "diverged": "div.",
    "out_of_memory": "oom",
    "unsupported": "n/a",
}
Labelled = tuple[str, Record]  # the label of its row, and the record


def main_test(record: Record) -> str | None:
    """The test set whose score stands in the table: the first; never the best epoch's score."""
    return next((name for name in record["scores"] if not name.endswith("@best")), None)


def epochs_of(record: Record) -> int | None:
    epochs: int | None = record["config"]["train"].get("epochs")
    return epochs


def normalisation(record: Record) -> str | None:
    """Mean and standard deviation that images are normalised with, in RGB."""
    backbone = record["config"].get("backbone") or {}
    if not (backbone.get("mean") and backbone.get("std")):
        return None
    return " / ".join(" ".join(f"{x:g}" for x in backbone[key]) for key in ("mean", "std"))


def batch_size(record: Record) -> int | None:
    """Images in a training step, where the record measured one."""
    size: int | None = _of_training(record).get("batch_size")
    return size


def optimiser(record: Record) -> str | None:
    name: str | None = _of_training(record).get("optimizer")
    return name


def _of_training(record: Record) -> dict[str, Any]:
    """Empty where nothing was trained, not even a step."""
    measured = record["cost"].get("parameters") is not None
    return record["config"]["train"] if measured else {}


def image_size(record: Record) -> int | None:
    """Height and width of the images, in pixels."""
    size: int | None = (record["config"].get("input") or {}).get("size")
    return size


def attention(record: Record) -> str | None:
    kind: str | None = record["provenance"].get("attention")
    return kind


def pooling(record: Record) -> str | None:
    pool: str | None = (record["config"].get("backbone") or {}).get("pool")
    return pool


def scored(labelled: Sequence[Labelled], tests: Sequence[str]) -> str:
    """What the scores are of: test sets (by default each run's first), seeds, protocol, epochs."""
    finished = [record for _, record in labelled if record["status"] == "finished"]
    on = listed(tests or map(main_test, finished)) or "no test set"
    return (
        f"Top-1 accuracy in percent on {on}; "
        f"{_runs(labelled)}; protocol {labelled[0][1]['protocol']}; "
        f"{listed(map(epochs_of, finished)) or 'no'} epochs."
    )


def made_with(labelled: Sequence[Labelled], left_out: Sequence[Record]) -> list[str]:
    """Device and versions, settings that change, and what was left out, in a few lines."""
    finished = [record for _, record in labelled if record["status"] == "finished"]
    return [
        *_hardware(finished),
        *_changing_settings(labelled),
        *_left_out(labelled[0][1], left_out),
    ]


def reasons(labelled: Iterable[Labelled]) -> list[str]:
    """`div.: LoRA on Digits, Land: reason`, one line per row and reason."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row, record in labelled:
        if record["status"] in MARKS:
            key = (MARKS[record["status"]], row, record.get("reason") or "no reason recorded")
            found[key][record["task_title"]].append(str(record["factors"]["seed"]))
    return [
        f"{mark}: {row} on "
        + ", ".join(f"{task} (seed {' '.join(seeds)})" for task, seeds in tasks.items())
        + f": {why}"
        for (mark, row, why), tasks in found.items()
    ]


def footnotes(labelled: Sequence[Labelled]) -> list[Footnote]:
    """What differs between rows or within columns, lettered in order."""
    finished = [(row, record) for row, record in labelled if record["status"] == "finished"]
    found = [
        *_deviating("device", finished, lambda r: r["provenance"]["device"], _all),
        *_deviating("torch", finished, lambda r: r["provenance"]["versions"]["torch"], _all),
        *_deviating("precision", finished, lambda r: r["provenance"].get("precision"), _all),
        *_deviating("attention", finished, attention, _all),
        *_deviating("training batch", finished, batch_size, lambda r: r["factors"]["task"]),
        *_deviating("image size", finished, image_size, lambda r: r["factors"]["task"]),
        *_deviating("optimiser", finished, optimiser, lambda r: r["factors"]["task"]),
        *_deviating("weights", finished, weights, lambda r: r["factors"]["backbone"]),
        *_deviating("normalisation", finished, normalisation, lambda r: r["factors"]["backbone"]),
        *_deviating("pooling", finished, pooling, lambda r: r["factors"]["backbone"]),
        *_deviating("epochs", finished, epochs_of, lambda r: r["factors"]["task"]),
        *_mixed_images(finished),
        *_dishonest(finished),
    ]
    return [Footnote(letter(n), text, of) for n, (text, of) in enumerate(found)]


def _all(_: Record) -> str:
    return "all"


Remark = tuple[str, tuple[str, ...]]


def _deviating(
    what: str,
    labelled: Sequence[Labelled],
    value_of: Callable[[Record], Any],
    peers_of: Callable[[Record], str],
) -> list[Remark]:
    """Rows with a value that is not the most common one among their peers.

    A record that does not say (None) is left out.
    """
    labelled = [(row, record) for row, record in labelled if value_of(record) is not None]
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for _, record in labelled:
        counts[peers_of(record)][value_of(record)] += 1
    usual = {peers: counter.most_common(1)[0][0] for peers, counter in counts.items()}
    odd: dict[tuple[Any, Any], dict[str, None]] = defaultdict(dict)
    for row, record in labelled:
        if (value := value_of(record)) != (common := usual[peers_of(record)]):
            odd[value, common][row] = None
    return [
        (f"{', '.join(rows)}: {what} {value}, elsewhere {common}.", tuple(rows))
        for (value, common), rows in odd.items()
    ]


def _mixed_images(labelled: Iterable[Labelled]) -> list[Remark]:
    """Columns whose images, of any split, differ between runs of the same draw."""
    seen: dict[tuple[str, str, int], dict[str, dict[str, None]]] = {}
    told = {}
    for row, record in labelled:
        factors = record["factors"]
        for split, made in (record["provenance"].get("splits") or {}).items():
            key = (factors["task"], split, factors["draw"])
            used = "tested" if split in record["scores"] else "trained"
            told[key] = f"{record['task_title']}: rows were {used} on different images ({split})"
            seen.setdefault(key, {}).setdefault(made["sha256"][:12], {})[row] = None
    return [
        (f"{told[key]}: {_by_value(found)}.", key[:2])
        for key, found in seen.items()
        if len(found) > 1
    ]


def _by_value(found: dict[str, dict[str, None]]) -> str:
    return "; ".join(f"sha256 {value} ({', '.join(rows)})" for value, rows in found.items())


def _dishonest(labelled: Iterable[Labelled]) -> list[Remark]:
    rows = tuple(
        dict.fromkeys(row for row, r in labelled if not r["selection"].get("honest", True))
    )
    return [("dishonest: the epoch was chosen on the test set.", rows)] if rows else []


def _runs(labelled: Iterable[Labelled]) -> str:
    """`one seed`, `mean over 3 seeds`, or the range where cells differ."""
    cells: Counter[tuple[str, str]] = Counter()
    seeds, draws = set(), set()
    for row, record in labelled:
        if record["status"] == "finished":
            cells[row, record["factors"]["task"]] += 1
            seeds.add(record["factors"]["seed"])
            draws.add(record["factors"]["draw"])
    if not cells:
        return "no finished run"
    least, most = min(cells.values()), max(cells.values())
    counted = "one seed" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    counted += f" and {len(draws)} draws" if len(draws) > 1 else ""
    return counted if least == most else f"{counted}, {least} to {most} runs in a cell"


def _hardware(finished: Sequence[Record]) -> list[str]:
    if not finished:
        return []
    origins = [record["provenance"] for record in finished]
    packages = ("petlbench", "torch", "timm")
    versions = [
        f"{package} {told}"
        for package in packages
        if (told := listed(origin["versions"].get(package) for origin in origins))
    ]
    start = listed(map(weights, finished))
    parts = [
        f"Device {listed((origin['device'] for origin in origins), ' and ')}",
        listed(origin.get("precision") for origin in origins),
        _measured_with(finished),
        ", ".join(versions),
        f"weights {start}" if start else "",
    ]
    return ["; ".join(part for part in parts if part) + "."]


def _measured_with(finished: Sequence[Record]) -> str:
    """What memory and speed depend on: batch size, image size, attention, optimiser."""
    batch, size, kind = (
        listed(map(value_of, finished), " and ")
        for value_of in (batch_size, image_size, attention)
    )
    parts = [
        batch and f"training batch {batch}",
        size and f"{size} px",
        kind and f"{kind} attention",
        listed(map(optimiser, finished), " and "),
    ]
    return ", ".join(part for part in parts if part)


def _changing_settings(labelled: Iterable[Labelled]) -> list[str]:
    """Values of a method that change from task to task: a mean over tasks hides them."""
    first: dict[str, Record] = {}
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row, record in labelled:
        if record["status"] != "finished":
            continue
        other = first.setdefault(row, record)
        for key in differing(other, record, ("method", "train")):
            found[row][key] = None
    return [
        f"{row}: {', '.join(keys)} differ{'' if len(keys) > 1 else 's'} between tasks."
        for row, keys in found.items()
    ]


def _left_out(kept: Record, left_out: Sequence[Record]) -> list[str]:
    """How many records of the first thing each differs in: suite, protocol or backbone."""
    others: dict[str, list[str]] = {"suites": [], "protocols": [], "backbones": []}
    for record in left_out:
        if record["suite"] != kept["suite"]:
            others["suites"].append(record["suite"])
        elif record["protocol"] != kept["protocol"]:
            others["protocols"].append(record["protocol"])
        else:
            others["backbones"].append(record["factors"]["backbone"])
    return [
        f"Left out: {len(values)} record{'s' * (len(values) > 1)} of other {what} "
        f"({listed(values)})."
        for what, values in others.items()
        if values
    ]

"""The runs behind a figure, as text: what the page shows beside a cell or a point."""

from collections.abc import Iterable, Sequence

from petlbench.report.model.table import CellKey
from petlbench.report.read.fields import joined, weights
from petlbench.report.read.scores import Scores
from petlbench.run.record import Record


def provenance(scores: Scores) -> dict[CellKey, str]:
    """The runs of each row (under the key "") and of each cell."""
    records: dict[str, list[Record]] = {row: [] for row in scores.rows}
    for row, record in scores.labelled:
        records[row].append(record)
    titles = {task.key: task.title for task in scores.tasks}
    by_id = {record["id"]: record for _, record in scores.labelled}
    runs: dict[CellKey, list[tuple[Record, float]]] = {}
    main = scores.finished[scores.finished["main"]]
    columns = (main[key] for key in ("row", "task", "id", "top1"))
    for row, task, identity, top1 in zip(*columns, strict=True):
        runs.setdefault((row, task), []).append((by_id[identity], top1))
    of_rows = {(row, ""): row_text(row, members) for row, members in records.items()}
    return of_rows | {
        (row, task): cell_text(row, titles[task], members) for (row, task), members in runs.items()
    }


def row_text(label: str, records: Sequence[Record]) -> str:
    """Number of runs, seeds, weights, device, versions and settings, a line each."""
    versions = [record["provenance"].get("versions") or {} for record in records]
    train = [record["config"]["train"] for record in records]
    lines = {
        "runs": str(len(records)),
        "seeds": joined(record["factors"]["seed"] for record in records),
        "backbone": joined(record["factors"]["backbone"] for record in records),
        "weights": joined(map(weights, records)),
        "device": joined(record["provenance"].get("device") for record in records),
        "precision": joined(record["provenance"].get("precision") for record in records),
        "torch": joined(version.get("torch") for version in versions),
        "timm": joined(version.get("timm") for version in versions),
        "commit": joined(version.get("commit") for version in versions),
        "epochs": joined(node.get("epochs") for node in train),
        "lr": joined(node.get("lr") for node in train),
        "protocol": joined(record["protocol"] for record in records),
    }
    return "\n".join([label, *(f"{key}: {value}" for key, value in lines.items() if value)])


def cell_text(label: str, title: str, runs: Iterable[tuple[Record, float]]) -> str:
    """The single runs behind a mean: seed, draw, score in percent, id."""
    lines = [
        f"seed {record['factors']['seed']}"
        # 0 is also the draw of data that have only one
        + (f" draw {record['factors']['draw']}" if record["factors"]["draw"] else "")
        + f": {top1:.2f}  (run {record['id']})"
        for record, top1 in runs
    ]
    return "\n".join([f"{label} on {title}", *lines])

"""From records to one table: a row a method, a column a task, both means, costs, notes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from petlbench.errors import UserError, unknown
from petlbench.record import Record

MARKS = {
    "failed": "fail",
    "diverged": "div",
    "out_of_memory": "oom",
    "unsupported": "n/a",
}
GROUP_MEAN, TASK_MEAN = "group mean", "task mean"
ROW = ["method", "backbone"]


@dataclass(frozen=True)
class Column:
    """A column of figures: `ranked` ones have a best and a second; `digits` after the point."""

    key: str
    title: str
    group: str
    ranked: bool
    digits: int


@dataclass
class Table:
    """values: rows (labels) x columns (keys), NaN where missing. marks: cells without a score."""

    rows: list[str]
    columns: list[Column]
    values: pd.DataFrame
    spread: pd.DataFrame
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self, row: str, column: Column) -> str:
        """The figure as printed: rounded, a mark, or a dash for what is missing."""
        value = self.values.loc[row, column.key]
        if pd.isna(value):
            return self.marks.get((row, column.key), "–")
        return f"{value:.{column.digits}f}"

    def rank(self, row: str, column: Column) -> int | None:
        """1 for the best figure as printed, 2 for the second; equal figures share a rank."""
        if not column.ranked or pd.isna(self.values.loc[row, column.key]):
            return None
        shown = self.values[column.key].dropna().round(column.digits).unique()
        better = sum(shown > round(float(self.values.loc[row, column.key]), column.digits))
        return better + 1 if better < 2 and len(shown) > 1 else None


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record and test set; a record without scores has one row without top1."""
    rows = [
        dict(record["factors"])
        | {key: record[key] for key in ("id", "protocol", "status", "reason", "title")}
        | {key: record[key] for key in ("task_title", "suite", "group")}
        | {"test": name, "top1": score.get("top1"), "images": score.get("total")}
        | _cost(record)
        for record in records
        for name, score in (record["scores"] or {"": {}}).items()
    ]
    return pd.DataFrame(rows)


def _cost(record: Record) -> dict[str, Any]:
    cost = record["cost"]
    peak = cost.get("peak_mib") or {}
    plain = ("saved_mb", "train_s", "train_images_per_s", "test_images_per_s", "delta_bytes")
    return {
        "parameters_m": cost.get("parameters", {}).get("method", float("nan")) / 1e6,
        "peak_mib": peak.get("allocated"),
    } | {key: cost.get(key) for key in plain}


def build(records: Sequence[Record], *, suite: str, protocol: str) -> Table:
    """The table of one suite under one protocol. Averages run over draws and seeds only.

    Raises UserError where nothing is left, or one cell has runs of different settings.
    """
    chosen = _chosen(records, suite, protocol)
    frame = tidy(chosen)
    several = frame["backbone"].nunique() > 1
    label = frame["title"] + (" (" + frame["backbone"] + ")" if several else "")
    frame = frame.assign(row=label)
    order = (
        frame.drop_duplicates("row").set_index("row")["method"].map(_method_order()).fillna(999)
    )
    rows = list(order.sort_values(kind="stable").index)
    tasks = _tasks(frame, suite)
    scored = frame[(frame["status"] == "finished") & ~frame["test"].str.endswith("@best")]
    cells = scored.groupby(["row", "task"])["top1"]
    means = cells.mean().unstack().reindex(index=rows, columns=list(tasks))
    spread = cells.std(ddof=1).unstack().reindex(index=rows, columns=list(tasks))
    values = _with_means(means, tasks).join(_costs(scored).reindex(rows))
    columns = [Column(task, title, group, True, 1) for task, (title, group) in tasks.items()]
    columns += [Column(GROUP_MEAN, "group mean", "Mean", True, 1)]
    columns += [Column(TASK_MEAN, "task mean", "Mean", True, 1)]
    columns += [column for column in COSTS if not values[column.key].isna().all()]
    marks = {
        (row.row, row.task): MARKS[row.status]
        for row in frame.itertuples()
        if row.status in MARKS and pd.isna(means.loc[row.row, row.task])
    }
    return Table(rows, columns, values, spread, marks, _notes(chosen, frame, records))


COSTS = [
    Column("parameters_m", "parameters (M)", "Cost", False, 3),
    Column("peak_mib", "peak (MiB)", "Cost", False, 0),
    Column("saved_mb", "saved (MB)", "Cost", False, 1),
    Column("train_images_per_s", "train (img/s)", "Cost", False, 0),
    Column("test_images_per_s", "test (img/s)", "Cost", False, 0),
    Column("train_s", "train (s)", "Cost", False, 1),
]


def _chosen(records: Sequence[Record], suite: str, protocol: str) -> list[Record]:
    ours = [record for record in records if record["suite"] == suite]
    if not ours:
        raise unknown("suite among the records", suite, {record["suite"] for record in records})
    found = [record for record in ours if record["protocol"] == protocol]
    if not found:
        present = {record["protocol"] for record in ours}
        raise unknown("protocol among the records", protocol, present)
    finished: dict[tuple[Any, ...], Record] = {}
    for record in found:
        cell = tuple(record["factors"].values())
        other = finished.setdefault(cell, record) if record["status"] == "finished" else record
        if other["id"] != record["id"]:
            raise UserError(
                f"two runs of {' '.join(map(str, cell))} differ in "
                f"{', '.join(_differing(other['config'], record['config']))}; keep records of "
                "different settings in different folders, --records takes one table's"
            )
    return found


def _differing(first: Any, second: Any, prefix: str = "") -> list[str]:
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return [prefix[:-1]] if first != second else []
    keys = dict.fromkeys([*first, *second])
    return [
        name
        for key in keys
        for name in _differing(first.get(key), second.get(key), f"{prefix}{key}.")
    ]


def _tasks(frame: pd.DataFrame, suite: str) -> dict[str, tuple[str, str]]:
    """Task -> (title, group), in the order of the suite's yaml, else as first seen."""
    found = {row.task: (row.task_title, row.group) for row in frame.itertuples()}
    listed = [task for task in _listed("dataset", suite) if task in found]
    return {task: found[task] for task in dict.fromkeys([*listed, *found])}


def _method_order() -> dict[str, int]:
    return {name: place for place, name in enumerate(_listed("method", "paper"))}


def _listed(group: str, name: str) -> list[str]:
    """What a suite lists, suites in it expanded; the name itself where it is no suite."""
    file = resources.files("petlbench.conf") / group / f"{name}.yaml"
    suite = yaml.safe_load(file.read_text()).get("suite") if file.is_file() else None
    if not isinstance(suite, list):
        return [name]
    return [task for part in suite for task in _listed(group, part)]


def _with_means(means: pd.DataFrame, tasks: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Both means, each only where the row has a score for every task."""
    groups = pd.Series({task: group for task, (_, group) in tasks.items()})
    complete = means.notna().all(axis=1)
    by_group = means.T.groupby(groups).mean().T
    extra = pd.DataFrame({GROUP_MEAN: by_group.mean(axis=1), TASK_MEAN: means.mean(axis=1)})
    return means.join(extra.where(complete))


def _costs(scored: pd.DataFrame) -> pd.DataFrame:
    keys = [column.key for column in COSTS]
    once = scored.drop_duplicates("id")
    numbers = once[keys].apply(pd.to_numeric)
    found: pd.DataFrame = numbers.groupby(once["row"]).mean()
    return found


def _notes(chosen: Sequence[Record], frame: pd.DataFrame, records: Sequence[Record]) -> list[str]:
    finished = [record for record in chosen if record["status"] == "finished"]
    counts = frame[frame["status"] == "finished"].groupby(["row", "task"])["id"].nunique()
    seeds = (
        "one seed" if (counts == 1).all() else f"mean over {counts.min()} to {counts.max()} runs"
    )
    if counts.nunique() == 1 and counts.iloc[0] > 1:
        seeds = f"mean over {counts.iloc[0]} seeds"
    epochs = _several("epochs", finished, lambda r: r["config"]["train"]["epochs"])
    notes = [
        f"Top-1 accuracy in percent; {seeds}; protocol {chosen[0]['protocol']}; {epochs}.",
        "Group mean: mean of the groups' means. Parameters exclude the classification head.",
        "Saved: bytes kept for backward in one training step. Costs are means over runs.",
    ]
    for what, of in (("device", _device), ("torch", _torch), ("weights", _weights)):
        notes.append(_several(what, finished, of) + ".")
    notes += _mixed_data(finished)
    if not all(record["selection"].get("honest", True) for record in finished):
        notes.append("DISHONEST: epochs were chosen on the test set.")
    left_out = len(records) - len(chosen)
    notes += [f"{left_out} records of other suites or protocols are left out."] * bool(left_out)
    reasons = frame[frame["status"] != "finished"].drop_duplicates(["row", "task", "reason"])
    notes += [
        f"{MARKS[r.status]}: {r.row}, {r.task_title}: {r.reason}" for r in reasons.itertuples()
    ]
    return notes


def _device(record: Record) -> str:
    return str(record["provenance"]["device"])


def _torch(record: Record) -> str:
    return str(record["provenance"]["versions"]["torch"])


def _weights(record: Record) -> str:
    checkpoint = record["provenance"]["checkpoint"]
    return f"{checkpoint['tag']} {(checkpoint['sha256'] or 'random')[:12]}"


def _several(what: str, records: Sequence[Record], of: Any) -> str:
    """`device X`, or `MIXED device: X (rows ...); Y (rows ...)`."""
    found: dict[Any, list[str]] = {}
    for record in records:
        rows = found.setdefault(of(record), [])
        rows += [record["title"]] * (record["title"] not in rows)
    if len(found) < 2:
        return f"{what} {next(iter(found), '-')}"
    return f"MIXED {what}: " + "; ".join(
        f"{key} ({', '.join(rows)})" for key, rows in found.items()
    )


def _mixed_data(records: Sequence[Record]) -> list[str]:
    """A note for each task whose runs were tested on different data."""
    seen: dict[str, set[str]] = {}
    for record in records:
        for name, found in record["provenance"]["splits"].items():
            key = f"{record['factors']['task']} {name} (draw {record['factors']['draw']})"
            seen.setdefault(key, set()).add(str(found["sha256"]))
    return [
        f"MIXED data: {key} differs between runs." for key, found in seen.items() if len(found) > 1
    ]

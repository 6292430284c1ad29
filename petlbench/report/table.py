"""From records to one table: a row a method, a column a task, both means, costs, notes."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from petlbench import configs
from petlbench.record import Record
from petlbench.report import notes
from petlbench.report.notes import MARKS, Footnote, Labelled
from petlbench.report.select import chosen_from

GROUP_MEAN, TASK_MEAN = "group mean", "task mean"
COST = "Cost"


@dataclass(frozen=True)
class Column:
    """A column of figures: `ranked` ones have a best and a second; `digits` after the point."""

    key: str
    title: str
    group: str
    ranked: bool
    digits: int


PARAMETERS = Column("parameters_m", "parameters w/o head (M)", COST, False, 3)
PEAK = Column("peak_mib", "peak memory (MiB)", COST, False, 0)
SAVED = Column("saved_mb", "saved for backward (MB)", COST, False, 1)
SPEED = [
    Column("train_images_per_s", "train images/s", COST, False, 0),
    Column("test_images_per_s", "test images/s", COST, False, 0),
    Column("train_s", "train seconds", COST, False, 1),
]


@dataclass
class Table:
    """values: rows (labels) x columns (keys), NaN where missing. marks: cells without a score."""

    rows: list[str]
    columns: list[Column]
    values: pd.DataFrame
    spread: pd.DataFrame  # sample deviation over runs in points; NaN for a single run
    backbones: dict[str, str]
    families: dict[str, str]  # row -> "traditional" or "PETL"
    tidy: pd.DataFrame
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    footnotes: list[Footnote] = field(default_factory=list)

    @property
    def has_spread(self) -> bool:
        return bool(self.spread.notna().any(axis=None))

    @property
    def tasks(self) -> list[Column]:
        return [column for column in self.columns if column.key in self.spread]

    def sections(self) -> list[tuple[str, list[str]]]:
        """Rows by family, in order; one section without a name if there is one family only."""
        if len(set(self.families.values())) < 2:
            return [("", self.rows)]
        found = itertools.groupby(self.rows, key=self.families.__getitem__)
        return [(family, list(rows)) for family, rows in found]

    def text(self, row: str, column: Column) -> str:
        """The figure as printed: rounded, a mark, or a dash for what is missing."""
        value = self.values.loc[row, column.key]
        if pd.isna(value):
            return self.marks.get((row, column.key), "–")
        return f"{value:.{column.digits}f}"

    def deviation(self, row: str, column: Column) -> str:
        """The spread as printed."""
        value = self.spread.loc[row, column.key]
        return "–" if pd.isna(value) else f"{value:.1f}"

    def rank(self, row: str, column: Column) -> int | None:
        """1 for the best figure as printed, 2 for the second; equal figures share a rank."""
        shown = [float(self.text(r, column)) for r in self.rows if self._ranked(r, column)]
        if not self._ranked(row, column) or len(shown) < 2:
            return None
        better = {value for value in shown if value > float(self.text(row, column))}
        return len(better) + 1 if len(better) < 2 else None

    def letters(self, of: str) -> str:
        """The footnotes of a row's label or a column's key, for example "a,c"."""
        return ",".join(note.letter for note in self.footnotes if of in note.of)

    def lines(self) -> list[str]:
        """Everything to say below the table."""
        return [*self.notes, *(f"({note.letter}) {note.text}" for note in self.footnotes)]

    def _ranked(self, row: str, column: Column) -> bool:
        return column.ranked and not pd.isna(self.values.loc[row, column.key])


def build(records: Sequence[Record], *, suite: str, protocol: str) -> Table:
    """The table of one suite under one protocol. Averages run over draws and seeds only.

    Raises UserError where nothing is left, or one cell has runs of different settings.
    """
    chosen = chosen_from(records, suite, protocol)
    frame = tidy(chosen)
    frame["row"] = _labels(frame)
    rows, tasks = _rows(frame), _tasks(frame, suite)
    finished = frame[(frame["status"] == "finished") & frame["main"]]
    scores = finished.groupby(["row", "task"])["top1"]
    means = scores.mean().unstack().reindex(index=rows, columns=list(tasks))
    spread = scores.std(ddof=1).unstack().reindex(index=rows, columns=list(tasks))
    values = _with_means(means, tasks).join(_costs(finished).reindex(rows))
    labels = dict(zip(frame["id"], frame["row"], strict=True))
    labelled = [(labels[record["id"]], record) for record in chosen]
    said = notes.general(labelled, [r for r in records if r["id"] not in labels])
    said += _of_columns(means, tasks, suite, finished) + notes.reasons(labelled)
    return Table(
        rows=rows,
        columns=_columns(tasks, finished),
        values=values,
        spread=spread,
        backbones=dict(zip(frame["row"], frame["backbone"], strict=True)),
        families=dict(zip(frame["row"], frame["method"].map(family_of), strict=True)),
        tidy=_with_spread(frame, spread),
        marks=_marks(labelled, means),
        notes=said,
        footnotes=notes.footnotes(labelled),
    )


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record and test set; a record without scores has one row without top1.

    `main` is true for the one test set whose score stands in the table.
    """
    rows = [
        dict(record["factors"])
        | {key: record[key] for key in ("id", "protocol", "status", "reason", "title")}
        | {key: record[key] for key in ("task_title", "suite", "group")}
        | {"test": name, "top1": score.get("top1"), "images": score.get("total")}
        | {"main": name == notes.main_test(record), "epochs": notes.epochs_of(record)}
        | _cost(record)
        | {"device": record["provenance"].get("device")}
        for record in records
        for name, score in (record["scores"] or {"": {}}).items()
    ]
    return pd.DataFrame(rows)


def _with_spread(frame: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame with the deviation of each main score's cell as `std`."""
    cells = zip(frame["row"], frame["task"], strict=True)
    deviations = pd.Series([spread.loc[cell] for cell in cells], index=frame.index)
    scored = frame["main"] & (frame["status"] == "finished")
    return frame.drop(columns="row").assign(std=deviations.where(scored))


def _cost(record: Record) -> dict[str, Any]:
    cost = record["cost"]
    plain = ("saved_mb", "train_s", "train_images_per_s", "test_s", "test_images_per_s")
    return {
        "parameters_m": cost.get("parameters", {}).get("method", float("nan")) / 1e6,
        "peak_mib": (cost.get("peak_mib") or {}).get("allocated"),
    } | {key: cost.get(key) for key in (*plain, "delta_bytes")}


def _labels(frame: pd.DataFrame) -> pd.Series:
    """A row's label: the title, with the backbone or the method's name where that is needed."""
    label = frame["title"]
    shared = frame.groupby("title")["method"].transform("nunique") > 1
    label = label.where(~shared, label + " [" + frame["method"] + "]")
    return label + " (" + frame["backbone"] + ")" if frame["backbone"].nunique() > 1 else label


def _rows(frame: pd.DataFrame) -> list[str]:
    order = listed("method", "paper")
    once = frame.drop_duplicates("row")
    place = {
        name: (family_of(name) == "PETL", order.index(name) if name in order else len(order))
        for name in once["method"]
    }
    first = once.sort_values("method", kind="stable").sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    )
    return list(first["row"])


def family_of(method: str) -> str:
    """`traditional` where the method's yaml says so, else `PETL`."""
    return str(configs.content("method", method).get("family", "PETL"))


def _tasks(frame: pd.DataFrame, suite: str) -> dict[str, tuple[str, str]]:
    """Task -> (title, group), in the order of the suite's yaml, else as first seen by group."""
    found = {row.task: (row.task_title, row.group) for row in frame.itertuples()}
    order = dict.fromkeys([*(task for task in listed("dataset", suite) if task in found), *found])
    groups = list(dict.fromkeys(found[task][1] for task in order))
    return {task: found[task] for task in sorted(order, key=lambda t: groups.index(found[t][1]))}


def listed(group: str, name: str) -> list[str]:
    """What a suite lists, suites in it expanded; the name itself where it is no suite."""
    suite = configs.content(group, name).get("suite")
    if not isinstance(suite, list):
        return [name]
    return [task for part in suite for task in listed(group, part)]


def _columns(tasks: Mapping[str, tuple[str, str]], finished: pd.DataFrame) -> list[Column]:
    memory = PEAK if len(finished) and finished["peak_mib"].notna().all() else SAVED
    return [
        *(Column(task, title, group, True, 1) for task, (title, group) in tasks.items()),
        *(Column(mean, mean, "Mean", True, 1) for mean in (GROUP_MEAN, TASK_MEAN)),
        *(PARAMETERS, memory, *SPEED),
    ]


def _with_means(means: pd.DataFrame, tasks: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Both means, each only where the row has a score for every task."""
    groups = pd.Series({task: group for task, (_, group) in tasks.items()})
    by_group = means.T.groupby(groups).mean().T
    extra = pd.DataFrame({GROUP_MEAN: by_group.mean(axis=1), TASK_MEAN: means.mean(axis=1)})
    return means.join(extra.where(means.notna().all(axis=1)))


def _costs(finished: pd.DataFrame) -> pd.DataFrame:
    keys = [column.key for column in (PARAMETERS, PEAK, SAVED, *SPEED)]
    found: pd.DataFrame = finished[keys].apply(pd.to_numeric).groupby(finished["row"]).mean()
    return found


def _marks(labelled: Sequence[Labelled], means: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {
        (row, record["factors"]["task"]): MARKS[record["status"]]
        for row, record in labelled
        if record["status"] in MARKS and pd.isna(means.loc[row, record["factors"]["task"]])
    }


def _of_columns(
    means: pd.DataFrame, tasks: Mapping[str, Any], suite: str, finished: pd.DataFrame
) -> list[str]:
    """What a reader of the columns must know."""
    said, all_tasks = [], listed("dataset", suite)
    if len(all_tasks) > 1 and (missing := [task for task in all_tasks if task not in tasks]):
        said.append(f"Means are over {len(tasks)} tasks; no records of {', '.join(missing)}.")
    if means.isna().any(axis=None):
        said.append("Rows that miss a task have no means; their costs are those of their runs.")
    said.append(
        f"Group mean: mean of the groups' means; task mean: mean of all tasks. Parameters: "
        f"trainable ones of the method in millions, head excluded. {notes.memory(finished)} "
        f"Costs are means over runs."
    )
    return said

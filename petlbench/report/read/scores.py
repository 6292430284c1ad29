"""From records to scores: a row a label, a column a task (or a test set), means and spread."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from petlbench.cost.figures import COSTS
from petlbench.errors import UserError
from petlbench.report.model.spec import ReportSpec
from petlbench.report.model.table import Column
from petlbench.report.read import costs, fields, means, rows
from petlbench.report.read.fields import Labelled
from petlbench.report.read.select import completed, selected
from petlbench.run.record import Record


@dataclass
class Scores:
    """means, spread (sample deviation over runs): rows x keys of `tasks` and of `averages`."""

    spec: ReportSpec  # completed
    labelled: list[Labelled]
    rows: list[str]
    tasks: list[Column]
    tests: list[str]  # titles of the test sets if these are the columns, else empty
    averages: list[Column]  # one a group, their mean, the mean over tasks
    inflation: list[Column]  # gain of choosing the epoch on the test set; protocol `audit` only
    means: pd.DataFrame
    spread: pd.DataFrame
    costs: pd.DataFrame  # rows x keys of COSTS, means over finished runs
    finished: pd.DataFrame  # the tidy rows of finished runs
    tidy: pd.DataFrame  # a row a record and test set
    families: dict[str, str]  # row -> "traditional methods" or "PETL methods"
    baselines: frozenset[str]  # rows whose method's yaml says `baseline: true`
    excluded: list[Record]

    @property
    def keys(self) -> list[str]:
        """The keys of the tasks."""
        return [task.key for task in self.tasks]

    def group_columns(self) -> list[Column]:
        """The means of the groups."""
        # means.columns ends with the means over groups and over tasks
        return self.averages[:-2]

    def missing_tasks(self) -> list[str]:
        """The tasks of the suite without a record."""
        suite = rows.members("dataset", str(self.spec.suite))
        present = {record["factors"]["task"] for _, record in self.labelled}
        # a name that is no suite has itself as its only member
        return [task for task in suite if task not in present] if len(suite) > 1 else []

    def tasks_without_column(self) -> list[str]:
        """The tasks of the suite that no mean counts."""
        return [task for task in self.missing_tasks() if task not in self.keys]


def gather(
    records: Sequence[Record],
    spec: ReportSpec,
    tests: Mapping[str, Sequence[str]] | None = None,
    *,
    keys: Sequence[str] | None = None,
) -> Scores:
    """The scores of a specification. Averages run over draws and seeds only.

    A specification with a suite has all tasks of the suite as columns, also those without a
    record, which leave every row without a mean; otherwise the tasks with a record.

    tests: test set -> (title, group) if the columns are test sets of one task. keys: the tasks
    that are columns in any case, instead of those of a suite. Raises UserError if no record is
    left, or one cell has runs of different settings.
    """
    # before `completed` fills in a suite
    every_task = spec.suite is not None and keys is None
    spec = completed(records, spec)
    chosen = selected(records, spec)
    labels = rows.labels(chosen, spec.vary)
    frame = tidy(chosen, list(spec.vary), labels)
    if tests is None:
        suite = rows.members("dataset", str(spec.suite))
        tasks = _task_columns(frame, suite, suite if every_task else keys or ())
    else:
        frame = _by_test(frame, tests, [record["task_title"] for record in chosen])
        tasks = _columns({key: (title, group) for key, (title, group) in tests.items()})
    order = rows.ordered(chosen, labels, list(spec.vary))
    finished = frame[frame["status"] == "finished"]
    labelled = [(labels[record["id"]], record) for record in chosen]
    finished = finished.assign(fold=_folds(finished, chosen))
    cells, spread = _cells(finished, order, [task.key for task in tasks])
    for row, task in fields.missing_folds(labelled):
        # other images are no mean to compare; columns of test sets are all of one task
        unknown = task if tests is None else slice(None)
        cells.loc[row, unknown] = spread.loc[row, unknown] = math.nan
    inflation = means.inflation(finished, list(cells))
    methods = {labels[record["id"]]: record["factors"]["method"] for record in chosen}
    return Scores(
        spec=spec,
        labelled=labelled,
        rows=order,
        tasks=tasks,
        tests=[task.title for task in tasks] if tests is not None else [],
        averages=means.columns(tasks),
        inflation=[means.INFLATION] if inflation else [],
        means=pd.concat([cells, means.averages(tasks, cells, means.mean), *inflation], axis=1),
        spread=spread.join(means.averages(tasks, spread, means.deviation)),
        costs=_mean_costs(finished).reindex(order),
        finished=finished,
        tidy=_with_spread(frame, spread),
        families={row: f"{rows.family(method)} methods" for row, method in methods.items()},
        baselines=frozenset(row for row, method in methods.items() if rows.is_baseline(method)),
        excluded=[record for record in records if record["id"] not in labels],
    )


def tidy(
    records: Iterable[Record], vary: Sequence[str], labels: Mapping[str, str]
) -> pd.DataFrame:
    """One row a record and test set; a record without scores has one row without top1.

    `main` is true for the one test set whose score the table shows.
    """
    return pd.DataFrame(
        [
            _run(record, vary, labels[record["id"]])
            | {"test": name, "top1": score.get("top1"), "images": score.get("total")}
            | {"main": name == fields.main_test(record), "epochs": fields.epochs(record)}
            | costs.costs_of(record)
            | _origin(record)
            for record in records
            for name, score in (record["scores"] or {"": {}}).items()
        ]
    )


def _run(record: Record, vary: Sequence[str], row: str) -> dict[str, Any]:
    return (
        {"row": row}
        | dict(record["factors"])
        | {key: fields.config_value(record, key) for key in vary}
        | {key: record[key] for key in ("id", "protocol", "status", "title")}
        | {"reason": record.get("reason")}
        | {key: record[key] for key in ("task_title", "suite", "group")}
    )


def _origin(record: Record) -> dict[str, Any]:
    provenance = record["provenance"]
    return {
        "device": provenance.get("device"),
        "precision": provenance.get("precision"),
        "weights": fields.weights(record),
        "commit": (provenance.get("versions") or {}).get("commit"),
    }


def _by_test(
    frame: pd.DataFrame, tests: Mapping[str, Sequence[str]], titles: Iterable[str]
) -> pd.DataFrame:
    """Each test set as a column of its own; of one task only, or cells would mix tasks."""
    if len(tasks := sorted(set(titles))) > 1:
        raise UserError(
            f"a table of test sets needs records of one task, not of {', '.join(tasks)}; "
            "give the folder of one task with --records"
        )
    rest = frame[frame["test"].isin(tests) | (frame["test"] == "")].copy()
    if not rest["test"].isin(tests).any():
        raise UserError(
            f"no record has a score on {', '.join(tests)}; the records have scores on "
            f"{', '.join(sorted(set(frame['test']) - {''})) or 'no test set'}"
        )
    # every test set is a column, so all its scores are shown
    rest["main"] = rest["test"] != ""
    return rest.assign(task=rest["test"])


def _task_columns(
    frame: pd.DataFrame, suite: Sequence[str], always: Sequence[str]
) -> list[Column]:
    """In the order of the suite's yaml, then as first seen; always: also without a record."""
    columns = (frame[key] for key in ("task", "task_title", "group"))
    seen = {task: (title, group) for task, title, group in zip(*columns, strict=True)}
    order = [task for task in suite if task in seen or (task in always and len(suite) > 1)]
    missing = {task: rows.described(task) for task in order if task not in seen}
    return _columns({task: (seen | missing)[task] for task in [*order, *seen]})


def _columns(tasks: Mapping[str, tuple[str, str]]) -> list[Column]:
    """Key -> (title, group) as columns, groups together."""
    # sorted is stable: within a group, tasks keep their order
    groups = list(dict.fromkeys(group for _, group in tasks.values()))
    return [
        Column(key, title, group, best="high")
        for key, (title, group) in sorted(tasks.items(), key=lambda item: groups.index(item[1][1]))
    ]


def by_fold(finished: pd.DataFrame) -> pd.DataFrame:
    """(row, task, fold) -> mean top1 over its runs, and its test images.

    A cell without folds is one fold: all its runs test the same images.
    """
    folds = finished[finished["main"]].groupby(["row", "task", "fold"])
    return folds.agg({"top1": "mean", "images": "min"})


def _folds(finished: pd.DataFrame, records: Sequence[Record]) -> pd.Series:
    """The fold of each row; 0 without folds."""
    folded = [record["id"] for record in records if fields.folds(record)]
    return finished["draw"].where(finished["id"].isin(folded), 0)


def _cells(
    finished: pd.DataFrame, rows: Sequence[str], keys: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean over the test images and sample deviation over runs, rows x tasks."""
    # draws and seeds are the only factors left within a cell (read.select)
    parts = by_fold(finished)
    # a fold counts by its images, not by its runs; a single one keeps its mean to the last bit
    images = parts["images"].astype(float).fillna(1.0)
    weights = images / images.groupby(["row", "task"]).transform("sum")
    mean = (parts["top1"] * weights).groupby(["row", "task"]).sum(min_count=1).unstack()
    by_cell = finished[finished["main"]].groupby(["row", "task"])["top1"]
    deviation = by_cell.std(ddof=1).unstack()
    # rows and tasks without a finished run stay, as NaN
    return mean.reindex(index=rows, columns=keys), deviation.reindex(index=rows, columns=keys)


def _mean_costs(finished: pd.DataFrame) -> pd.DataFrame:
    runs = finished.drop_duplicates("id")  # a run has a row a test set, all with the same costs
    costs_by_row: pd.DataFrame = runs[list(COSTS)].astype(float).groupby(runs["row"]).mean()
    return costs_by_row


def _with_spread(frame: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame with the deviation of each main score's cell as `std`."""
    scored = frame["main"] & (frame["status"] == "finished")
    rows, tasks = spread.index.get_indexer(frame["row"]), spread.columns.get_indexer(frame["task"])
    return frame.assign(std=pd.Series(spread.to_numpy()[rows, tasks], frame.index).where(scored))

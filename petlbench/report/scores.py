"""From records to scores: a row a label, a column a task (or a test set), means and spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from petlbench.errors import UserError
from petlbench.report import costs, notes, origin, rows, statistics
from petlbench.report.notes import Labelled
from petlbench.report.select import chosen_from, settled, value_of
from petlbench.report.table import Column
from petlbench.report.view import View
from petlbench.run.record import Record

GROUP_MEAN, TASK_MEAN = "group mean", "task mean"
INFLATION = Column("inflation", "best epoch on test, points more", "Mean")
BEST = "@best"  # after the name of a test set: the score of the epoch that is best on it


@dataclass
class Scores:
    """means, spread (sample deviation over runs): rows x keys of `tasks` and of `averages`."""

    view: View  # settled
    labelled: list[Labelled]
    rows: list[str]
    tasks: list[Column]
    tests: list[str]  # titles of the test sets where these are the columns, else none
    averages: list[Column]  # one a group, the mean of those, the mean over tasks
    inflation: list[Column]  # what the dishonest choice of an epoch adds; only under `audit`
    means: pd.DataFrame
    spread: pd.DataFrame
    costs: pd.DataFrame  # rows x keys of costs.COSTS, means over finished runs
    finished: pd.DataFrame  # the tidy rows of finished runs
    tidy: pd.DataFrame  # a row a record and test set
    families: dict[str, str]  # row -> "traditional methods" or "PETL methods"
    left_out: list[Record]

    @property
    def keys(self) -> list[str]:
        """The keys of the tasks."""
        return [task.key for task in self.tasks]

    def group_columns(self) -> list[Column]:
        """The means of the groups."""
        return self.averages[:-2]

    def lacking(self) -> list[str]:
        """What the suite lists and no record is of."""
        every = rows.listed("dataset", str(self.view.suite))
        found = {record["factors"]["task"] for _, record in self.labelled}
        return [task for task in every if task not in found] if len(every) > 1 else []

    def uncounted(self) -> list[str]:
        """What the suite lists and no column shows, so that the means are of fewer tasks."""
        return [task for task in self.lacking() if task not in self.keys]


def gather(
    records: Sequence[Record], view: View, tests: Mapping[str, Sequence[str]] | None = None
) -> Scores:
    """The scores of a view. Averages run over draws and seeds only.

    A view that names its suite has all of the suite's tasks, also those without a record, which
    leave every row without a mean; any other view has the tasks that there are.

    tests: test set -> (title, group) where the columns are test sets of one task. Raises
    UserError where nothing is left, or one cell has runs of different settings.
    """
    whole = view.suite is not None
    view = settled(records, view)
    chosen = chosen_from(records, view)
    labels = rows.labels(chosen, view.vary)
    frame = tidy(chosen, list(view.vary), labels)
    if tests is not None:
        frame = _by_test(frame, tests, [record["task_title"] for record in chosen])
    order = rows.ordered(chosen, labels, list(view.vary))
    if tests is None:
        tasks = _tasks(frame, rows.listed("dataset", str(view.suite)), whole=whole)
    else:
        tasks = _columns({key: (title, group) for key, (title, group) in tests.items()})
    finished = frame[frame["status"] == "finished"]
    by_cell = finished[finished["main"]].groupby(["row", "task"])["top1"]
    keys = [task.key for task in tasks]
    means = by_cell.mean().unstack().reindex(index=order, columns=keys)
    spread = by_cell.std(ddof=1).unstack().reindex(index=order, columns=keys)
    inflation = _inflation(finished, keys)
    methods = {labels[record["id"]]: record["factors"]["method"] for record in chosen}
    return Scores(
        view=view,
        labelled=[(labels[record["id"]], record) for record in chosen],
        rows=order,
        tasks=tasks,
        tests=[task.title for task in tasks] if tests is not None else [],
        averages=_averages(tasks),
        inflation=[INFLATION] if inflation else [],
        means=pd.concat(
            [means, _over(tasks, means, lambda part: part.mean(axis=1)), *inflation], axis=1
        ),
        spread=spread.join(_over(tasks, spread, statistics.propagated)),
        costs=_costs(finished).reindex(order),
        finished=finished,
        tidy=_with_spread(frame, spread),
        families={row: f"{rows.family_of(method)} methods" for row, method in methods.items()},
        left_out=[record for record in records if record["id"] not in labels],
    )


def tidy(
    records: Iterable[Record], vary: Sequence[str], labels: Mapping[str, str]
) -> pd.DataFrame:
    """One row per record and test set; a record without scores has one row without top1.

    `main` is true for the one test set whose score stands in the table.
    """
    found = [
        {"row": labels[record["id"]]}
        | dict(record["factors"])
        | {key: value_of(record, key) for key in vary}
        | {key: record[key] for key in ("id", "protocol", "status", "title")}
        | {"reason": record.get("reason")}
        | {key: record[key] for key in ("task_title", "suite", "group")}
        | {"test": name, "top1": score.get("top1"), "images": score.get("total")}
        | {"main": name == notes.main_test(record), "epochs": notes.epochs_of(record)}
        | costs.of(record)
        | {key: record["provenance"].get(key) for key in ("device", "precision")}
        | {"weights": origin.weights(record)}
        | {"commit": (record["provenance"].get("versions") or {}).get("commit")}
        for record in records
        for name, score in (record["scores"] or {"": {}}).items()
    ]
    return pd.DataFrame(found)


def _by_test(
    frame: pd.DataFrame, tests: Mapping[str, Sequence[str]], titles: Iterable[str]
) -> pd.DataFrame:
    """Each test set as a column of its own; only of one task, or cells would mix tasks."""
    if len(told := sorted(set(titles))) > 1:
        raise UserError(
            f"a table of test sets is of one task; the records are of {', '.join(told)}"
        )
    chosen = frame[frame["test"].isin(tests) | (frame["test"] == "")].copy()
    if not chosen["test"].isin(tests).any():
        raise UserError(
            f"no record has a score on {', '.join(tests)}; the test sets there are: "
            f"{', '.join(sorted(set(frame['test']) - {''})) or 'none'}"
        )
    chosen["main"] = chosen["test"] != ""
    return chosen.assign(task=chosen["test"])


def _tasks(frame: pd.DataFrame, listed: Sequence[str], *, whole: bool) -> list[Column]:
    """In the order of the suite's yaml, then as first seen. whole: also those without a record."""
    seen = {row.task: (row.task_title, row.group) for row in frame.itertuples()}
    order = [task for task in listed if task in seen or (whole and len(listed) > 1)]
    missing = {task: rows.described(task) for task in order if task not in seen}
    return _columns({task: (seen | missing)[task] for task in [*order, *seen]})


def _columns(found: Mapping[str, tuple[str, str]]) -> list[Column]:
    """Key -> (title, group) as columns, groups together."""
    groups = list(dict.fromkeys(group for _, group in found.values()))
    return [
        Column(key, title, group, best="high")
        for key, (title, group) in sorted(found.items(), key=lambda at: groups.index(at[1][1]))
    ]


def _averages(tasks: Sequence[Column]) -> list[Column]:
    groups = dict.fromkeys(task.group for task in tasks)
    return [
        *(Column(f"{group} mean", group.capitalize(), "Mean", best="high") for group in groups),
        *(Column(key, key, "Mean", best="high") for key in (GROUP_MEAN, TASK_MEAN)),
    ]


def _over(tasks: Sequence[Column], cells: pd.DataFrame, mean: Any) -> pd.DataFrame:
    """Each average by `mean`, only where the row has all of its cells."""
    groups = dict.fromkeys(task.group for task in tasks)
    parts = {group: [task.key for task in tasks if task.group == group] for group in groups}

    def whole(part: pd.DataFrame) -> pd.Series:
        return mean(part).where(part.notna().all(axis=1))

    by_group = pd.DataFrame({f"{group} mean": whole(cells[keys]) for group, keys in parts.items()})
    return by_group.assign(**{GROUP_MEAN: whole(by_group), TASK_MEAN: whole(cells)})


def _inflation(finished: pd.DataFrame, keys: Sequence[str]) -> list[pd.Series]:
    """Points by which a row's best epoch on the test set beats its last, mean over all tasks."""
    best = finished[finished["test"].str.endswith(BEST)]
    best = best.assign(test=best["test"].str.removesuffix(BEST))
    last = finished[finished["main"]]
    pairs = last.merge(best, on=["id", "row", "task", "test"], suffixes=("", "_best"))
    if not len(pairs):
        return []
    gain = (pairs["top1_best"] - pairs["top1"]).groupby([pairs["row"], pairs["task"]]).mean()
    cells = gain.unstack().reindex(columns=list(keys))
    return [cells.mean(axis=1, skipna=False).rename(INFLATION.key)]


def _costs(finished: pd.DataFrame) -> pd.DataFrame:
    runs = finished.drop_duplicates("id")
    found: pd.DataFrame = runs[list(costs.COSTS)].astype(float).groupby(runs["row"]).mean()
    return found


def _with_spread(frame: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame with the deviation of each main score's cell as `std`."""
    scored = frame["main"] & (frame["status"] == "finished")
    cells = zip(frame["row"], frame["task"], scored, strict=True)
    values = [spread.loc[row, task] if main else float("nan") for row, task, main in cells]
    return frame.assign(std=values)

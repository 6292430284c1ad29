"""The means of records of any suites, backbones and protocols, in one frame."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from petlbench.report import registry
from petlbench.report.read.means import GROUP_MEAN, TASK_MEAN
from petlbench.report.read.records import comparable
from petlbench.report.read.scores import gather
from petlbench.run.record import Record

METHOD = "method"
SETTING = ("suite", "backbone", "protocol", METHOD)  # columns that name a row
AVERAGES = (GROUP_MEAN, TASK_MEAN)
COSTS = ("parameters_m", "peak_mib", "saved_mb")


def means(records: Sequence[Record]) -> pd.DataFrame:
    """A row a setting: SETTING, percent on each task and of each mean, COSTS. NaN: unknown.

    Means are over the tasks with a record, as in a leaderboard. Records without a score are left
    out; the frame is empty if none has one. Raises UserError if the finished runs of one cell
    differ in more than draw and seed.
    """
    settings: dict[tuple[str, str, str], list[Record]] = {}
    for record in map(comparable, records):
        if record["status"] == "finished" and record["scores"]:
            key = (record["suite"], record["factors"]["backbone"], record["protocol"])
            settings.setdefault(key, []).append(record)
    frames = [_frame(*key, settings[key]) for key in sorted(settings)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _frame(suite: str, backbone: str, protocol: str, records: Sequence[Record]) -> pd.DataFrame:
    spec = replace(registry.find("leaderboard"), backbone=backbone, protocol=protocol)
    scores = gather(records, spec)
    averages = [column.key for column in scores.averages]
    shown = scores.means[[*scores.keys, *averages]].join(scores.costs[list(COSTS)])
    setting = (suite, backbone, protocol)
    named = shown.rename_axis(METHOD).reset_index()
    for place, (column, value) in enumerate(zip(SETTING, setting, strict=False)):
        named.insert(place, column, value)
    return named

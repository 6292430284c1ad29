"""The specification of a report: the `report` node of a conf/experiment/*.yaml.

report:
  kind: table                      # a module of petlbench.report.kinds
  title: Accuracy on VTAB-1K
  suite: vtab                      # all its tasks are columns; default: the suite with most
                                   # records, and only the tasks with a record
  protocol: final
  backbone: vit_b16                # default: the one backbone of all records
  methods: [lora, dtl]             # measured rows; default: of all records
  vary: {method.rank: rank}        # configuration key -> its title; each value is a row
  intervals: true                  # a further table with a 95 % interval of every cell
  published: [FILE]                # of results/published, without .csv; shown in separate rows
  ...                              # options of the kind: keyword arguments of its `build`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReportSpec:
    """Which records make a report of which kind; `options` belong to the kind."""

    kind: str
    title: str
    suite: str | None
    protocol: str
    backbone: str | None
    methods: tuple[str, ...]
    vary: Mapping[str, str]
    published: tuple[str, ...]
    intervals: bool
    options: Mapping[str, Any]

"""A report: tables, charts, and the tidy data frame behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from petlbench.report.model.chart import Chart, Ranks
from petlbench.report.model.picture import Matrix, Sheet
from petlbench.report.model.table import Table


@dataclass(frozen=True)
class Command:
    """A command of a shell, and what it does."""

    title: str
    text: str


@dataclass(frozen=True)
class Report:
    """The first table has no name; the names of other tables, charts and pictures differ.

    answer: sentences before everything else. commands: what to do next, after the tables.
    """

    title: str
    tables: Sequence[Table]
    tidy: pd.DataFrame
    charts: Sequence[Chart | Ranks] = ()
    charts_first: bool = True  # on the HTML page
    answer: str = ""
    pictures: Sequence[Matrix | Sheet] = ()
    commands: Sequence[Command] = ()

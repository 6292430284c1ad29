"""A report: tables, charts, and the tidy data frame behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from petlbench.report.model.chart import Chart, Ranks
from petlbench.report.model.table import Table


@dataclass(frozen=True)
class Report:
    """The first table has no name; the names of the other tables and of the charts differ."""

    title: str
    tables: Sequence[Table]
    tidy: pd.DataFrame
    charts: Sequence[Chart | Ranks] = ()
    charts_first: bool = True  # on the HTML page

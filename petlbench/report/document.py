"""What a kind makes of records: tables, charts, and the tidy frame behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from petlbench.report.chart import Chart, Ranks
from petlbench.report.table import Table


@dataclass(frozen=True)
class Report:
    """The first table is the report's own; the names of all others, and of charts, differ."""

    title: str
    tables: Sequence[Table]
    tidy: pd.DataFrame
    charts: Sequence[Chart | Ranks] = ()
    charts_first: bool = True  # on the page

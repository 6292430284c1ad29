"""A report as one page: tables that sort and filter, charts that answer the pointer.

Everything is in the file: no server, no other file, no network. Without JavaScript the tables and
what stands below them can still be read.
"""

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from petlbench.report import plot
from petlbench.report.chart import Axis as ChartAxis
from petlbench.report.chart import Chart, Panel, Point, Ranks, Scale, Series, scale, scales
from petlbench.report.document import Report
from petlbench.report.table import Column, Table

MOST_TICKS = 12
CLASSES = {1: "best", 2: "second", None: ""}


@dataclass(frozen=True)
class Cell:
    """value: what sorting compares, "" where there is none."""

    text: str
    value: str
    css: str
    flag: str
    spread: str
    origin: str
    group: int


def render(report: Report, made_by: str) -> str:
    """The page; every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("petlbench.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=report.title,
        made_by=made_by,
        tables=[_table(table) for table in report.tables],
        charts=[_caption(chart) for chart in report.charts],
        charts_first=report.charts_first,
        data=_script([_chart(chart) for chart in report.charts]),
    )


def _caption(chart: Chart | Ranks) -> str:
    if isinstance(chart, Chart) or chart.critical is None:
        return chart.caption
    return (
        f"{chart.title} Lines reach half the {chart.test} to each side: methods whose lines do "
        "not meet are told apart."
    )


def _script(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _table(table: Table) -> dict[str, Any]:
    groups = [
        {"title": group.capitalize(), "span": len(list(members))}
        for group, members in itertools.groupby(table.columns, key=lambda column: column.group)
    ]
    place = [n for n, group in enumerate(groups) for _ in range(int(group["span"]))]
    columns = list(zip(table.columns, place, strict=True))
    return {
        "caption": table.caption,
        "head": table.head,
        "groups": groups,
        "columns": [
            {"title": c.title, "letters": table.letters(c.key), "group": n, "low": c.best == "low"}
            for c, n in columns
        ],
        "parts": [
            {"title": title, "rows": [_row(table, row, columns) for row in rows]}
            for title, rows in table.parts()
        ],
        "count": len(table.rows),
        "has_spread": bool(table.spread_columns),
        "spread_is": table.spread_is,
        "notes": table.notes,
        "footnotes": table.footnotes,
    }


def _row(table: Table, row: str, columns: list[tuple[Column, int]]) -> dict[str, Any]:
    return {
        "label": row,
        "name": table.named(row),
        "method": table.methods.get(row, row),
        "letters": table.letters(row),
        "aside": row in table.aside,
        "origin": table.origins.get((row, ""), ""),
        "cells": [_cell(table, row, column, group) for column, group in columns],
    }


def _cell(table: Table, row: str, column: Column, group: int) -> Cell:
    value = table.values.loc[row, column.key]
    missing = value is None or value != value
    spread = table.deviation(row, column) if column in table.spread_columns else ""
    return Cell(
        text=table.text(row, column),
        value="" if missing else str(value),
        css=CLASSES[table.rank(row, column)],
        flag=table.flags.get((row, column.key), ""),
        spread=spread,
        origin=table.origins.get((row, column.key), ""),
        group=group,
    )


def _chart(chart: Chart | Ranks) -> dict[str, Any]:
    if isinstance(chart, Ranks):
        return _ranks(chart)
    styles = plot.style(plot.labels_of(chart))
    return {
        "kind": "panels",
        "styles": [{"label": label, "colour": c, "marker": m} for label, (c, m) in styles.items()],
        "panels": [_panel(panel) for panel in chart.panels if panel.series],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    x, y = scales(panel)
    return {
        "title": panel.title,
        "x": {"title": panel.x.title, "ticks": list(x.ticks)},
        "y": {"title": panel.y.title, "ticks": list(y.ticks)},
        "joined": panel.joined,
        "front": panel.front,
        "series": [_series(series, x, y) for series in panel.series],
    }


def _series(series: Series, x: Scale, y: Scale) -> dict[str, Any]:
    points = [_point(point, x, y) for point in series.points]
    return {"label": series.label, "alone": series.alone, "points": points}


def _point(point: Point, x: Scale, y: Scale) -> dict[str, Any]:
    """Positions of a point; value: the figure itself where the axis is cut above it."""
    cut = y.cuts(point.y)
    bar = 0.0 if math.isnan(point.spread) or cut else point.spread / (y.high - y.low)
    return {
        "x": x.position(point.x),
        "y": y.position(point.y),
        "bar": bar,
        "value": f"{point.y:.1f}" if cut else "",
        "origin": point.origin,
    }


def _ranks(chart: Ranks) -> dict[str, Any]:
    """A dot a method with half the critical difference to each side."""
    half = (chart.critical or 0.0) / 2
    found = sorted(chart.ranks.items(), key=lambda item: item[1])
    ends = [end for _, rank in found for end in (rank - half, rank + half)]
    marks = range(1, len(found) + 1) if len(found) <= MOST_TICKS else ()
    axis = scale(ChartAxis("average rank", marks=marks), [*ends, 1.0])
    return {
        "kind": "ranks",
        "critical": chart.critical is not None,
        "ticks": [tick for tick in axis.ticks if float(tick[1]) >= 1],
        "rows": [
            {
                "label": label,
                "rank": rank,
                "at": axis.position(rank),
                "low": axis.position(rank - half),
                "high": axis.position(rank + half),
            }
            for label, rank in found
        ],
    }

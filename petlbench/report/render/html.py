"""A report as one HTML page: tables that sort and filter, interactive charts.

The page needs no server, no other file and no network; without JavaScript its tables and notes
are still readable.
"""

import base64
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from petlbench.cells import DIGITS
from petlbench.errors import printable
from petlbench.report.draw.scale import Scale, scale, scales
from petlbench.report.draw.style import styles
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Ranks, Series
from petlbench.report.model.report import Report
from petlbench.report.model.table import Column, Table, headed

FIGURE = f"{{:.{DIGITS}g}}"
MOST_TICKS = 12  # more labels of an axis overlap on a narrow page
CLASSES = {1: "best", 2: "second", None: ""}  # rank -> class of page.css


@dataclass(frozen=True)
class HtmlCell:
    """A cell of the page. value: unrounded, for sorting; "" if missing."""

    text: str
    value: str
    css: str
    flag: str
    spread: str
    provenance: str
    group: int


def render(report: Report, command: str, pictures: Sequence[bytes] = ()) -> str:
    """The page; every text in it is escaped. command: shown below the title.

    pictures: the PNG file of each picture of the report.
    """
    environment = Environment(
        loader=PackageLoader("petlbench.report.render", "page"),
        autoescape=True,  # titles and reasons may hold any text
        finalize=_visible,
        undefined=StrictUndefined,  # a missing variable is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=report.title,
        command=command,
        answer=report.answer,
        pictures=[
            {"caption": picture.caption, "data": base64.b64encode(content).decode()}
            for picture, content in zip(report.pictures, pictures, strict=True)
        ],
        commands=report.commands,
        tables=[_table(table) for table in report.tables],
        charts=[_caption(chart) for chart in report.charts],
        charts_first=report.charts_first,
        data=_script([_chart(chart) for chart in report.charts]),
    )


def _visible(value: object) -> object:
    """A text without what would turn the writing, or is no UTF-8; its lines stay."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


def _caption(chart: Chart | Ranks) -> str:
    if isinstance(chart, Chart) or chart.critical is None:
        return chart.caption
    return (
        f"{chart.title} A line extends half the {chart.test} to each side: methods whose lines "
        "do not overlap differ significantly."
    )


def _script(data: Any) -> Markup:
    """JSON that cannot close the script element around it."""
    # JSON has no NaN, and JSON.parse would refuse the page
    plain = json.loads(
        json.dumps(data), parse_float=lambda text: float(FIGURE.format(float(text)))
    )
    text = json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _table(table: Table) -> dict[str, Any]:
    groups: list[dict[str, Any]] = [
        {"title": headed(group), "span": len(list(members))}
        for group, members in itertools.groupby(table.columns, key=lambda column: column.group)
    ]
    # column -> number of its group, by which the page hides columns
    places = [n for n, group in enumerate(groups) for _ in range(group["span"])]
    columns = list(zip(table.columns, places, strict=True))
    spread_keys = {column.key for column in table.spread_columns}
    return {
        "caption": table.caption,
        "head": table.head,
        "groups": groups,
        "columns": [
            {"title": c.title, "letters": table.letters(c.key), "group": n, "low": c.best == "low"}
            for c, n in columns
        ],
        "parts": [
            {"title": title, "rows": [_row(table, row, columns, spread_keys) for row in rows]}
            for title, rows in table.parts()
        ],
        "count": len(table.rows),
        "has_spread": bool(spread_keys),
        "spread_meaning": table.spread_meaning,
        "notes": table.notes,
        "footnotes": table.footnotes,
    }


def _row(
    table: Table, row: str, columns: list[tuple[Column, int]], spread_keys: set[str]
) -> dict[str, Any]:
    return {
        "label": row,
        "name": table.printed_label(row),
        "method": table.methods.get(row, row),
        "letters": table.letters(row),
        "unranked": row in table.unranked,
        "provenance": table.provenance.get((row, ""), ""),
        "cells": [
            _cell(table, row, column, group, has_spread=column.key in spread_keys)
            for column, group in columns
        ],
    }


def _cell(table: Table, row: str, column: Column, group: int, *, has_spread: bool) -> HtmlCell:
    value = table.values.at[row, column.key]
    missing = value is None or value != value  # NaN, also in columns of text
    return HtmlCell(
        text=table.text(row, column),
        value="" if missing else FIGURE.format(value) if isinstance(value, float) else str(value),
        css=CLASSES[table.rank(row, column)],
        flag=table.flags.get((row, column.key), ""),
        spread=table.deviation(row, column) if has_spread else "",
        provenance=table.provenance.get((row, column.key), ""),
        group=group,
    )


def _chart(chart: Chart | Ranks) -> dict[str, Any]:
    if isinstance(chart, Ranks):
        return _ranks(chart)
    looks = styles(chart)
    return {
        "kind": "panels",
        "styles": [{"label": label, "colour": c, "marker": m} for label, (c, m) in looks.items()],
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
    return {
        "label": series.label,
        "alone": series.alone,
        "named": series.named,
        "points": points,
    }


def _point(point: Point, x: Scale, y: Scale) -> dict[str, Any]:
    """Positions of a point; value: the figure itself if the axis is cut above it."""
    cut = y.cuts(point.y)
    bar = 0.0 if math.isnan(point.spread) or cut else point.spread / (y.high - y.low)
    return {
        "x": x.position(point.x),
        "y": y.position(point.y),
        "bar": bar,
        "value": f"{point.y:.1f}" if cut else "",
        "provenance": point.provenance,
    }


def _ranks(chart: Ranks) -> dict[str, Any]:
    """A dot a method with half the critical difference to each side."""
    half = (chart.critical or 0.0) / 2
    ranks = sorted(chart.ranks.items(), key=lambda item: item[1])
    ends = [end for _, rank in ranks for end in (rank - half, rank + half)]
    marks = range(1, len(ranks) + 1) if len(ranks) <= MOST_TICKS else ()
    # 1.0: the axis begins at the best possible rank even if no method has it
    axis = scale(Axis("average rank", marks=marks), [*ends, 1.0])
    return {
        "kind": "ranks",
        "critical": chart.critical is not None,
        "ticks": [tick for tick in axis.ticks if float(tick[1]) >= 1],  # no rank is below 1
        "rows": [
            {
                "label": label,
                "rank": rank,
                "at": axis.position(rank),
                "low": axis.position(rank - half),
                "high": axis.position(rank + half),
            }
            for label, rank in ranks
        ],
    }

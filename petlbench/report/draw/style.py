"""Colours and markers of the series of a chart, distinguishable for the colour-blind.

A method has one look in all figures and pages: the one of looks.yaml, or else one by its name.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from itertools import product

from petlbench.config.yaml_text import parsed
from petlbench.report.model.chart import Chart, Series

# Okabe and Ito, https://jfly.uni-koeln.de/color/; yellow is left out: too pale for lines on white.
FONT = "DejaVu Sans"  # comes with matplotlib
COLOURS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
OTHER_MARKERS = ("p", "*", "h", "d")  # of methods that are not listed
Look = tuple[str, str]  # colour, marker


def styles(chart: Chart) -> dict[str, Look]:
    """Label -> look, in the order of the chart; no two alike among the first 91.

    A further series of a method keeps its colour and gets another marker.
    """
    methods = _methods(series for panel in chart.panels for series in panel.series)
    listed = _listed()
    looks: dict[str, Look] = {}
    # by name: which other methods a chart shows must not depend on its order
    firsts = dict(zip(reversed(methods.values()), reversed(methods), strict=True))
    for method in sorted(firsts, key=lambda name: (name not in listed, name)):
        looks[firsts[method]] = _free(_own(method), looks.values())
    for label, method in methods.items():
        if label not in looks:
            looks[label] = _free(_variants(looks[firsts[method]]), looks.values())
    return {label: looks[label] for label in methods}


def _methods(series: Iterable[Series]) -> dict[str, str]:
    """Label -> method, or the label itself for a series of no method."""
    return {one.label: one.method or one.label for one in series}


def _own(method: str) -> Iterator[Look]:
    """The looks of a method, the preferred one first."""
    if method in _listed():
        yield _listed()[method]
    # a hash that is the same in every process
    start = int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big")
    for markers in (OTHER_MARKERS, MARKERS):
        looks = list(product(COLOURS.values(), markers))
        begin = start % len(looks)
        yield from (*looks[begin:], *looks[:begin])


def _variants(look: Look) -> Iterator[Look]:
    """The looks of further series of a method: of its colour, then any."""
    colour, marker = look
    yield from product([colour], (*MARKERS, *OTHER_MARKERS))
    yield from product(COLOURS.values(), (*MARKERS, *OTHER_MARKERS))
    yield colour, marker


def _free(looks: Iterator[Look], taken: Iterable[Look]) -> Look:
    """The first look that is not taken, or the last one."""
    used = set(taken)
    look = next(looks)
    while look in used:
        following = next(looks, None)
        if following is None:
            break
        look = following
    return look


@cache
def _listed() -> dict[str, Look]:
    text = (resources.files("petlbench.report.draw") / "looks.yaml").read_text()
    rows: dict[str, list[str]] = parsed(text)
    return {method: (COLOURS[colour], marker) for method, (colour, marker) in rows.items()}

"""Colours and markers of the labels of a chart, distinguishable for the colour-blind."""

from collections.abc import Sequence

from petlbench.report.model.chart import Chart

# Okabe and Ito, https://jfly.uni-koeln.de/color/; yellow is left out: too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FONT = "DejaVu Sans"  # comes with matplotlib
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label -> colour and marker; no two alike among the first 63."""
    return {
        label: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)])
        for n, label in enumerate(labels)
    }


def labels_of(chart: Chart) -> list[str]:
    """Every label once, in order."""
    return list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))

"""The page and the charts: nothing from outside, everything escaped, correct positions."""

import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any, cast

import matplotlib
import pytest
from matplotlib.text import Text

from petlbench import registry
from petlbench.report.draw import plot, tradeoff
from petlbench.report.draw.scale import front, joined, scale, scales
from petlbench.report.draw.style import styles
from petlbench.report.model.chart import Axis, Chart, Panel, Point, Ranks, Series
from petlbench.report.model.report import Report
from petlbench.report.registry import build, find
from petlbench.report.render import html
from tests.records import record
from tests.sweeps import report

KEY = "data-provenance"
NASTY = "</script><script>alert(1)</script>\"'&<b>"


class Page(HTMLParser):
    """Start tags with their attributes, and the text of script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))


def data(page: Page) -> Any:
    return json.loads(page.scripts[0])


@pytest.mark.parametrize("name", ["leaderboard", "fig3", "audit"])
def test_a_page_needs_nothing_from_outside(name: str) -> None:
    text = html.render(report(name), "a command")
    for tag, attributes in Page(text).tags:
        for key in ("src", "href", "action", "srcset"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
    outside = r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://(?!www\.w3\.org/2000/svg)"
    assert not re.search(outside, text)


def test_a_page_escapes_what_records_hold() -> None:
    runs = [record("lora", task, 70.0, title=NASTY) for task in ("land", "digits")]
    runs += [record("linear", task, None, reason=NASTY) for task in ("land", "digits")]
    page = Page(html.render(build(runs, find("leaderboard")), NASTY))
    assert "b" not in [tag for tag, _ in page.tags]
    assert len(page.scripts) == 2
    labels = [a["data-label"] for tag, a in page.tags if tag == "tr" and "data-label" in a]
    assert labels == [NASTY, "Linear"]
    assert data(page)[0]["styles"][0]["label"] == NASTY


def test_a_page_shows_the_provenance_of_every_figure() -> None:
    mini = report("leaderboard")
    page = Page(html.render(mini, "a command"))
    texts = [a[KEY] for tag, a in page.tags if tag == "td" and KEY in a]
    assert len(texts) == len(mini.tables[0].rows) * 8
    runs = re.compile(r"seed \d: [\d.]+  \(run [0-9a-f]{16}\)")
    assert all(len(runs.findall(str(text))) == 3 for text in texts)
    point = data(page)[0]["panels"][0]["series"][0]["points"][0]
    for part in ("seeds: 0, 1, 2", "weights: vit_mini", "device: ", "commit: ", "runs: 24"):
        assert part in point["provenance"]


def test_every_head_is_a_button_and_states_its_order() -> None:
    page = Page(html.render(report("leaderboard"), "a command"))
    places = [n for n, (tag, a) in enumerate(page.tags) if tag == "th" and a.get("scope") == "col"]
    assert len(places) == 16
    for place in places:
        assert page.tags[place][1]["aria-sort"] == "none"
        assert page.tags[place + 1][0] == "button"


def point(x: float, y: float) -> Point:
    return Point(x, y)


def test_the_front_has_the_points_that_no_other_beats() -> None:
    points = [point(1, 5), point(2, 5), point(2, 7), point(3, 6), point(4, 8), point(1, 4)]
    assert [(p.x, p.y) for p in front(points)] == [(1, 5), (2, 7), (4, 8)]


def test_a_logarithmic_axis_has_room_for_zero() -> None:
    axis = scale(Axis("x", logarithmic=True), [0.0, 0.01, 1.0])
    places = [axis.position(value) for value in (0.0, 0.01, 0.1, 1.0)]
    assert places == sorted(places)
    assert places[2] - places[1] == pytest.approx(places[3] - places[2])
    assert [text for _, text in axis.ticks] == ["0", "0.01", "0.1", "1"]


def test_ticks_are_round_with_equal_decimals() -> None:
    axis = scale(Axis("x"), [76.6, 78.6])
    assert [text for _, text in axis.ticks] == ["76.5", "77.0", "77.5", "78.0", "78.5"]
    assert all(0 <= at <= 1 for at, _ in axis.ticks)
    assert scale(Axis("x"), [5.0]).position(5.0) == pytest.approx(0.5)


def panel(*heights: float) -> Panel:
    series = [Series(str(y), [point(n, y)]) for n, y in enumerate(heights)]
    return Panel("p", Axis("x"), Axis("y"), series, front=True)


def test_one_point_far_below_does_not_press_the_others_together() -> None:
    _, y = scales(panel(20.0, 80.0, 81.0, 82.0))
    assert y.cuts(20.0)
    assert y.position(20.0) == 0
    assert y.low > 79
    _, y = scales(panel(79.0, 80.0, 81.0, 82.0))
    assert not y.cuts(79.0)
    _, y = scales(panel(20.0, 80.0))
    assert not y.cuts(20.0)


def test_low_points_of_many_are_cut_off_by_tukeys_outer_fence() -> None:
    heights = [80 + n / 10 for n in range(21)]  # the fence: 80.225 - 3 (81.475 - 80.225)
    shown, y = panel(10.0, 50.0, 78.5, *heights), scales(panel(10.0, 50.0, 78.5, *heights))[1]
    assert [s.label for s in shown.series if y.cuts(float(s.label))] == ["10.0", "50.0"]
    _, y = scales(panel(40.0, 50.0, *heights[:18]))  # twenty points
    assert not y.cuts(40.0)


def test_methods_closer_than_the_critical_difference_are_joined() -> None:
    ranks = Ranks("r", "t", {"a": 1.0, "b": 2.0, "c": 3.5, "d": 4.0}, 1.8)
    assert joined(ranks) == [(1.0, 2.0), (2.0, 3.5), (3.5, 4.0)]
    assert joined(Ranks("r", "t", {"a": 1.0, "b": 2.0}, None)) == []


def chart_of(*methods: str) -> Chart:
    series = [Series(f"{n} {name}", [point(n, n)], method=name) for n, name in enumerate(methods)]
    return Chart("c", "t", [Panel("p", Axis("x"), Axis("y"), series)])


def test_no_two_of_many_methods_look_alike() -> None:
    # 91: seven colours and thirteen markers
    names = [*registry.names(), *(f"third_party_{n}" for n in range(20))][:91]
    looks = styles(chart_of(*names))
    assert len(set(looks.values())) == len(names)
    assert list(looks) == [f"{n} {name}" for n, name in enumerate(names)]


def test_a_method_has_one_look_in_every_chart() -> None:
    whole = styles(chart_of("lora", "dtl", "a_method_of_others", "lora"))
    few = styles(chart_of("a_method_of_others", "lora"))
    assert few["0 a_method_of_others"] == whole["2 a_method_of_others"]
    assert few["1 lora"] == whole["0 lora"] == ("#D55E00", "o")
    colour, marker = whole["3 lora"]  # another row of it
    assert colour == "#D55E00"
    assert marker != "o"


def of_many_methods() -> Report:
    """Thirty methods, two of them far below the others; the best has the most parameters."""
    runs = []
    for n in range(30):
        cost = record("lora", "digits", 1.0)["cost"]
        cost = cost | {"parameters": {"method": 1000 + 50 * n, "head": 1}, "saved_mb": 90.0 - n}
        top1 = 15.0 if n < 2 else 80 + (n * 7 % 29) / 4
        runs.append(record(f"m{n}", "digits", top1, title=f"M{n}", cost=cost))
    return build(runs, find("leaderboard"))


def test_of_many_methods_a_few_are_named() -> None:
    [chart, _] = of_many_methods().charts
    assert isinstance(chart, Chart)
    for shown in chart.panels:
        points = {s.label: s.points[0] for s in shown.series}
        named = [s.label for s in shown.series if s.named]
        assert len(named) == tradeoff.MOST_NAMES
        best = front(list(points.values()))
        must = {label for label, point in points.items() if point in best} | {"M0", "M1"}
        assert must <= set(named)  # M0 and M1 are below the end of the axis
        rest = sorted(points.keys() - must, key=lambda label: -points[label].y)
        assert set(rest[: len(named) - len(must)]) == set(named) - must
    assert "have their name beside the point" in chart.caption


@pytest.mark.parametrize("name", ["leaderboard", "fig1", "many"])
def test_no_name_of_a_figure_covers_another_or_a_point(name: str) -> None:
    made = of_many_methods() if name == "many" else report(name)
    charts = [chart for chart in made.charts if isinstance(chart, Chart)]
    with matplotlib.rc_context(cast(Any, plot.STYLE)):
        figure = plot.figure(charts[0])
    renderer = cast(Any, figure.canvas).get_renderer()
    for axis, shown in zip(figure.axes, charts[0].panels, strict=True):
        names = [Text.get_window_extent(text, renderer) for text in axis.texts]
        assert len(names) == sum(series.named for series in shown.series)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))
        x, y = scales(shown)
        points = [p for series in shown.series for p in series.points]
        for at in axis.transData.transform([(x.position(p.x), y.position(p.y)) for p in points]):
            assert not any(box.contains(*at) for box in names)


def test_a_chart_is_drawn_the_same_twice() -> None:
    chart = Chart("c", "t", [panel(1.0, 2.0, 3.0)])
    first, again = plot.render(chart), plot.render(chart)
    assert first == again
    assert first["png"].startswith(b"\x89PNG")
    assert first["pdf"].startswith(b"%PDF")

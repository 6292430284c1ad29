"""Statistics over test images, against numbers computed by hand and by scipy."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from petlbench.data.predictions import Predictions
from petlbench.report.model.table import Column, Table
from petlbench.report.read.predictions import Outcomes
from petlbench.report.table.calibration import calibration_error, fitted_temperature, tempered
from petlbench.report.table.classes import (
    balanced_accuracy,
    class_table,
    confusion,
    matrix_of,
    top_accuracy,
)
from petlbench.report.table.images import Pair, interval_text, pair, wilson
from petlbench.report.table.pairs import compared


def split(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    """Predictions with these probabilities (N, K)."""
    values = np.array(probabilities)
    logs = np.log(np.maximum(values, 1e-9)).astype(np.float32)
    return Predictions(logs, values.argmax(1), np.array(labels))


def certain(predicted: list[int], labels: list[int], classes: int = 3) -> Predictions:
    """Predictions that are certain of a class."""
    return split(np.eye(classes)[predicted].tolist(), labels)


def of(*tests: Predictions) -> Outcomes:
    """A row of runs on the same images."""
    names = [str(n) for n in range(len(tests[0]))]
    classes = tuple("abcdef"[: tests[0].log_probabilities.shape[1]])
    return Outcomes(classes, tests, [None] * len(tests), [names] * len(tests))


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (32, 34), (34, 34), (500, 1000)])
def test_an_interval_is_wilsons(correct: int, total: int) -> None:
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson(correct, total) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_a_mean_over_runs_has_an_interval_between_those_of_its_neighbours() -> None:
    low, high = wilson(2.5, 30)
    assert wilson(2, 30)[0] < low < wilson(3, 30)[0]
    assert wilson(2, 30)[1] < high < wilson(3, 30)[1]
    assert interval_text(32, 34) == "80.9–98.4"  # the figures of issue trackers and textbooks


def test_mcnemars_test_counts_the_images_that_one_alone_gets_right() -> None:
    first = pd.Series([1, 1, 1, 1, 1, 1, 0, 1.0])
    second = pd.Series([0, 0, 0, 0, 0, 0, 1, 1.0])
    one = pair(first, second)
    assert (one.images, one.first, one.second, one.points) == (8, 6, 1, 62.5)
    # 2 (C(7, 0) + C(7, 1)) / 2^7
    assert one.p == pytest.approx(16 / 128)
    assert pair(first, first).p == 1


def test_of_several_runs_the_larger_share_has_the_image() -> None:
    third = 1 / 3
    one = pair(pd.Series([1, 2 * third, third, 0]), pd.Series([2 * third, 2 * third, 1, 0]))
    assert (one.first, one.second) == (1, 1)
    # only the images that both were tested on count
    assert pair(pd.Series({"x": 1.0}), pd.Series({"y": 0.0})).images == 0


def test_the_number_of_images_is_connors() -> None:
    # psi = 0.2, delta = 0.1: (1.959964 sqrt(0.2) + 0.841621 sqrt(0.19))^2 / 0.01 = 154.3
    root = 1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.19)
    assert Pair(100, 15, 5, 10.0).needed(0.05) == math.ceil(root**2 / 0.01) == 155
    assert Pair(100, 5, 5, 0.0).needed(0.05) is None


def test_pairs_with_the_best_are_corrected_for_all_pairs() -> None:
    labels = [0] * 10
    rows = {
        "best": of(certain([0] * 10, labels)),
        "worst": of(certain([1] * 10, labels)),
        "middle": of(certain([0] * 9 + [1], labels)),
    }
    found = compared(rows, "best")
    # exact p: 2 / 2^10, 1, and 2 / 2^9 of middle against worst
    assert found["worst"].p == pytest.approx(3 * 2 / 2**10)
    assert found["middle"].p == 1
    assert (found["worst"].differs, found["middle"].differs) == (True, False)


def test_a_probability_is_never_printed_as_zero() -> None:
    column = Column("p", "p", "Exact test", 4, is_probability=True)
    values = pd.DataFrame({"p": [2 / 2**20, 0.25]}, index=["a", "b"])
    table = Table(["a", "b"], [column], values, pd.DataFrame(), "")
    assert [table.text(row, column) for row in table.rows] == ["< 0.0001", "0.2500"]


def test_figures_of_classes() -> None:
    # class a: 3 of 4 right, class b: 1 of 2; c has no image
    one = certain([0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 1, 1])
    assert balanced_accuracy(of(one)) == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert confusion(of(one)).tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    other = certain([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1])
    assert confusion(of(one, other)).tolist() == [[3.5, 0.5, 0], [0, 1.5, 0.5], [0, 0, 0]]
    table = class_table({"row": of(one)}, "row")
    assert table.values["accuracy row"].tolist()[:2] == [75, 50]
    assert table.values["mistaken"].tolist() == ["b (1)", "c (1)", "–"]
    assert table.values["interval"].isna().tolist() == [False, False, True]
    assert any("1 classes have no test image, e.g. c" in note for note in table.notes)
    assert matrix_of(of(one), "row").labels == ["a", "b", "c"]
    # thirds of runs add up to whole images
    thirds = of(*(certain([answer] * 7, [0] * 7) for answer in range(3)))
    lines = class_table({"row": thirds}, "row").values
    assert lines["images"].tolist() == [7, 0, 0]
    assert lines["interval"].tolist()[0] == interval_text(7 / 3, 7)


def test_a_test_of_one_class_is_one_class_whose_accuracy_is_the_balanced_one() -> None:
    one = certain([0, 0, 1, 2], [0, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert balanced_accuracy(of(one)) == 50


def test_a_class_among_the_five_most_probable_counts() -> None:
    ranks = [[0.3, 0.2, 0.15, 0.13, 0.12, 0.1]] * 4
    assert top_accuracy(of(split(ranks, [0, 4, 5, 5]))) == 50
    assert math.isnan(top_accuracy(of(certain([0], [0]))))


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    # two images in the bin of 0.9 (one right), two in that of 0.6 (both right)
    one = split([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], [0, 1, 0, 0])
    assert calibration_error(one) == pytest.approx(100 * (0.4 / 2 + 0.4 / 2), abs=1e-4)
    certainly = certain([0, 1], [0, 0], classes=2)
    assert calibration_error(certainly) == pytest.approx(50, abs=1e-4)


def test_the_temperature_makes_the_mean_confidence_the_accuracy() -> None:
    """With two classes and equal logits everywhere, the optimum has confidence = accuracy."""
    one = split([[0.99, 0.01]] * 4, [0, 0, 0, 1])
    temperature = fitted_temperature(one)
    assert np.exp(tempered(one, temperature))[0, 0] == pytest.approx(0.75, abs=1e-4)
    # logit(0.99) / logit(0.75)
    assert temperature == pytest.approx(math.log(99) / math.log(3), rel=1e-3)
    assert calibration_error(one, temperature) == pytest.approx(0, abs=0.01)


def test_log_probabilities_that_float16_made_infinite_are_no_obstacle() -> None:
    logs = np.array([[0.0, -np.inf], [0.0, -np.inf]], np.float32)
    one = Predictions(logs, np.array([0, 0]), np.array([0, 1]))
    assert math.isfinite(fitted_temperature(one))
    assert calibration_error(one) == pytest.approx(50)

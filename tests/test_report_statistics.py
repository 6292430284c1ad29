"""Statistics against values computed in another way."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import studentized_range, wilcoxon

from petlbench.report.read import means
from petlbench.report.table import statistics


def frame(**rows: list[float]) -> pd.DataFrame:
    return pd.DataFrame(rows).T


def test_the_deviation_of_a_mean_of_independent_cells() -> None:
    draws = np.random.default_rng(0).normal(scale=[1.0, 2.0, 3.0], size=(200_000, 3))
    spread = frame(a=[1.0, 2.0, 3.0])
    assert means.deviation(spread)["a"] == pytest.approx(draws.mean(axis=1).std(), rel=0.01)
    assert math.isnan(means.deviation(frame(a=[1.0, math.nan]))["a"])


def test_average_ranks_share_ties_and_leave_out_incomplete_rows() -> None:
    table = frame(a=[3.0, 1.0], b=[2.0, 1.0], c=[1.0, 0.0], d=[9.0, math.nan])
    assert dict(statistics.average_ranks(table)) == {"a": 1.25, "b": 1.75, "c": 3.0}


def test_the_critical_difference_is_that_of_demsars_table() -> None:
    # q_0.05 = 2.343 for two to four classifiers 1.960, 2.343, 2.569 (Demsar 2006, table 5a)
    for methods, quantile in ((2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)):
        expected = quantile * math.sqrt(methods * (methods + 1) / (6 * 14))
        assert statistics.critical_difference(methods, 14) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("methods", [2, 5, 26, 200])
def test_the_range_of_normal_draws_is_that_of_scipy(methods: int) -> None:
    expected = studentized_range.ppf(1 - statistics.LEVEL, methods, np.inf)
    assert statistics.normal_range(methods) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tasks", [4, 19, 50])
def test_a_signed_rank_test_without_ties_is_that_of_scipy(tasks: int) -> None:
    differences = np.random.default_rng(tasks).normal(0.3, 1, tasks)
    expected = wilcoxon(differences, method="exact").pvalue
    assert statistics.signed_rank(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "differences",
    [
        [-1.0, -2.0, -3.5, 0.5, -4.0, -5.0, -6.0],
        [-1.0, -1.0, 1.0, -2.0, -2.0, -3.0, 0.0],
    ],
)
def test_a_signed_rank_test_counts_all_signs(differences: list[float]) -> None:
    kept = np.array([value for value in differences if value])
    ranks = pd.Series(abs(kept)).rank().to_numpy()
    observed = ranks[kept > 0].sum()
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    expected = min(1.0, 2 * float(np.mean([total <= observed for total in sums])))
    assert statistics.signed_rank(np.array(differences)) == pytest.approx(expected)


def test_holms_correction_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_an_interval_holds_the_difference_and_is_the_same_each_time() -> None:
    table = frame(
        a=[5.0, 6, 7, 8, 9, 9, 9], b=[4.0, 6, 6, 8, 7, 9, 9], same=[5.0, 6, 7, 8, 9, 9, 9]
    )
    first, again = statistics.against_best(table), statistics.against_best(table)
    pd.testing.assert_frame_equal(first, again)
    assert first.loc["b", "low"] <= first.loc["b", "difference"] <= first.loc["b", "high"] <= 0
    assert first.loc["same", "p"] == 1.0


def test_too_few_tasks_have_no_p_value() -> None:
    table = frame(a=[5.0] * 5, b=[1.0] * 5)
    assert math.isnan(statistics.against_best(table).loc["b", "p"])
    table = frame(a=[5.0] * 8, **{f"worse{n}": [1.0] * 8 for n in range(7)})  # 7 * 2 / 2**8
    assert statistics.against_best(table)["p"].isna().all()


@pytest.mark.parametrize("tasks", [5, 6, 8])
def test_the_least_p_is_that_of_a_row_that_always_loses(tasks: int) -> None:
    losses = -np.arange(1.0, tasks + 1)
    assert wilcoxon(losses).pvalue == pytest.approx(statistics.least_p(tasks, 1))
    assert statistics.holm([wilcoxon(losses).pvalue] * 3)[0] == pytest.approx(
        statistics.least_p(tasks, 3)
    )


def test_a_row_that_wins_most_tasks_is_not_below_the_one_with_the_highest_mean() -> None:
    """One task outweighs eighteen in the mean, and one rank in the test."""
    wins = [50.0 + n for n in range(1, 19)]
    table = frame(best=[50.0] * 19, wins=[*wins, 50.0 - 200], loses=[*(np.array(wins) - 20), 0])
    against = statistics.against_best(table)
    # Holm multiplies the larger of two by 1
    assert against.loc["wins", "p"] == pytest.approx(wilcoxon(table.loc["wins"] - 50).pvalue)
    assert against["p"].lt(statistics.LEVEL).tolist() == [True, True]
    assert against["difference"].lt(0).tolist() == [True, True]
    assert against["below"].tolist() == [False, True]


def test_a_rounding_error_is_no_difference() -> None:
    table = frame(best=[1.0] * 9 + [1.1], other=[1.0 - 1.4e-14 * n for n in range(1, 11)])
    assert statistics.against_best(table).loc["other", "p"] > statistics.LEVEL

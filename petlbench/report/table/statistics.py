"""Statistics over tasks, of the means over runs.

Average ranks; each method against the best by the Wilcoxon signed-rank test (Holm's correction)
and by a paired bootstrap; Nemenyi's critical difference (Demsar, JMLR 2006,
https://jmlr.org/papers/v7/demsar06a.html).
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

LEVEL = 0.05  # of every test
SAMPLES = 10_000  # of a bootstrap
# of tasks for a bootstrap: of fewer, one task alone is more than 2.5 % of the samples, so that the
# middle 95 % is the range of the differences (1/3^3 > 0.025 > 1/4^4)
FEWEST = 4
DIGITS = 9  # means of equal scores may differ by rounding


def complete(means: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score on every task: only these are comparable over tasks."""
    return means[means.notna().all(axis=1)]


def average_ranks(means: pd.DataFrame) -> pd.Series:
    """Mean over tasks of each complete row's rank: 1 is best, equal scores share a rank."""
    ranks = complete(means).astype(float).round(DIGITS).rank(ascending=False, method="average")
    return ranks.mean(axis=1)


def critical_difference(methods: int, tasks: int) -> float:
    """The least significant difference of two average ranks (Nemenyi's test)."""
    # Demsar's q: the studentised range divided by sqrt(2)
    quantile = normal_range(methods) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * tasks))


def normal_range(count: int) -> float:
    """The value below which the range of `count` standard normal draws lies with 1 - LEVEL.

    The quantile of the studentised range for infinite degrees of freedom: scipy computes it too,
    but takes a second to import.
    """
    z, step = np.linspace(-9, 9, 361, retstep=True)
    density = np.exp(-z * z / 2) * step / math.sqrt(2 * math.pi)
    below = _normal_cdf(z)
    low, high = 0.0, 18.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        # the largest draw is z, and the others lie less than `middle` below it
        inside = (below - _normal_cdf(z - middle)) ** (count - 1)
        low, high = (low, middle) if count * (density @ inside) > 1 - LEVEL else (middle, high)
    return low


def _normal_cdf(values: np.ndarray) -> np.ndarray:
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values])


def least_p(tasks: int, rows: int) -> float:
    """The least possible p-value of a signed-rank test over `tasks`, after Holm's correction."""
    # exact test, all differences of one sign: 2 of 2^tasks sign patterns are as extreme;
    # Holm multiplies the least p by the number of rows
    return min(1.0, rows * 2 * 0.5**tasks)


def against_best(means: pd.DataFrame) -> pd.DataFrame:
    """Each complete row against the one with the best mean over tasks.

    Columns: difference of the means over tasks, low and high (95 % paired bootstrap over tasks),
    p (Wilcoxon signed-rank, two-sided, Holm's correction over the rows; NaN if it cannot reach
    the level), below (whether the row is significantly below the best).
    """
    full = complete(means)
    best = full.mean(axis=1).idxmax()
    differences = (full - full.loc[best]).drop(index=best).round(DIGITS)
    rows = differences.to_numpy(dtype=float)
    # a fixed seed: equal records give an equal report
    drawn = np.random.default_rng(0).integers(rows.shape[1], size=(SAMPLES, rows.shape[1]))
    intervals = [_interval(row, drawn) for row in rows]
    too_few = least_p(full.shape[1], len(rows)) >= LEVEL
    values = [math.nan] * len(rows) if too_few else holm([signed_rank(row) for row in rows])
    return pd.DataFrame(
        {
            "difference": differences.mean(axis=1),
            "low": [low for low, _ in intervals],
            "high": [high for _, high in intervals],
            "p": values,
            "below": [is_below(row, p) for row, p in zip(rows, values, strict=True)],
        },
        index=differences.index,
    )


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in the given order."""
    order = np.argsort(values)
    # Holm, Scandinavian Journal of Statistics 6, 1979
    steps = [min(1.0, (len(values) - place) * values[n]) for place, n in enumerate(order)]
    corrected = np.empty(len(values))
    # a larger p never gets a smaller corrected one
    corrected[order] = np.maximum.accumulate(steps) if steps else []
    return [float(value) for value in corrected]


def is_below(differences: np.ndarray, p: float) -> bool:
    """Whether the signed-rank test with this p-value says that the differences are negative.

    Their mean need not have the sign of their ranks: one task can outweigh all others.
    """
    kept, ranks = _ranked(differences)
    return p < LEVEL and bool(2 * ranks[kept > 0].sum() < ranks.sum())


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test, exact also with ties.

    Zeros are left out, as Wilcoxon did; without another difference it is 1.
    """
    kept, ranks = _ranked(differences)
    # probability of each sum of the ranks of positive differences, all signs equally likely
    sums = np.ones(1)
    for rank in ranks:
        sums = (np.pad(sums, (0, rank)) + np.pad(sums, (rank, 0))) / 2
    positive = int(ranks[kept > 0].sum())
    tail = min(positive, int(ranks.sum()) - positive)
    return min(1.0, 2 * float(sums[: tail + 1].sum()))


def _ranked(differences: np.ndarray) -> tuple[np.ndarray, pd.Series]:
    """The differences that are not zero, and twice their ranks by size."""
    kept = differences[differences != 0]
    # twice the ranks are whole numbers, also where ties share a mean rank
    return kept, (2 * pd.Series(abs(kept)).rank()).astype(int)


def _interval(differences: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the means over tasks drawn with replacement.

    drawn: numbers of tasks (samples, tasks).
    """
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)

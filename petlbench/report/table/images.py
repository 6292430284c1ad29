"""Statistics over test images: intervals of a share, and two methods on the same images.

Seeds are no images: the runs of a row count as one share of right runs for each image.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from petlbench.report.table.statistics import LEVEL

POWER = 0.8  # with which the needed number of images shows the difference


@dataclass(frozen=True)
class Pair:
    """Two methods on `images` common images; first, second: images on which one alone is better.

    With one run each, these are the images that only one of them gets right. points: the accuracy
    of the first minus that of the second.
    """

    images: int
    first: int
    second: int
    points: float

    @property
    def p(self) -> float:
        """Two-sided p-value of McNemar's exact test; 1 without a differing image."""
        differing = self.first + self.second
        return float(binomtest(self.first, differing).pvalue) if differing else 1.0

    def needed(self, level: float) -> int | None:
        """Images that would show that the first is better, at `level` with POWER; None: it is not.

        n = (z_a sqrt(psi) + z_b sqrt(psi - delta^2))^2 / delta^2 with psi and delta, the sum and
        the difference of the shares of images on which one alone is better, and the normal
        quantiles z_a of 1 - level / 2 and z_b of POWER (Connor, Biometrics 43, 1987).
        """
        if self.first <= self.second:
            return None
        psi = (self.first + self.second) / self.images
        delta = (self.first - self.second) / self.images
        z_a, z_b = map(float, norm.ppf([1 - level / 2, POWER]))
        root = z_a * math.sqrt(psi) + z_b * math.sqrt(psi - delta**2)
        return math.ceil((root / delta) ** 2)


def pair(first: pd.Series, second: pd.Series) -> Pair:
    """Two rows (image -> share of right runs), compared on the images that both have."""
    both = pd.concat([first, second], axis=1, join="inner").to_numpy(dtype=float)
    differences = np.round(both[:, 0] - both[:, 1], 9)  # thirds of runs are no exact numbers
    first, second = int((differences > 0).sum()), int((differences < 0).sum())
    points = 100 * float(differences.mean()) if len(both) else 0.0
    return Pair(len(both), first, second, points)


def wilson(correct: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent. correct: may be a mean over runs.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = correct / n;
    Wilson, Journal of the American Statistical Association 22, 1927. scipy's is for whole numbers.
    """
    z = float(norm.ppf(1 - LEVEL / 2))
    p, shrink = correct / total, 1 + z**2 / total
    middle = p + z**2 / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    return max(0.0, 100 * (middle - half) / shrink), min(100.0, 100 * (middle + half) / shrink)


def interval_text(correct: float, total: int) -> str:
    """The interval as printed in a table."""
    low, high = wilson(correct, total)
    return f"{low:.1f}–{high:.1f}"

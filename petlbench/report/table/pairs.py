"""Methods compared on the same test images: McNemar's exact test, with Holm's correction."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
from scipy.stats import norm

from petlbench.report.model.table import Column, Table
from petlbench.report.read.predictions import Outcomes
from petlbench.report.table.images import POWER, Pair, pair
from petlbench.report.table.statistics import LEVEL, holm
from petlbench.units import counted

COLUMNS = [
    Column("difference", "points behind", "Accuracy", 1),
    Column("first", "only the highest", "Images that one alone gets right", 0),
    Column("second", "only this one", "Images that one alone gets right", 0),
    Column("p", "p", "Exact test", 4, is_probability=True),
    Column("corrected", "p (Holm)", "Exact test", 4, is_probability=True),
    Column("needed", "images needed", "Exact test", 0),
]


@dataclass(frozen=True)
class Comparison:
    """The row with the highest accuracy against another one.

    p: corrected for all pairs of rows with common images, which are `pairs`.
    """

    pair: Pair
    p: float
    pairs: int

    @property
    def needed(self) -> int | None:
        """Images that would show that the row with the highest accuracy is better.

        At LEVEL divided by the number of pairs, since Holm's correction asks for no less of the
        first pair: with LEVEL, fewer images than there are could do.
        """
        return self.pair.needed(LEVEL / self.pairs)

    @property
    def differs(self) -> bool:
        """Whether the images show a difference."""
        return self.p < LEVEL

    @property
    def better(self) -> bool:
        """Whether they show that the row with the highest accuracy is the better one.

        Of several runs, or of runs on further images, it can be right less often on most images.
        """
        return self.differs and self.pair.first > self.pair.second


def compared(outcomes: Mapping[str, Outcomes], best: str) -> dict[str, Comparison]:
    """Each other row -> `best` against it, on the images that both were tested on.

    Rows without a common image are left out. The correction is for all pairs of rows, not for the
    pairs with `best` alone: the same images say which row is the best.
    """
    shares = {row: outcome.shares() for row, outcome in outcomes.items()}
    order = [best, *(row for row in outcomes if row != best)]
    pairs = {(a, b): pair(shares[a], shares[b]) for a, b in combinations(order, 2)}
    pairs = {rows: one for rows, one in pairs.items() if one.images}
    corrected = holm([one.p for one in pairs.values()])
    return {
        rows[1]: Comparison(one, p, len(pairs))
        for (rows, one), p in zip(pairs.items(), corrected, strict=True)
        if rows[0] == best
    }


def pair_table(comparisons: Mapping[str, Comparison], best: str) -> Table:
    """A row a method that `best` is compared with."""
    figures = {row: _figures(comparison) for row, comparison in comparisons.items()}
    keys = [column.key for column in COLUMNS]
    images = sorted({comparison.pair.images for comparison in comparisons.values()})
    [pairs] = {comparison.pairs for comparison in comparisons.values()}
    return Table(
        rows=list(figures),
        columns=COLUMNS,
        values=pd.DataFrame.from_dict(figures, orient="index", columns=keys).astype(float),
        spread=pd.DataFrame(index=list(figures)),
        caption=f"{best}, the highest, against each other method on the same images.",
        name="pairs",
        notes=[
            f"On {' to '.join(map(str, sorted({images[0], images[-1]})))} common test images. Of "
            "several runs, the method with the larger share of right runs has the image; equal "
            "shares count for neither. The trained networks are compared: another training can "
            "give another order.",
            "p: McNemar's exact test, two-sided; Holm's correction for "
            f"{counted(pairs, 'pair')}, all that have common images; below {LEVEL}, the methods "
            "differ.",
            "Images needed, where they do not: to find the observed difference with probability "
            f"{POWER:g} at level {LEVEL}{f' / {pairs}' * (pairs > 1)}, if it is the true one "
            f"(Connor 1987): ({norm.ppf(1 - LEVEL / pairs / 2):.2f} sqrt(s) + 0.84 sqrt(s − "
            "d^2))^2 / d^2 with s and d, the sum and the difference of the shares of images that "
            "one alone gets right. From few images it is a rough guess.",
        ],
    )


def _figures(comparison: Comparison) -> list[float | None]:
    one = comparison.pair
    needed = None if comparison.differs else comparison.needed
    return [one.points, one.first, one.second, one.p, comparison.p, needed]

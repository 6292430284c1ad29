"""The first sentences of a report on one data set: which method, how sure, at which cost."""

import math
from collections.abc import Mapping, Sequence

from petlbench.report.read import fields
from petlbench.report.read.predictions import AGAIN, Outcomes
from petlbench.report.read.scores import Scores
from petlbench.report.table.accuracies import most_frequent, right_images
from petlbench.report.table.images import wilson
from petlbench.report.table.pairs import Comparison
from petlbench.units import counted

TIME = "train_s"
MOST = 4  # names in a sentence
MOST_SHARE = 95  # percent of a time, above which it is the same


def best_row(scores: Scores) -> str | None:
    """The row with the highest accuracy, of equal ones the fastest to train; None without any."""
    [task] = scores.keys
    known = scores.means[task].dropna()
    if not len(known):
        return None
    top = [str(row) for row in known.index if math.isclose(known[row], known.max())]
    return min(top, key=lambda row: _or_infinite(float(scores.costs.at[row, TIME])))


def answer(
    scores: Scores,
    outcomes: Mapping[str, Outcomes],
    comparisons: Mapping[str, Comparison],
    best: str | None,
) -> str:
    """The best row with its interval, what cannot be told from it, and the images to tell.

    comparisons: of the best row; empty if there is none.
    """
    if best is None and fields.finished(scores.labelled):
        return (
            "No method can be recommended: none was tested on all folds that others were tested "
            "on; the notes name the missing ones."
        )
    if best is None:
        return "No run has finished, so no method can be recommended; the notes have the reasons."
    correct, total = right_images(scores, outcomes)[best]
    low, high = wilson(correct, total)
    [task] = scores.keys
    tried = sum(row == best for row, _ in scores.labelled)
    runs = sum(row == best for row, _ in fields.finished(scores.labelled))
    sentence = (
        f"{best}, {scores.means.at[best, task]:.1f} % (95 % interval {low:.0f}–{high:.0f}) on "
        f"{counted(total, 'test image')}{f', mean over {runs} runs' if runs > 1 else ''}."
    )
    if runs < tried:
        sentence += f" {tried - runs} of its {tried} runs failed."
    if best in outcomes and low <= (frequent := most_frequent(outcomes[best]))[1]:
        sentence += f" Always answering {frequent[0]} ({frequent[1]:.1f} %) may do as well."
    others = [row for row in scores.rows if row != best and scores.means[task].notna()[row]]
    if not others:
        return f"{sentence} No other method has a result to compare it with."
    if not comparisons:
        return f"{sentence} No other figure is higher. {_no_comparison(outcomes, [best, *others])}"
    same = [row for row, comparison in comparisons.items() if not comparison.differs]
    sentences = [sentence, *_same(scores, same, comparisons, best), *_differing(comparisons)]
    if unknown := [row for row in others if row not in comparisons]:
        sentences.append(f"Not compared on the same images: {_listed(unknown)}.")
    return " ".join(sentences)


def _same(
    scores: Scores, rows: Sequence[str], comparisons: Mapping[str, Comparison], best: str
) -> list[str]:
    """The rows that cannot be told from the best one: the cheapest first, its time, the images."""
    if not rows:
        return []
    cheapest = min(rows, key=lambda row: _or_infinite(float(scores.costs.at[row, TIME])))
    comparison = comparisons[cheapest]
    sentences = [
        f"{cheapest} is not distinguishable from it (corrected p = {comparison.p:.2g}, McNemar's "
        "test)."
    ]
    if others := [row for row in rows if row != cheapest]:
        sentences.append(f"Nor {'is' if len(others) == 1 else 'are'} {_listed(others)}.")
    return [
        *sentences,
        *_time(scores, best, cheapest, others),
        _needed(comparison, best, cheapest),
    ]


def _time(scores: Scores, best: str, cheapest: str, others: Sequence[str]) -> list[str]:
    """Which of the rows trains fastest; nothing if they ran on different devices."""
    devices: dict[str, set[str]] = {}
    for label, record in fields.finished(scores.labelled):
        devices.setdefault(label, set()).add(str(record["provenance"].get("device")))
    own, other = (float(scores.costs.at[name, TIME]) for name in (cheapest, best))
    # a mean over runs on two devices compares with no other
    elsewhere = len(set().union(*(devices[row] for row in (best, cheapest, *others)))) > 1
    if elsewhere or not own > 0 < other or min(own, other) > MOST_SHARE / 100 * max(own, other):
        return []
    if own > other:
        # a method that is significantly worse may take less time
        return [f"Of these, {best} trains fastest." if others else f"{best} trains faster."]
    share = 100 * own / other
    return [f"{cheapest} takes {share:.{0 if share >= 1 else 2}f} % of its training time."]


def _needed(comparison: Comparison, best: str, row: str) -> str:
    """How many images would tell the best row and another one apart."""
    needed = comparison.needed
    if needed is None:
        return (
            f"These images show no difference of {best} and {row} that more images could confirm."
        )
    digits = len(str(needed))
    step = 10 ** max(0, digits - 2)  # more digits would claim more than the images say
    rounded = math.ceil(needed / step) * step
    return (
        f"About {rounded} images would be needed to tell {best} from {row}, if the observed "
        "difference is real."
    )


def _differing(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The rows that differ significantly from the best one."""
    worse = [row for row, comparison in comparisons.items() if comparison.better]
    sentences = [f"It is significantly better than {_listed(worse)}."] if worse else []
    if other := [row for row, one in comparisons.items() if one.differs and not one.better]:
        verb = "is" if len(other) == 1 else "are"
        sentences.append(
            f"On significantly more of the images {_listed(other)} {verb} the better one, with a "
            "lower accuracy, so neither is clearly better."
        )
    return sentences


def _no_comparison(outcomes: Mapping[str, Outcomes], rows: Sequence[str]) -> str:
    without = [row for row in rows if row not in outcomes]
    if without:
        return f"Whether another differs is not known: {_listed(without)} were {AGAIN}."
    return "Whether another differs is not known: none was tested on the same images."


def _listed(rows: Sequence[str]) -> str:
    """At most MOST names."""
    shown = (
        list(rows) if len(rows) <= MOST else [*rows[: MOST - 1], f"{len(rows) - MOST + 1} more"]
    )
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value

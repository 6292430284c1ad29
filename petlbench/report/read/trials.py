"""Scores of trials: which values were tried, and how good the best of k of them is."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from petlbench.config.job_nodes import TRIAL
from petlbench.report.read.fields import main_test
from petlbench.report.read.select import refuse_mixtures
from petlbench.run.record import Record

ADVICE = "give the folder of one of them with --records (they differ in {})"
DECIDING = ("method", "backbone", "input", "train")  # nodes with the values that a trial may vary


@dataclass
class Tried:
    """The trials of a row on one task, by their values (a text), and its final runs.

    val and test: top-1 in percent of each seed; an empty list of `val` is a failed trial.
    """

    val: dict[str, list[float]] = field(default_factory=dict)
    test: dict[str, list[float]] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """One for each trial, a mean over seeds; a failed trial has 0: it chose nothing."""
        return [fmean(seeds) if seeds else 0.0 for seeds in self.val.values()]

    @property
    def failed(self) -> int:
        """Number of failed trials."""
        return sum(not seeds for seeds in self.val.values())

    @property
    def test_of_choice(self) -> float | None:
        """Mean of the final runs with the chosen values, None if they are not known.

        These are the best trial's, or the only ones with final runs: chosen for a suite.
        """
        final = [values for values in self.val if values in self.test]
        top = max(self.val.values(), key=lambda seeds: fmean(seeds or [0.0]), default=[])
        # equal trials: the one that has final runs was chosen
        best = [values for values in final if _same(self.val[values], top)]
        chosen = best or (final if len(final) == 1 else [])
        return fmean(self.test[chosen[0]]) if chosen else None


def tried(records: Iterable[Record], labels: Mapping[str, str]) -> dict[tuple[str, str], Tried]:
    """(row, task) -> its trials and final runs; labels: record id -> row.

    Raises UserError if finished runs of one point differ in more than draw and seed.
    """
    found: dict[tuple[str, str], Tried] = {}
    points: dict[tuple[str, ...], list[Record]] = {}
    failed: list[tuple[Tried, str]] = []
    for record in records:
        if record["status"] == "unsupported":
            continue  # it was not tried
        place = labels[record["id"]], record["factors"]["task"]
        own, values = found.setdefault(place, Tried()), _values(record)
        finished = record["status"] == "finished"
        if finished:
            points.setdefault((*place, record["protocol"], values), []).append(record)
        if record["protocol"] == TRIAL:
            scores = own.val.setdefault(values, [])
            scores += [record["scores"]["val"]["top1"]] if finished else []
            failed += [] if finished else [(own, values)]
        elif finished and (name := main_test(record)) is not None:
            own.test.setdefault(values, []).append(record["scores"][name]["top1"])
    for runs in points.values():
        refuse_mixtures(runs, [], ADVICE)
    for own, values in failed:  # of one seed is enough: the choice leaves such a point out too
        own.val[values] = []
    return {place: own for place, own in found.items() if own.val}


def expected_best(scores: Sequence[float], k: int) -> float:
    """Expected maximum of k of n scores, drawn without replacement.

    The mean over all subsets of k trials: with sorted scores v_1 <= ... <= v_n, the sum over i of
    C(i - 1, k - 1) v_i / C(n, k). Dodge et al., Show Your Work (https://arxiv.org/abs/1909.03004),
    take the expectation over draws with replacement, whose estimator is biased; the one without is
    unbiased (Tang et al., https://arxiv.org/abs/2004.13705).
    """
    ordered = sorted(scores)
    weighted = (math.comb(place, k - 1) * score for place, score in enumerate(ordered))
    return math.fsum(weighted) / math.comb(len(ordered), k)


def _values(record: Record) -> str:
    config = record["config"]
    return json.dumps([config.get(node) for node in DECIDING], sort_keys=True)


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool(one) and bool(other) and round(fmean(one) - fmean(other), 9) == 0

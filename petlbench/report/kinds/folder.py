"""Answers for one data set, for example own images: which method, how sure, at which cost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from petlbench.config.job_nodes import FINAL, TRIAL
from petlbench.errors import UserError
from petlbench.report.model.report import Report
from petlbench.report.model.spec import ReportSpec
from petlbench.report.read import fields
from petlbench.report.read.scores import Scores, gather
from petlbench.run.record import Record

SUITE = "folder"  # of own images
SCORED = ""  # instead of a protocol: the most frequent one of the records with a score
DEFAULTS = {"title": "Which method for these images", "protocol": SCORED}


def build(
    records: Sequence[Record],
    spec: ReportSpec,
    *,
    images: str | None = None,
    budget_gib: float | None = None,
) -> Report:
    """images: the folder of the images, for pictures of the worst mistakes.

    budget_gib: memory of a GPU, for the largest batch that fits it. Raises UserError if the
    records are of several tasks.
    """
    # scikit-learn and scipy take seconds, and the list of reports imports this module
    from petlbench.report.read.predictions import outcomes as outcomes_of
    from petlbench.report.table import accuracies, answer, commands, details, pairs

    if budget_gib is not None and not 0 < budget_gib < math.inf:
        raise UserError(f"--budget-gib is {budget_gib}; it must be a size above 0")
    if spec.intervals:
        raise UserError("this report has the interval of each method; leave out --intervals")
    scores = _of_one_task(records, spec)
    known = outcomes_of(scores.labelled)
    scored = scores.means[scores.keys].notna().all(axis=1)
    outcomes = {row: known[row] for row in scores.rows if row in known and scored[row]}
    best = answer.best_row(scores)
    comparisons = pairs.compared(outcomes, best) if best in outcomes else {}
    tables = [accuracies.accuracies(scores, outcomes, records, budget_gib)]
    if best is not None and comparisons:
        tables.append(pairs.pair_table(comparisons, best))
    of_best = [record for row, record in fields.finished(scores.labelled) if row == best]
    further = details.details(outcomes, best, of_best, images)
    return Report(
        f"{spec.title}: {scores.tasks[0].title}",
        [*tables, *further.tables],
        scores.tidy,
        charts_first=False,
        answer=answer.answer(scores, outcomes, comparisons, best),
        pictures=further.pictures,
        # the first seed: the one with the best score was chosen by no validation images
        commands=commands.commands(of_best[0]) if of_best else [],
    )


def _of_one_task(records: Sequence[Record], spec: ReportSpec) -> Scores:
    if spec.suite is None and any(record["suite"] == SUITE for record in records):
        spec = replace(spec, suite=SUITE)
    if spec.protocol == SCORED:
        scored = Counter(record["protocol"] for record in records if record["scores"])
        scored.pop(TRIAL, None)
        protocols = [name for name, _ in scored.most_common(1)]
        spec = replace(spec, protocol=[*protocols, FINAL][0])
    if spec.protocol == TRIAL:
        raise UserError(
            "trials have no score on test images, which this report is about; leave out "
            "--protocol, or give --protocol final"
        )
    scores = gather(records, spec)
    if len(scores.tasks) > 1:
        names = ", ".join(scores.keys)
        raise UserError(
            f"this report is of one data set, the records are of {len(scores.tasks)} ({names}); "
            f"give the folder of one, e.g. --records .../{scores.keys[0]}"
        )
    return scores

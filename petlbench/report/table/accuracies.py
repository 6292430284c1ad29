"""The table of one task: accuracy with its interval, calibration, costs, memory that it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import pandas as pd

from petlbench.report.model.table import Column, Table
from petlbench.report.read import costs, probes
from petlbench.report.read.predictions import AGAIN, Outcomes
from petlbench.report.read.scores import Scores
from petlbench.report.table import baselines, calibration, classes, notes
from petlbench.report.table.costs import meaning, ranked
from petlbench.report.table.footnotes import footnotes
from petlbench.report.table.images import interval_text
from petlbench.report.table.intervals import MEANING, counted
from petlbench.report.table.provenance import provenance
from petlbench.run.budget import occupied, peak
from petlbench.run.record import Record

COSTS = ("train_s", costs.MEMORY, "delta_kb", "parameters_m")
ACCURACY, CALIBRATION, MEMORY = "Accuracy (%)", "Calibration", "GPU memory"
INTERVAL = Column("interval", "95 % interval", ACCURACY, None)
FROM_PREDICTIONS = [
    Column("balanced", "balanced", ACCURACY, best="high"),
    Column("top", f"top-{classes.TOP}", ACCURACY, best="high"),
    Column("ece", "ECE (%)", CALIBRATION, best="low"),
    Column("temperature", "temperature", CALIBRATION, 2),
    Column("ece_tempered", "ECE with it (%)", CALIBRATION, best="low"),
]
STEP = Column("step_mib", "training step (MiB)", MEMORY, 0)
BATCH = Column("batch", "", MEMORY, 0)


@dataclass(frozen=True)
class Part:
    """Some columns, their figures (rows x keys) and notes."""

    columns: Sequence[Column]
    values: pd.DataFrame
    notes: Sequence[str]


def accuracies(
    scores: Scores,
    outcomes: Mapping[str, Outcomes],
    records: Sequence[Record],
    budget_gib: float | None,
) -> Table:
    """A row a method; the one task of the scores. records: all, among which are probes.

    budget_gib: GPU memory, for the largest batch that fits.
    """
    [task] = scores.tasks
    keys = costs.resolved(COSTS, scores.finished)
    parts = [
        _top1(scores, outcomes),
        _from_predictions(scores, outcomes),
        Part(ranked(keys, scores.finished), scores.costs[keys], meaning(keys, scores.finished)),
        _memory(scores, records, budget_gib),
    ]
    return Table(
        rows=list(scores.rows),
        columns=[c for part in parts for c in part.columns],
        values=pd.concat([part.values for part in parts], axis=1),
        spread=scores.spread[[task.key]],
        caption=f"Methods on {task.title}. Best in bold, second underlined.",
        sections=scores.families,
        marks=notes.cell_marks(scores),
        provenance=provenance(scores),
        notes=[
            notes.scoring(scores.labelled, scores.tests),
            *baselines.below(scores),
            *(note for part in parts for note in part.notes),
            *notes.conditions(scores.labelled, scores.excluded),
            *notes.failures(scores.labelled),
        ],
        footnotes=footnotes(scores.labelled),
    )


def right_images(scores: Scores, outcomes: Mapping[str, Outcomes]) -> dict[str, tuple[float, int]]:
    """Row -> right test images (mean over runs) and test images, of rows with a score."""
    cells = counted(scores).droplevel("task").itertuples()
    of_scores = {str(cell.Index): (float(cell.correct), int(cell.images)) for cell in cells}
    # runs may have been tested on different images, which then count all
    shares = {row: outcome.shares() for row, outcome in outcomes.items()}
    return of_scores | {row: (float(share.sum()), len(share)) for row, share in shares.items()}


def _top1(scores: Scores, outcomes: Mapping[str, Outcomes]) -> Part:
    [task] = scores.tasks
    texts = {row: interval_text(*c) for row, c in right_images(scores, outcomes).items()}
    values = scores.means[[task.key]].assign(
        **{INTERVAL.key: pd.Series(texts, dtype=object).reindex(scores.rows)}
    )
    top1 = replace(task, title="top-1", group=ACCURACY)
    lines = [
        f"Always answering {name}, the most frequent class, scores {share:.1f} %."
        for name, share in map(most_frequent, list(outcomes.values())[:1])
    ]
    return Part([top1, INTERVAL], values, [MEANING, *lines])


def most_frequent(outcomes: Outcomes) -> tuple[str, float]:
    """The most frequent class of the test images, and the percent of the images that have it."""
    counts = np.bincount(outcomes.lines().drop_duplicates("image")["label"])
    return outcomes.classes[int(counts.argmax())], float(100 * counts.max() / counts.sum())


def _from_predictions(scores: Scores, outcomes: Mapping[str, Outcomes]) -> Part:
    """Means over runs of the figures that need predictions."""
    figures = pd.DataFrame.from_dict(
        {row: _figures(outcome) for row, outcome in outcomes.items()},
        orient="index",
        columns=[c.key for c in FROM_PREDICTIONS],
    ).reindex(scores.rows)
    shown = [c for c in FROM_PREDICTIONS if figures[c.key].notna().any()]
    [task] = scores.keys
    known = scores.means[task].notna()
    without = [row for row in scores.rows if known[row] and row not in outcomes]
    lines = [f"{', '.join(without)}: {AGAIN}."] if without else []
    if shown:
        lines += _calibration_notes(outcomes)
    return Part(shown, figures[[c.key for c in shown]], lines)


def _figures(outcomes: Outcomes) -> list[float]:
    tests = outcomes.test
    temperatures = [calibration.fitted_temperature(val) for val in outcomes.val if val is not None]
    whole = len(temperatures) == len(tests)
    tempered = [
        calibration.calibration_error(split, temperature)
        for split, temperature in zip(tests, temperatures, strict=False)
    ]
    return [
        classes.balanced_accuracy(outcomes),
        classes.top_accuracy(outcomes),
        fmean(map(calibration.calibration_error, tests)),
        fmean(temperatures) if whole else float("nan"),
        fmean(tempered) if whole else float("nan"),
    ]


def _calibration_notes(outcomes: Mapping[str, Outcomes]) -> list[str]:
    without = [row for row, o in outcomes.items() if any(val is None for val in o.val)]
    lines = [
        "Balanced: mean over classes of their accuracy. ECE: mean distance of confidence and "
        f"accuracy over {calibration.BINS} bins of confidence (Guo et al. 2017); few images in a "
        "bin make it too high."
    ]
    if len(without) < len(outcomes):
        lines.append(
            "Temperature: divides the logits, fitted on the validation images between "
            f"{calibration.COLDEST:g} and {calibration.HOTTEST:g}; above 1, the network is too "
            "confident."
        )
    if without:
        lines.append(
            f"No temperature for {', '.join(without)}: no predictions for validation images, "
            "which protocol=best_on_val keeps."
        )
    return lines


def _memory(scores: Scores, records: Sequence[Record], budget_gib: float | None) -> Part:
    """The peak of a training step by the rows' probes, and the largest batch that fits."""
    probed = probes.probes(scores.labelled, records)
    values = pd.DataFrame(index=scores.rows)
    if not probed:
        lines = [
            "What fits is not known: python -m petlbench.probe with the same batch measures or "
            "predicts it, below a folder of --records."
        ]
        return Part([], values, lines if budget_gib else [])
    values[STEP.key] = pd.Series({r: occupied(peak(p["cost"])) for r, p in probed.items()})
    line = "Training step: peak memory by the probe with the same batch, measured on a GPU or "
    line += "predicted; CUDA's own memory comes on top."
    if budget_gib is None:
        return Part([STEP], values, [line])
    fitting = {row: probes.batch_that_fits(probe, budget_gib) for row, probe in probed.items()}
    values[BATCH.key] = pd.Series(fitting)
    batch = replace(BATCH, title=f"largest batch in {budget_gib:g} GiB")
    return Part([STEP, batch], values, [line])

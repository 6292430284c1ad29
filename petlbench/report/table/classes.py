"""Accuracy by class, the confusion matrix, and the figures that follow from them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from petlbench.report.model.picture import Matrix
from petlbench.report.model.table import DASH, Column, Table
from petlbench.report.read.predictions import Outcomes
from petlbench.report.table.images import interval_text
from petlbench.report.table.statistics import DIGITS

TOP = 5
MOST = 40  # classes of a matrix that is still readable
Array = NDArray[np.float64]


def balanced_accuracy(outcomes: Outcomes) -> float:
    """Mean over the classes with a test image of their accuracy, in percent."""
    return float(np.nanmean(_shares(confusion(outcomes))))


def top_accuracy(outcomes: Outcomes) -> float:
    """Percent of images whose class is among the TOP most probable; NaN with as few classes."""
    classes = np.arange(len(outcomes.classes))
    if len(classes) <= TOP:
        return float("nan")
    runs = [
        top_k_accuracy_score(split.labels, split.log_probabilities, k=TOP, labels=classes)
        for split in outcomes.test
    ]
    return float(100 * np.average(runs, weights=[len(split) for split in outcomes.test]))


def confusion(outcomes: Outcomes) -> Array:
    """(K, K) test images of each class (row) by predicted class (column).

    An image counts once, with the mean over its runs.
    """
    lines = outcomes.lines()
    counts: Array = confusion_matrix(
        lines["label"],
        lines["predicted"],
        labels=np.arange(len(outcomes.classes)),
        sample_weight=lines["share"],
    )
    return counts


def class_table(outcomes: Mapping[str, Outcomes], best: str) -> Table:
    """A row a class: test images, accuracy of each method, and what `best` takes it for."""
    matrices = {row: confusion(outcome) for row, outcome in outcomes.items()}
    classes = list(outcomes[best].classes)
    images = np.round(matrices[best].sum(axis=1))  # whole, but for thirds of runs
    values = pd.DataFrame({"images": images}, index=classes)
    for row, matrix in matrices.items():
        values[f"accuracy {row}"] = _shares(matrix)
    values["interval"] = [
        interval_text(matrices[best][n, n], int(total)) if total else None
        for n, total in enumerate(images)
    ]
    values["mistaken"] = [_mistaken(matrices[best], n, classes) for n in range(len(classes))]
    columns = [
        Column("images", "test images", "Class", 0),
        *(Column(f"accuracy {row}", row, "Accuracy (%)") for row in matrices),
        Column("interval", "95 % interval", "Highest", None),
        Column("mistaken", "most often taken for", "Highest", None),
    ]
    return Table(
        rows=classes,
        columns=columns,
        values=values,
        spread=pd.DataFrame(index=classes),
        caption="Accuracy by class, mean over the runs of each image; interval and confusion of "
        f"{best}.",
        name="classes",
        head="class",
        methods=dict.fromkeys(classes, " ".join(outcomes)),  # every filter of methods keeps them
        notes=_notes(images, classes),
    )


def matrix_of(outcomes: Outcomes, row: str) -> Matrix:
    """The confusion matrix of a row, of at most MOST classes: those with the most mistakes."""
    counts = confusion(outcomes)
    wrong = np.round(counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal(), DIGITS)
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST])
    caption = f"Confusion matrix of {row}: test images of a class by predicted class"
    caption += ", mean over the runs of each image." if len(outcomes.test) > 1 else "."
    if len(shown) < len(counts):
        caption += f" The {MOST} of {len(counts)} classes with the most mistakes."
    labels = [outcomes.classes[n] for n in shown]
    total = counts.sum(axis=1)[shown]
    return Matrix("confusion", caption, labels, counts[np.ix_(shown, shown)], total)


def _shares(matrix: Array) -> Array:
    """Accuracy of each class in percent; NaN without a test image."""
    with np.errstate(invalid="ignore"):
        shares: Array = 100 * matrix.diagonal() / matrix.sum(axis=1)
    return np.round(shares, DIGITS)


def _mistaken(matrix: Array, number: int, classes: Sequence[str]) -> str:
    """The class that another is most often taken for, with the number of images."""
    wrong = np.round(matrix[number], DIGITS)
    wrong[number] = 0
    place = int(wrong.argmax())
    return f"{classes[place]} ({wrong[place]:.3g})" if wrong[place] else DASH


def _notes(images: Array, classes: Sequence[str]) -> list[str]:
    notes = ["Intervals of few images are wide: compare classes by them, not by the accuracy."]
    if empty := [name for name, total in zip(classes, images, strict=True) if not total]:
        named = f"{len(empty)} classes have no test image, e.g. {empty[0]}"
        notes.append(f"{named}: nothing is known of them.")
    return notes

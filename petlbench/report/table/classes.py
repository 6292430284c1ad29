"""Accuracy by class, the confusion matrix, and the figures that follow from them."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from petlbench.data.predictions import Predictions
from petlbench.report.model.picture import Matrix
from petlbench.report.model.table import DASH, Column, Table
from petlbench.report.read.predictions import Outcomes
from petlbench.report.table.images import interval_text

TOP = 5
MOST = 40  # classes of a matrix that is still readable
Array = NDArray[np.float64]


def balanced_accuracy(split: Predictions) -> float:
    """Mean over the classes with a test image of their accuracy, in percent."""
    with warnings.catch_warnings():
        # a predicted class without a test image counts in no mean
        warnings.filterwarnings("ignore", "y_pred contains classes")
        return float(100 * balanced_accuracy_score(split.labels, split.predicted))


def top_accuracy(split: Predictions) -> float:
    """Percent of images whose class is among the TOP most probable; NaN with as few classes."""
    classes = split.log_probabilities.shape[1]
    if classes <= TOP:
        return float("nan")
    scores = split.log_probabilities
    return float(
        100 * top_k_accuracy_score(split.labels, scores, k=TOP, labels=np.arange(classes))
    )


def confusion(outcomes: Outcomes) -> Array:
    """(K, K) images of each class (row) by predicted class (column), mean over runs."""
    classes = np.arange(len(outcomes.classes))
    runs = [confusion_matrix(s.labels, s.predicted, labels=classes) for s in outcomes.test]
    mean: Array = np.mean(runs, axis=0)
    return mean


def class_table(outcomes: Mapping[str, Outcomes], best: str) -> Table:
    """A row a class: test images, accuracy of each method, and what `best` takes it for."""
    matrices = {row: confusion(outcome) for row, outcome in outcomes.items()}
    classes = list(outcomes[best].classes)
    images = matrices[best].sum(axis=1)
    values = pd.DataFrame({"images": images}, index=classes)
    for row, matrix in matrices.items():
        values[f"accuracy {row}"] = _shares(matrix)
    values["interval"] = [
        interval_text(matrices[best][n, n], round(total)) if total >= 1 else None
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
        caption=f"Accuracy by class, mean over runs; interval and confusion of {best}.",
        name="classes",
        head="class",
        methods=dict.fromkeys(classes, " ".join(outcomes)),  # every filter of methods keeps them
        notes=_notes(images, classes),
    )


def matrix_of(outcomes: Outcomes, row: str) -> Matrix:
    """The confusion matrix of a row, of at most MOST classes: those with the most mistakes."""
    counts = confusion(outcomes)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST])
    caption = f"Confusion matrix of {row}: test images of a class by predicted class"
    caption += ", mean over runs." if len(outcomes.test) > 1 else "."
    if len(shown) < len(counts):
        caption += f" The {MOST} of {len(counts)} classes with the most mistakes."
    labels = [outcomes.classes[n] for n in shown]
    total = counts.sum(axis=1)[shown]
    return Matrix("confusion", caption, labels, counts[np.ix_(shown, shown)], total)


def _shares(matrix: Array) -> Array:
    """Accuracy of each class in percent; NaN without a test image."""
    with np.errstate(invalid="ignore"):
        shares: Array = 100 * matrix.diagonal() / matrix.sum(axis=1)
    return shares


def _mistaken(matrix: Array, number: int, classes: Sequence[str]) -> str:
    """The class that another is most often taken for, with the number of images."""
    wrong = matrix[number].copy()
    wrong[number] = 0
    place = int(wrong.argmax())
    return f"{classes[place]} ({wrong[place]:.3g})" if wrong[place] else DASH


def _notes(images: Array, classes: Sequence[str]) -> list[str]:
    notes = ["Intervals of few images are wide: compare classes by them, not by the accuracy."]
    if empty := [name for name, total in zip(classes, images, strict=True) if not total]:
        named = f"{len(empty)} classes have no test image, e.g. {empty[0]}"
        notes.append(f"{named}: nothing is known of them.")
    return notes

"""What a run predicts for the images of its tests: a file beside the record and the delta.

A .npz file with, for each split of it, such as `test` or `val`:

    <split>/log_probabilities  (N, K) float16, the logarithms of the softmax
    <split>/predicted          (N,), the class with the largest logit, before it was rounded
    <split>/labels             (N,)
    <split>/files              (N,), paths below the folder of the data, if the images are files

and `classes` (K,), their names, if the data have names, and `record`, the identity of the run.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petlbench.data.task import Score
from petlbench.errors import UserError, one_line
from petlbench.system import write_atomically

ROUNDING = 1e-2  # of a log-probability: float16 changes those that matter by 0.4 % at most
SMALL = 2_000_000  # log-probabilities in all: 4 MB before they are compressed
Array = NDArray[Any]
# What numpy, zipfile and zlib raise for a file that is cut, changed, encrypted or another one.
DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Predictions:
    """The predictions for one split: log-probabilities (N, K) float16, the others (N,)."""

    log_probabilities: Array
    predicted: Array
    labels: Array
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def score(self) -> Score:
        """Top-1 accuracy."""
        return Score(int((self.predicted == self.labels).sum()), len(self))


@dataclass(frozen=True)
class PredictionFile:
    """What a file holds: the run, the names of its classes, and a split each."""

    record: str
    classes: tuple[str, ...] | None
    splits: Mapping[str, Predictions]


def wanted(choice: str | bool, values: int) -> bool:
    """Whether a run keeps its predictions.

    choice: auto, True or False, `results.predictions`. values: log-probabilities in all.
    """
    return choice is True or (choice == "auto" and values <= SMALL)


def save(path: Path, content: PredictionFile) -> int:
    """Write a file atomically; returns its size in bytes. Equal content gives equal bytes."""
    arrays: dict[str, Any] = {"record": np.array(content.record)}
    if content.classes is not None:
        arrays["classes"] = np.array(content.classes)
    for name, split in content.splits.items():
        arrays[f"{name}/log_probabilities"] = split.log_probabilities.astype(np.float16)
        # the smallest type that holds them
        kind = np.min_scalar_type(split.log_probabilities.shape[1])
        arrays[f"{name}/predicted"] = split.predicted.astype(kind)
        arrays[f"{name}/labels"] = split.labels.astype(kind)
        if split.files is not None:
            arrays[f"{name}/files"] = np.array(split.files)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomically(path, file.getvalue())
    return len(file.getvalue())


def load(path: Path) -> PredictionFile:
    """Read a file. Raises UserError, with its name, if it is missing, damaged or incomplete."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        names = dict.fromkeys(name.rpartition("/")[0] for name in arrays if "/" in name)
        splits = {name: _split(arrays, name) for name in names}
        classes = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
        content = PredictionFile(str(arrays["record"]), classes, splits)
        _check_classes(content)
    except FileNotFoundError as error:
        raise UserError(f"no predictions '{path}'") from error
    except DAMAGED as error:
        # a run that is finished is not repeated
        raise UserError(
            f"predictions '{path}' cannot be read: {one_line(error)}; delete the record beside "
            "them and run again"
        ) from error
    return content


def _check_classes(content: PredictionFile) -> None:
    """Raise ValueError unless there is a split, and all of them have the classes of the file."""
    counts = {split.log_probabilities.shape[1] for split in content.splits.values()}
    if not counts:
        raise ValueError("it holds no split")
    if len(counts | ({len(content.classes)} if content.classes is not None else set())) > 1:
        raise ValueError("its splits and names have different numbers of classes")


def _split(arrays: Mapping[str, Array], name: str) -> Predictions:
    """One split of a file, whose shapes and values fit together."""
    values = arrays[f"{name}/log_probabilities"]
    predicted, labels = arrays[f"{name}/predicted"], arrays[f"{name}/labels"]
    files = arrays.get(f"{name}/files")
    if values.ndim != 2 or values.dtype.kind != "f" or not len(values):
        raise ValueError(f"{name}/log_probabilities is no table of numbers")
    values = values.astype(np.float32)
    with np.errstate(over="ignore"):
        sums = np.exp(values).sum(axis=1)
    if not np.allclose(sums, 1, rtol=0, atol=ROUNDING):
        raise ValueError(f"{name}/log_probabilities has values that are no logarithms")
    for part, array in (("predicted", predicted), ("labels", labels)):
        if array.shape != values.shape[:1] or array.dtype.kind not in "iu":
            raise ValueError(f"{name}/{part} does not fit to {name}/log_probabilities")
        if array.min() < 0 or array.max() >= values.shape[1]:
            raise ValueError(f"{name}/{part} has a class that does not exist")
    if (values[np.arange(len(values)), predicted] < values.max(axis=1) - ROUNDING).any():
        raise ValueError(f"{name}/predicted is not the most probable class")
    if files is not None and (files.shape != values.shape[:1] or files.dtype.kind != "U"):
        raise ValueError(f"{name}/files does not fit to {name}/log_probabilities")
    return Predictions(
        values,
        predicted.astype(np.int64),
        labels.astype(np.int64),
        None if files is None else tuple(map(str, files)),
    )

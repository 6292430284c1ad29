"""What the runs of a row predict for their test images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from petlbench.data.predictions import PredictionFile, Predictions, load
from petlbench.data.task import Score
from petlbench.errors import UserError
from petlbench.report.read import fields
from petlbench.report.read.fields import Labelled, finished, main_test
from petlbench.run.record import PREDICTIONS, Record, beside

VAL = "val"
AGAIN = (
    "made without predictions; delete their records and run again with results.predictions=true"
)


@dataclass(frozen=True)
class Outcomes:
    """The predictions of a row, one entry a run in `test`, `val` and `images`.

    val: None for a run that chose nothing on validation images. images: what names each test
    image in other runs too: its path below the folder of the data, or its place in the split.
    Runs test the same images with other seeds, and other images with other folds.
    """

    classes: tuple[str, ...]
    test: Sequence[Predictions]
    val: Sequence[Predictions | None]
    images: Sequence[Sequence[str]]

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""
        return all(split.files is not None for split in self.test)

    def lines(self) -> pd.DataFrame:
        """A line a run and image: image, label, predicted, confidence (0..1), right, share.

        share: of its image, which is divided between its runs.
        """
        lines = pd.concat(
            [
                pd.DataFrame(
                    {
                        "image": images,
                        "label": split.labels,
                        "predicted": split.predicted,
                        "confidence": np.exp(
                            split.log_probabilities[np.arange(len(split)), split.predicted]
                        ),
                        "right": split.predicted == split.labels,
                    }
                )
                for split, images in zip(self.test, self.images, strict=True)
            ],
            ignore_index=True,
        )
        return lines.assign(share=1 / lines.groupby("image")["right"].transform("size"))

    def shares(self) -> pd.Series:
        """Image -> share of its runs that are right, 0..1."""
        return self.lines().groupby("image")["right"].mean()


def outcomes(labelled: Sequence[Labelled]) -> dict[str, Outcomes]:
    """The rows whose finished runs all have kept their predictions.

    Raises UserError if a file of predictions is damaged or belongs to another run, or if the runs
    have different classes, or different images or labels of one name.
    """
    runs: dict[str, list[Record]] = {}
    for row, record in finished(labelled):
        runs.setdefault(row, []).append(record)
    found = {row: _runs(row, records) for row, records in runs.items()}
    known = {row: own for row, own in found.items() if own}
    every = [run for own in known.values() for run in own]
    _refuse_other_classes(every)
    _refuse_other_images(every)
    for own in known.values():
        _refuse_overlap(own)
    return {row: _outcomes(own) for row, own in known.items()}


@dataclass(frozen=True)
class _Run:
    """A finished run of a row, its file, the predictions of its main test, and their images."""

    row: str
    record: Record
    file: PredictionFile
    test: Predictions
    images: Sequence[str]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.file.classes or tuple(map(str, range(self.test.log_probabilities.shape[1])))


def _runs(row: str, records: Sequence[Record]) -> list[_Run]:
    """The runs of a row; none if one has kept no predictions."""
    paths = [_path(record) for record in records]
    if not all(path is not None and path.is_file() for path in paths):
        return []
    runs = []
    for record, path in zip(records, filter(None, paths), strict=True):
        file = _file(record, path)
        test = _test(record, file)
        runs.append(_Run(row, record, file, test, _names(record, test)))
    return runs


def _outcomes(runs: Sequence[_Run]) -> Outcomes:
    return Outcomes(
        classes=_distinct(runs[0].classes),
        test=[run.test for run in runs],
        val=[run.file.splits.get(VAL) for run in runs],
        images=[run.images for run in runs],
    )


def _path(record: Record) -> Path | None:
    file = record.get("file")  # missing in a record that was not read from a folder
    return None if file is None else beside(Path(file), PREDICTIONS)


def _file(record: Record, path: Path) -> PredictionFile:
    content = load(path)
    if content.record != record["id"]:
        raise UserError(
            f"predictions '{path}' belong to run {content.record}, not to {record['id']}; delete "
            "the record beside them and run again"
        )
    return content


def _test(record: Record, file: PredictionFile) -> Predictions:
    name = main_test(record)
    split = file.splits.get(str(name))
    score = Score(*(record["scores"][name][key] for key in ("correct", "total")))
    # a run that was made again and stopped before its record may have left other ones
    if split is None or split.score != score:
        raise UserError(
            f"predictions of run {record['id']} do not fit its score on {name}; "
            "delete its record and run again"
        )
    return split


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names, with its number behind one that others have too, such as ImageNet's two cranes."""
    several = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} [{n}]" if name in several else name for n, name in enumerate(names))


def _names(record: Record, test: Predictions) -> Sequence[str]:
    if test.files is not None:
        return _distinct(test.files)  # a list may name a file twice
    # the same place of another split is another image
    split = (record["provenance"].get("splits") or {}).get(main_test(record), {})
    return [f"{str(split.get('sha256'))[:12]} {number}" for number in range(len(test))]


def _refuse_other_classes(runs: Sequence[_Run]) -> None:
    for run in runs:
        if run.classes != runs[0].classes:
            raise UserError(
                f"the runs of {runs[0].row} and of {run.row} have different classes, so they are "
                "of two data sets; give the folder of one with --records"
            )


def _refuse_other_images(runs: Sequence[_Run]) -> None:
    """Images of one name with two labels, and lists of files whose contents changed."""
    labels: dict[str, tuple[int, str]] = {}
    contents: dict[tuple[str, ...], tuple[str, str]] = {}
    for run in runs:
        for image, label in zip(run.images, run.test.labels.tolist(), strict=True):
            known, row = labels.setdefault(image, (label, run.row))
            if known != label:
                names = f"{run.classes[known]} for {row}, {run.classes[label]} for {run.row}"
                raise _changed(f"the class of test image '{image}' is {names}")
        splits = fields.config_value(run.record, "contents.splits") or {}
        if digest := splits.get(main_test(run.record)):
            tested, row = contents.setdefault(tuple(run.images), (digest, run.row))
            if tested != digest:
                raise _changed(f"{row} and {run.row} were tested on other files of one name")


def _refuse_overlap(runs: Sequence[_Run]) -> None:
    """An image that two folds test; they are of two divisions of the images."""
    tested: dict[tuple[int, str], int] = {}
    for run in (run for run in runs if fields.folds(run.record)):
        seed, fold = (run.record["factors"][key] for key in ("seed", "draw"))
        for image in run.images:
            if (other := tested.setdefault((seed, image), fold)) != fold:
                raise _changed(f"folds {other} and {fold} of {run.row} both test '{image}'")


def _changed(what: str) -> UserError:
    return UserError(
        f"{what}: the images changed between the runs; run those before the change again, or "
        "leave their folder out of --records"
    )

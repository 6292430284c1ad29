"""What the runs of a row predict for their test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from petlbench.data.predictions import PredictionFile, Predictions, load
from petlbench.errors import UserError
from petlbench.report.read.fields import Labelled, finished, main_test
from petlbench.run.record import PREDICTIONS, Record, beside

VAL = "val"
AGAIN = "made without predictions; run again with results.predictions=true"


@dataclass(frozen=True)
class Outcomes:
    """The predictions of a row, one entry a run in `test`, `val` and `images`.

    val: None for a run that chose nothing on validation images. images: what names each test
    image in other runs too: its path below the folder of the data, or its place in the split.
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
        """A line a run and image: image, label, predicted, confidence (0..1), right."""
        return pd.concat(
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

    def shares(self) -> pd.Series:
        """Image -> share of its runs that are right, 0..1."""
        return self.lines().groupby("image")["right"].mean()


def outcomes(labelled: Sequence[Labelled]) -> dict[str, Outcomes]:
    """The rows whose finished runs all have kept their predictions.

    Raises UserError if a file of predictions is damaged or belongs to another run, or if the runs
    have different classes.
    """
    runs: dict[str, list[Record]] = {}
    for row, record in finished(labelled):
        runs.setdefault(row, []).append(record)
    found = {row: _row(records) for row, records in runs.items()}
    known = {row: outcome for row, outcome in found.items() if outcome is not None}
    _refuse_other_classes({row: outcome.classes for row, outcome in known.items()})
    return known


def _row(records: Sequence[Record]) -> Outcomes | None:
    paths = [_path(record) for record in records]
    if not all(path is not None and path.is_file() for path in paths):
        return None
    files = [_file(record, path) for record, path in zip(records, paths, strict=True) if path]
    tests = [_test(record, file) for record, file in zip(records, files, strict=True)]
    return Outcomes(
        classes=_classes(files[0], tests[0]),
        test=tests,
        val=[file.splits.get(VAL) for file in files],
        images=[_names(record, test) for record, test in zip(records, tests, strict=True)],
    )


def _path(record: Record) -> Path | None:
    file = record.get("file")  # missing in a record that was not read from a folder
    return None if file is None else beside(Path(file), PREDICTIONS)


def _file(record: Record, path: Path) -> PredictionFile:
    content = load(path)
    if content.record != record["id"]:
        raise UserError(
            f"predictions '{path}' belong to run {content.record}, not to {record['id']}; "
            "delete the file and run again"
        )
    return content


def _test(record: Record, file: PredictionFile) -> Predictions:
    name = main_test(record)
    split = file.splits.get(str(name))
    if split is None or len(split) != record["scores"][name]["total"]:
        raise UserError(
            f"predictions of run {record['id']} do not fit its score on {name}; "
            "delete the file and run again"
        )
    return split


def _classes(file: PredictionFile, test: Predictions) -> tuple[str, ...]:
    return file.classes or tuple(map(str, range(test.log_probabilities.shape[1])))


def _names(record: Record, test: Predictions) -> Sequence[str]:
    if test.files is not None:
        return test.files
    # the same place of another split is another image
    split = (record["provenance"].get("splits") or {}).get(main_test(record), {})
    return [f"{str(split.get('sha256'))[:12]} {number}" for number in range(len(test))]


def _refuse_other_classes(classes: Mapping[str, tuple[str, ...]]) -> None:
    for row, names in classes.items():
        first = next(iter(classes))
        if names != classes[first]:
            raise UserError(
                f"the runs of {first} and of {row} have different classes, so they are of two "
                "data sets; give the folder of one with --records"
            )

"""The predictions that a run keeps beside its record."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petlbench import merge
from petlbench.data import predictions
from petlbench.data.predictions import PredictionFile, Predictions
from petlbench.errors import UserError
from petlbench.run import job
from petlbench.run.record import PREDICTIONS, Store
from tests.settings import config
from tests.shallow import shallow

SPLIT = Predictions(
    np.log([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]).astype(np.float32),
    np.array([0, 2]),
    np.array([0, 1]),
    ("a/1.png", "b/é 2.png"),
)


def test_a_file_gives_back_what_was_saved_in_equal_bytes(tmp_path: Path) -> None:
    content = PredictionFile("0123456789abcdef", ("a", "b", "c"), {"test": SPLIT})
    size = predictions.save(tmp_path / "one.npz", content)
    again = predictions.load(tmp_path / "one.npz")
    assert (again.record, again.classes) == (content.record, content.classes)
    split = again.splits["test"]
    assert np.allclose(split.log_probabilities, SPLIT.log_probabilities, atol=2e-3)
    assert split.predicted.tolist() == [0, 2]
    assert split.labels.tolist() == [0, 1]
    assert split.files == SPLIT.files
    assert split.score.top1 == 50
    predictions.save(tmp_path / "two.npz", content)
    assert size == len((tmp_path / "two.npz").read_bytes())
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": np.array([0, 7])},
        {"labels": np.array([0])},
        {"predicted": np.array([-1, 0])},
        {"log_probabilities": np.zeros(2, np.float32)},
        {"log_probabilities": np.full((2, 3), np.nan, np.float32)},
        {"log_probabilities": np.ones((2, 3), np.float32)},
        {"log_probabilities": np.zeros((2, 3), np.float32)},
        {"predicted": np.array([1, 2])},
        {"files": ("one",)},
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    parts: dict[str, Any] = {
        "log_probabilities": SPLIT.log_probabilities,
        "predicted": SPLIT.predicted,
        "labels": SPLIT.labels,
        "files": np.array(SPLIT.files),
    } | {key: np.array(value) for key, value in changed.items()}
    np.savez(file, record=np.array("x"), **{f"test/{k}": v for k, v in parts.items()})
    with pytest.raises(UserError, match=r"predictions '.*p\.npz' cannot be read: .*test/"):
        predictions.load(file)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    with pytest.raises(UserError, match="no predictions"):
        predictions.load(file)
    np.savez(file, record=np.array({"a": 1}, dtype=object))  # a pickle
    with pytest.raises(UserError, match=r"cannot be read"):
        predictions.load(file)
    for content in (b"", b"PK\x03\x04 cut off", b"text"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read"):
            predictions.load(file)
    np.savez(file, record=np.array("x"))
    with pytest.raises(UserError, match=r"it holds no split"):
        predictions.load(file)
    for names in (("a", "b"), tuple("abcd")):
        predictions.save(file, PredictionFile("x", names, {"test": SPLIT}))
        with pytest.raises(UserError, match="splits and names have different numbers of classes"):
            predictions.load(file)


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    predictions.save(file, PredictionFile("x", None, {"test": SPLIT}))
    whole = file.read_bytes()
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UserError):
            assert predictions.load(file).splits.keys() <= {"test"}
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(file)
    with pytest.raises(UserError, match=r"cannot be read"):
        predictions.load(file)


@pytest.mark.parametrize(
    ("choice", "values", "is_kept"),
    [("auto", 10, True), ("auto", 3_000_000, False), (True, 3_000_000, True), (False, 10, False)],
)
def test_small_sets_are_kept_unless_the_user_says_else(
    choice: str | bool, values: int, is_kept: bool
) -> None:
    assert predictions.wanted(choice, values) == is_kept


@pytest.mark.parametrize(("protocol", "merged"), [("final", False), ("best_on_val", True)])
def test_a_run_keeps_what_its_score_counts(
    protocol: str, merged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tests are so large that they run on the merged network."""
    monkeypatch.setattr(merge, "WORTH", 1 if merged else merge.WORTH)
    settings = shallow(config(tmp_path, protocol=protocol))
    record = job.of(settings).execute(settings)
    assert record["status"] == "finished", record["reason"]
    content = predictions.load(Store(tmp_path).path(record, PREDICTIONS))
    assert content.record == record["id"]
    assert content.splits.keys() == set(record["provenance"]["splits"]) - {"trainval", "train"}
    assert record["notes"].get("tested") == ("merged network" if merged else None)
    if merged:  # during training the network itself was scored
        epoch = str(record["selection"]["epoch"])
        assert content.splits["val"].score.top1 == record["selection"]["scores"]["val"][epoch]
    test = content.splits["test"]
    score = record["scores"]["test"]
    assert (test.score.correct, len(test)) == (score["correct"], score["total"])
    assert np.allclose(np.exp(test.log_probabilities).sum(1), 1, atol=5e-3)


def test_a_run_that_is_told_so_keeps_none_and_is_the_same_run(tmp_path: Path) -> None:
    settings = shallow(config(tmp_path))
    without = replace(settings, results=replace(settings.results, predictions=False))
    record = job.of(without).execute(without)
    assert not list(tmp_path.glob("**/*.npz"))
    again = job.of(settings).execute(settings)
    assert list(tmp_path.glob("**/*.npz"))
    assert (again["id"], again["scores"]) == (record["id"], record["scores"])
    # a run that is done anew without them does not keep those of an earlier one
    Store(tmp_path).path(record).unlink()
    job.of(without).execute(without)
    assert not list(tmp_path.glob("**/*.npz"))

"""From a folder of images to a table of methods' classes: run, delta, prediction."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from petlbench.commands import export, predict, predictor
from petlbench.config import compose
from petlbench.data.images import OWN, original
from petlbench.errors import UserError
from petlbench.methods.bitfit import BitFit
from petlbench.run.record import Record, Store
from petlbench.run.training import run
from tests.shallow import NAME, OVERRIDES, packaged

COLOURS = {"blue sky": (10, 20, 230), "grass": (20, 220, 30), "rose": (230, 10, 40)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of plain colours."""
    root = tmp_path_factory.mktemp("own") / "colours"
    for name, colour in COLOURS.items():
        for number in range(10):
            (root / name).mkdir(parents=True, exist_ok=True)
            shade = tuple(max(0, c - number) for c in colour)
            Image.new("RGB", (20, 16), shade).save(root / name / f"{number}.png")
    return root


def trained(images: Path, folder: Path, *more: str) -> tuple[Record, Path]:
    config = compose.single(
        [
            "dataset=folder",
            f"dataset.root={images}",
            f"dataset.cache={folder / 'cache'}",
            f"results.root={folder / 'runs'}",
            "method=bitfit",
            "train.epochs=8",
            "train.batch_size=6",
            "train.head_lr=0.03",
            "train.schedule.warmup_epochs=0",
            "device=cpu",
            *more,
        ]
    )
    record = run(config)
    return record, Store(folder / "runs").path(record, ".safetensors")


@pytest.fixture(scope="module")
def delta(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    with packaged(folder):
        record, path = trained(images, folder, f"backbone.name={NAME}")
        assert record["status"] == "finished", record["reason"]
        assert record["factors"]["task"] == "folder/colours"
        assert record["scores"]["test"] == {"top1": 100.0, "correct": 6, "total": 6}
        yield path


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = predict.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_folder_is_predicted_with_the_names_of_its_classes(
    images: Path, delta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = told(capsys, "--delta", delta, "--top", 2, images)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert len(rows) == 60
    first = [row for row in rows if row["rank"] == "1"]
    assert [row["class"] for row in first] == [Path(row["path"]).parent.name for row in first]
    assert all(0.3 < float(row["probability"]) <= 1 for row in first)


def test_probabilities_are_the_methods(images: Path, delta: Path) -> None:
    found = predictor.load(delta, checkpoint=None, device="cpu")
    paths = predict.images([images])
    pixels = [found.view.of(original(path, OWN)) for path in paths[:5]]
    whole = found.probabilities(pixels)
    assert torch.allclose(whole.sum(1), torch.ones(5))
    refused: list[UserError] = []
    ranked = dict(next(found.best(paths, 3, refused.append))[1])
    expected = dict(zip(found.names, whole[0].tolist(), strict=True))
    assert ranked == pytest.approx(expected, abs=1e-5)  # of another batch


def test_a_bad_image_stops_no_other(
    images: Path, delta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.open(images / "rose" / f"{number}.png").save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    status, out, err = told(capsys, "--delta", delta, tmp_path)
    assert status == 1
    assert [Path(row["path"]).name for row in csv.DictReader(io.StringIO(out))] == [
        "0.png",
        "2.png",
    ]
    assert err.startswith(f"error: image '{tmp_path / '1.png'}' cannot be decoded")
    assert err.count("\n") == 1


def test_json_is_an_object_a_line(
    images: Path, delta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = images / "rose" / "3.png"
    status, out, _ = told(capsys, "--delta", delta, "--json", "--top", 9, one, one)
    found = json.loads(out)
    assert status == 0
    assert found["path"] == str(one)
    assert found["classes"][0]["class"] == "rose"
    assert sum(entry["probability"] for entry in found["classes"]) == pytest.approx(1)


def test_odd_names_are_cells_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["=1+1", " @x", 'a "b", c', "red\x1b[31m\n", "plain"]
    results = [(Path("-a\r.png"), [(name, 0.5) for name in names])]
    predict.write(iter(results), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    rows = list(csv.reader(lines))
    assert [row[2] for row in rows[1:]] == [
        *("'=1+1", "' @x", 'a "b", c', "red\\x1b[31m ", "plain")
    ]
    assert {row[0] for row in rows[1:]} == {"'-a .png"}
    predict.write(iter(results), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [entry["class"] for entry in found["classes"]] == names


def test_mistakes_are_told_in_one_line(
    images: Path, delta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.png").write_bytes(b"\x89PNG cut")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for arguments, message in [
        (("--delta", delta, tmp_path / "nowhere"), "no image or folder"),
        (("--delta", delta, tmp_path / "empty"), "has no image (.bmp"),
        (("--delta", delta, tmp_path / "cut.png"), "cut.png' cannot be decoded"),
        (("--delta", tmp_path / "x.safetensors", images), "x.safetensors' cannot be read"),
        (("--delta", tmp_path / "other.safetensors", images), "is not the delta of a run"),
        (
            ("--delta", delta, delta, images),
            f"'{delta}' is a delta and no image; --delta takes one",
        ),
        (("--delta", delta, "--top", 0, images), "--top is 0"),
        (("--delta", delta, "--checkpoint", "none.pth", images), "'none.pth' does not exist"),
    ]:
        status, _, err = told(capsys, *arguments)
        assert status == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1


def test_random_weights_cannot_be_made_again(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, path = trained(images, tmp_path, *OVERRIDES, "train.epochs=1")
    assert record["status"] == "finished", record["reason"]
    status, _, err = told(capsys, "--delta", path, images)
    assert status == 2
    assert "belongs to random weights" in err


def test_a_network_is_exported_as_a_folder_for_timm_or_as_a_file(
    delta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predictor.load(delta, checkpoint=None, device="cpu")
    inputs = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = found.method(inputs)
        for name in ("merged", "network.pt2"):
            out = tmp_path / "new" / name
            assert export.main(["--delta", str(delta), "--out", str(out)]) == 0
            what = "the folder " if name == "merged" else ""
            assert capsys.readouterr().err == f"wrote {what}{out}\n"
        whole: Any = timm.create_model(f"local-dir:{tmp_path / 'new' / 'merged'}", pretrained=True)
        torch.testing.assert_close(whole.eval()(inputs), expected)
        assert whole.pretrained_cfg["label_names"] == list(COLOURS)
        program = torch.export.load(tmp_path / "new" / "network.pt2").module()
        torch.testing.assert_close(program(inputs), expected)


def test_what_cannot_be_exported_is_refused_in_one_line(
    delta: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    monkeypatch.setattr(BitFit, "unmergeable", "it is a test")
    for options, message in (
        (["--out", tmp_path / "full"], "full' exists; give --out a new name"),
        (["--out", tmp_path / "a.onnx", "--peft"], "leave out one of them"),
        (["--out", tmp_path / "a", "--peft"], "to PEFT|PEFT's files|for PEFT"),
        (["--out", tmp_path / "a"], "it is a test; a file can hold it: --out a.onnx or a.pt2"),
        (["--out", tmp_path / "full" / "file" / "a.pt2"], "cannot write|Not a directory"),
        (["--out", tmp_path / "a.onxx"], "ends in .onxx; did you mean .onnx?"),
    ):
        status = export.main(["--delta", str(delta), *map(str, options)])
        out, err = capsys.readouterr()
        assert (status in (1, 2), out, err.count("\n")) == (True, "", 1), err
        assert re.search(message, err), err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]

"""The committed reference vectors pass, and the checker can fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from petlbench.merge import merged
from tests.golden.__main__ import main
from tests.golden.adapters import adapters
from tests.golden.case import Case, usual_pool
from tests.golden.check import TOLERANCE, Comparison, check

VECTORS = Path(__file__).parent / "golden" / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    result = check(Case(VECTORS / f"{name}.json"))
    assert result.passed, str(result)
    assert set(result.differences) >= {"logits", "head_input", "loss", "grads"}


@pytest.mark.parametrize("name", ["hydra", "arc", "rlrr", "rlrr_swin", "apla"])
def test_the_merged_network_has_the_logits_of_the_vector(name: str) -> None:
    case = Case(VECTORS / f"{name}.json")
    comparison = Comparison(case, adapters()[case.about["method"]](case))
    comparison.fill()
    with torch.no_grad():
        logits = merged(comparison.method)(case.arrays["x"])
    torch.testing.assert_close(logits, case.arrays["logits"], rtol=0, atol=TOLERANCE)


def copied(name: str, folder: Path, about: dict[str, object], arrays: dict[str, float]) -> Path:
    """A vector with another description and some arrays shifted."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads((VECTORS / f"{name}.json").read_text()) | about))
    content = dict(np.load(VECTORS / f"{name}.npz"))
    np.savez(path.with_suffix(".npz"), **{k: v + arrays.get(k, 0) for k, v in content.items()})
    return path


@pytest.mark.parametrize(
    "array",
    [
        "logits",
        "head_input",
        "loss",
        "grad/backbone/head.bias",
        "grad/method/blocks.1.a",
        "method/blocks.2.c",
    ],
)
def test_a_wrong_number_fails(array: str, tmp_path: Path) -> None:
    path = copied("dtl_vit", tmp_path, {}, {array: 100 * TOLERANCE})
    assert not check(Case(path)).passed


def test_not_a_number_fails(tmp_path: Path) -> None:
    path = copied("dtl_vit", tmp_path, {}, {"grad/method/blocks.1.a": float("nan")})
    assert not check(Case(path)).passed


def test_another_freezing_fails(tmp_path: Path) -> None:
    path = copied("full", tmp_path, {"method": "bitfit"}, {})
    assert check(Case(path)).problems
    path = copied("bitfit", tmp_path, {"method": "full"}, {})
    assert check(Case(path)).problems


def test_a_selection_by_gps_needs_no_more_than_the_listed_values(tmp_path: Path) -> None:
    config = {"per_neuron": 1, "selection_loss": "supcon", "temperature": None}
    assert check(Case(copied("gps", tmp_path, {"config": config}, {}))).passed


@pytest.mark.parametrize(
    ("options", "pool"),
    [
        ({}, "cls"),
        ({"class_token": False, "global_pool": "avg"}, "patch_mean_then_norm"),
        ({"global_pool": "avg", "fc_norm": False}, "norm_then_mean"),
    ],
)
def test_the_pooling_is_that_of_the_vectors_network(
    options: dict[str, object], pool: str, tmp_path: Path
) -> None:
    plain = Case(VECTORS / "linear.json").about["timm_kwargs"]
    path = copied("linear", tmp_path, {"timm_kwargs": plain | options}, {})
    assert usual_pool(Case(path)) == pool


def test_command_says_what_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied("linear", tmp_path, {}, {})
    assert main([str(tmp_path)]) == 0
    shutil.copy(VECTORS / "bitfit.json", tmp_path / "alone.json")  # no numbers: not a vector
    copied("bitfit", tmp_path, {"method": "unheard_of"}, {})
    assert main([str(tmp_path)]) == 1
    (tmp_path / "bitfit.npz").write_bytes(b"no numbers")
    copied("dtl_vit", tmp_path, {}, {"loss": 1.0})
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "UNKNOWN METHOD unheard_of" in out
    assert "1 of 1 vectors pass" in out
    assert "1 of 2 vectors pass" in out
    assert "1 of 3 vectors pass" in out


def test_command_without_vectors_fails(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "none")]) == 2
    assert main([]) == 2

"""Labels of records: an override that contradicts one is refused, or changes the label."""

import json
from pathlib import Path

import pytest

from petlbench.config import compose, options
from petlbench.errors import UserError
from petlbench.run import wandb_run
from petlbench.run.lifecycle import blank
from petlbench.run.record import Store

OTHER = "vit_tiny_patch16_224"


@pytest.mark.parametrize("option", options.names("backbone"))
def test_another_network_has_another_name(option: str) -> None:
    own = compose.single([f"backbone={option}", "device=cpu"])
    other = compose.single([f"backbone={option}", f"backbone.name={OTHER}", "device=cpu"])
    assert own.factors.backbone == option
    assert other.factors.backbone == OTHER
    record = blank(other)
    assert Store("runs").path(record).name.startswith(f"linear-{OTHER}-seed0-")
    tags = wandb_run.arguments(record, other.wandb, None)["tags"]
    assert OTHER in tags
    assert option not in tags


@pytest.mark.parametrize(
    ("choice", "override"),
    [
        ("method=lora", "method._target_=petlbench.methods.dtl.DTL"),
        ("dataset=mini/digits", "dataset.name=count"),
        ("dataset=mini/digits", "+dataset.task=mini/count"),
        ("dataset=mini/digits", "dataset.suite=vtab"),
        ("dataset=mini/digits", "dataset._target_=petlbench.data.readers.vtab.load"),
        ("dataset=vtab/cifar", "dataset.name=svhn"),
        ("dataset=fewshot/food101_4", "dataset.shots=16"),
        ("dataset=dg_per_target/a", "dataset.name=r"),
        ("protocol=audit", "protocol.name=final"),
        ("protocol=final", "protocol.fit_on=train"),
        ("protocol=final", "protocol.select_on=tests"),
    ],
)
def test_a_value_that_contradicts_the_label_is_refused(choice: str, override: str) -> None:
    key = override.removeprefix("+").partition("=")[0]
    with pytest.raises(UserError, match=rf"{key} is .* and that of {choice} is") as caught:
        compose.single([choice, override])
    assert "\n" not in str(caught.value)


def test_values_that_are_no_label_stay_free(tmp_path: Path) -> None:
    for override in ("dataset.title=Numbers", "title=Ours", "protocol.tests=[test]"):
        assert json.dumps(compose.single([override]).plain())
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"x")
    own = ["dataset=folder", f"dataset.root={tmp_path}", "dataset.name=mine"]
    assert compose.single(own).factors.task == "folder/mine"

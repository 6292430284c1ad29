"""Multi-task inference is exact against each method alone, and shares what is constant."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from petlbench import compose, delta, registry
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.interface import Method
from petlbench.multitask.__main__ import counted, main
from petlbench.multitask.network import MultiTask, on_shared
from tests.test_methods import randomised
from tests.tiny import images, tiny

CLASSES = {"birds": 3, "cars": 5, "flowers": 3}
KINDS = ["dtl", "dtl_plus", "linear", "lora", "bitfit", "adaptformer", "vpt_deep", "ssf", "full"]


def methods(name: str, network: str) -> dict[str, Method]:
    """A method for each task on one backbone, its learned tensors filled."""
    backbone = tiny(network).double()
    values = {key: value for key, value in registry.values(name).items() if key[0] != "_"}
    made = {}
    for number, (task, classes) in enumerate(CLASSES.items()):
        torch.manual_seed(number)
        made[task] = randomised(on_shared(backbone, name, values, classes=classes)).eval()
    return made


@pytest.mark.parametrize("network", ["vit", "swin"])
@pytest.mark.parametrize("name", KINDS)
def test_each_task_gets_what_its_method_says(name: str, network: str) -> None:
    apart = methods(name, network)
    together = MultiTask(apart)
    seen = images().double()
    with torch.no_grad():
        for task, logits in together(seen).items():
            alone = apart[task](seen)
            assert logits.shape == (len(seen), CLASSES[task])
            assert torch.allclose(logits, alone, rtol=1e-9, atol=1e-10)


def test_frozen_tensors_are_kept_once() -> None:
    apart = methods("lora", "vit")
    together = MultiTask(apart)
    learned = sum(t.numel() for m in apart.values() for t in trained(m).values())
    frozen = {t.data_ptr(): t.numel() for t in apart["birds"].parameters() if not t.requires_grad}
    kept = {t.untyped_storage().data_ptr(): t.numel() for t in together.parameters()}
    assert sum(kept.values()) <= sum(frozen.values()) + learned


@pytest.mark.parametrize(("name", "saved"), [("dtl", 55), ("dtl_plus", 54), ("linear", 94)])
def test_what_is_saved_at_full_size(name: str, saved: float) -> None:
    config = compose.single([f"method={name}", "backbone=vit_b16", "dataset=vtab/cifar"])
    found = counted(config, tasks=19)
    assert (found["shared_blocks"], found["blocks"]) == (12 if name == "linear" else 7, 12)
    assert saved <= found["saved_percent"] < 100 * 18 / 19


def test_deltas_are_loaded_on_their_backbone(tmp_path: Path) -> None:
    apart = methods("dtl", "vit")
    deltas = {}
    for task, method in apart.items():
        deltas[task] = tmp_path / f"{task}.safetensors"
        network = {"method": registry.values("dtl"), "classes": list(range(CLASSES[task]))}
        delta.save(deltas[task], method, {"method": "dtl", "network": network})
    together = MultiTask.load(tiny("vit").double(), deltas)
    seen = images().double()
    for task, logits in together(seen).items():
        assert torch.allclose(logits, apart[task](seen), rtol=1e-9, atol=1e-10)
    with pytest.raises(UserError, match="does not fit this method and backbone"):
        MultiTask.load(tiny("swin").double(), deltas)
    with pytest.raises(UserError, match="needs at least one task"):
        MultiTask({})


def test_the_command_leaves_a_record(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "probe.json"
    small = ["--backbone", "vit_mini", "--tasks", "3", "--repeats", "1"]
    assert main(["--method", "dtl", *small, "--out", str(file), "device=cpu"]) == 0
    assert "7 of 12 blocks run once" in capsys.readouterr().out
    record = json.loads(file.read_text())
    found = record["cost"]["multitask"]
    assert record["protocol"] == "probe"
    assert (found["tasks"], found["shared_blocks"]) == (3, 7)
    assert all(value > 0 for value in found["seconds"].values())
    assert main(["--method", "dtl", "--tasks", "0", "--out", str(file)]) == 1
    assert "--tasks is 0" in capsys.readouterr().err

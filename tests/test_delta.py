"""The delta: what it holds, and where it is refused. petlbench.testing reloads every method."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from petlbench import delta, registry
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.testing import method_on, randomised, tiny, tiny_method


def changed(path: Path) -> Method:
    method = randomised(registry.create("lora", tiny("vit")))
    delta.save(path, method, {"method": "lora", "values": registry.values("lora")})
    return method


def test_a_delta_holds_the_trained_tensors_and_says_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(delta.trained(method))
        metadata = file.metadata()
    assert metadata["format"] == "1"
    assert metadata["backbone"] == "petlbench_vit"
    assert json.loads(metadata["method"]) == "lora"
    assert json.loads(metadata["values"])["rank"] == 8


def refused(path: Path, method: Method, message: str) -> None:
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    with pytest.raises(UserError, match=message) as caught:
        delta.load(path, method)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, before[n]) for n, p in method.named_parameters())


def test_a_delta_of_another_make_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    changed(path)
    refused(
        path,
        registry.create("lora", tiny("swin")),
        "its backbone is petlbench_vit, not petlbench_swin",
    )
    refused(
        path, registry.create("lora", tiny("vit"), rank=4), r"has shape \(8, 32\), not \(4, 32\)"
    )
    refused(
        path,
        registry.create("lora", tiny("vit", classes=7)),
        r"head.bias has shape \(5,\), not \(7,\)",
    )
    refused(
        path,
        registry.create("linear", tiny("vit")),
        "the method has no backbone.net.blocks.0.attn",
    )
    refused(path, registry.create("dtl", tiny("vit")), "it has no side.1.down.weight")
    other = registry.create("lora", tiny("vit"))
    other.backbone.checkpoint["sha256"] = "ab12"
    refused(path, other, "its backbone_sha256 is none, random weights, not ab12")


@pytest.mark.parametrize("name", registry.names())
def test_every_method_refuses_a_delta_of_another_network(name: str, tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = randomised(tiny_method(name, "vit"))
    delta.save(path, method, {"method": name, "values": registry.values(name)})
    other = method_on(tiny("vit", classes=7), name)
    refused(path, other, r"has shape \(5.*\), not \(7")
    other.backbone.checkpoint["sha256"] = "ab12"
    refused(path, other, "its backbone_sha256 is none, random weights, not ab12")


def test_a_damaged_delta_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    path.write_bytes(path.read_bytes()[:200])
    refused(path, method, "cannot be read")
    refused(tmp_path / "none.safetensors", method, "cannot be read")


def test_shared_tensors_count_once() -> None:
    method = registry.create("linear", tiny("vit"))
    method.twin = method.backbone.head
    assert len(delta.trained(method)) == 2

"""The delta: what it holds, and where it is refused. petlbench.testing reloads every method."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from petlbench import delta, registry
from petlbench.cost import shapes
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.multitask.network import MultiTask
from petlbench.multitask.sharing import twin
from petlbench.swap import swap
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import CLASSES, SIZE
from tests.helpers import one_of_each_class, sampled
from tests.shallow import tiny_shallow_method

LINEAR = "ca961dc5ab3bdabe1221dc3c644e6ca1c6a71266743f19086c5e06c48d14f18e"


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


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("backbone.pool", "norm_then_mean", "backbone.pool=norm_then_mean"),
        ("backbone.weights", "int8", "backbone.weights=int8"),
        ("backbone.mean", [0.5, 0.5, 0.25], r"backbone.mean=\[0.5,0.5,0.25\]"),
        ("input.size", 64, "input.size=64"),
    ],
)
def test_a_delta_of_a_network_that_computes_something_else_is_refused(
    key: str, value: object, needed: str, tmp_path: Path
) -> None:
    """The weights are equal, and yet other logits would come out."""
    path = tmp_path / "delta.safetensors"
    made = randomised(registry.create("lora", tiny("vit")))
    backbone = made.backbone
    network: dict[str, Any] = {
        "method": registry.values("lora"),
        "backbone": {"pool": backbone.pool, "weights": "fp32"}
        | {"mean": list(backbone.mean), "std": list(backbone.std)},
        "input": {"size": backbone.image_size},
        "classes": list("abcde"),
    }
    delta.save(path, made, {"method": "lora", "network": network})
    fresh = registry.create("lora", tiny("vit"))
    delta.load(path, fresh)
    node, _, name = key.partition(".")
    network[node] = network[node] | {name: value}
    delta.save(path, made, {"method": "lora", "network": network})
    refused(path, fresh, f"its {key} is .*; build it with {needed}$")
    with pytest.raises(UserError, match=f"its {key} is"):
        delta.method_spec(path, tiny("vit"))
    del network[node][name]  # as in an earlier delta
    delta.save(path, made, {"method": "lora", "network": network})
    delta.load(path, fresh)
    if name == "weights":  # which was fp32 then
        fresh.backbone.weight_format = "int8"
        refused(path, fresh, "its backbone.weights is fp32, not int8")


@pytest.mark.parametrize("name", sampled(registry.names(), one_of_each_class()))
def test_every_method_keeps_the_backbone_out_and_refuses_a_delta_of_another(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "delta.safetensors"
    method = tiny_method(name, "vit")
    stored = delta.delta_tensors(method)
    frozen = {n: t for n, t in stored.items() if not t.requires_grad}
    assert not frozen.keys() & Method(tiny("vit")).state_dict().keys()
    weights = [weight for weight in tiny("vit").plain_parameters if weight.ndim == 2]
    for name_of, tensor in frozen.items():
        copies = [weight for weight in weights if torch.equal(weight, tensor)]
        assert not copies, f"{name_of} is a weight of the backbone"
    randomised(method)
    delta.save(path, method, {"method": name, "values": registry.values(name)})
    other = method_on(tiny("vit", classes=7), name)
    refused(path, other, r"has shape \(.*\), not \(")
    other.backbone.checkpoint["sha256"] = "ab12"
    refused(path, other, "its backbone_sha256 is none, random weights, not ab12")


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    method = changed(first)
    values = registry.values("lora")
    # the order of keys is no difference; safetensors itself writes a random one
    delta.save(second, method, {"values": dict(reversed(values.items())), "method": "lora"})
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert all(torch.equal(stored[name], p) for name, p in delta.trained(method).items())


def test_the_bytes_of_a_delta_are_the_same_in_every_version(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = registry.create("linear", tiny("vit"))
    with torch.no_grad():
        for parameter in delta.trained(method).values():
            parameter.fill_(0.5)
    delta.save(path, method, {"method": "linear", "network": {"b": 1, "a": [1.5, None]}})
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LINEAR


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_flipped_bit_of_a_tensor_is_noticed(place: int, tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + place if place >= 0 else place] ^= 1
    path.write_bytes(content)
    refused(path, method, "is damaged: its tensors have another SHA-256")


def test_a_delta_that_another_program_wrote_again_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, metadata)  # noqa: SIM118
    fresh = registry.create("lora", tiny("vit"))
    delta.load(path, fresh)
    assert torch.equal(fresh.eval()(images()), method.eval()(images()))


def test_a_delta_without_a_checksum_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    with safe_open(path, framework="pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "tensors_sha256"}
    save_file(dict[str, Tensor](delta.trained(method)), path, metadata)
    fresh = registry.create("lora", tiny("vit"))
    delta.load(path, fresh)
    assert torch.equal(fresh.eval()(images()), method.eval()(images()))


def test_a_damaged_delta_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    method = changed(path)
    path.write_bytes(path.read_bytes()[:200])
    refused(path, method, "cannot be read")
    refused(tmp_path / "none.safetensors", method, "cannot be read")
    refused(tmp_path / "a.json", method, "is a record; name its delta, 'a.safetensors' beside it")


class SharedRandom(nn.Module):
    """qkv(x) plus b B (d A x): A and B frozen, random and shared by all layers (as in VeRA)."""

    def __init__(self, qkv: nn.Linear, pair: tuple[Tensor, Tensor], *, as_buffers: bool) -> None:
        super().__init__()
        self.qkv = qkv
        for name, tensor in zip(("down", "up"), pair, strict=True):
            if as_buffers:
                self.register_buffer(name, tensor)
            else:
                setattr(self, name, tensor)
        self.register_buffer("ones", torch.ones(4), persistent=False)
        self.inner = nn.Parameter(torch.zeros(4))
        self.outer = nn.Parameter(torch.zeros(qkv.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., 3 d)"""
        hidden = (x @ self.down.T) * self.inner * self.ones  # type: ignore[operator]
        return self.qkv(x) + self.outer * (hidden @ self.up.T)  # type: ignore[no-any-return, operator]


class ToyVeRA(Method):
    """Trains two vectors in each block; one pair of random matrices serves all of them."""

    def __init__(self, backbone: Backbone, *, as_buffers: bool) -> None:
        super().__init__(backbone)
        width = backbone.widths[0]
        down, up = torch.randn(4, width), torch.randn(3 * width, 4)
        if not as_buffers:
            down, up = (
                nn.Parameter(down, requires_grad=False),
                nn.Parameter(up, requires_grad=False),
            )
        pair = (down, up)
        swap(backbone, "*.attn.qkv", lambda qkv: SharedRandom(qkv, pair, as_buffers=as_buffers))


def vera(seed: int, *, as_buffers: bool, backbone: Backbone | None = None) -> Method:
    backbone = tiny("vit") if backbone is None else backbone
    torch.manual_seed(seed)
    return randomised(ToyVeRA(backbone, as_buffers=as_buffers)).eval()


@pytest.mark.parametrize("as_buffers", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_frozen_random_tensors_reload_exactly(
    as_buffers: bool, moved: bool, tmp_path: Path
) -> None:
    """moved: between devices or types torch makes several tensors of a shared buffer."""
    path = tmp_path / "delta.safetensors"
    method = vera(1, as_buffers=as_buffers)
    expected = method(images())
    for saved in (method, copy.deepcopy(method).double().float()):
        delta.save(path, saved, {"method": "vera"})
        fresh = vera(2, as_buffers=as_buffers)
        fresh = fresh.double().float() if moved else fresh
        assert not torch.equal(fresh(images()), expected)
        delta.load(path, fresh)
        assert torch.equal(fresh(images()), expected)
        with safe_open(path, framework="pt") as file:
            frozen = [n for n in file.keys() if n.endswith((".down", ".up"))]  # noqa: SIM118
            assert len(frozen) == 2, "a shared tensor is stored once"
            assert not [n for n in file.keys() if n.endswith("ones")]  # noqa: SIM118


@pytest.mark.parametrize("as_buffers", [False, True])
def test_a_delta_without_the_frozen_tensors_is_refused_by_name(
    as_buffers: bool, tmp_path: Path
) -> None:
    path = tmp_path / "delta.safetensors"
    method = vera(1, as_buffers=as_buffers)
    delta.save(path, method, {})
    with safe_open(path, framework="pt") as file:
        later = ("aliases", "tensors_sha256")  # which the deltas without frozen tensors lack
        metadata = {k: v for k, v in file.metadata().items() if k not in later}
    save_file(dict[str, Tensor](delta.trained(method)), path, metadata)
    refused(path, vera(2, as_buffers=as_buffers), r"it has no backbone.net.blocks.0.attn.qkv.down")


@pytest.mark.parametrize("as_buffers", [False, True])
@pytest.mark.parametrize("seeds", [(1, 2), (1, 1)])
def test_tasks_with_frozen_tensors_of_their_own_stay_exact(
    as_buffers: bool, seeds: tuple[int, int]
) -> None:
    backbone = tiny("vit").double()
    tasks = {
        f"task {number}": vera(seed, as_buffers=as_buffers, backbone=twin(backbone, CLASSES))
        for number, seed in enumerate(seeds)
    }
    tasks = {task: method.double() for task, method in tasks.items()}
    together = MultiTask(tasks)
    assert len(together.branches) == len(set(seeds)), "equal frozen tensors make one batch"
    for task, logits in together(images().double()).items():
        torch.testing.assert_close(logits, tasks[task](images().double()), rtol=1e-9, atol=1e-10)


def test_a_backbone_module_that_a_method_removed_stays_out() -> None:
    method = Method(tiny_shallow_method("linear").backbone)
    method.backbone.net.blocks[2].mlp = nn.Identity()
    twin = copy.deepcopy(method).double()
    assert set(delta.delta_tensors(twin)) == set(delta.trained(method))
    assert shapes.gflops(method, batch=1, size=SIZE)["step"] > 0


def test_shared_tensors_count_once() -> None:
    method = registry.create("linear", tiny("vit"))
    method.twin = method.backbone.head
    assert len(delta.trained(method)) == 2

"""`backbone.weights`: frozen weights in fewer bits."""

import pytest
import torch
from torch import nn

from petlbench import registry
from petlbench.delta import delta_tensors
from petlbench.errors import Unsupported, UserError
from petlbench.layers.linear import Linear
from petlbench.layers.quantised import QuantisedLinear, check, dequantise, quantise
from petlbench.testing import Case, images, tiny
from petlbench.testing.properties import (
    a_delta_reloads_exactly,
    a_step_moves_the_trained_tensors_alone,
    merged_is_equal_or_refused,
)

HELD = ["bf16", "int8", "nf4"]
# Of a row's largest weight: half a unit of the last bit, or half the widest gap of two levels.
ERRORS = {"bf16": 2**-8, "int8": 0.5 / 127, "nf4": 0.16}


def available(held: str) -> str:
    if held == "nf4":
        pytest.importorskip("bitsandbytes", reason="nf4 needs bitsandbytes")
    return held


@pytest.mark.parametrize("held", HELD)
def test_a_weight_is_near_the_one_that_was_encoded(held: str) -> None:
    layer = Linear(128, 48)
    before = layer.weight.detach().clone()
    before[3] = 0.0
    layer.weight = nn.Parameter(before, requires_grad=False)
    quantise(layer, available(held))
    error = (layer.weight - before).abs() / before.abs().amax().clamp_min(1e-9)
    assert 0 < error.max() <= ERRORS[held]
    assert not layer.weight[3].any()
    size = sum(code.numel() * code.element_size() for code in layer.buffers())
    assert size < before.numel() * {"bf16": 2.1, "int8": 1.1, "nf4": 0.6}[held]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", HELD)
def test_outputs_and_gradients_are_those_of_the_decoded_weight(
    held: str, precision: torch.dtype
) -> None:
    layer = Linear(128, 48)
    layer.weight.requires_grad_(False)
    quantise(layer, available(held))
    plain = Linear(128, 48)
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    plain.bias = nn.Parameter(layer.bias.detach().clone())
    results = []
    for one in (layer, plain):
        x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            y = one(x)
        y.float().square().sum().backward()
        results.append((y.float(), x.grad, one.bias.grad))
    for mine, theirs in zip(*results, strict=True):
        if precision == torch.bfloat16:  # the bias is added apart, which rounds once more
            torch.testing.assert_close(mine, theirs, rtol=3e-2, atol=5e-2)
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_backward_keeps_the_codes_alone() -> None:
    layer = Linear(64, 64)
    layer.requires_grad_(False)
    quantise(layer, "int8")
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(3, 64, requires_grad=True))
    assert not kept


@pytest.mark.parametrize(
    ("name", "family"),
    [("lora", "vit"), ("bitfit", "swin"), ("dora", "vit"), ("ssf", "swin"), ("hira", "vit")],
)
def test_a_method_trains_merges_and_reloads(name: str, family: str) -> None:
    case = Case(name, family, weights="int8")
    method = case.start()
    held = [part for part in method.modules() if isinstance(part, QuantisedLinear)]
    assert len(held) >= 12
    assert delta_tensors(method).keys() == delta_tensors(Case(name, family).start()).keys()
    a_step_moves_the_trained_tensors_alone(case)
    a_delta_reloads_exactly(case)
    merged_is_equal_or_refused(case)


def test_the_network_is_near_the_whole_one() -> None:
    exact = registry.create("linear", tiny("vit")).eval()(images())
    near = registry.create("linear", tiny("vit", weights="int8")).eval()(images())
    difference = (near - exact).abs().max() / exact.abs().max()
    assert 0 < difference < 0.05


def test_decoding_a_network_gives_plain_layers() -> None:
    layer = Linear(8, 8)
    net = nn.Sequential(layer, nn.Linear(8, 8))
    quantise(layer, "int8")
    weight = layer.weight.clone()
    dequantise(net)
    assert type(layer) is Linear
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, weight)
    assert not list(net.buffers())


def test_what_cannot_be_quantised_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match=r"leaves none in .*; set backbone\.weights=fp32"):
        registry.create("full", tiny("vit", weights="int8"))
    with pytest.raises(
        Unsupported, match=r"int8 holds them in fewer bits; set backbone\.weights=fp32 or"
    ):
        registry.create("lst_fisher", tiny("vit", weights="int8"))
    with pytest.raises(UserError, match=r"unknown backbone\.weights 'int4'"):
        tiny("vit", weights="int4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package bitsandbytes; pip install"):
        check("nf4")

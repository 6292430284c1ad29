"""How trained tensors start, beyond `facts.start` of the yamls (tested in test_methods.py)."""

from typing import Any

import pytest
import torch

from petlbench import registry
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.testing import starts, tiny
from petlbench.testing.facts import declared
from petlbench.testing.starts import NORMAL, TRUNCATED, UNIFORM, mismatch

WIDE: dict[str, Any] = {"name": "petlbench_wide", "classes": 40}
LOW_RANK = {"*.down.weight": "kaiming_uniform", "*.up.weight": "zeros"}
# What the values of the yamls do not show.
CHOICES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("adapter", {"init": "zero_up"}, LOW_RANK | {"*.bias": "zeros"}),
    ("adapter", {"init": "houlsby"}, {"*.weight": "truncated_normal(0.01)", "*.bias": "zeros"}),
    (
        "convpass",
        {"conv_init": "xavier"},
        declared("convpass")["start"] | {"*.conv.weight": "xavier_uniform"},
    ),
]


@pytest.mark.parametrize(("name", "values", "rows"), CHOICES)
def test_choices_of_a_start(name: str, values: dict[str, Any], rows: dict[str, str]) -> None:
    starts.check(registry.create(name, tiny("vit", **WIDE), **values), {}, rows)


def test_magnitudes_of_dora_are_norms_of_the_frozen_rows() -> None:
    method = registry.create("dora", tiny("vit", **WIDE))
    magnitudes = {key: t for key, t in trained(method).items() if key.endswith(".magnitude")}
    assert len(magnitudes) == 2 * method.backbone.depth
    for key, magnitude in magnitudes.items():
        layer, part = key.removesuffix(".magnitude").rsplit(".", 1)
        rows = method.get_submodule(layer).qkv.weight.unflatten(0, (3, -1))  # type: ignore[operator, union-attr]
        expected = rows[{"query": 0, "value": 2}[part]].norm(dim=1)
        torch.testing.assert_close(magnitude, expected)


def test_the_check_tells_distributions_apart() -> None:
    """Else a declared start would hold for anything."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(6000, generator=generator).double() * 2 - 1
    bell = torch.randn(6000, generator=generator).double()
    assert mismatch(flat, UNIFORM) == mismatch(bell, NORMAL) == ""
    assert mismatch(bell / 3**0.5 / 3, UNIFORM)
    assert mismatch(flat * 0.9, UNIFORM)
    assert mismatch(flat * 1.1, UNIFORM)
    assert mismatch(flat * 3**0.5, NORMAL)
    assert mismatch(bell * 1.1, NORMAL)
    assert mismatch(bell, TRUNCATED)
    assert mismatch(flat * 0.7737**0.5 * 3**0.5, TRUNCATED)
    assert mismatch(bell * 0, 0.0) == ""
    assert mismatch(bell, 0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"*.down.weight": "kaiming_uniform"}, "no pattern that matches .*up.weight"),
        (LOW_RANK | {"mix.*": "zeros"}, r"match no trained tensor: \['mix.\*'\]"),
        (LOW_RANK | {"*.up.weight": "ones"}, r"\*.up.weight is not ones: a value differs"),
        ({"*": "pretrained"}, "is no tensor of the backbone"),
    ],
)
def test_a_wrong_start_is_named(rows: dict[str, str], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        starts.check(registry.create("dtl", tiny("vit", **WIDE)), {}, rows)


@pytest.mark.parametrize("text", ["gaussian", "normal()", "normal(a)", "normal(1, 2, 3)"])
def test_an_unknown_start_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"unknown start '|has wrong arguments"):
        starts.parse(text)


def test_a_trained_tensor_of_the_backbone_must_be_declared() -> None:
    method = registry.create("bitfit", tiny("vit", **WIDE))
    own = dict(method.named_parameters())
    starts.check(method, own, "pretrained")
    with pytest.raises(AssertionError, match="of the backbone is trained"):
        starts.check(method, own, {"*": "any"})

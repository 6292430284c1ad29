"""Trained parameters at full size, built on the meta device, head excluded.

What a yaml's own values give is declared there (`facts.parameters`) and tested in test_methods.py;
here are other values, and the backbones of the configuration.
"""

from typing import Any

import pytest
import timm

from petlbench import registry
from petlbench.config import options
from petlbench.cost.section import parameters, units
from petlbench.testing import declared, networks, supported
from petlbench.testing.facts import overlay
from petlbench.testing.networks import FULL_SIZE, full_size
from petlbench.testing.once import full_size_method
from tests.helpers import sampled
from tests.shallow import narrow

VIT, SWIN, MINI = "vit_b16", "swin_b", "vit_mini"
NAMES = registry.names()
BACKBONES = options.names("backbone")

# ViT-B/16 has 12 blocks of width 768; Swin-B 24 blocks, whose widths add up to 12 032.
# The comments say which official code gives the same number.
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("bitfit", VIT, {"include_relpos": False}, 102_912),
    ("bitfit", SWIN, {"include_relpos": False}, 137_216),
    ("dtl_plus", VIT, {"kernel": 4}, 49_152),  # heekhero/DTL @ bf6c51e6
    ("dtl_plus", VIT, {"kernel": 5}, 56_064),  # heekhero/DTL
    ("dtl_plus_star", VIT, {"kernel": 5}, 56_064),
    ("vpt_shallow", SWIN, {"prompts": 13}, 13 * 128),
    ("vpt_deep", VIT, {"prompts": 10}, 92_160),  # KMnP/vpt
    ("vpt_deep", SWIN, {"prompts": 13}, 13 * 12_032),  # 0.16 M
    ("adaptformer", VIT, {"rank": 64}, 1_189_632),  # ShoufaChen/AdaptFormer
    ("adaptformer", VIT, {"bias": False}, 147_456),  # JieShibo/PETL-ViT @ 026e4f12
    ("adaptformer", VIT, {"bias": False, "rank": 1}, 18_432),  # JieShibo/PETL-ViT
    ("ssf", SWIN, {"merge_norm": True}, 274_432),
    ("fact_tt", VIT, {"rank": 8}, 21_504),
    ("apla", VIT, {"rows_per_block": 128}, 1_181_184),
    ("apla", VIT, {"rows_per_block": None}, 7_087_104),
    ("fact_tk", VIT, {"rank": 16}, 30_976),
]


@pytest.mark.parametrize("backbone", sampled(BACKBONES, [VIT, SWIN]))
def test_every_backbone_of_the_configuration_can_be_built(backbone: str) -> None:
    built = full_size(backbone)
    assert built.depth >= 12
    assert len(built.mean) == len(built.std) == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_of_the_configuration_can_be_built_narrow(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", narrow)
    built = networks._full_size.__wrapped__(backbone, 100, "meta").copy()  # not from its cache
    assert len(built.mean) == len(built.std) == 3
    assert built.depth < 12 or backbone == MINI


def test_overlays_change_values_of_the_method() -> None:
    for option in options.names("method_on"):
        name, backbone = option.split("/")
        assert backbone in BACKBONES
        package, _, _ = options.text("method_on", option).partition("\n")
        content = options.content("method_on", option)
        if package == "# @package _global_":  # it changes the training too
            assert content.keys() <= {"train", "method"}
        else:
            assert package == "# @package method"
        assert overlay(name, backbone).keys() <= registry.values(name).keys()


@pytest.mark.parametrize(("name", "backbone", "changed", "expected"), COUNTS)
def test_trained_parameters_with_other_values(
    name: str, backbone: str, changed: dict[str, Any], expected: int
) -> None:
    assert parameters(full_size_method(name, backbone, **changed))["method"] == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_counted_on_vit_and_swin(name: str) -> None:
    """Add the missing backbones to facts.parameters of the method's yaml."""
    required = {FULL_SIZE[family] for family in ("vit", "swin") if supported(name, family)}
    possible = {FULL_SIZE[family] for family in FULL_SIZE if supported(name, family)}
    if registry.kind(name).needs_weights:
        required, possible = required | {MINI}, possible | {MINI}
    counted = declared(name).get("parameters", {}).keys()
    assert required <= counted, f"facts.parameters of {name} lacks {required - counted}"
    assert counted <= possible


@pytest.mark.parametrize("name", [name for name in NAMES if registry.kind(name).needs_weights])
def test_methods_that_need_weights_are_counted_on_a_small_network(name: str) -> None:
    """Slow tests count them at full size, where decompositions take up to a minute."""
    assert parameters(full_size_method(name, MINI))["method"] == declared(name)["parameters"][MINI]


@pytest.mark.parametrize("network", ["siglip_b16", "clip_b16"])
@pytest.mark.parametrize("name", ["repadapter", "ssf", "peft_lora"])
def test_image_towers_count_as_the_vit_does(name: str, network: str) -> None:
    """Attention pooling and a norm ahead of the blocks get nothing of their own."""
    method = full_size_method(name, network)
    assert parameters(method)["method"] == declared(name)["parameters"][VIT]
    assert units(method) == declared(name).get("units", units(method))


def test_sct_behind_the_mlps_leaves_an_attention_pooling_alone() -> None:
    method = full_size_method("sct", "siglip_b16", site="mlp")
    channels = registry.values("sct")["channels"]
    assert parameters(method)["method"] == 12 * (channels**2 + channels)


def test_networks_of_one_architecture_have_the_same_values() -> None:
    backbones = {name: options.content("backbone", name) for name in BACKBONES}
    by_architecture: dict[str, list[str]] = {}
    for name, content in backbones.items():
        by_architecture.setdefault(content.get("name", name).partition(".")[0], []).append(name)
    for method in registry.names():
        for alike in by_architecture.values():
            first, *others = (overlay(method, name) for name in alike)
            assert all(other == first for other in others), (method, alike)

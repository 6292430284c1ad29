"""Trained parameters at full size, built on the meta device, head excluded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from petlbench import delta, registry
from petlbench.backbone import Backbone, create
from petlbench.interface import Method
from tests.test_methods import CONF

CLASSES = 100
VIT, SWIN = "vit_b16", "swin_b"
HEADS = {VIT: 76_900, SWIN: 102_500}

# ViT-B/16 has L = 12 blocks of width d = 768; Swin-B 24 blocks, whose widths add up to 12 032.
# The comments say where else a number was counted: the official code (repository @ commit), the
# paper's table (in millions), or both.
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("full", VIT, {}, 85_798_656),  # 85.8 M
    ("full", SWIN, {}, 86_743_224),  # 86.7 M
    ("linear", VIT, {}, 0),
    ("linear", SWIN, {}, 0),
    ("bitfit", VIT, {}, 11 * 768 * 12 + 2 * 768),  # 0.10 M
    ("bitfit", VIT, {"include_relpos": False}, 102_912),
    ("bitfit", SWIN, {}, 200_760),  # 0.20 M
    ("bitfit", SWIN, {"include_relpos": False}, 137_216),
    ("lora", VIT, {}, 4 * 8 * 768 * 12),  # JieShibo/PETL-ViT @ 026e4f12: 294 912; 0.29 M
    ("lora", VIT, {"form": "qkv_shared"}, 294_912),  # ZhangYuanhan-AI/NOAH @ e9c55f36; 0.29 M
    ("lora", SWIN, {}, 32 * 12_032),
    ("dtl", VIT, {}, 2 * 2 * 768 * 12),  # heekhero/DTL @ bf6c51e6: 36 864; 0.04 M
    ("dtl", SWIN, {}, 8 * (18 * 512 + 2 * 1024)),  # heekhero/DTL: 90 112; 0.09 M
    ("dtl_plus", VIT, {}, 36_864 + 9 * 768),  # heekhero/DTL: 43 776
    ("dtl_plus", VIT, {"kernel": 4}, 49_152),  # heekhero/DTL
    ("dtl_plus", VIT, {"kernel": 5}, 56_064),  # heekhero/DTL
    ("dtl_plus", SWIN, {}, 90_112 + 25 * (512 + 1024)),  # 0.13 M
    ("dtl_plus_star", VIT, {}, 43_776),  # heekhero/DTL, M = 1
    ("dtl_plus_star", VIT, {"kernel": 5}, 56_064),
    ("dtl_plus_star", SWIN, {}, 8 * 12_032 + 25 * (128 + 256 + 512 + 1024)),  # 0.14 M
]


def values_on(name: str, network: str) -> dict[str, Any]:
    """What conf/method_on changes for a method on a backbone."""
    path = CONF / "method_on" / name / f"{network}.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return found


def network_of(path: Path) -> Backbone:
    """A yaml of conf/backbone on the meta device."""
    content = yaml.safe_load(path.read_text())
    node = content.get("backbone", content)
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    with torch.device("meta"):
        return create(
            **options,
            pool="norm_then_mean",
            drop_path=0.1,
            checkpoint=None,
            pretrained=True,
            classes=CLASSES,
            image_size=content.get("input", {}).get("size", 224),
        )


def full_size(name: str, network: str, changed: dict[str, Any]) -> Method:
    built = network_of(CONF / "backbone" / f"{network}.yaml")
    with torch.device("meta"):
        return registry.create(name, built, **values_on(name, network) | changed)


@pytest.mark.parametrize("path", sorted((CONF / "backbone").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_backbone_of_the_configuration_can_be_built(path: Path) -> None:
    built = network_of(path)
    assert built.depth >= 12
    assert len(built.mean) == len(built.std) == 3


def test_values_for_a_backbone_are_values_of_the_method() -> None:
    for path in (CONF / "method_on").glob("*/*.yaml"):
        name, network = path.parent.name, path.stem
        assert (CONF / "backbone" / f"{network}.yaml").is_file()
        package, _, _ = path.read_text().partition("\n")
        content = yaml.safe_load(path.read_text())
        if package == "# @package method":
            assert values_on(name, network).keys() <= registry.values(name).keys()
        else:  # values of its training there
            assert package == "# @package _global_"
            assert content.keys() == {"train"}


@pytest.mark.parametrize(("name", "network", "changed", "expected"), COUNTS)
def test_trained_parameters(
    name: str, network: str, changed: dict[str, Any], expected: int
) -> None:
    method = full_size(name, network, changed)
    trained = sum(tensor.numel() for tensor in delta.trained(method).values())
    assert trained == expected + HEADS[network]


def test_every_method_is_counted_on_both_networks() -> None:
    counted = {(name, network) for name, network, _, _ in COUNTS}
    assert {(name, network) for name in registry.names() for network in (VIT, SWIN)} <= counted

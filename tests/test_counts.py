"""Trained parameters at full size, built on the meta device, head excluded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from petlbench import registry
from petlbench.cost.section import parameters, units
from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.model.backbone import Backbone, create
from tests.test_methods import CONF

CLASSES = 100
VIT, SWIN, CONVNEXT = "vit_b16", "swin_b", "convnext_b"
HEADS = {VIT: 76_900, SWIN: 102_500, CONVNEXT: 102_500}

# ViT-B/16 has L = 12 blocks of width d = 768; Swin-B 24 blocks, whose widths add up to 12 032;
# ConvNeXt-B has 36, 18 048, of which 16 896 in the last two stages.
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
    ("lora_noah", VIT, {}, 294_912),  # ZhangYuanhan-AI/NOAH @ e9c55f36; 0.29 M
    ("lora_noah", SWIN, {}, 32 * 12_032),
    ("vpt_shallow", VIT, {}, 50 * 768),  # KMnP/vpt
    ("vpt_shallow", SWIN, {"prompts": 13}, 13 * 128),
    ("vpt_deep", VIT, {"prompts": 10}, 92_160),  # KMnP/vpt
    ("vpt_deep", VIT, {}, 460_800),  # KMnP/vpt
    ("vpt_deep", SWIN, {"prompts": 13}, 13 * 12_032),  # 0.16 M
    ("adapter", VIT, {}, 12 * (2 * 8 * 768 + 8 + 768)),  # NOAH: 156 768; 0.16 M
    ("adapter", SWIN, {}, 17 * 12_032 + 24 * 8),  # 204 736
    ("adapter_houlsby", VIT, {}, 2 * 156_768),
    ("adapter_houlsby", SWIN, {}, 2 * 204_736),
    ("adaptformer", VIT, {}, 156_768),  # ShoufaChen/AdaptFormer; 0.16 M
    ("adaptformer", VIT, {"rank": 64}, 1_189_632),  # ShoufaChen/AdaptFormer
    ("adaptformer", VIT, {"bias": False}, 147_456),  # JieShibo/PETL-ViT
    ("adaptformer", VIT, {"bias": False, "rank": 1}, 18_432),  # JieShibo/PETL-ViT
    ("adaptformer", SWIN, {}, 204_736),
    ("ssf", VIT, {}, 22 * 768 * 12 + 4 * 768),  # dongzelian/SSF: 205 824; 0.21 M
    ("ssf", SWIN, {}, 267_264),  # dongzelian/SSF
    ("ssf", SWIN, {"merge_norm": True}, 274_432),
    ("fact_tt", VIT, {}, 2 * 768 * 16 + 12 * 12 * 16**2),  # JieShibo/PETL-ViT: 61 440
    ("fact_tt", VIT, {"rank": 8}, 21_504),
    ("fact_tt", SWIN, {}, 32 * 1920 + 12 * 24 * 16**2),  # 135 168; 0.14 M
    ("fact_tk", VIT, {}, 2 * 768 * 32 + 12 * 12 * 32 + 32**3),  # JieShibo/PETL-ViT: 86 528
    ("fact_tk", VIT, {"rank": 16}, 30_976),
    ("fact_tk", SWIN, {}, 64 * 1920 + 12 * 24 * 32 + 4 * 32**3),
    # the supernet as large as its space; the subnet is what is compared
    ("noah", VIT, {}, 12 * (4 * 768 * 10 + (2 * 768 + 1) * 10 + 768 + 768 * 10)),
    ("noah_subnet", VIT, {}, 12 * (4 * 768 * 5 + (2 * 768 + 1) * 5 + 768 + 768 * 5)),
    ("lst", VIT, {}, 2_376_492),  # 2.38 M
    ("lst_fisher", VIT, {}, 2_376_492),
    ("ln_tune", VIT, {}, 38_400),
    ("ln_tune", SWIN, {}, 57_600),
    ("convpass", VIT, {}, 327_552),  # JieShibo/PETL-ViT; 0.33 M
    ("convpass", SWIN, {}, 437_504),  # JieShibo/PETL-ViT
    ("convpass_attn", VIT, {}, 163_776),  # JieShibo/PETL-ViT
    ("convpass_attn", SWIN, {}, 218_752),  # JieShibo/PETL-ViT
    ("repadapter", VIT, {}, 239_808),
    ("repadapter", SWIN, {}, 313_216),
    ("bi_lora", VIT, {}, 1_179_648),  # JieShibo/PETL-ViT
    ("bi_lora", SWIN, {}, 4 * 32 * 12_032),
    ("bi_adaptformer", VIT, {}, 589_824),  # JieShibo/PETL-ViT
    ("bi_adaptformer", SWIN, {}, 2 * 32 * 12_032),
    ("adapter_plus", VIT, {}, 165_984),
    ("adapter_plus", SWIN, {}, 216_768),
    ("dora", VIT, {}, 313_344),
    ("dora", SWIN, {}, 409_088),
    ("sct", VIT, {}, 111_744),  # 0.11 M
    ("sct", SWIN, {}, 223_488),
    ("vqt", VIT, {}, 9_216),
    ("mona", VIT, {}, 2_684_928),
    ("mona", SWIN, {}, 3_667_456),
    ("full", CONVNEXT, {}, 87_566_464),
    ("linear", CONVNEXT, {}, 0),
    ("bitfit", CONVNEXT, {}, 7 * 18_048 + 2 * 128 + (896 + 1792) + 1024),
    ("ln_tune", CONVNEXT, {}, 2 * (128 + 18_048 + 896 + 1024)),
    ("ssf", CONVNEXT, {}, 2 * (7 * 18_048 + 2 * 128 + (896 + 1792) + 1024)),
    ("dtl", CONVNEXT, {}, 8 * 16_896),
    ("dtl_plus", CONVNEXT, {}, 8 * 16_896 + 25 * (512 + 1024)),
    ("dtl_plus_star", CONVNEXT, {}, 8 * 18_048 + 25 * 1920),
    ("adapter_plus", CONVNEXT, {}, (2 * 8 + 2) * 18_048 + 36 * 8),
]
# Pairs that the methods' papers do not define.
UNDEFINED = {(name, SWIN) for name in ("lst", "lst_fisher", "vqt", "noah", "noah_subnet")}


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
            **{"pool": "norm_then_mean"} | options,
            drop_path=0.1,
            checkpoint=None,
            fused_attention=True,
            head_start="small_normal",
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
        else:  # values of its training there, too
            assert package == "# @package _global_"
            assert content.keys() <= {"train", "method"}
            assert content.get("method", {}).keys() <= registry.values(name).keys()


@pytest.mark.parametrize(("name", "network", "changed", "expected"), COUNTS)
def test_trained_parameters(
    name: str, network: str, changed: dict[str, Any], expected: int
) -> None:
    method = full_size(name, network, changed)
    assert parameters(method)["method"] == expected
    if name != "vqt":  # whose head is wider
        assert parameters(method)["head"] == HEADS[network]


def test_every_method_is_counted_on_vit_and_swin() -> None:
    counted = {(name, network) for name, network, _, _ in COUNTS}
    pairs = {(name, network) for name in registry.names() for network in (VIT, SWIN)}
    assert pairs == {pair for pair in counted if pair[1] != CONVNEXT} | UNDEFINED


@pytest.mark.parametrize(("name", "network"), sorted(UNDEFINED))
def test_undefined_pairs_are_refused(name: str, network: str) -> None:
    with pytest.raises(Unsupported, match="supports plain ViTs only"):
        full_size(name, network, {})


def test_the_head_of_vqt_reads_all_answers() -> None:
    head = (1 + 12) * 768 * CLASSES + CLASSES
    assert parameters(full_size("vqt", VIT, {}))["head"] == head


# The paper's Table 1, but for SSF: its 148 counts tensors (12 x 12 + 4), which are 74 pairs.
UNITS = {
    "lora": 24,
    "noah_subnet": 36,
    "fact_tt": 144,
    "fact_tk": 144,
    "ssf": 74,
    "dtl": 12,
    "dtl_plus": 13,
    "adapter": 12,
    "adaptformer": 12,
    "vpt_shallow": 1,
    "vpt_deep": 12,
    "vqt": 12,
    "convpass": 48,
    "mona": 120,
    "bitfit": 0,
    "full": 0,
}


@pytest.mark.parametrize("name", UNITS)
def test_structural_units(name: str) -> None:
    assert units(full_size(name, VIT, {})) == UNITS[name]


@pytest.mark.parametrize("network", ["siglip_b16", "clip_b16"])
@pytest.mark.parametrize(("name", "pieces"), [("repadapter", 24), ("ssf", 74)])
def test_image_towers_count_as_the_vit_does(name: str, pieces: int, network: str) -> None:
    """Attention pooling and a norm ahead of the blocks get nothing of their own."""
    method = full_size(name, network, {})
    [expected] = {count for known, on, _, count in COUNTS if (known, on) == (name, VIT)}
    assert parameters(method)["method"] == expected
    assert units(method) == pieces

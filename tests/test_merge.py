"""Merging, beside the property of every method in petlbench.testing: equal logits, or a reason."""

import json
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from petlbench.data.images import View
from petlbench.errors import Unsupported
from petlbench.layers import ScaleShift
from petlbench.merge import WORTH, for_inference, merged, save_merged
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import CLASSES, timm_network


def test_what_is_affine_can_be_merged() -> None:
    names = ["lora", "dora", "fact_tt", "fact_tk", "ssf", "repadapter", "bi_lora"]
    names += ["bitfit", "ln_tune", "full", "linear"]
    assert not [name for name in names if tiny_method(name, "vit").unmergeable]


@pytest.mark.parametrize(
    ("name", "family"), [("lora", "vit"), ("full", "swin"), ("ln_tune", "convnext")]
)
def test_a_merged_network_needs_no_class_of_petlbench(name: str, family: str) -> None:
    method = tiny_method(name, family)
    expected = {type(module) for module in timm_network(family).modules()}
    for net in (merged(method), method.merge()):
        found = {type(module) for module in net.modules()}
        assert found <= expected | {nn.Identity}
    # the method itself goes on with its own
    assert any("petlbench.layers" in type(part).__module__ for part in method.modules())


@pytest.mark.parametrize(
    ("name", "images", "weights", "is_merged"),
    [
        ("lora", WORTH, "fp32", True),
        ("rlrr", WORTH, "fp32", True),
        ("lora", WORTH - 1, "fp32", False),
        ("lora", WORTH, "int8", False),  # in fp32 it would take four times the memory
        ("bitfit", WORTH, "fp32", False),  # it would be a copy
        ("adaptformer", WORTH, "fp32", False),
    ],
)
def test_many_images_are_classified_by_the_merged_network(
    name: str, images: int, weights: str, is_merged: bool
) -> None:
    method = method_on(tiny("vit", weights=weights), name).eval()
    method.backbone.quantise_frozen()
    tested = for_inference(method, images)
    assert isinstance(tested, Method) != is_merged
    assert is_merged or tested is method


@pytest.mark.parametrize("name", ["lora", "ssf", "fact_tk"])
def test_the_merged_network_differs_by_rounding_alone(name: str) -> None:
    """So the classes of two images can differ in ties alone. Every method: the properties."""
    method = randomised(tiny_method(name, "vit")).double().eval()
    batch = images().double()
    with torch.no_grad():
        logits = method(batch)
        difference = (for_inference(method, WORTH)(batch) - logits).abs().max()
    assert difference <= 1e-12 * logits.abs().max()


def test_merging_changes_the_network() -> None:
    """The test above would hold for a merge that forgets the update, if the update were zero."""
    method = randomised(tiny_method("lora", "vit")).eval()
    net = timm_network("vit")
    net.load_state_dict(merged(method).state_dict())
    unchanged = method.backbone.net.blocks[0].attn.qkv.qkv.weight
    assert not torch.equal(net.state_dict()["blocks.0.attn.qkv.weight"], unchanged)


@pytest.mark.parametrize(("site", "layer"), [("qkv", "attn.qkv"), ("mlp", "mlp.fc2")])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_salient_channels_of_a_projection_merge(family: str, site: str, layer: str) -> None:
    method = randomised(tiny_method("sct", family, site=site)).eval()
    net = timm_network(family)
    net.load_state_dict(merged(method).state_dict(), strict=True)
    for name, module in method.backbone.net.named_modules():
        if name.endswith(layer):
            plain = cast(nn.Linear, net.get_submodule(name))
            x = torch.randn(7, plain.in_features)
            torch.testing.assert_close(plain(x), module(x), rtol=1e-4, atol=1e-5)


def test_the_merged_network_pools_as_the_method_does_or_is_refused() -> None:
    method = randomised(method_on(tiny("vit", pool="norm_then_mean"), "lora")).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(method)(images()), method(images()))
    method = randomised(method_on(tiny("swin", pool="patch_mean_then_norm"), "lora")).eval()
    with pytest.raises(Unsupported, match=r"cannot pool as backbone\.pool=patch_mean"):
        merged(method)


def test_a_pooling_that_a_convnext_lacks_is_refused() -> None:
    """It normalises after the mean; on a smooth image the order hardly matters."""
    backbone = tiny("vit", name="convnext_atto", pool="norm_then_mean", image_size=64)
    with pytest.raises(Unsupported, match=r"cannot pool as backbone\.pool=norm_then_mean"):
        merged(method_on(backbone, "bitfit"))


POOLED = [
    ("petlbench_vit", "cls"),
    ("petlbench_vit", "norm_then_mean"),
    ("petlbench_vit", "patch_mean_then_norm"),
    ("petlbench_swin", "norm_then_mean"),
    ("vit_mini", "cls"),
    ("vit_mini", "norm_then_mean"),
    ("vit_mini", "patch_mean_then_norm"),
]


@pytest.mark.parametrize(("name", "pool"), POOLED)
def test_timm_loads_what_save_merged_writes(name: str, pool: str, tmp_path: Path) -> None:
    """The plain file of the weights would not say how the network pools."""
    family = "swin" if name == "petlbench_swin" else "vit"
    size = 48 if name == "vit_mini" else 16
    backbone = tiny(family, name=name, pool=pool, image_size=size, mean=[0.1, 0.2, 0.3])
    method = randomised(method_on(backbone, "lora")).eval()
    save_merged(method, tmp_path / "new" / "folder")
    with warnings.catch_warnings(action="error"):
        net = from_folder(tmp_path / "new" / "folder")
    batch = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected = method(batch)
        assert (net(batch) - expected).abs().max() <= 1e-4 * expected.abs().max()
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]
    assert config["pretrained_cfg"]["input_size"] == [3, size, size]


def from_folder(folder: Path) -> nn.Module:
    """The network of a folder; timm's own networks load it, those of the tests by hand."""
    config = json.loads((folder / "config.json").read_text())
    if not config["architecture"].startswith("petlbench_"):
        # by timm alone, also the backbone of this package
        assert timm.models.is_model_in_modules(config["architecture"], ["vision_transformer"])
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    net = timm.create_model(config["architecture"], drop_path_rate=0.0, **config["model_args"])
    net.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return net.eval()


@pytest.mark.parametrize("aspect", ["squash", "keep"])
@pytest.mark.parametrize("resize", [None, 59])
def test_timms_transforms_prepare_an_image_as_the_run_did(
    aspect: str, resize: int | None, tmp_path: Path
) -> None:
    view = View(48, "bilinear", resize, aspect)
    method = method_on(tiny("vit", name="vit_mini", image_size=48), "lora")
    save_merged(method, tmp_path, names=["=猫", "dog"], view=view)
    net: Any = from_folder(tmp_path)
    assert list(net.pretrained_cfg["label_names"]) == ["=猫", "dog"]
    settings = resolve_data_config(model=net)
    noise = np.random.default_rng(0).integers(256, size=(70, 101, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = create_transform(**settings)(image) * std + mean
    assert torch.allclose(255 * pixels, torch.tensor(view.of(image)).permute(2, 0, 1) * 1.0)


def test_nothing_is_written_of_what_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be merged"):
        save_merged(tiny_method("adapter", "vit"), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_what_was_learned_outside_the_layers_is_not_lost_in_silence() -> None:
    class Shifted(Method):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            self.shift = torch.nn.Parameter(torch.ones(CLASSES))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + self.shift

    with pytest.raises(Unsupported, match="something was learned outside its layers"):
        merged(Shifted(tiny("vit")))


def test_a_module_that_cannot_be_folded_is_named_with_the_next_step() -> None:
    class Scaled(Method):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            swap(backbone.net, "*.mlp", lambda mlp: nn.Sequential(mlp, ScaleShift(16)))

    with pytest.raises(
        Unsupported, match=r"Sequential at blocks\.0\.mlp has .* give .*folded\(\)"
    ):
        merged(Scaled(tiny("vit")))


class Rescaled(Method):
    """Learns the scale of the logits, which no module folds; it merges itself."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.scale

    def merge(self) -> torch.nn.Module:
        net: Any = super().merge()
        with torch.no_grad():
            for parameter in net.head.parameters():
                parameter.mul_(self.scale)
        return net  # type: ignore[no-any-return]


def test_a_method_may_merge_itself() -> None:
    method = Rescaled(tiny("vit")).eval()
    net = timm_network("vit")
    net.load_state_dict(merged(method).state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(images()), method(images()))

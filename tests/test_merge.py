"""Merging: the plain network has the outputs of the method, or the reason is reported."""

from typing import Any

import pytest
import timm
import torch

from petlbench.errors import Unsupported
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from tests.test_methods import made, on, on_all, randomised
from tests.tiny import CLASSES, SIZE, config, images, tiny


def plain(family: str) -> torch.nn.Module:
    """Timm's own network, as it comes."""
    options: dict[str, Any] = {} if family == "convnext" else {"img_size": SIZE}
    return timm.create_model(
        f"petlbench_{family}", num_classes=CLASSES, drop_path_rate=0.0, **options
    ).eval()


NO_PLACE_FOR_A_BIAS = {("repadapter", "dinov3"), ("ssf", "dinov3")}  # its qkv has none


@on_all
def test_merged_equals_unmerged_or_says_why_not(name: str, family: str) -> None:
    method = randomised(made(name, family)).eval()
    if method.unmergeable:
        with pytest.raises(Unsupported, match=f"cannot be merged .*: {method.unmergeable}"):
            merged(method)
        return
    if (name, family) in NO_PLACE_FOR_A_BIAS:
        with pytest.raises(Unsupported, match=f"into petlbench_{family}: it learned a bias"):
            merged(method)
        return
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    net = plain(family)
    net.load_state_dict(merged(method).state_dict(), strict=True)
    backbone = Backbone(net, config(family), image_size=SIZE)
    with torch.no_grad():
        expected, walked = method(images()), Method(backbone).eval()(images())
        alone = merged(method)(images())
    assert (alone - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (walked - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(method(images()), expected), "the method stays as it is"
    assert all(torch.equal(tensor, before[key]) for key, tensor in method.state_dict().items())


def test_what_is_affine_can_be_merged() -> None:
    names = ["lora", "dora", "fact_tt", "fact_tk", "ssf", "repadapter", "bi_lora"]
    names += ["bitfit", "ln_tune", "full", "linear"]
    assert not [name for name in names if made(name, "vit").unmergeable]


def test_merging_changes_the_network() -> None:
    """The test above would hold for a merge that forgets the update, if the update were zero."""
    method = randomised(made("lora", "vit")).eval()
    net = plain("vit")
    net.load_state_dict(merged(method).state_dict())
    unchanged = method.backbone.net.blocks[0].attn.qkv.qkv.weight
    assert not torch.equal(net.state_dict()["blocks.0.attn.qkv.weight"], unchanged)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_salient_channels_of_the_projection_merge(family: str) -> None:
    method = randomised(made("sct", family, site="qkv")).eval()
    net = plain(family)
    net.load_state_dict(merged(method).state_dict(), strict=True)
    for name, module in method.backbone.net.named_modules():
        if name.endswith("attn.qkv"):
            x = torch.randn(7, module.qkv.in_features)
            torch.testing.assert_close(net.get_submodule(name)(x), module(x), rtol=1e-4, atol=1e-5)


def test_the_merged_network_pools_as_the_method_does_or_is_refused() -> None:
    method = randomised(on(tiny("vit", pool="norm_then_mean"), "lora")).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(method)(images()), method(images()))
    method = randomised(on(tiny("vit", pool="patch_mean_then_norm"), "lora")).eval()
    with pytest.raises(Unsupported, match=r"cannot pool as backbone\.pool=patch_mean"):
        merged(method)


def test_what_was_learned_outside_the_layers_is_not_lost_in_silence() -> None:
    class Shifted(Method):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            self.shift = torch.nn.Parameter(torch.ones(CLASSES))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + self.shift

    with pytest.raises(Unsupported, match="something was learned outside its layers"):
        merged(Shifted(tiny("vit")))


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
    net = plain("vit")
    net.load_state_dict(merged(method).state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(images()), method(images()))

"""Merging, beside the property of every method in petlbench.testing: equal logits, or a reason."""

from typing import Any, cast

import pytest
import torch
from torch import nn

from petlbench.errors import Unsupported
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import CLASSES, timm_network


def test_what_is_affine_can_be_merged() -> None:
    names = ["lora", "dora", "fact_tt", "fact_tk", "ssf", "repadapter", "bi_lora"]
    names += ["bitfit", "ln_tune", "full", "linear"]
    assert not [name for name in names if tiny_method(name, "vit").unmergeable]


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
    method = randomised(method_on(tiny("vit", pool="patch_mean_then_norm"), "lora")).eval()
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
    net = timm_network("vit")
    net.load_state_dict(merged(method).state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(images()), method(images()))

"""Methods on EVA-02, whose query, key and value have projections apart, and whose MLP is gated."""

import json
from pathlib import Path

import pytest
import torch
from timm.models.eva import Eva

from petlbench.delta import trained
from petlbench.errors import Unsupported
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.peft import to_peft
from petlbench.testing import images, method_on, randomised
from petlbench.testing.networks import config
from petlbench.testing.once import full_size_method


def eva02() -> Backbone:
    """Two blocks of an EVA-02 of width 32."""
    torch.manual_seed(0)
    net = Eva(
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=4,
        qkv_fused=False,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        use_fc_norm=False,
        num_classes=5,
    )
    return Backbone(net, config("vit", pool="norm_then_mean"), image_size=16)


def on_eva02(name: str) -> Method:
    return method_on(eva02(), name).eval()


STARTING = ["lora", "dora", "repadapter", "hydra", "arc_att", "apla"]


@pytest.mark.parametrize("name", [*STARTING, "arc", "rlrr"])
def test_all_tensors_are_trained_from_the_pretrained_outputs(name: str) -> None:
    method = on_eva02(name)
    with torch.no_grad():
        plain = Method(eva02()).eval()(images())
        assert torch.equal(method(images()), plain) == (name in STARTING)
    randomised(method).train()(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained(method).values())


@pytest.mark.parametrize("name", ["lora", "dora", "hydra", "apla"])
def test_it_merges(name: str) -> None:
    method = randomised(on_eva02(name))
    with torch.no_grad():
        torch.testing.assert_close(merged(method)(images()), method(images()))


@pytest.mark.parametrize("name", ["repadapter", "arc", "rlrr"])
def test_it_does_not_merge_where_the_key_has_no_bias(name: str) -> None:
    with pytest.raises(Unsupported, match="cannot be merged into"):
        merged(randomised(on_eva02(name)))


@pytest.mark.parametrize("name", ["fact_tt", "fact_tk"])
def test_fact_says_which_layer_has_no_slices(name: str) -> None:
    with pytest.raises(Unsupported, match=r"768 x 768 slices, but one is 2048 x 768; choose ano"):
        full_size_method(name, "eva02_b14")


@pytest.mark.parametrize(
    ("name", "parameters"), [("lora", 294_912), ("dora", 313_344), ("repadapter", 239_808)]
)
def test_it_has_the_parameters_of_a_vit_of_its_size(name: str, parameters: int) -> None:
    method = full_size_method(name, "eva02_b14")
    assert sum(tensor.numel() for tensor in method.counted_parameters()) == parameters


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_peft_gets_an_update_for_each_projection(name: str, tmp_path: Path) -> None:
    to_peft(randomised(on_eva02(name)), tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    ends = [target.removeprefix("blocks.") for target in written["target_modules"]]
    assert ends == [f"{block}.attn.{part}_proj" for block in "01" for part in "qv"]
    assert written["r"] == 8

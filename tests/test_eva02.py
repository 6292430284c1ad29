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


STARTING = ["lora", "dora", "repadapter", "hydra", "arc_att", "apla", "fact_tt", "fact_tk"]


@pytest.mark.parametrize("name", [*STARTING, "arc", "rlrr"])
def test_all_tensors_are_trained_from_the_pretrained_outputs(name: str) -> None:
    method = on_eva02(name)
    with torch.no_grad():
        plain = Method(eva02()).eval()(images())
        assert torch.equal(method(images()), plain) == (name in STARTING)
    randomised(method).train()(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in trained(method).values())


@pytest.mark.parametrize("name", ["lora", "dora", "hydra", "apla", "fact_tt", "fact_tk"])
def test_it_merges(name: str) -> None:
    method = randomised(on_eva02(name))
    with torch.no_grad():
        torch.testing.assert_close(merged(method)(images()), method(images()))


@pytest.mark.parametrize("name", ["repadapter", "arc", "rlrr"])
def test_it_does_not_merge_where_the_key_has_no_bias(name: str) -> None:
    with pytest.raises(Unsupported, match="cannot be merged into"):
        merged(randomised(on_eva02(name)))


@pytest.mark.parametrize("name", ["fact_tt", "fact_tk"])
def test_fact_adds_a_slice_to_each_projection_of_the_attention(name: str) -> None:
    method, plain = randomised(on_eva02(name)), Method(eva02()).eval()
    for block, own in zip(plain.backbone.net.blocks, method.backbone.net.blocks, strict=True):
        for part in ("q_proj", "k_proj", "v_proj", "proj"):
            update = getattr(own.attn, part).branch
            core = update.op.core()
            change = update.scale * update.op.v.weight @ core @ update.op.u.weight
            getattr(block.attn, part).weight.data += change.detach()
    plain.backbone.head.load_state_dict(method.backbone.head.state_dict())
    torch.testing.assert_close(method(images()), plain(images()))


# 2 d r + 4 L r^2 and 2 d r + 4 L r + r^3 of FacT
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lora", 294_912),
        ("dora", 313_344),
        ("repadapter", 239_808),
        ("fact_tt", 2 * 768 * 16 + 4 * 12 * 16**2),
        ("fact_tk", 2 * 768 * 32 + 4 * 12 * 32 + 32**3),
    ],
)
def test_its_parameters_on_a_network_of_full_size(name: str, parameters: int) -> None:
    method = full_size_method(name, "eva02_b14")
    assert sum(tensor.numel() for tensor in method.counted_parameters()) == parameters


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_peft_gets_an_update_for_each_projection(name: str, tmp_path: Path) -> None:
    to_peft(randomised(on_eva02(name)), tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    ends = [target.removeprefix("blocks.") for target in written["target_modules"]]
    assert ends == [f"{block}.attn.{part}_proj" for block in "01" for part in "qv"]
    assert written["r"] == 8

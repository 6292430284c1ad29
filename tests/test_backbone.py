"""The backbone against timm's own forward pass, its parts, and what it refuses."""

import copy
import pickle
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from petlbench.config import compose
from petlbench.errors import Unsupported, UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone, create
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.run import build
from petlbench.swap import swap
from petlbench.testing import images, tiny
from petlbench.testing.networks import SIZE, config
from petlbench.train.precision import Precision
from petlbench.train.step import training_step
from tests.helpers import sampled
from tests.shallow import narrow

FAMILIES = ("vit", "swin", "convnext")

# Name, image size, the pooling that timm itself uses there, prefix tokens.
NETWORKS = [
    ("vit_tiny_patch16_224", 32, "cls", 1),
    ("deit_tiny_patch16_224", 48, "cls", 1),
    ("deit3_small_patch16_224", 32, "cls", 1),  # layer scale, class token without position
    ("vit_small_patch14_reg4_dinov2", 28, "cls", 5),  # registers
    ("vit_xsmall_patch16_clip_224", 32, "cls", 1),  # norm before the blocks
    ("vit_wee_patch16_reg1_gap_256", 32, "patch_mean_then_norm", 1),  # a register, no class token
    ("vit_pwee_patch16_reg1_gap_256", 32, "patch_mean_then_norm", 1),  # parallel blocks
    ("vit_mini", 48, "cls", 1),
    ("swin_tiny_patch4_window7_224", 32, "norm_then_mean", 0),
    ("swin_s3_tiny_224", 224, "norm_then_mean", 0),  # another window in each stage
    ("swinv2_tiny_window8_256", 64, "norm_then_mean", 0),
    ("vit_base_patch16_siglip_224", 32, "attention", 0),
    ("vit_small_patch16_dinov3", 32, "norm_then_mean", 5),  # rotary positions, registers
    ("eva02_tiny_patch14_224", 28, "patch_mean_then_norm", 1),  # q, k, v apart, gated MLP
    ("petlbench_dinov3", 16, "norm_then_mean", 3),
    ("convnext_atto", 32, "patch_mean_then_norm", 0),  # convolutions for the MLP
    ("convnext_tiny", 64, "patch_mean_then_norm", 0),
    ("convnextv2_atto", 48, "patch_mean_then_norm", 0),  # response normalisation
    ("petlbench_convnext", 16, "patch_mean_then_norm", 0),
    ("petlbench_vit", 16, "cls", 1),
    ("petlbench_swin", 16, "norm_then_mean", 0),
]


@pytest.mark.parametrize("is_narrow", sampled([True, False], [True]))
@pytest.mark.parametrize(("name", "size", "pool", "prefix"), NETWORKS)
def test_forward_equals_timms_own_to_the_bit(
    name: str, size: int, pool: str, prefix: int, is_narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_narrow:
        monkeypatch.setattr(timm, "create_model", narrow)
    values = config("vit", name=name, pool=pool, drop_path=0.1)
    torch.manual_seed(0)
    backbone = create(values, classes=5, image_size=size)
    batch = torch.randn(2, 3, size, size)
    assert backbone.tokens.prefix == prefix
    with torch.no_grad():
        ours, theirs = Method(backbone).eval()(batch), backbone.net(batch)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_names_are_timms(family: str) -> None:
    backbone = tiny(family, drop_path=0.1)
    fresh = type(backbone.net)
    assert fresh.__module__.startswith("timm.")
    head = "head.weight" if family == "vit" else "head.fc.weight"
    assert head in backbone.net.state_dict()
    assert not [name for name in backbone.state_dict() if not name.startswith("net.")]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_head_is_trainable(family: str) -> None:
    backbone = tiny(family)
    trained = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert trained == {id(p) for p in backbone.head.parameters()}
    assert len(trained) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_head_starts_small_with_zero_bias(family: str) -> None:
    head = tiny(family, classes=2000).head
    assert isinstance(head, nn.Linear)
    assert not head.bias.any()
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_stages_number_the_blocks_from_one() -> None:
    vit, swin, convnext = tiny("vit"), tiny("swin"), tiny("convnext")
    assert [(s.first, len(s.blocks), s.width) for s in vit.stages] == [(1, 12, 32)]
    expected = [(1, 2, 16), (3, 2, 32), (5, 6, 64), (11, 2, 128)]
    for staged in (swin, convnext):
        assert [(s.first, len(s.blocks), s.width) for s in staged.stages] == expected
    assert swin.widths == [16] * 2 + [32] * 2 + [64] * 6 + [128] * 2
    assert vit.depth == swin.depth == 12


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_of_a_copy_are_the_copys_modules(family: str) -> None:
    backbone = tiny(family)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        inside = {id(module) for module in twin.net.modules()}
        blocks = [block for stage in twin.stages for block in stage.blocks]
        assert all(id(getattr(block, "block", block)) in inside for block in blocks)
        assert not inside & {id(module) for module in backbone.net.modules()}


class Doubled(nn.Module):
    """Twice a block, called as the network calls the block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, z: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        return 2 * self.block(z, **others)  # type: ignore[no-any-return]


PLACES = {
    "vit": ("*.blocks.3", 0),
    "swin": ("*.layers.2.blocks.3", 2),
    "dinov3": ("*.blocks.3", 0),
    "convnext": ("*.stages.2.blocks.3", 2),
}


@pytest.mark.parametrize("family", PLACES)
def test_a_swapped_block_reaches_the_walk_and_its_copies(family: str) -> None:
    method = Method(tiny(family)).eval()
    earlier, glob = copy.deepcopy(method), PLACES[family][0]
    with torch.no_grad():
        before = method(images())
        names = list(method.state_dict())
        swap(method.backbone, glob, Doubled)
        after = method(images())
        assert torch.equal(after, method.backbone.net(images()))
        assert not torch.equal(after, before)
        assert torch.equal(copy.deepcopy(method)(images()), after)
        assert torch.equal(earlier(images()), before)
        swap(method.backbone, glob, lambda doubled: doubled.block)
        assert torch.equal(method(images()), before)
    assert list(method.state_dict()) == names


@pytest.mark.parametrize("family", ["vit", "dinov3"])
def test_a_module_set_on_the_network_reaches_the_walk(family: str) -> None:
    method = Method(tiny(family)).eval()
    blocks = method.backbone.net.blocks
    blocks[3] = Doubled(blocks[3])
    with torch.no_grad():
        assert torch.equal(method(images()), method.backbone.net(images()))


@pytest.mark.parametrize("family", PLACES)
def test_an_assigned_block_changes_the_walk_alone_until_the_own_one_is_back(family: str) -> None:
    method = Method(tiny(family)).eval()
    stage = method.backbone.stages[PLACES[family][1]]
    own, enter = stage.blocks[3], stage.enter
    with torch.no_grad():
        before = method(images())
        stage.blocks[3] = lambda z: 2 * own(z)
        stage.enter = lambda z: 3 * enter(z)
        after = method(images())
        assert not torch.equal(after, before)
        assert torch.equal(copy.deepcopy(method)(images()), after)
        assert torch.equal(method.backbone.net(images()), before)
        stage.blocks[3], stage.enter = own, enter
        assert torch.equal(method(images()), before)
        swap(method.backbone, PLACES[family][0], Doubled)
        assert torch.equal(method(images()), method.backbone.net(images()))


@pytest.mark.parametrize("family", FAMILIES)
def test_split_is_the_whole_in_order(family: str) -> None:
    backbone = tiny(family)
    z = backbone.embed(images())
    prefix, patches = backbone.tokens.split(z)
    assert prefix.shape[1] == backbone.tokens.prefix
    assert patches.shape[1] == backbone.tokens.grid[0] * backbone.tokens.grid[1]
    assert torch.equal(torch.cat([prefix, patches], dim=1), z.flatten(1, -2))


@pytest.mark.parametrize("family", FAMILIES)
def test_on_patches_sees_the_map_and_leaves_the_prefix(family: str) -> None:
    backbone = tiny(family)
    z = backbone.embed(images())
    shapes = []

    def shift(patches: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(patches.shape[1:]))
        return patches.roll(1, dims=3)  # one patch to the right

    moved = backbone.tokens.on_patches(shift, z)
    assert moved.shape == z.shape
    assert shapes == [(backbone.widths[0], *backbone.tokens.grid)]
    (prefix, patches), (kept, after) = backbone.tokens.split(z), backbone.tokens.split(moved)
    assert torch.equal(prefix, kept)
    rows = patches.unflatten(1, backbone.tokens.grid).roll(1, dims=2)
    assert torch.equal(after, rows.flatten(1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_poolings(family: str) -> None:
    backbone = tiny(family)
    z = torch.randn(2, 17, 32) if family == "vit" else torch.randn(2, 2, 2, 128)
    _, patches = backbone.tokens.split(z)

    def norm(x: torch.Tensor) -> torch.Tensor:
        own = backbone.norm
        return nn.functional.layer_norm(x, x.shape[-1:], own.weight, own.bias, own.eps)  # type: ignore[arg-type]

    with torch.no_grad():
        backbone.norm.weight.uniform_(0.5, 1.5)  # type: ignore[operator]
        backbone.pool = "patch_mean_then_norm"
        torch.testing.assert_close(backbone.pooled(z), norm(patches.mean(1)))
        backbone.pool = "norm_then_mean"
        torch.testing.assert_close(backbone.pooled(z), norm(patches).mean(1))
        if family == "vit":
            backbone.pool = "cls"
            assert torch.equal(backbone.pooled(z), norm(z)[:, 0])


def paths(backbone: Backbone) -> list[DropPath]:
    return [module for module in backbone.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("family", FAMILIES)
def test_drop_path_grows_linearly_and_is_off_by_default(family: str) -> None:
    assert paths(tiny(family)) == []
    rates = [path.rate for path in paths(tiny(family, drop_path=0.22))]
    branches = range(1 if family == "convnext" else 2)
    assert rates == pytest.approx([0.02 * block for block in range(1, 12) for _ in branches])


def test_masks_are_drawn_at_the_rate_and_branches_scaled() -> None:
    backbone = tiny("vit", drop_path=0.4).train()
    path = paths(backbone)[-1]
    with keep_masks(backbone, 5000, torch.Generator().manual_seed(0)):
        assert path.keep is not None
        assert path.keep.mean().item() == pytest.approx(0.6, abs=0.02)
        out = path(torch.ones(5000, 2, 3))
        assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
        assert torch.equal(out[:, 0, 0] > 0, path.keep.bool())


def test_training_without_masks_is_refused_and_evaluation_needs_none() -> None:
    method = Method(tiny("vit", drop_path=0.4))
    with pytest.raises(RuntimeError, match="run each training step inside `with keep_masks"):
        method.train()(images())
    wrong_size = pytest.raises(RuntimeError, match="no drop-path mask for 2 images")
    with keep_masks(method, 3), wrong_size:
        method(images(2))
    method.eval()(images())


def test_a_checkpointed_block_drops_the_same_branches_and_no_mask_is_left() -> None:
    """The gradients of a training step do not depend on checkpointing, which runs blocks again."""

    def gradient(method: Method) -> torch.Tensor | None:
        optimiser = torch.optim.SGD(method.backbone.net.blocks[0].parameters(), lr=0.0)
        masks = torch.Generator().manual_seed(0)
        fp32 = Precision("fp32", torch.device("cpu"))
        training_step(method, optimiser, fp32, images(), torch.tensor([0, 1, 2]), masks)
        assert all(path.keep is None for path in paths(method.backbone))
        return method.backbone.net.blocks[0].mlp.fc1.weight.grad  # type: ignore[no-any-return]

    method = Method(tiny("vit", drop_path=0.4)).train().requires_grad_(True)
    expected = gradient(method)
    stage = method.backbone.stages[0]
    stage.blocks[:] = [partial(checkpoint, block, use_reentrant=False) for block in stage.blocks]
    assert expected is not None
    torch.testing.assert_close(gradient(method), expected)


def test_the_head_starts_as_configured() -> None:
    bound = tiny("vit").widths[0] ** -0.5
    torch.manual_seed(0)
    small, uniform = (
        [tensor.detach() for tensor in tiny("vit", head_start=how).head.parameters()]
        for how in ("small_normal", "torch")
    )
    assert 0.5 < float(small[0].std()) / 0.02 < 1.5
    assert not small[1].any()
    assert 0.8 * bound < float(uniform[0].abs().max()) <= bound  # as nn.Linear draws them
    assert 0 < float(uniform[1].abs().max()) <= bound
    assert not any(tensor.any() for tensor in tiny("vit", head_start="zeros").head.parameters())


def test_a_head_can_start_as_in_the_code_of_vpt() -> None:
    """Kaiming-normal over the outputs, and a bias at which each sigmoid is 0.01."""
    head = tiny("vit", head_start="kaiming_fan_out", classes=50).head
    weight, bias = (tensor.detach() for tensor in head.parameters())
    assert float(weight.std()) == pytest.approx((2 / 50) ** 0.5, rel=0.1)
    assert float(weight.abs().max()) > 2.5 * (2 / 50) ** 0.5  # no uniform draws
    torch.testing.assert_close(bias.sigmoid(), torch.full((50,), 0.01))


REFUSED = [
    ({"head_start": "zero"}, "unknown backbone.head_start 'zero'"),
    ({"pool": "max"}, "unknown backbone.pool 'max'"),
    ({"name": "petlbench_swin", "pool": "cls"}, "backbone.pool=cls needs a class token"),
    ({"drop_path": 1.0}, "backbone.drop_path is 1.0"),
    ({"drop_path": -0.1}, "backbone.drop_path is -0.1"),
    (
        {"name": "vit_bsae_patch16_224"},
        "unknown backbone.name .* did you mean vit_base_patch16_224",
    ),
    ({"name": "vit_tiny_patch16_224.orig"}, "unknown weights tag of vit_tiny_patch16_224 'orig'"),
    ({"image_size": 2}, "input.size is smaller than a patch"),
    (
        {"name": "convnext_atto", "image_size": 24, "pool": "patch_mean_then_norm"},
        "input.size is 24; this network needs 32 or more",
    ),
    ({"name": "vit_tiny_patch16_224", "image_size": 8}, "input.size is smaller than a patch"),
]


def test_pixels_outside_the_patches_are_refused_but_at_the_usual_size() -> None:
    with pytest.raises(UserError, match=r"18, .* has patches of 4 pixels; set .*=16 or 20$"):
        tiny("vit", image_size=18).check_size()
    odd = tiny("vit", image_size=18)
    odd.net.pretrained_cfg = {"input_size": (3, 18, 18)}  # as of timm's SigLIP at 384 px
    odd.check_size()
    line = "input.size is 50, and vit_mini has patches of 8 pixels; set input.size=48 or 56"
    for method in ("linear", "waveft"):  # one that is tried on shapes, and one that is not
        with pytest.raises(UserError, match=line):
            build.check(compose.single([f"method={method}", "input.size=50"]))


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_wrong_values_are_refused_in_one_line(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny("vit", **changed)
    assert "\n" not in str(caught.value)


FOREIGN = [
    "resnet18",
    "mixer_s32_224",
    "beit_base_patch16_224",
    "deit_tiny_distilled_patch16_224",  # two heads
    "xcit_nano_12_p16_224",  # a class token that joins after the blocks
    "convnext_tiny_hnf",  # its norm is before the pooling
    "hiera_tiny_224",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_unknown_families_are_refused_in_one_line(name: str) -> None:
    with torch.device("meta"), pytest.raises(Unsupported) as caught:
        tiny("vit", name=name, image_size=224, pool="norm_then_mean")
    assert "\n" not in str(caught.value)


def test_a_network_that_does_more_than_its_blocks_is_refused() -> None:
    from petlbench.testing.networks import petlbench_vit

    class Doubled(type(petlbench_vit(num_classes=5, img_size=16, drop_path_rate=0.0))):  # type: ignore[misc]
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward_features(x)  # type: ignore[no-any-return]

    backbone = tiny("vit")
    backbone.net.__class__ = Doubled
    with pytest.raises(Unsupported, match="more than a walk over its blocks"):
        Backbone(backbone.net, config("vit"), image_size=SIZE)

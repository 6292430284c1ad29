"""Methods written out once more, in a few lines, on the pre-trained blocks of a tiny network."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench import registry
from petlbench.errors import Unsupported, UserError
from petlbench.layers import Chosen
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.methods import lst_pruning
from petlbench.methods.quantised import levels, quantise_head
from petlbench.model.backbone import create
from petlbench.model.drop_path import DropPath
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import config
from tests.helpers import Examples, Net, embedded, linear, pair, quick_gelu
from tests.shallow import narrow


def same(method: Method, z: Tensor) -> None:
    """The method's logits are those that z, the last block's output, leads to."""
    head_input = method.backbone.pooled(z)
    torch.testing.assert_close(method(images().double()), method.backbone.head(head_input))


def numbered(net: Net) -> Iterator[tuple[int, Any]]:
    return enumerate(net.blocks)


@pytest.mark.parametrize("name", ["adapter", "adapter_houlsby"])
def test_adapter(name: str) -> None:
    method, net, t = pair(name)

    def adapted(m: Tensor, place: str) -> Tensor:
        if f"{place}.op.down.weight" not in t:
            return m
        return m + linear(quick_gelu(linear(m, t, f"{place}.op.down")), t, f"{place}.op.up")

    z = embedded(net)
    for i, b in numbered(net):
        z = z + adapted(b.attn(b.norm1(z)), f"{i}.after_attention")
        z = z + adapted(b.mlp(b.norm2(z)), f"{i}.after_mlp")
    same(method, z)


def test_adaptformer_without_biases() -> None:
    method, net, t = pair("adaptformer", bias=False, scale=0.7)
    z = embedded(net)
    for i, b in numbered(net):
        y = z + b.attn(b.norm1(z))
        down, up = (t[f"{i}.branch.op.{end}.weight"] for end in ("down", "up"))
        z = y + b.mlp(b.norm2(y)) + 0.7 * (y @ down.T).clamp_min(0) @ up.T
    same(method, z)


@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
def test_a_head_of_one_bit_has_two_values_and_merges(family: str) -> None:
    backbone = tiny(family)
    before = cast(nn.Linear, backbone.head).weight.detach().clone()
    quantise_head(backbone, 1)
    method = Method(backbone).eval()
    mean, std = before.mean(), before.std()
    step = 0.67448975 * std * torch.where(before > mean, 1.0, -1.0)
    rounded = mean + step
    feature = backbone.pooled(method.features(backbone.embed(images())))
    torch.testing.assert_close(method(images()), feature @ rounded.T)
    plain = merged(method)
    assert len(cast(Any, plain).get_classifier().weight.unique()) == 2
    assert not cast(Any, plain).get_classifier().bias.any()
    method(images()).sum().backward()
    assert cast(nn.Linear, backbone.head).weight.grad is not None


def test_bi_adaptformer() -> None:
    method, net, t = pair("bi_adaptformer", scale=0.7)

    def one_bit(weight: Tensor) -> Tensor:
        mean, std = weight.mean(), weight.std()
        quartile = torch.tensor(0.67448975, dtype=torch.float32).double()
        return torch.where(weight > mean, quartile, -quartile) * std + mean

    z = embedded(net)
    for i, b in numbered(net):
        y = z + b.attn(b.norm1(z))
        down, up = (one_bit(t[f"{i}.branch.op.{end}.weight"]) for end in ("down", "up"))
        z = y + b.mlp(b.norm2(y)) + 0.7 * (y @ down.T).clamp_min(0) @ up.T
    same(method, z)


def test_adapter_plus() -> None:
    method, net, t = pair("adapter_plus")
    z = embedded(net)
    for i, b in numbered(net):
        x = b(z)
        hidden = F.gelu(linear(x, t, f"{i}.adapter.down"))
        z = x + t[f"{i}.gamma"] * linear(hidden, t, f"{i}.adapter.up")
    same(method, z)


def test_repadapter() -> None:
    method, net, t = pair("repadapter", scale=0.7)

    def adapted(n: Tensor, place: str) -> Tensor:
        dense = torch.block_diag(*t[f"{place}.up.weight"].chunk(2))
        update: Tensor = linear(n, t, f"{place}.down") @ dense.T + t[f"{place}.up.bias"]
        return n + 0.7 * update

    z = embedded(net)
    for i, b in numbered(net):
        z = z + b.attn(adapted(b.norm1(z), f"{i}.attn.qkv.0.op.op"))
        z = z + b.mlp(adapted(b.norm2(z), f"{i}.mlp.fc1.0.op.op"))
    same(method, z)


def test_dora() -> None:
    method, net, t = pair("dora", scale=0.7)
    for i, b in numbered(net):
        for rows, name in ((slice(0, 32), "query"), (slice(64, 96), "value")):
            place = f"{i}.attn.qkv.{name}"
            weight = b.attn.qkv.weight.data
            low_rank = t[f"{place}.update.up.weight"] @ t[f"{place}.update.down.weight"]
            v = weight[rows] + 0.7 * low_rank
            weight[rows] = t[f"{place}.magnitude"][:, None] * v / v.norm(dim=1, keepdim=True)
    z = embedded(net)
    for _, b in numbered(net):
        z = b(z)
    same(method, z)


def test_dora_holds_the_norm_constant_in_the_gradient() -> None:
    """Along A itself a free norm would cancel part of the gradient; here it does not."""
    method, _, _ = pair("dora")
    layer = method.backbone.net.blocks[0].attn.qkv
    x = torch.randn(4, 32, dtype=torch.float64)
    layer(x).sum().backward()
    query = layer.query
    v = layer.qkv.weight[:32] + query.update.up.weight @ query.update.down.weight
    ratio = (query.magnitude / v.norm(dim=1)).detach()
    expected = ratio[:, None] * (x @ query.update.down.weight.T).sum(0)
    torch.testing.assert_close(query.update.up.weight.grad, expected.detach())


@pytest.mark.parametrize("interleave", [True, False])
def test_fact_tk(interleave: bool) -> None:
    """Every weight with its update added, slice by slice, from loops over the indices."""
    method, net, t = pair("fact_tk", rank=4, scale=0.7, interleave=interleave)
    first = "0.attn.qkv.branch.op"
    u, v = t[f"{first}.u.weight"], t[f"{first}.v.weight"]  # (r, d), (d, r)
    core = torch.einsum("acj,jt->act", t[f"{first}.core.tucker.c"], t[f"{first}.core.tucker.p"])
    order = [(column, quarter) for quarter in range(4) for column in range(4)]
    for i, b in numbered(net):
        slices = core[:, :, 12 * i : 12 * (i + 1)]
        for slot, (layer, rows) in enumerate([(b.attn.qkv, 0), (b.attn.qkv, 1), (b.attn.qkv, 2)]):
            layer.weight.data[32 * rows : 32 * (rows + 1)] += 0.7 * v @ slices[..., slot].T @ u
        b.attn.proj.weight.data += 0.7 * v @ slices[..., 3].T @ u
        for layer, part in ((b.mlp.fc1, slices[..., 4:8]), (b.mlp.fc2, slices[..., 8:12])):
            # wide[a, k]: k runs over the four slices in the order of the code that is followed
            wide = torch.zeros(4, 16, dtype=torch.float64)
            for k, (column, quarter) in enumerate(order):
                source = divmod(k, 4) if interleave else (column, quarter)
                wide[:, k] = part[:, source[0], source[1]]
            for piece in range(4):
                block = wide[:, 4 * piece : 4 * (piece + 1)]  # (r, r)
                if layer is b.mlp.fc1:
                    layer.weight.data[32 * piece : 32 * (piece + 1)] += 0.7 * v @ block.T @ u
                else:
                    layer.weight.data[:, 32 * piece : 32 * (piece + 1)] += 0.7 * v @ block @ u
    z = embedded(net)
    for _, b in numbered(net):
        z = b(z)
    same(method, z)


def test_vpt_deep() -> None:
    method, net, t = pair("vpt_deep", prompts=3)
    z = embedded(net)
    for i, b in numbered(net):
        fresh = t["prompts.1"][i].expand(len(z), -1, -1)
        z = b(torch.cat([z[:, :1], fresh, z[:, 1:]], dim=1))
        z = torch.cat([z[:, :1], z[:, 4:]], dim=1)
    same(method, z)


@pytest.mark.parametrize("name", ["vpt_shallow", "vpt_deep"])
def test_vpt_on_swin_treats_images_alone(name: str) -> None:
    method, _, _ = pair(name, "swin", prompts=3)
    batch = images(4).double()
    together = method(batch)
    torch.testing.assert_close(together, torch.cat([method(image[None]) for image in batch]))


def test_vpt_block_on_swin() -> None:
    """Attention of one shifted block, window by window and head by head."""
    method, net, _ = pair("vpt_shallow", "swin", prompts=3)
    opened, block = method.backbone.stages[0].blocks[1], net.layers[0].blocks[1]
    prompts, patches = torch.randn(2, 3, 16).double(), torch.randn(2, 16, 16, 16).double()
    out = opened(torch.cat([prompts, patches.flatten(1, 2)], dim=1))
    n_prompts, n = block.norm1(prompts), block.norm1(patches).roll((-2, -2), (1, 2))
    after, after_prompts = torch.zeros_like(n), []
    table, index = block.attn.relative_position_bias_table, block.attn.relative_position_index
    for row in range(4):
        for column in range(4):
            place = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            tokens = torch.cat([n_prompts, n[:, *place].flatten(1, 2)], dim=1)
            q, k, v = block.attn.qkv(tokens).chunk(3, dim=-1)
            scores = q @ k.mT / math.sqrt(16)
            scores[:, 3:, 3:] += table[index][..., 0] + block.attn_mask[4 * row + column]
            mixed = block.attn.proj(scores.softmax(-1) @ v)
            after_prompts.append(mixed[:, :3])
            after[:, *place] = mixed[:, 3:].unflatten(1, (4, 4))
    patches = patches + after.roll((2, 2), (1, 2))
    prompts = prompts + torch.stack(after_prompts).mean(0)
    z = torch.cat([prompts, patches.flatten(1, 2)], dim=1)
    torch.testing.assert_close(out, z + block.mlp(block.norm2(z)))


def test_vpt_without_prompts_in_reach_is_the_swin() -> None:
    """Prompts that attention ignores leave the patches as the network has them."""
    method, net, _ = pair("vpt_shallow", "swin", prompts=2)
    with torch.no_grad():
        for stage in method.backbone.stages:
            for block in stage.blocks:
                block.within = masked(block)  # type: ignore[attr-defined]
    z = method.features(method.backbone.embed(images().double()))
    torch.testing.assert_close(
        z[:, 2:], net.layers(net.patch_embed(images().double())).flatten(1, 2)
    )


def masked(block: Any) -> Callable[[Tensor], Tensor]:
    """Attention of patches to patches only, behind as many zeros as there are prompts."""

    def within(windows: Tensor) -> Tensor:
        count = block.prompts
        batch = windows[:, :, count:].flatten(0, 1)
        out = block.block.attn(batch, mask=block.block.attn_mask)
        return F.pad(out.unflatten(0, windows.shape[:2]), (0, 0, count, 0))

    return within


def test_vqt() -> None:
    method, net, t = pair("vqt", queries=2)
    z, parts = embedded(net), []
    for i, b in numbered(net):
        asked = t["queries"][i].expand(len(z), -1, -1)
        both = torch.cat([asked, z], dim=1)
        q, k, v = b.attn.qkv(b.norm1(both)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        weights = (q[:, :, :2] @ k[:, :, 2:].mT / math.sqrt(8)).softmax(-1)
        mixed = b.attn.proj((weights @ v[:, :, 2:]).transpose(1, 2).flatten(2))
        answers = asked + mixed
        parts.append((answers + b.mlp(b.norm2(answers))).flatten(1))
        z = b(z)
    parts = [part / part.norm(dim=1, keepdim=True) for part in (net.norm(z)[:, 0], *parts)]
    logits = method.backbone.head(torch.cat(parts, dim=1))
    torch.testing.assert_close(method(images().double()), logits)


@pytest.mark.parametrize("scale_on_x", [False, True])
@pytest.mark.parametrize("site", ["attn", "mlp"])
def test_sct(site: str, scale_on_x: bool) -> None:
    method, net, t = pair("sct", site=site, scale=0.7, scale_on_x=scale_on_x)
    for module in method.modules():
        if isinstance(module, Chosen):
            module.index.copy_(torch.tensor([1, 5, 7, 30]))

    def tuned(z: Tensor, place: str) -> Tensor:
        z = z.clone()
        kept = z[..., [1, 5, 7, 30]]
        update = linear(kept, t, f"{place}.linear")
        z[..., [1, 5, 7, 30]] = 0.7 * kept + update if scale_on_x else kept + 0.7 * update
        return z

    z = embedded(net)
    for i, b in numbered(net):
        z = z + b.attn(b.norm1(z))
        if site == "attn":
            z = tuned(z, f"{i}.tuning")
        branch = b.mlp(b.norm2(z))
        z = z + (tuned(branch, f"{i}.mlp.fc2.tuning") if site == "mlp" else branch)
    same(method, z)


def test_sct_of_queries_and_values() -> None:
    """A map and channels each, without a scale; the keys stay as they are."""
    method, net, t = pair("sct", site="qkv")
    chosen = {"query": [1, 5, 7, 30], "value": [0, 2, 7, 31]}
    for i, block in enumerate(method.backbone.net.blocks):
        for part, index in chosen.items():
            block.attn.qkv.get_submodule(part).salient.index.copy_(torch.tensor(index))
        weight, bias = net.blocks[i].attn.qkv.weight.data, net.blocks[i].attn.qkv.bias.data
        for part, first in (("query", 0), ("value", 64)):
            rows = [first + channel for channel in chosen[part]]
            square = t[f"{i}.attn.qkv.{part}.linear.weight"]
            bias[rows] += square @ bias[rows] + t[f"{i}.attn.qkv.{part}.linear.bias"]
            weight[rows] += square @ weight[rows]
    z = embedded(net)
    for _, b in numbered(net):
        z = b(z)
    same(method, z)


@pytest.mark.parametrize("scale", [0.5, 2])
def test_sct_of_queries_and_values_refuses_a_scale(scale: float) -> None:
    with pytest.raises(
        UserError, match=rf"site=qkv has no scale, not {scale}; set method.scale=1"
    ):
        tiny_method("sct", "vit", site="qkv", scale=scale)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_sct_chooses_for_the_mlp_from_the_output_of_the_block(family: str) -> None:
    method = tiny_method("sct", family, site="mlp").double().eval()
    batch, labels = images(6).double(), torch.tensor([0, 1, 0, 3, 1, 0])
    method.choose([(batch[:4], labels[:4]), (batch[4:], labels[4:])])  # type: ignore[operator]
    plain = tiny_method("linear", family).double().eval().backbone
    z = plain.embed(batch)
    for stage, own in zip(plain.stages, method.backbone.stages, strict=True):
        z = stage.enter(z)
        for block, tuned in zip(stage.blocks, own.blocks, strict=True):
            z = block(z)
            y = plain.tokens.split(z)[1]
            norms = [y[labels == label].flatten(0, -2).norm(dim=0) for label in (0, 1, 3)]
            best = torch.stack(norms).mean(0).topk(4).indices
            index = cast(Any, tuned).mlp.fc2.tuning.salient.index
            assert index.tolist() == sorted(best.tolist())


def test_sct_chooses_the_channels_with_the_largest_norm_per_class() -> None:
    method, net, _ = pair("sct")
    batch, labels = images(6).double(), torch.tensor([0, 1, 0, 3, 1, 0])
    method.choose([(batch[:4], labels[:4]), (batch[4:], labels[4:])])  # type: ignore[operator]
    z = net.norm_pre(net._pos_embed(net.patch_embed(batch)))
    for i, b in numbered(net):
        y = z + b.attn(b.norm1(z))
        norms = [y[labels == label][:, 1:].flatten(0, 1).norm(dim=0) for label in (0, 1, 3)]
        best = torch.stack(norms).mean(0).topk(4).indices
        assert method.backbone.net.blocks[i].tuning.salient.index.tolist() == sorted(best.tolist())
        z = b(z)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_sct_chooses_channels_of_queries_and_values_each(family: str) -> None:
    method = tiny_method("sct", family, site="qkv").double().eval()
    batch, labels = images(6).double(), torch.tensor([0, 1, 0, 3, 1, 0])
    method.choose([(batch, labels)])  # type: ignore[operator]
    plain = tiny_method("linear", family).double().eval().backbone
    z = plain.embed(batch)
    for stage, own in zip(plain.stages, method.backbone.stages, strict=True):
        z = stage.enter(z)
        for block, tuned in zip(stage.blocks, own.blocks, strict=True):
            b, attn = cast(Any, block), cast(Any, tuned).attn
            y = plain.tokens.split(b.attn.qkv(b.norm1(z)))[1]  # token by token, before windows
            norms = [y[labels == label].flatten(0, 1).norm(dim=0) for label in (0, 1, 3)]
            query, _, value = torch.stack(norms).mean(0).chunk(3)
            for part, scores in (("query", query), ("value", value)):
                index = attn.qkv.get_submodule(part).salient.index
                assert index.tolist() == sorted(scores.topk(4).indices.tolist())
            z = block(z)


def test_mona() -> None:
    method, net, t = pair("mona", hidden=6)

    def layer(z: Tensor, place: str) -> Tensor:
        norm = F.layer_norm(z, (32,), t[f"{place}.norm.weight"], t[f"{place}.norm.bias"], 1e-5)
        hidden = linear(
            t[f"{place}.of_norm"] * norm + t[f"{place}.of_input"] * z, t, f"{place}.down"
        )
        grid = hidden[:, 1:].mT.unflatten(2, (4, 4))
        convolved = sum(
            F.conv2d(
                grid,
                t[f"{place}.convolutions.depthwise.{k}.weight"],
                t[f"{place}.convolutions.depthwise.{k}.bias"],
                padding=k + 1,
                groups=6,
            )
            for k in range(3)
        )
        grid = grid + convolved / 3
        mix = f"{place}.convolutions.mix"
        grid = grid + F.conv2d(grid, t[f"{mix}.weight"], t[f"{mix}.bias"])
        hidden = torch.cat([hidden[:, :1], grid.flatten(2).mT], dim=1)
        return z + linear(F.gelu(hidden), t, f"{place}.up")

    z = embedded(net)
    for i, b in numbered(net):
        z = layer(z + b.attn(b.norm1(z)), f"{i}.after_attention")
        z = layer(z + b.mlp(b.norm2(z)), f"{i}.after_mlp")
    same(method, z)


def test_lst() -> None:
    method, net, t = pair("lst")
    z = embedded(net)
    h, side = linear(z, t, "down.0"), cast(Any, method.side)
    for i, b in numbered(net):
        z = b(z)
        gate = 1 / (1 + torch.exp(-t["gates"][i] / 0.1))
        h = side[i](gate * h + (1 - gate) * linear(z, t, f"down.{i + 1}"))
    h = F.layer_norm(h[:, 0], (4,), t["norm.weight"], t["norm.bias"], 1e-6)
    logits = method.backbone.head(linear(h, t, "up"))
    torch.testing.assert_close(method(images().double()), logits)


def test_convpass_on_swin() -> None:
    method, net, t = pair("convpass", "swin", scale=0.7)

    def bypass(n: Tensor, place: str) -> Tensor:
        hidden = quick_gelu(linear(n, t, f"{place}.down")).permute(0, 3, 1, 2)
        hidden = F.conv2d(hidden, t[f"{place}.conv.weight"], t[f"{place}.conv.bias"], padding=1)
        return 0.7 * linear(quick_gelu(hidden).permute(0, 2, 3, 1), t, f"{place}.up")

    z = net.patch_embed(images().double())
    for s, layer in enumerate(net.layers):
        z = layer.downsample(z)
        for i, b in enumerate(layer.blocks):
            place = f"layers.{s}.blocks.{i}.beside"
            n = b.norm1(z)
            z = z + b._attn(n) + bypass(n, f"{place}.attn.0.op")
            n = b.norm2(z)
            z = z + b.mlp(n) + bypass(n, f"{place}.mlp.0.op")
    same(method, z)


@pytest.mark.parametrize("merge_norm", [False, True])
def test_ssf_on_swin(merge_norm: bool) -> None:
    """Every pair folded by hand into the module before it."""
    method, net, t = pair("ssf", "swin", merge_norm=merge_norm)
    pairs = {name.removesuffix(".1.scale") for name in t if name.endswith(".1.scale")}
    modules = dict(net.named_modules())
    assert len(pairs) == 12 * 6 + 3 + (3 if merge_norm else 0)
    for name in pairs:
        module = modules[name]
        scale, shift = t[f"{name}.1.scale"], t[f"{name}.1.shift"]
        weight = module.weight.data
        module.weight.data = scale.view(-1, *[1] * (weight.ndim - 1)) * weight
        module.bias.data = scale * module.bias.data + shift
    z = net.layers(net.patch_embed(images().double()))
    head_input = net.norm(z).mean((1, 2))
    torch.testing.assert_close(method(images().double()), method.backbone.head(head_input))


# What outputs do not show: where drop path acts, and what is read from the training data


def dropped(name: str, kept: set[str], **values: Any) -> tuple[Method, Tensor, Tensor]:
    """Input and output of an inner block whose drop paths drop all images, but for those named."""
    method = randomised(method_on(tiny("vit", drop_path=0.5), name, **values)).train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for path_name, path in method.named_modules():
        if isinstance(path, DropPath):
            path.keep = torch.full((3,), float(any(part in path_name for part in kept)))
    z = torch.randn(3, 17, 32)
    return method, z, method.backbone.stages[0].blocks[5](z)


def test_a_dropped_branch_takes_its_inner_update_with_it() -> None:
    for name in ("lora", "dora", "bi_lora", "repadapter", "fact_tt", "ssf", "bitfit"):
        _, z, out = dropped(name, kept=set())
        assert torch.equal(out, z), name


def test_the_adapter_stays_behind_a_dropped_branch() -> None:
    """It works on the zeros that drop path leaves, with its biases."""
    method, z, out = dropped("adapter", kept=set())
    adapter = method.backbone.net.blocks[5].after_mlp.op
    hidden = quick_gelu(adapter.down.bias)
    torch.testing.assert_close(out, z + hidden @ adapter.up.weight.T + adapter.up.bias)


def test_adaptformers_branch_is_not_under_drop_path() -> None:
    method, z, out = dropped("adaptformer", kept=set())
    torch.testing.assert_close(out, z + method.backbone.net.blocks[5].branch(z))


def test_convpass_draws_for_branch_and_bypass_apart() -> None:
    _, z, out = dropped("convpass", kept=set())
    assert torch.equal(out, z)
    method, z, out = dropped("convpass", kept={"beside"})
    block = method.backbone.net.blocks[5]
    rate = block.block.drop_path1.rate
    y = z + block.beside["attn"][0](block.norm1(z)) / (1 - rate)
    torch.testing.assert_close(out, y + block.beside["mlp"][0](block.norm2(y)) / (1 - rate))
    paths = [path for path in method.modules() if isinstance(path, DropPath)]
    assert len({id(path) for path in paths}) == 11 * 4  # the first block's rate is 0


def test_adapter_plus_drops_its_adapter_at_one_rate_everywhere() -> None:
    method = tiny_method("adapter_plus", "vit")
    rates = [path.rate for path in method.modules() if isinstance(path, DropPath)]
    assert rates == [0.1] * 12


def test_adapter_plus_draws_for_block_and_adapter_apart() -> None:
    _, z, out = dropped("adapter_plus", kept=set())
    assert torch.equal(out, z)
    method, z, out = dropped("adapter_plus", kept={".5.drop_path"})
    block = method.backbone.net.blocks[5]
    torch.testing.assert_close(out, z + block.gamma * block.adapter(z) / (1 - 0.1))
    method, z, out = dropped("adapter_plus", kept={".block.drop_path"})
    assert torch.equal(out, method.backbone.net.blocks[5].block(z))
    assert not torch.equal(out, z)


def test_vpt_and_vqt_keep_the_backbone_in_eval_mode() -> None:
    for name in ("vpt_deep", "vqt"):
        method = tiny_method(name, "vit").train()
        assert method.training
        assert method.dropout.training  # type: ignore[union-attr]
        assert not any(module.training for module in method.backbone.modules())


def test_levels_of_the_quantiser() -> None:
    assert levels(1).tolist() == torch.tensor([-0.67448975, 0.67448975]).tolist()
    four = levels(2)
    assert torch.equal(four, four.sort().values)
    torch.testing.assert_close(four, -four.flip(0))
    below = torch.special.ndtr((four[:-1] + four[1:]) / 2)
    edges = torch.cat([torch.zeros(1), below, torch.ones(1)])
    torch.testing.assert_close(torch.special.ndtr(four), (edges[:-1] + edges[1:]) / 2)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_those_of_500_rounds_from_zero(bits: int) -> None:
    """As the authors compute them; from 5 bits on the start matters."""
    expected = np.zeros(2**bits)
    for _ in range(500):
        inner = norm.cdf((expected[1:] + expected[:-1]) / 2)
        edges = np.array([0.0, *inner, 1.0])
        expected = norm.ppf((edges[1:] + edges[:-1]) / 2)
    np.testing.assert_allclose(levels(bits).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_quantised_weights_take_two_values() -> None:
    method = randomised(tiny_method("bi_lora", "vit"))
    weight = method.backbone.net.blocks[0].attn.qkv.query.op.down.rounded()
    assert len(weight.unique()) == 2


@pytest.mark.parametrize("prune", ["magnitude", "fisher"])
def test_a_pruned_ladder_starts_with_parts_of_the_network(prune: str) -> None:
    method = tiny_method("lst", "vit", prune=prune)
    frozen = {n: p.clone() for n, p in method.backbone.named_parameters()}
    method.fit(Examples())
    for large, small in zip(method.backbone.net.blocks, method.side, strict=True):  # type: ignore[arg-type]
        assert set(small.mlp.fc1.bias.tolist()) <= set(large.mlp.fc1.bias.tolist())
        assert set(small.attn.qkv.weight.flatten().tolist()) <= set(
            large.attn.qkv.weight.flatten().tolist()
        )
        assert small.attn.qkv.weight.shape == (12, 4)
    assert all(torch.equal(p, frozen[n]) for n, p in method.backbone.named_parameters())
    head = {id(p) for p in method.backbone.head.parameters()}
    assert {id(p) for p in method.backbone.parameters() if p.requires_grad} == head


def test_a_pruned_ladder_keeps_the_rows_that_matter() -> None:
    method = tiny_method("lst", "vit", prune="magnitude")
    net: Any = method.backbone.net
    with torch.no_grad():
        net.patch_embed.proj.weight[[3, 8, 20, 31]] += 100.0
        net.blocks[0].attn.qkv.weight[[2, 5, 6, 9]] *= 100.0  # rows of the query
        net.blocks[0].attn.proj.weight[[0, 1, 2, 3]] += 100.0
    method.fit(Examples())
    small: Any = method.side[0]  # type: ignore[index]
    rows, columns = [2, 5, 6, 9], [3, 8, 20, 31]
    expected = [net.blocks[0].attn.qkv.weight[part * 32 :][rows][:, columns] for part in range(3)]
    assert torch.equal(small.attn.qkv.weight, torch.cat(expected))
    assert torch.equal(small.attn.proj.weight, net.blocks[0].attn.proj.weight[:4][:, rows])


def test_a_pruned_ladder_keeps_rows_by_the_products_of_query_key_and_value() -> None:
    """Products element by element, summed over the columns that are kept; others are decoys."""
    method = tiny_method("lst", "vit", prune="magnitude")
    net: Any = method.backbone.net
    importance = {name: weight.detach().abs() for name, weight in net.named_parameters()}
    importance["patch_embed.proj.weight"][:4] += 100.0  # columns 0 to 3 are kept
    q, k, v = torch.full((3, 32, 32), 1e-6)
    for part in (q, k, v):
        part[[2, 5, 6, 9], 0] = 1.0  # the product of one column: 1, the largest
        part[[1, 7, 8, 30], :4] = 0.1  # of four columns: 0.004, but the largest mean of logarithms
        part[[3, 4, 10, 31], 20] = 100.0  # of a column that is not kept
    for part, column in ((q, 0), (k, 1), (v, 2)):
        part[[0, 11, 12, 13], column] = 1e3  # large sums of each, in different columns
    importance["blocks.0.attn.qkv.weight"] = torch.cat([q, k, v])
    method.start_pruned(importance)  # type: ignore[operator]
    rows = [row + 32 * part for part in range(3) for row in (2, 5, 6, 9)]
    small: Any = method.side[0]  # type: ignore[index]
    assert torch.equal(small.attn.qkv.weight, net.blocks[0].attn.qkv.weight[rows][:, :4])
    assert torch.equal(small.attn.qkv.bias, net.blocks[0].attn.qkv.bias[rows])


def test_fisher_importance_sums_squared_gradients_image_by_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lst_pruning, "MOST_EXAMPLES", 5)
    found = lst_pruning.fisher(
        tiny("vit").double(), ((x.double(), y) for x, y in Examples().examples(1))
    )
    method = Method(tiny("vit").double()).eval()
    net = method.backbone.net.requires_grad_(True)
    matrices = {n: p for n, p in net.named_parameters() if n.endswith("weight") and p.ndim > 1}
    expected = {name: torch.zeros_like(p) for name, p in matrices.items()}
    for image, label in zip(images(8).double()[:5], torch.arange(5), strict=True):
        net.zero_grad()
        (-method(image[None]).log_softmax(1)[0, label]).backward()
        for name, p in matrices.items():
            assert p.grad is not None
            expected[name] += p.grad**2
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_ladder_keeps_the_channels_of_the_embedding(tied: bool) -> None:
    method = tiny_method("lst", "vit", prune="magnitude", tied=tied)
    net: Any = method.backbone.net
    with torch.no_grad():
        net.patch_embed.proj.weight[[3, 8, 20, 31]] += 100.0
        for block in net.blocks:
            block.norm1.weight.copy_(torch.arange(32.0))
            block.norm2.weight.copy_(torch.arange(32.0))
    method.fit(Examples())
    seen = {
        tuple(norm.weight.tolist())
        for block in cast(Any, method).side
        for norm in (block.norm1, block.norm2)
    }
    assert (3.0, 8.0, 20.0, 31.0) in seen
    assert (len(seen) == 1) == tied


def test_a_pruned_ladder_is_refused_where_the_mlp_is_gated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timm, "create_model", narrow)
    with torch.device("meta"):
        giant = config("vit", name="vit_giant_patch14_reg4_dinov2")
        gated = create(giant, classes=5, image_size=28)
        with pytest.raises(Unsupported, match="no pruned start for the gated MLPs"):
            registry.create("lst", gated, prune="magnitude")

"""Hydra, ARC, RLRR, FPET and HST with values that no reference vector has.

Each is written out once more, beside or inside an untouched network; logits and all gradients are
compared.
"""

import math
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.delta import trained
from petlbench.method import Method
from petlbench.methods import fact
from petlbench.methods.fact_factors import Factored, SharedCore, Tucker
from petlbench.testing import method_on, randomised, tiny
from tests.helpers import Net, linear

Leaves = Mapping[str, Tensor]


def paired(
    name: str, family: str, image_size: int = 16, **values: Any
) -> tuple[Method, Net, dict[str, Tensor]]:
    """A randomised method, the network without it and a head, and copies of what it trains."""
    backbone = tiny(family, image_size=image_size)
    method = randomised(method_on(backbone, name, dropout=0.0, **values)).double().eval()
    net: Net = tiny(family, image_size=image_size).double().eval().net
    net.reset_classifier(0)
    return method, net, leaves(method)


def leaves(method: Method) -> dict[str, Tensor]:
    """Copies of the trained tensors by their names in method or network; shared ones are one."""
    copies = {id(p): p.detach().clone().requires_grad_() for p in trained(method).values()}
    named = method.named_parameters(remove_duplicate=False)
    return {short(name): copies[id(p)] for name, p in named if id(p) in copies}


def short(name: str) -> str:
    """Without the network's place, and the wraps around blocks."""
    return name.removeprefix("backbone.net.").replace(".block.", ".")


def batch(size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, size, size, dtype=torch.float64, generator=generator)


def agree(method: Method, images: Tensor, head_input: Tensor, t: Leaves) -> None:
    """Logits and gradients are those that head_input, computed from the copies t, leads to."""
    head = method.backbone.head
    place = next(name for name, module in method.backbone.net.named_modules() if module is head)
    logits, expected = method(images), linear(head_input, t, place)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    own = {short(name): tensor for name, tensor in trained(method).items()}
    # zeros for what is not used: blocks that HST does not read
    gradient = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
    gradients = gradient(logits.square().mean(), list(own.values()))
    others = gradient(expected.square().mean(), [t[name] for name in own])
    for name, one, other in zip(own, gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


def places(net: Net, end: str) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in net.named_modules() if name.endswith(end)]


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize(
    ("site", "end", "branch"),
    [("attn", "attn.proj", "sequential"), ("mlp", "mlp.fc2", "parallel")],
)
def test_hydra_at_one_site_with_one_branch(family: str, site: str, end: str, branch: str) -> None:
    method, net, t = paired("hydra", family, rank=3, scale=4.5, sites=[site], branches=[branch])
    for name, module in places(net, end):

        def added(_: nn.Module, inputs: tuple[Tensor], z: Tensor, at: str = name) -> Tensor:
            u = inputs[0] if branch == "parallel" else z
            down = linear(u, t, f"{at}.branches.{branch}.down")
            return z + 4.5 * linear(down, t, f"{at}.branches.{branch}.up")

        module.register_forward_hook(added)
    agree(method, batch(), net(batch()), t)


@pytest.mark.parametrize(
    ("family", "site", "end"),
    [("vit", "attn", "norm1"), ("vit", "mlp", "norm2"), ("swin", "attn", "norm1")],
)
def test_arc_at_one_site(family: str, site: str, end: str) -> None:
    method, net, t = paired("arc", family, rank=3, sites=[site])
    for name, module in places(net, end):
        place = f"{name.removesuffix(end)}adapters.{site}"

        def added(_: nn.Module, __: object, n: Tensor, at: str = place) -> Tensor:
            return recomposed(n, t, at)

        module.register_forward_hook(added)
    agree(method, batch(), net(batch()), t)


def recomposed(n: Tensor, t: Leaves, place: str) -> Tensor:
    down = t[f"{place}.projection.weight"].T  # D (d, r)
    return n + n @ down @ torch.diag(t[f"{place}.scale"][0]) @ down.T + t[f"{place}.shift"]


def test_arc_before_the_mlp_of_a_swin_acts_on_the_residual_stream() -> None:
    method, net, t = paired("arc", "swin", rank=3, sites=["mlp"])
    z = net.patch_embed(batch())
    for stage, layer in enumerate(net.layers):
        z = layer.downsample(z)
        for index, block in enumerate(layer.blocks):
            y = z + block._attn(block.norm1(z))
            y = recomposed(y, t, f"layers.{stage}.blocks.{index}.adapters.mlp")
            z = y + block.mlp(block.norm2(y))
    agree(method, batch(), net.norm(z).mean((1, 2)), t)


@pytest.mark.parametrize(
    ("family", "sites", "pairs"),
    [
        ("vit", ["attn.v", "attn.q", "mlp.fc2"], ["norm2"]),
        ("vit", ["attn.qkv"], []),
        ("swin", ["attn.k", "downsample.reduction"], ["patch_embed.proj", "norm"]),
    ],
)
def test_rlrr_at_some_sites(family: str, sites: list[str], pairs: list[str]) -> None:
    method, net, t = paired("rlrr", family, sites=sites, pairs=pairs)
    changed: dict[str, Tensor] = {}  # weights and biases
    for site in sites:
        part = "qkv".index(site[-1]) if site in ("attn.q", "attn.k", "attn.v") else None
        for name, module in places(net, site if part is None else "attn.qkv"):
            place, count = f"{name}.parts.{part or 0}", 1 if part is None else 3
            a, g, f = (t[f"{place}.{kind}"] for kind in ("scale_in", "scale_out", "shift"))
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros_like(f))
            weights = list(changed.get(f"{name}.weight", module.weight).chunk(count))
            biases = list(changed.get(f"{name}.bias", module.bias).chunk(count))
            weight = weights[part or 0]
            weights[part or 0] = weight + torch.diag(g[:, 0]) @ weight @ torch.diag(a[0])
            biases[part or 0] = biases[part or 0] + f
            changed |= {f"{name}.weight": torch.cat(weights), f"{name}.bias": torch.cat(biases)}
    for pair in pairs:
        for name, module in places(net, pair):
            if f"{name}.1.scale" in t:
                scale, shift = t[f"{name}.1.scale"], t[f"{name}.1.shift"]
                weight = scale.view(-1, *[1] * (module.weight.ndim - 1)) * module.weight
                changed |= {f"{name}.weight": weight, f"{name}.bias": scale * module.bias + shift}
    agree(method, batch(), torch.func.functional_call(net, changed, batch()), t)


def heads(x: Tensor, count: int) -> Tensor:
    """(B, N, d) -> (B, heads, N, d / heads)"""
    parts: Tensor = x.unflatten(-1, (count, -1))
    return parts.transpose(1, 2)


def mixed(q: Tensor, k: Tensor, v: Tensor, more: Tensor | float = 0.0) -> Tensor:
    """Attention of split q, k and v, with something added to its logits -> (B, N, d)"""
    logits = q @ k.mT / math.sqrt(q.shape[-1]) + more
    out: Tensor = logits.softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


def one_bit(weight: Tensor) -> Tensor:
    mean, std = weight.mean(), weight.std()
    normal = (weight - mean) / (std + 1e-5)
    quartile = torch.tensor(0.67448975, dtype=torch.float32).double()
    step = torch.where(normal > 0, quartile, -quartile) - normal
    return (normal + step.detach()) * std + mean


def bottleneck(x: Tensor, t: Leaves, place: str, least: float = 0.0) -> Tensor:
    """Zero for a layer that is not there. least: 0 for a ReLU."""
    if f"{place}.down.weight" not in t:
        return torch.zeros_like(x)
    down, up = (one_bit(t[f"{place}.{end}.weight"]) for end in ("down", "up"))
    return (x @ down.T).clamp_min(least) @ up.T


@pytest.mark.parametrize(
    ("name", "merge_block"), [("fpet_bi_adaptformer", 1), ("fpet_bi_lora", 7)]
)
def test_fpet_on_an_odd_grid(name: str, merge_block: int) -> None:
    values = {"merge_block": merge_block, "rank": 4, "refine_rank": 3, "scale": 0.7}
    method, net, t = paired(name, "vit", 20, **values)
    # of the 5 x 5 patches behind the class token
    sources = [1, 3, 5, 11, 13, 15, 21, 23, 25, 7, 9, 17, 19]
    targets = [6, 8, 10, 16, 18, 20, 2, 4, 12, 14, 22, 24]
    z = net._pos_embed(net.patch_embed(batch(20)))
    logs: Tensor | float = 0.0
    for i, b in enumerate(net.blocks):
        n = b.norm1(z)
        q, k, v = b.attn.qkv(n).chunk(3, -1)
        q = q + 0.7 * bottleneck(n, t, f"blocks.{i}.attn.qkv.query.op", -torch.inf)
        v = v + 0.7 * bottleneck(n, t, f"blocks.{i}.attn.qkv.value.op", -torch.inf)
        q, k, v = (heads(part, 4) for part in (q, k, v))
        y = z + b.attn.proj(mixed(q, k, v, logs))
        if i == merge_block - 1:
            keys = k.mean(1).detach()
            keys = keys + bottleneck(keys, t, f"blocks.{i}.merging.refinement.op")
            keys = keys / keys.norm(dim=-1, keepdim=True)
            similar = keys[:, sources] @ keys[:, targets].mT
            soft = (similar - similar.topk(2).values.mean(-1, keepdim=True)).sigmoid()
            match = soft + ((soft > 0.5).double() - soft).detach()
            assert torch.equal(match.detach().sum(-1), torch.ones(3, 13).double())
            sizes = 1 + match.sum(1)
            merged = (y[:, targets] + match.mT @ y[:, sources]) / sizes[..., None]
            y = torch.cat([y[:, :1], merged], 1)
            logs = torch.cat([torch.zeros(3, 1), sizes.log()], 1)[:, None, None]
        z = y + b.mlp(b.norm2(y)) + 0.7 * bottleneck(y, t, f"blocks.{i}.branch.op")
    agree(method, batch(20), net.norm(z)[:, 0], t)


@pytest.mark.parametrize("last_of_first", [10, 9])  # then the last block of the ViT is not read
def test_hst_with_unequal_stages(last_of_first: int) -> None:
    backbone = tiny("vit", image_size=32)
    lists = {
        "widths": [6, 8],
        "heads": [3, 2],
        "depths": [1, 2],
        "last_blocks": [last_of_first, 12],
    }
    method = randomised(method_on(backbone, "hst", meta_tokens=2, **lists)).double().eval()
    net, t = tiny("vit", image_size=32).double().eval().net, leaves(method)

    def norm(x: Tensor, place: str, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{place}.weight"], t[f"{place}.bias"], eps)

    def convolved(maps: Tensor, place: str, padding: int) -> Tensor:
        bias = t.get(f"{place}.bias")
        return F.conv2d(maps, t[f"{place}.weight"], bias, stride=2, padding=padding)

    z = net._pos_embed(net.patch_embed(batch(32)))
    outputs = []
    for i, b in enumerate(net.blocks):
        both = torch.cat([t[f"meta.{i}"].expand(3, -1, -1), z], 1)
        of_norm1, of_norm2 = (f"blocks.{i}.norm{number}" for number in (1, 2))
        both = both + b.attn(norm(both, of_norm1, 1e-6))
        both = both + b.mlp(norm(both, of_norm2, 1e-6))
        outputs.append((both[:, :2], both[:, 3:]))
        z = both[:, 2:]
    stem = "side.0.enter"
    maps = convolved(batch(32), f"{stem}.conv1", 1) / math.sqrt(1 + 1e-5)  # statistics 0 and 1
    scale, shift = (t[f"{stem}.bn.{kind}"].view(-1, 1, 1) for kind in ("weight", "bias"))
    maps = convolved((scale * maps + shift).clamp_min(0), f"{stem}.conv2", 0)
    for stage, (count, reads) in enumerate([(3, [0]), (2, [last_of_first, last_of_first + 1])]):
        if stage == 1:
            maps = convolved(maps, "side.1.enter.conv", 1)
        grid = maps.shape[2:]
        h = norm(maps.flatten(2).mT, f"side.{stage}.enter.norm")
        for j, read in enumerate(reads):
            meta, patches = outputs[read]
            place = f"side.{stage}.blocks.{j}"
            on_grid = F.interpolate(patches.mT.unflatten(2, (8, 8)), grid, mode="bilinear")
            f = linear(on_grid.flatten(2).mT, t, f"side.{stage}.bridge")
            meta = norm(linear(meta, t, f"side.{stage}.bridge"), f"side.{stage}.meta_norms.{j}")
            tokens = torch.cat([meta, f.mean(1, keepdim=True)], 1)
            n = norm(h, f"{place}.norm1", 1e-6)
            q = heads(linear(n, t, f"{place}.attn.q"), count)
            k, v = (heads(linear(tokens, t, f"{place}.attn.{one}"), count) for one in "kv")
            h = h + linear(mixed(q, k, v), t, f"{place}.attn.proj") + f
            n = norm(h, f"{place}.norm2", 1e-6)
            h = h + linear(F.gelu(linear(n, t, f"{place}.mlp.fc1")), t, f"{place}.mlp.fc2")
        maps = norm(h, f"side.{stage}.norm", 1e-6).mT.unflatten(2, grid)
    agree(method, batch(32), maps.mean((2, 3)) / math.sqrt(1 + 1e-6), t)


@pytest.mark.parametrize("ratio", [3.0, 5.0])
@pytest.mark.parametrize("interleave", [True, False])
def test_fact_tk_where_the_mlp_is_not_four_times_as_wide(ratio: float, interleave: bool) -> None:
    """P has a column for each slice, and query, key and value alone never interleave."""
    create = partial(timm.create_model, "vit_tiny_patch16_224", embed_dim=24, depth=2, num_heads=2)
    network: Any = create(mlp_ratio=ratio, img_size=32, num_classes=0)
    stage = SimpleNamespace(width=24, blocks=list(network.blocks))
    tuckers: list[Tucker] = []
    backbone: Any = SimpleNamespace(stages=[stage])

    def made(*arguments: int) -> Tucker:
        tuckers.append(Tucker(*arguments))
        return tuckers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fact, "Tucker", made)
        patch.setattr(Method, "__init__", lambda self, backbone: nn.Module.__init__(self))
        fact.FacTTK(backbone, rank=4, scale=1.0, dropout=0.0, interleave=interleave)
    slices = 4 + 2 * int(ratio)
    assert tuckers[0].p.shape == (4, 2 * slices)
    cores = [module for module in network.modules() if isinstance(module, SharedCore)]
    firsts = [core.first for core in cores]
    assert firsts == [0, 3, 4, 4 + int(ratio), *(slices + n for n in (0, 3, 4, 4 + int(ratio)))]
    assert [core.interleave for core in cores][:3] == [False, interleave, interleave]
    for module in network.modules():
        if isinstance(module, Factored):
            nn.init.normal_(module.v.weight)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    gradient = tuckers[0].p.grad
    assert gradient is not None
    assert gradient.ne(0).any(0).all()  # no column is dead

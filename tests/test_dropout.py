"""Where dropout acts: each formula with its masks, against a training step with the same ones.

How often it acts, and on which shapes, is declared by each method in `facts.dropout`.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.testing import images
from tests.helpers import embedded, linear, pair, quick_gelu

Tensors = Mapping[str, Tensor]
SCALE = 0.7


class Masks:
    """Dropout by a mask that is known, another one for each shape; says which shapes it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        ramp = torch.linspace(0.5, 1.5, x[0].numel(), dtype=x.dtype)
        return x * ramp.view(x.shape[1:])


def masked_dropout(monkeypatch: pytest.MonkeyPatch) -> Masks:
    """The masks that every dropout of a positive rate takes in training from here on."""
    masks = Masks()

    def forward(layer: nn.Dropout, x: Tensor) -> Tensor:
        return masks(x) if layer.training and layer.p else x

    monkeypatch.setattr(nn.Dropout, "forward", forward)
    return masks


Change = Callable[[Tensor, Tensor], Tensor]  # input and output of a layer -> the new output


def changing(b: Any, **changes: Change) -> Any:
    """A pre-trained block in which some layers give something else: `attn__qkv` is attn.qkv."""
    for name, change in changes.items():

        def hook(_: Any, inputs: Any, out: Tensor, change: Change = change) -> Tensor:
            return change(inputs[0], out)

        b.get_submodule(name.replace("__", ".")).register_forward_hook(hook)
    return b


def one_bit(t: Tensors) -> Tensors:
    """All matrices with two values, as binary adapters use them."""
    level = torch.tensor(0.67448975).double()
    return {
        name: w.mean() + w.std() * torch.where(w > w.mean(), level, -level)
        for name, w in t.items()
        if w.ndim == 2
    }


# One block: (pre-trained block, the method's tensors in it, input, masks) -> output


def lora(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(x: Tensor, out: Tensor) -> Tensor:
        query, value = (
            linear(drop(linear(x, t, f"attn.qkv.{part}.op.down")), t, f"attn.qkv.{part}.op.up")
            for part in ("query", "value")
        )
        return out + SCALE * torch.cat([query, torch.zeros_like(query), value], dim=-1)

    return changing(b, attn__qkv=change)(z)  # type: ignore[no-any-return]


def shared_lora(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(x: Tensor, out: Tensor) -> Tensor:
        place = "attn.qkv.branch.op.1"
        return out + SCALE * linear(linear(drop(x), t, f"{place}.down"), t, f"{place}.up")

    return changing(b, attn__qkv=change)(z)  # type: ignore[no-any-return]


def dora(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(x: Tensor, out: Tensor) -> Tensor:
        x, parts = drop(x), []
        query, key, value = b.attn.qkv.weight.chunk(3)
        for name, weight in (("query", query), ("value", value)):
            place = f"attn.qkv.{name}"
            low = SCALE * t[f"{place}.update.up.weight"] @ t[f"{place}.update.down.weight"]
            ratio = t[f"{place}.magnitude"] / (weight + low).norm(dim=1)
            parts.append((ratio - 1) * (x @ weight.T) + ratio * (x @ low.T))
        return out + torch.cat([parts[0], 0 * (x @ key.T), parts[1]], dim=-1)

    return changing(b, attn__qkv=change)(z)  # type: ignore[no-any-return]


def tt_core(t: Tensors, place: str, first: int, ins: int, outs: int) -> Tensor:
    return t[f"{place}.core.weight"]


def tk_core(t: Tensors, place: str, first: int, ins: int, outs: int) -> Tensor:
    """Of the sixth block; the four slices of the MLP interleave, as in the authors' code."""
    p = t[f"{place}.core.tucker.p"][:, 60 + first :][:, : max(ins, outs)]
    slices = torch.einsum("acj,jt->act", t[f"{place}.core.tucker.c"], p)
    if outs == 3:
        return torch.cat(slices.unbind(-1), dim=1).T
    return slices.flatten(1) if ins > 1 else slices.flatten(1).T


def fact(core: Callable[..., Tensor], b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(name: str, first: int, ins: int, outs: int) -> Change:
        place = f"{name}.branch.op"

        def changed(x: Tensor, out: Tensor) -> Tensor:
            codes = linear(x.unflatten(-1, (ins, -1)), t, f"{place}.u").flatten(-2)
            codes = drop(codes @ core(t, place, first, ins, outs).T)
            return out + SCALE * linear(codes.unflatten(-1, (outs, -1)), t, f"{place}.v").flatten(
                -2
            )

        return changed

    return changing(  # type: ignore[no-any-return]
        b,
        attn__qkv=change("attn.qkv", 0, 1, 3),
        attn__proj=change("attn.proj", 3, 1, 1),
        mlp__fc1=change("mlp.fc1", 4, 1, 4),
        mlp__fc2=change("mlp.fc2", 8, 4, 1),
    )(z)


def adapter(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(place: str) -> Change:
        def changed(_: Tensor, m: Tensor) -> Tensor:
            hidden = quick_gelu(linear(m, t, f"{place}.op.down"))
            return m + linear(drop(hidden), t, f"{place}.op.up")

        return changed

    return changing(b, attn=change("after_attention"), mlp=change("after_mlp"))(z)  # type: ignore[no-any-return]


def adaptformer(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    y = z + b.attn(b.norm1(z))
    hidden = linear(y, t, "branch.op.down").clamp_min(0)
    return y + b.mlp(b.norm2(y)) + SCALE * linear(drop(hidden), t, "branch.op.up")  # type: ignore[no-any-return]


def convpass(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def bypass(n: Tensor, place: str) -> Tensor:
        hidden = quick_gelu(linear(n, t, f"{place}.down"))
        weight, bias = t[f"{place}.conv.weight"], t[f"{place}.conv.bias"]
        grid = F.conv2d(hidden[:, 1:].mT.unflatten(2, (4, 4)), weight, bias, padding=1)
        pixel = F.conv2d(hidden[:, :1].mT[..., None], weight, bias, padding=1)
        hidden = torch.cat([pixel.flatten(2).mT, grid.flatten(2).mT], dim=1)
        return SCALE * linear(drop(quick_gelu(hidden)), t, f"{place}.up")

    n = b.norm1(z)
    z = z + b.attn(n) + bypass(n, "beside.attn.0.op")
    n = b.norm2(z)
    return z + b.mlp(n) + bypass(n, "beside.mlp.0.op")  # type: ignore[no-any-return]


def repadapter(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def change(name: str) -> Change:
        weight, place = b.get_submodule(name).weight, f"{name}.0.op.op"
        up = torch.block_diag(*t[f"{place}.up.weight"].chunk(2))

        def changed(n: Tensor, out: Tensor) -> Tensor:
            update = drop(linear(n, t, f"{place}.down")) @ up.T + t[f"{place}.up.bias"]
            return out + SCALE * update @ weight.T  # type: ignore[no-any-return]

        return changed

    return changing(b, attn__qkv=change("attn.qkv"), mlp__fc1=change("mlp.fc1"))(z)  # type: ignore[no-any-return]


def mona(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    def layer(z: Tensor, place: str) -> Tensor:
        norm = F.layer_norm(z, (32,), t[f"{place}.norm.weight"], t[f"{place}.norm.bias"])
        mixed = t[f"{place}.of_norm"] * norm + t[f"{place}.of_input"] * z
        hidden = linear(mixed, t, f"{place}.down")
        own = {key.removeprefix(f"{place}.convolutions."): w for key, w in t.items()}
        grid = hidden[:, 1:].mT.unflatten(2, (4, 4))
        filtered = [
            F.conv2d(
                grid,
                own[f"depthwise.{k}.weight"],
                own[f"depthwise.{k}.bias"],
                padding=k + 1,
                groups=6,
            )
            for k in range(3)
        ]
        grid = grid + torch.stack(filtered).mean(0)
        grid = grid + F.conv2d(grid, own["mix.weight"], own["mix.bias"])
        hidden = torch.cat([hidden[:, :1], grid.flatten(2).mT], dim=1)
        return z + linear(drop(F.gelu(hidden)), t, f"{place}.up")

    z = layer(z + b.attn(b.norm1(z)), "after_attention")
    return layer(z + b.mlp(b.norm2(z)), "after_mlp")


def noah_block(b: Any, t: Tensors, z: Tensor, drop: Masks) -> Tensor:
    """LoRA and adapter of a subnet, where it has them."""

    def update(x: Tensor, out: Tensor) -> Tensor:
        return out + drop(x) @ t["block.attn.qkv.down"].T @ t["block.attn.qkv.up"].T

    def adapted(_: Tensor, m: Tensor) -> Tensor:
        hidden = quick_gelu(m @ t["after_mlp.down"].T + t["after_mlp.down_bias"])
        return m + drop(hidden) @ t["after_mlp.up"].T + t["after_mlp.up_bias"]

    changes = {"attn__qkv": (update, "block.attn.qkv.up"), "mlp": (adapted, "after_mlp.up")}
    present = {name: change for name, (change, key) in changes.items() if key in t}
    return changing(b, **present)(z)  # type: ignore[no-any-return]


def rounded(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda b, t, z, drop: formula(b, one_bit(t), z, drop)


BLOCKS: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    ("lora", lora, {"scale": SCALE}),
    ("lora_noah", shared_lora, {"scale": SCALE}),
    ("dora", dora, {"scale": SCALE}),
    ("fact_tt", partial(fact, tt_core), {"scale": SCALE}),
    ("fact_tk", partial(fact, tk_core), {"scale": SCALE}),
    ("adapter_houlsby", adapter, {}),
    ("adaptformer", adaptformer, {"scale": SCALE}),
    ("convpass", convpass, {"scale": SCALE}),
    ("repadapter", repadapter, {"scale": SCALE}),
    ("bi_lora", rounded(lora), {"scale": SCALE}),
    ("bi_adaptformer", rounded(adaptformer), {"scale": SCALE}),
    ("mona", mona, {"hidden": 6}),
    ("noah_subnet", noah_block, {}),
]


@pytest.mark.parametrize(("name", "formula", "values"), BLOCKS)
def test_dropout_in_a_block(
    name: str,
    formula: Callable[..., Tensor],
    values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sixth block alone: the same output, and as many masks of the same shapes."""
    method, net, t = pair(name, **values)
    drawn, written = masked_dropout(monkeypatch), Masks()
    z = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(3)).double()
    out = method.train().backbone.stages[0].blocks[5](z)
    own = {key.removeprefix("5."): tensor for key, tensor in t.items() if key.startswith("5.")}
    torch.testing.assert_close(out, formula(net.blocks[5], own, z, written))
    assert drawn.shapes
    assert sorted(drawn.shapes) == sorted(written.shapes)


# The whole walk: (pre-trained network, tensors, masks) -> input of the head


def prompted(net: Any, t: Tensors, drop: Masks) -> Tensor:
    z, sets = embedded(net), t["prompts.1"]
    for i, b in enumerate(net.blocks):
        if i < len(sets):
            fresh = drop(sets[i].expand(len(z), -1, -1))
            z = torch.cat([z[:, :1], fresh, z[:, -16:]], dim=1)
        z = b(z)
    return net.norm(z)[:, 0]  # type: ignore[no-any-return]


def queried(net: Any, t: Tensors, drop: Masks) -> Tensor:
    z, parts = drop(embedded(net)), []
    for i, b in enumerate(net.blocks):
        asked = drop(t["queries"][i].expand(len(z), -1, -1))
        both = torch.cat([asked, z], dim=1)
        q, k, v = b.attn.qkv(b.norm1(both)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        weights = (q[:, :, :2] @ k[:, :, 2:].mT / math.sqrt(8)).softmax(-1)
        answers = asked + b.attn.proj((weights @ v[:, :, 2:]).transpose(1, 2).flatten(2))
        parts.append((answers + b.mlp(b.norm2(answers))).flatten(1))
        z = b(z)
    parts = [part / part.norm(dim=1, keepdim=True) for part in (net.norm(z)[:, 0], *parts)]
    return torch.cat(parts, dim=1)


def searched(net: Any, t: Tensors, drop: Masks) -> Tensor:
    """Prompts at the end, those of the block before dropped; a block without leaves all as is."""
    z, before = embedded(net), 0
    for i, b in enumerate(net.blocks):
        if f"prompts.{i + 1}.tokens" in t:
            fresh = drop(t[f"prompts.{i + 1}.tokens"].expand(len(z), -1, -1))
            z = torch.cat([z[:, : z.shape[1] - before], fresh], dim=1)
        before = SIZES["prompts"][i]
        own = {key.removeprefix(f"{i}."): w for key, w in t.items() if key.startswith(f"{i}.")}
        z = noah_block(b, own, z, drop)
    return net.norm(z)[:, 0]  # type: ignore[no-any-return]


SIZES = {
    "lora": [3, 0, 2, *[1] * 9],
    "adapter": [0, 4, 2, *[1] * 9],
    "prompts": [2, 0, 3, *[1] * 4, *[0] * 5],
}
WALKS: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    ("vpt_shallow", prompted, {"prompts": 3}),
    ("vpt_deep", prompted, {"prompts": 3}),
    ("vqt", queried, {"queries": 2}),
    ("noah_subnet", searched, SIZES),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "walk", "values"), WALKS)
def test_dropout_of_tokens(
    name: str,
    walk: Callable[..., Tensor],
    values: dict[str, Any],
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, net, t = pair(name, **values)
    drawn, written = masked_dropout(monkeypatch), Masks()
    logits = method.train(training)(images().double())
    expected = walk(net, t, written if training else lambda x: x)
    torch.testing.assert_close(logits, method.backbone.head(expected))
    assert bool(drawn.shapes) == training
    assert sorted(drawn.shapes) == sorted(written.shapes)


def test_images_on_a_swin_share_the_masks_of_all_prompts_but_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the authors' code: a mask of (P, C) for a set, of (B, P, C) for the first one."""
    method, _, _ = pair("vpt_deep", "swin", prompts=3)
    drawn = masked_dropout(monkeypatch)
    method.train()(images(4).double())
    widths = [stage.width for stage in method.backbone.stages for _ in stage.blocks]
    assert drawn.shapes == [(4, 3, widths[0]), *((3, width) for width in widths[1:])]

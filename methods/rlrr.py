"""RLRR: Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach,
https://arxiv.org/abs/2403.19067.

As in zstarN70/RLRR @ 287c772f, whose ViT and Swin differ in their sites.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformer
from torch import Tensor, nn

from petlbench.checks import fraction, subset
from petlbench.errors import Unsupported, UserError
from petlbench.layers import NO_BIAS, product
from petlbench.method import Method, ParameterGroup
from petlbench.methods.ssf import transformed
from petlbench.model.backbone import Backbone
from petlbench.model.folding import folded
from petlbench.swap import swap, swap_qkv

PARTS = ("attn.q", "attn.k", "attn.v")  # equal parts of the rows of a fused projection, in order
SITES = (*PARTS, "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "downsample.reduction")
OF_VIT = tuple(site for site in SITES if site not in ("attn.qkv", "downsample.reduction"))
OF_SWIN = tuple(site for site in SITES if site not in PARTS)
GLOBS = {  # of sites that have another one than the rest
    "mlp.fc1": "*.blocks.*.mlp.fc1*",  # EVA-02 has two, whose outputs it multiplies
    "downsample.reduction": "*.downsample.reduction",
}
PAIRS = ("patch_embed.proj", "norm1", "norm2", "norm")
DROPOUTS = ("attn.proj_drop", "mlp.drop2")  # of the outputs of both branches


class Rescaling(nn.Module):
    """W + diag(g) W diag(a) and b + f: g (out, 1), a (1, in), f (out).

    a and g start He-uniform, with 1 as the fan-in of g, and f at zero.
    """

    units = 1

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.scale_in = nn.Parameter(torch.empty(1, width))  # a
        self.scale_out = nn.Parameter(torch.empty(out, 1))  # g
        self.shift = nn.Parameter(torch.zeros(out))  # f
        for scale in (self.scale_in, self.scale_out):
            nn.init.kaiming_uniform_(scale)

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)"""
        return weight * (1 + self.scale_out * self.scale_in)


class Rescaled(nn.Module):
    """A frozen linear map with its rows, or some of their equal parts, rescaled.

    parts: numbers of the rescaled parts out of `count`. The product of the input with the
    rescaled weight keeps the input alone, while a product with each of W and diag(g) W diag(a)
    would keep an output as well.
    """

    def __init__(self, op: nn.Linear, parts: Sequence[int] = (0,), count: int = 1) -> None:
        super().__init__()
        self.op = op
        self.count = count
        rows = op.out_features // count
        self.parts = nn.ModuleDict({str(part): Rescaling(op.in_features, rows) for part in parts})

    def forward(self, u: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return product(u, self.weight(), self.bias())

    def weight(self) -> Tensor:
        """The rescaled weight, (out, in)"""
        rows = list(self.op.weight.chunk(self.count))
        for part, rescaling in self.parts.items():
            rows[int(part)] = rescaling(rows[int(part)])
        return torch.cat(rows)

    def bias(self) -> Tensor:
        """Bias plus shift, (out); only the shift if the layer has no bias"""
        shifts = list(self.op.weight.new_zeros(self.op.out_features).chunk(self.count))
        for part, rescaling in self.parts.items():
            shifts[int(part)] = cast(Tensor, rescaling.shift)
        shift = torch.cat(shifts)
        return shift if self.op.bias is None else self.op.bias + shift

    def folded(self) -> nn.Module:
        """One linear map. Raises Unsupported if it has a shift and the plain layer no bias."""
        plain, bias = copy.deepcopy(self.op), self.bias().detach()
        plain.weight = nn.Parameter(self.weight().detach())
        if plain.bias is not None:
            plain.bias = nn.Parameter(bias)
        elif bias.any():
            raise Unsupported(NO_BIAS)
        return plain


class RLRR(Method):
    """Linear maps with rescaled rows and columns, and pairs of scale and shift after norms.

    sites: the linear maps, some of SITES; null for those of the authors' code, which are all of a
    block, query, key and value apart in a ViT and fused in a Swin, and a Swin's patch merging.
    pairs: some of PAIRS or none, where a pair is that of SSF; null for those of the authors' code,
    all in a ViT and all but that of the patch embedding in a Swin.
    dropout: rate at the last block, growing linearly from 0, of a dropout on the outputs of both
    branches of each block. The authors' Swin has stochastic depth instead, `backbone.drop_path`.
    Shifts of linear maps and pairs of norms have no weight decay.
    """

    starts_as_pretrained = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        sites: Sequence[str] | None,
        pairs: Sequence[str] | None,
        dropout: float,
    ) -> None:
        super().__init__(backbone)
        is_swin = isinstance(backbone.net, SwinTransformer)
        places = (OF_SWIN if is_swin else OF_VIT) if sites is None else sites
        norms = (PAIRS[1:] if is_swin else PAIRS) if pairs is None else pairs
        _rescale(backbone, subset("method.sites", places, SITES))
        _add_pairs(backbone, subset("method.pairs", norms, PAIRS) if norms else ())
        _drop_branches(backbone, fraction("method.dropout", dropout))

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """The tensors without weight decay."""
        shifts = [m.shift for m in self.modules() if isinstance(m, Rescaling)]
        pairs = [
            tensor
            for name, tensor in self.backbone.net.named_parameters()
            if "norm" in name and tensor.requires_grad
        ]
        return [ParameterGroup([*shifts, *pairs], weight_decay=0.0)]

    def merge(self) -> nn.Module:
        """As usual; the shift after a patch merging, which has no bias, moves into its norm."""
        net = copy.deepcopy(self.backbone.net)
        for module in net.modules():
            if isinstance(module, PatchMerging) and isinstance(module.reduction, Rescaled):
                _shift_before(module.norm, module.reduction)
        return folded(net)


def _rescale(backbone: Backbone, sites: Sequence[str]) -> None:
    chosen = [part for part in PARTS if part in sites]
    if chosen and "attn.qkv" in sites:
        raise UserError(
            f"method.sites is {', '.join(sites)}; name attn.qkv or its parts, not both"
        )
    if chosen:
        numbers = [PARTS.index(part) for part in chosen]
        swap_qkv(
            backbone,
            lambda qkv: Rescaled(qkv, numbers, len(PARTS)),
            {f"{part.removeprefix('attn.')}_proj": Rescaled for part in chosen},
        )
    for site in (site for site in sites if site not in PARTS):
        swap(backbone, GLOBS.get(site, f"*.blocks.*.{site}"), Rescaled)


def _add_pairs(backbone: Backbone, pairs: Sequence[str]) -> None:
    names = dict(backbone.net.named_modules())
    final = next(name for name, module in names.items() if module is backbone.norm)
    globs = {"patch_embed.proj": "*.patch_embed.proj", "norm": f".{final}"}
    for pair in pairs:
        swap(backbone.net, globs.get(pair, f"*.blocks.*.{pair}"), transformed)


def _drop_branches(backbone: Backbone, rate: float) -> None:
    slots = [slot for stage in backbone.stages for slot in stage.blocks.slots]
    for index, slot in enumerate(slots):
        for name, module in slot.own().named_modules():
            if isinstance(module, nn.Dropout) and name.endswith(DROPOUTS):
                module.p = rate * index / max(1, len(slots) - 1)


def _shift_before(norm: nn.Module, reduction: Rescaled) -> None:
    """Write the shift after `reduction` into the bias of the norm in front of it."""
    weight, [rescaling] = reduction.weight().detach().double(), reduction.parts.values()
    shift, bias = cast(Tensor, rescaling.shift), cast(nn.Parameter, norm.bias)
    # Twice as many columns as rows: W d = f has solutions, of which this is the smallest.
    before = torch.linalg.pinv(weight) @ shift.detach().double()
    bias.data += before.to(bias.dtype)
    shift.data.zero_()

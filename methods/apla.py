"""APLA: A Simple Adaptation Method for Vision Transformers, https://arxiv.org/abs/2503.11335.

As in MoeinSorkhei/APLA @ 3f41ec99, whose classifiers are ViTs; a Swin has the same rows here. Its
values and figures for VTAB-1K were not found, so there is no recipe and no published row.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from petlbench.checks import is_whole, whole
from petlbench.errors import UserError
from petlbench.layers import product
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap


class PartlyTrained(nn.Module):
    """W u + b in which some rows of W and entries of b are trained and the others frozen.

    The trained rows (R, in) and their biases (R) are tensors of their own that start as those of
    the layer, so weight decay does not reach the frozen ones. The output is that of the frozen
    layer plus what the change of the rows adds, which is zero at the start.
    """

    index: Tensor  # (R)

    def __init__(self, op: nn.Linear, index: Tensor) -> None:
        super().__init__()
        self.op = op
        self.register_buffer("index", index)  # persistent, so that a delta stores it
        self.rows = nn.Linear(op.in_features, len(index), bias=op.bias is not None)
        self.rows.load_state_dict({name: t[index] for name, t in op.state_dict().items()})

    def forward(self, u: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        weight = self.rows.weight - self.op.weight[self.index]
        bias = None if self.op.bias is None else self.rows.bias - self.op.bias[self.index]
        change = product(u, weight, bias)  # (..., R)
        return self.op(u).index_add(-1, self.index, change)  # type: ignore[no-any-return]

    def folded(self) -> nn.Module:
        """The layer with the trained rows in their places."""
        plain = copy.deepcopy(self.op)
        for name, tensor in plain.named_parameters():
            tensor.data[self.index] = self.rows.get_parameter(name).data
        return plain


class APLA(Method):
    """Fine-tuning of some output features of each attention's output projection.

    rows_per_block: their number R; null for all rows. rows: for each block a list of R row
    numbers, from 0, and of any length where R is null; null: drawn uniformly, for each block
    separately. The delta stores them.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        rows_per_block: int | None,
        rows: Sequence[Sequence[int]] | None,
    ) -> None:
        super().__init__(backbone)
        given = None if rows is None else iter(_checked(rows, backbone.depth))

        def partly(op: nn.Linear) -> nn.Module:
            count, width = rows_per_block, op.out_features
            if count is not None:
                end = "the width of the network there"
                whole("method.rows_per_block", count, low=1, high=width, of=end)
            if given is None:
                return PartlyTrained(op, torch.randperm(width)[:count])
            return PartlyTrained(op, torch.tensor(_numbers(next(given), count, width)))

        swap(backbone, "*.blocks.*.attn.proj", partly)


def _checked(rows: Iterable[object], depth: int) -> list[object]:
    """The lists of all blocks, one each."""
    lists = list(rows) if isinstance(rows, Sequence) and not isinstance(rows, str) else []
    if len(lists) != depth:
        raise UserError(
            f"method.rows is {rows}; it must be null or {depth} lists, one for a block"
        )
    return lists


def _numbers(rows: object, count: int | None, width: int) -> list[int]:
    """The row numbers of a block, all different; `count` of them, or one or more."""
    numbers = list(rows) if isinstance(rows, Sequence) and not isinstance(rows, str) else []
    known = {number for number in numbers if is_whole(number) and 0 <= number < width}
    if not 0 < len(numbers) == len(known) or len(numbers) != (count or len(numbers)):
        amount = "" if count is None else f"{count} "
        raise UserError(
            f"method.rows has {rows} for a block; it must be a list of {amount}different whole "
            f"numbers from 0 to {width - 1}"
        )
    return numbers

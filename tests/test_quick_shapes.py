"""Shapes on the meta device without torch's decompositions: equal to those with them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.config import compose
from petlbench.errors import Unsupported
from petlbench.model.quick_shapes import QUICK, QuickShapes
from petlbench.run import build

empty = partial(torch.empty, device="meta")
Q = empty(2, 3, 5, 8)
SPLIT = empty(2, 5, 3, 8).transpose(1, 2)  # as a fused projection gives it
WORK: dict[str, Callable[[], Tensor]] = {
    "gelu": lambda: F.gelu(empty(2, 3), approximate="tanh"),
    "gelu of a transpose": lambda: F.gelu(empty(2, 3).mT),
    "layer_norm": lambda: F.layer_norm(empty(2, 3, 4), (4,), empty(4), empty(4), 1e-6),
    "layer_norm of two": lambda: F.layer_norm(empty(2, 3, 4), (3, 4)),
    "layer_norm of another width": lambda: F.layer_norm(empty(2, 4), (5,), empty(5)),
    "linear": lambda: F.linear(empty(2, 3, 4), empty(6, 4), empty(6)),
    "linear by names": lambda: F.linear(input=empty(2, 4), weight=empty(6, 4), bias=empty(6)),
    "linear of another width": lambda: F.linear(empty(2, 3), empty(6, 4), empty(6)),
    "linear with another bias": lambda: F.linear(empty(2, 4), empty(6, 4), empty(5)),
    "attention": lambda: F.scaled_dot_product_attention(Q, Q, Q, dropout_p=0.1),
    "attention of splits": lambda: F.scaled_dot_product_attention(SPLIT, SPLIT, SPLIT),
    "attention of others": lambda: F.scaled_dot_product_attention(
        Q, empty(2, 3, 7, 8), empty(2, 3, 7, 9)
    ),
    "attention of another width": lambda: F.scaled_dot_product_attention(
        Q, empty(2, 3, 7, 9), empty(2, 3, 7, 9)
    ),
    "sum": lambda: empty(2, 1, 3) + empty(4, 1),
    "sum of other shapes": lambda: empty(2, 3) + empty(4),
    "sum of types": lambda: empty(2, 3) + empty(2, 3, dtype=torch.long),
    "product": lambda: empty(2, 3, dtype=torch.long) * 2.5,
    "draw": lambda: nn.init.normal_(empty(2, 3)),
    "draw of a layer": lambda: nn.Linear(2, 3, device="meta").weight,
    "blocks": lambda: torch.block_diag(empty(2, 3), empty(4, 4)),
    "blocks of a row": lambda: torch.block_diag(empty(3), empty(4, 4)),
    "permutation": lambda: torch.randperm(5, generator=torch.Generator()),
}


def outcome(work: Callable[[], Tensor]) -> Any:
    """Shape, strides, type and place of a result, or its error."""
    try:
        result = work()
    except Exception as error:
        return type(error), str(error)
    return result.shape, result.stride(), result.dtype, result.device


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_quick_shape_is_that_of_torch(work: Callable[[], Tensor]) -> None:
    expected = outcome(work)
    with QuickShapes():
        assert outcome(work) == expected


def test_a_permutation_has_each_number_once() -> None:
    with QuickShapes():
        assert sorted(torch.randperm(5).tolist()) == [0, 1, 2, 3, 4]


def test_a_refusal_is_in_the_words_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose.single(["method=lora", "backbone=convnext_b", "dataset=vtab/cifar"])
    with pytest.raises(Unsupported) as own:
        build._try(config)
    with pytest.raises(Unsupported) as quick:
        build.check(config)
    assert str(quick.value) == str(own.value)

    def refuse(*tensors: Any, **named: Any) -> None:
        raise TypeError("a fast form met what it does not know")

    monkeypatch.setitem(QUICK, F.linear, refuse)
    build.check(compose.single(["method=lora", "backbone=vit_mini", "dataset=mini/digits"]))

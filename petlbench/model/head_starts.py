"""How a classification head starts: `backbone.head_start`."""

import math
from collections.abc import Callable

from torch import nn


def _small_normal(head: nn.Linear) -> None:
    """Weights from N(0, 0.02^2), truncated, and zero bias: the heads of DTL's and NOAH's code."""
    # torch's bounds are the values +-2, so this is in effect a normal.
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)


def _kaiming_fan_out(head: nn.Linear) -> None:
    """Weights from N(0, 2 / classes), bias -log 99: the heads of VPT's and VQT's code.

    With this bias the sigmoid of each logit is 0.01.
    """
    nn.init.kaiming_normal_(head.weight, mode="fan_out")
    nn.init.constant_(head.bias, -math.log(99))


def _zeros(head: nn.Linear) -> None:
    """Zero weights and bias: the heads of ARC's and RLRR's code."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


HEAD_STARTS: dict[str, Callable[[nn.Linear], None]] = {
    "small_normal": _small_normal,
    "torch": nn.Linear.reset_parameters,
    "kaiming_fan_out": _kaiming_fan_out,
    "zeros": _zeros,
}

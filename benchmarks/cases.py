"""What is compared: a row of the page each, and the bars that it must reach.

A new switch of `train` is a row more: Case("DTL, train.x=true", "dtl", DTL, ("train.x=true",)).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.textbook import DTL, DTLPlus, Full, Linear, LoRA

Form = Callable[[Any], Linear]  # a timm network -> a textbook form


@dataclass(frozen=True)
class Case:
    """A method of petlbench beside a textbook form.

    method: of conf/method. overrides: of its configuration. bars: figure -> the highest ratio of
    petlbench to the textbook form: `seconds` of a step, `kept` bytes for backward.
    """

    name: str
    method: str
    textbook: Form
    overrides: tuple[str, ...] = ()
    bars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Count:
    """A figure of petlbench alone, counted on shapes, and the highest that it may be."""

    name: str
    method: str
    bar: float
    batch: int = 32
    overrides: tuple[str, ...] = ()


CASES = (
    Case("Full", "full", Full),
    Case("Linear", "linear", Linear),
    Case("LoRA", "lora", LoRA),
    Case("DTL", "dtl", DTL, bars={"kept": 0.76}),
    Case("DTL, both with fused attention", "dtl", partial(DTL, fused=True)),
    Case("DTL+", "dtl_plus", DTLPlus, bars={"kept": 0.76}),
)
# GiB of the peak of a step on a GPU in 16 bits
FORECASTS = (
    Count("Full", "full", 2.9),
    Count("LoRA", "lora", 1.8),
    Count("DTL", "dtl", 1.0),
    Count("DTL+", "dtl_plus", 1.0),
)
# MB (1e6 bytes) that a step in fp32 keeps for backward
KEPT = (
    # 0.92 of the 642.7 MB before lean layers, which were counted with the default pooling
    Count("LoRA", "lora", 591.3, batch=8, overrides=("backbone.pool=norm_then_mean",)),
)

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
class ModeCase:
    """A method whose steps in memory mode min may take `bar` times as long as those in fast."""

    name: str
    method: str
    bar: float = 1.35


@dataclass(frozen=True)
class Count:
    """A figure of petlbench alone, counted on shapes, and the highest that it may be."""

    name: str
    method: str
    bar: float
    batch: int = 32
    overrides: tuple[str, ...] = ()


# A case states its switches: the others compare whole steps in the default memory mode.
REPLAYED = ("train.prefix_cache=auto",)
MIN = ("train.memory=min",)
CASES = (
    Case("Full", "full", Full),
    Case("Full, memory=min", "full", Full, MIN, {"seconds": 1.35}),
    Case("Linear", "linear", Linear),
    # the textbook step is a forward pass and the backward pass of the head
    Case("Linear, replayed", "linear", Linear, REPLAYED, {"seconds": 0.03}),
    Case("LoRA", "lora", LoRA),
    Case("LoRA, memory=min", "lora", LoRA, MIN, {"seconds": 1.35}),
    Case("DTL", "dtl", DTL, bars={"kept": 0.76}),
    Case("DTL, both with fused attention", "dtl", partial(DTL, fused=True)),
    Case("DTL, replayed", "dtl", DTL, REPLAYED, {"seconds": 0.62}),
    Case("DTL, memory=min", "dtl", DTL, MIN, {"seconds": 1.35}),
    Case("DTL+", "dtl_plus", DTLPlus, bars={"kept": 0.76}),
    Case("DTL+, replayed", "dtl_plus", DTLPlus, REPLAYED, {"seconds": 0.64}),
)
# modes of petlbench alone: without what its fast mode gains on the textbook form
MODES = (
    ModeCase("Full, min beside fast", "full"),
    ModeCase("LoRA, min beside fast", "lora"),
    ModeCase("DTL, min beside fast", "dtl"),
)
# GiB of the peak of a step on a GPU in 16 bits
FORECASTS = (
    Count("Full", "full", 2.9),
    Count("LoRA", "lora", 1.8),
    Count("DTL", "dtl", 1.0),
    Count("DTL+", "dtl_plus", 1.0),
    Count("DTL, memory=min", "dtl", 0.5, overrides=MIN),
)
# MB (1e6 bytes) that a step in fp32 keeps for backward
KEPT = (
    # 0.92 of the 642.7 MB before lean layers, which were counted with the default pooling
    Count("LoRA", "lora", 591.3, batch=8, overrides=("backbone.pool=norm_then_mean",)),
    Count("DTL, memory=min", "dtl", 300, overrides=MIN),
    Count("LoRA, memory=min", "lora", 320, overrides=MIN),
    Count("Full, memory=min", "full", 350, overrides=MIN),
)

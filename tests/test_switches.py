"""All switches of speed and memory together: every combination trains the same network.

Replay, memory modes, lean layers and precision, through the real training loop.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from petlbench.config.nodes import MEMORY_MODES
from petlbench.layers.lean import OURS, PLAIN, plain
from petlbench.testing import tiny_method
from tests.helpers import sampled, supported_pairs
from tests.loops import noise_trainer, outcome
from tests.settings import train

CPU = torch.device("cpu")
IMAGES, BATCH = 10, 4  # the last batch of an epoch has two images; batch norms need two
# A side network, swapped projections, trained norms, and the head alone.
FAST = [(name, "vit", "fp32") for name in ("dtl_plus", "lora", "ln_tune", "linear")]
PAIRS = supported_pairs("vit", "swin")
# Some gradients of its side blocks cancel to 1e-9 and have no digit in bf16: with another order of
# sums they are further apart than each is from fp32.
NOT_TRIED = ("hst", "vit", "bf16")
ALL = [
    (*pair, precision)
    for pair in PAIRS
    for precision in ("fp32", "bf16")
    if (*pair, precision) != NOT_TRIED
]
OFF: dict[str, Any] = {"layers": "torch's", "prefix_cache": "off", "memory": "fast"}
ON: dict[str, Any] = {"layers": "ours", "prefix_cache": "auto", "memory": "min"}
Trained = tuple[list[float], dict[str, Tensor]]

# Rounding in another order, relative to the largest number of a tensor. test_lean.py and
# test_norm.py compare in float64; here a nearly cancelling sum, such as the gradient of a bias
# that starts at zero, loses some of its seven digits in fp32. In bf16 a gradient is rounded to 8
# binary digits, and layers that round a sum once or twice differ in the last ones.
TOLERANCES = {"fp32": 1e-4, "bf16": 2**-7}


pytestmark = pytest.mark.usefixtures("empty_store")


def trained(
    name: str, family: str, layers: str, dtype: torch.dtype = torch.float32, **switches: Any
) -> tuple[Trained, bool]:
    """Losses of the epochs and trained tensors, and whether outputs were replayed."""
    method = tiny_method(name, family).to(dtype)
    if dtype != torch.float32:  # of the images
        method.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    if layers == "torch's":
        plain(method)
    kinds = {type(module) for module in method.modules()}
    assert not kinds & set(PLAIN if layers == "torch's" else OURS)
    # SGD: a step of Adam has the size of the learning rate also where a gradient is rounding.
    values = train(optimizer="sgd", batch_size=BATCH, drop_last=False, **switches)
    losses, tensors, is_replayed = outcome(noise_trainer(IMAGES, train=values), method)
    return (losses, tensors), is_replayed


def assert_close(
    ours: Trained, theirs: Trained, within: float, exact: Callable[[], Trained] | None = None
) -> None:
    """exact: trains the same with more digits, which tells how much rounding changes theirs.

    A nearly cancelling sum of rounded numbers has few digits in both, and the gradient of a key's
    bias, which is zero, has none.
    """
    assert ours[0] == pytest.approx(theirs[0], rel=within)
    assert ours[1].keys() == theirs[1].keys()
    bounds = {name: within * float(value.abs().max()) for name, value in theirs[1].items()}
    far = [name for name, bound in bounds.items() if distance(ours, theirs, name) > bound]
    digits = exact() if exact and far else theirs
    for name in far:
        bound = bounds[name] + 2 * distance(theirs, digits, name)
        assert theirs[1][name].is_floating_point(), name
        assert distance(ours, theirs, name) <= bound, name


def distance(ours: Trained, theirs: Trained, name: str) -> float:
    return float((ours[1][name].double() - theirs[1][name].double()).abs().max())


def with_more_digits(name: str, family: str, precision: str) -> Callable[[], Trained]:
    """The same training without a switch: in fp32 for one in bf16, in float64 for one in fp32."""
    dtype = torch.float64 if precision == "fp32" else torch.float32
    return lambda: trained(name, family, dtype=dtype, precision="fp32", **OFF)[0]


@pytest.mark.parametrize(("name", "family", "precision"), sampled(ALL, FAST))
def test_everything_on_trains_the_same(name: str, family: str, precision: str) -> None:
    expected, _ = trained(name, family, precision=precision, **OFF)
    found, is_replayed = trained(name, family, precision=precision, **ON)
    assert_close(found, expected, TOLERANCES[precision], with_more_digits(name, family, precision))
    assert is_replayed or name not in ("linear", "dtl_plus")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "precision"), ALL)
def test_all_combinations_train_the_same(name: str, family: str, precision: str) -> None:
    expected, _ = trained(name, family, precision=precision, **OFF)
    exact = with_more_digits(name, family, precision)
    for layers, memory in product(("torch's", "ours"), MEMORY_MODES):
        switches: dict[str, Any] = {"layers": layers, "memory": memory, "precision": precision}
        plainly, _ = trained(name, family, prefix_cache="off", **switches)
        replayed, _ = trained(name, family, prefix_cache="auto", **switches)
        assert_close(plainly, expected, TOLERANCES[precision], exact)
        assert_close(replayed, plainly, 0.0)

"""All switches of speed and memory together: every combination trains the same network.

Replay, memory modes, lean layers and precision, through the real training loop.
"""

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
ALL = [(*pair, precision) for pair in PAIRS for precision in ("fp32", "bf16")]
OFF = {"layers": "torch's", "prefix_cache": "off", "memory": "fast"}
ON = {"layers": "ours", "prefix_cache": "auto", "memory": "min"}
Trained = tuple[list[float], dict[str, Tensor]]

# Rounding in another order, relative to the largest number of a tensor. test_lean.py and
# test_norm.py compare in float64; here a nearly cancelling sum, such as the gradient of a bias
# that starts at zero, loses some of its seven digits in fp32. In bf16 a gradient is rounded to 8
# binary digits, and layers that round a sum once or twice differ in the last ones.
TOLERANCES = {"fp32": 1e-4, "bf16": 2**-7}


pytestmark = pytest.mark.usefixtures("empty_store")


def trained(name: str, family: str, layers: str, **switches: Any) -> tuple[Trained, bool]:
    """Losses of the epochs and trained tensors, and whether outputs were replayed."""
    method = tiny_method(name, family)
    if layers == "torch's":
        plain(method)
    kinds = {type(module) for module in method.modules()}
    assert not kinds & set(PLAIN if layers == "torch's" else OURS)
    # SGD: a step of Adam has the size of the learning rate also where a gradient is rounding.
    values = train(optimizer="sgd", batch_size=BATCH, drop_last=False, **switches)
    losses, tensors, is_replayed = outcome(noise_trainer(IMAGES, train=values), method)
    return (losses, tensors), is_replayed


def assert_close(
    ours: Trained, theirs: Trained, within: float, exact: Trained | None = None
) -> None:
    """exact: the same training in fp32. Ours may differ by as much as rounding does theirs.

    A nearly cancelling sum of rounded numbers has few digits in both.
    """
    assert ours[0] == pytest.approx(theirs[0], rel=within)
    assert ours[1].keys() == theirs[1].keys()
    for name, value in theirs[1].items():
        bound = within * float(value.abs().max()) if value.is_floating_point() else 0.0
        bound += 2 * float((value - exact[1][name]).abs().max()) if exact and bound else 0.0
        torch.testing.assert_close(ours[1][name], value, rtol=0.0, atol=bound, msg=name)


def in_fp32(name: str, family: str, precision: str) -> Trained | None:
    """The same training without a switch and without rounding; None if that is the one."""
    return None if precision == "fp32" else trained(name, family, precision="fp32", **OFF)[0]


@pytest.mark.parametrize(("name", "family", "precision"), sampled(ALL, FAST))
def test_everything_on_trains_the_same(name: str, family: str, precision: str) -> None:
    expected, _ = trained(name, family, precision=precision, **OFF)
    found, is_replayed = trained(name, family, precision=precision, **ON)
    assert_close(found, expected, TOLERANCES[precision], in_fp32(name, family, precision))
    assert is_replayed or name not in ("linear", "dtl_plus")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "precision"), ALL)
def test_all_combinations_train_the_same(name: str, family: str, precision: str) -> None:
    expected, _ = trained(name, family, precision=precision, **OFF)
    exact = in_fp32(name, family, precision)
    for layers, memory in product(("torch's", "ours"), MEMORY_MODES):
        switches = {"layers": layers, "memory": memory, "precision": precision}
        plainly, _ = trained(name, family, prefix_cache="off", **switches)
        replayed, _ = trained(name, family, prefix_cache="auto", **switches)
        assert_close(plainly, expected, TOLERANCES[precision], exact)
        assert_close(replayed, plainly, 0.0)

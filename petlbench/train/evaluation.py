"""How many images a pass without gradients takes: on a GPU as many as its memory allows."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from petlbench import gpu_memory
from petlbench.train.live_bytes import LiveBytes
from petlbench.train.precision import Precision

USUAL = 250  # images; also where memory is not predicted
MOST = 4 * USUAL  # the pixels of two batches wait in pinned memory
SHARE = 0.25  # of a GPU's free memory; what lives between two evaluations may grow
# Passes on shapes take longer than a small test, and a search scores one network a thousand times.
_BATCHES: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def batch_size(network: nn.Module, precision: Precision, size: int) -> int:
    """The `fitting_batch` of a network, found once: for its first test."""
    if network not in _BATCHES:
        _BATCHES[network] = fitting_batch(network, precision, size)
    return _BATCHES[network]


def fitting_batch(part: Callable[[Tensor], object], precision: Precision, size: int) -> int:
    """Images of a batch for a part of a network in eval mode, on the device of `precision`.

    size: side of the images in pixels. USUAL on a CPU, and for a part that does not run on
    shapes alone.
    """
    if precision.device.type != "cuda":
        return USUAL
    try:
        usual, twice = (forward_bytes(part, precision, size, k * USUAL) for k in (1, 2))
        return fitting(usual, twice, SHARE * gpu_memory.available(precision.device))
    except Exception:  # whatever the method's own code raises
        return USUAL


def fitting(usual: float, twice: float, room: float) -> int:
    """The largest of ..., USUAL / 2, USUAL, 2 USUAL, ..., MOST images that fit into `room` bytes.

    usual, twice: bytes of USUAL images and of twice as many. At least one image. Not any number,
    so that free memory that differs a little changes no rounding.
    """
    image, number = (twice - usual) / USUAL, MOST
    while number > 1 and usual + (number - USUAL) * image > room:
        number //= 2
    return number


def forward_bytes(
    part: Callable[[Tensor], object], precision: Precision, size: int, number: int
) -> int:
    """The peak of a forward pass without gradients, from shapes: images (number, 3, size, size).

    Weights are not counted, but for 16-bit copies of them.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.no_grad(), precision.autocast(), LiveBytes() as live:
        # this batch, and the next one that is read meanwhile
        batches = [torch.empty(number, 3, size, size, device=precision.device) for _ in range(2)]
        part(batches[0])
    return int(live.peak)

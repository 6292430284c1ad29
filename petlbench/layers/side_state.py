"""The side state of DTL as codes: it is computed where it is used, and again in backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from petlbench.layers.kept import is_recorded
from petlbench.layers.modules import LowRank


class SideState:
    """h = sum_j P_j C_j^T of the updates so far, with codes P_j (..., r) and C_j (out, r).

    The codes are small beside h (..., out), which backward does not keep. An object does not
    change: `plus` returns another one.
    """

    def __init__(self, codes: tuple[Tensor, ...] = (), ups: tuple[Tensor, ...] = ()) -> None:
        self.codes = codes
        self.ups = ups

    def plus(self, update: LowRank, z: Tensor) -> "SideState":
        """The state with the update of z (..., width) added."""
        return SideState((*self.codes, update.codes(z)), (*self.ups, update.up.weight))

    def through(self, theta: Callable[[Tensor], Tensor]) -> Tensor:
        """theta(h), of which backward computes h and what theta keeps again.

        theta: (..., out) -> the same shape, without random draws. The state has an update.
        """
        terms = len(self.codes)

        def injected(*factors: Tensor) -> Tensor:
            # One product with the r columns of all updates, and no sum of tensors as large as h.
            codes, ups = torch.cat(factors[:terms], dim=-1), torch.cat(factors[terms:], dim=1)
            return theta(F.linear(codes, ups))

        return called_again(injected, *self.codes, *self.ups)


def called_again(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """function(*tensors), of which backward keeps the tensors alone and calls it again.

    function: without random draws.
    """
    if not is_recorded():
        return function(*tensors)
    return checkpoint(
        function,
        *tensors,
        use_reentrant=False,
        preserve_rng_state=False,
        determinism_check="none",  # what is computed again has no other way to go
    )

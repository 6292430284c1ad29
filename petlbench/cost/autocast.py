"""The rules of CUDA's autocast on the CPU.

The CPU's own autocast leaves some operations in 16 bits that a GPU computes in fp32.

https://docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast to float32".
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

# The part of that list which backbones and methods call on 16-bit tensors.
IN_FP32 = {
    functional.layer_norm,
    functional.softmax,
    torch.layer_norm,
    torch.softmax,
    torch.sum,
    Tensor.softmax,
    Tensor.sum,
}


class CudaRules(TorchFunctionMode):
    """Under CPU autocast, computes in fp32 the functions that CUDA's autocast computes in fp32.

    The 16-bit input and the fp32 output then both take memory, as on a GPU.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hook of torch, called for every function of torch."""
        if func is Tensor.backward:
            return self._backward(*args, **(kwargs or {}))
        if func not in IN_FP32 or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        wide_args, wide_kwargs = tree_map_only(Tensor, _wide, (args, dict(kwargs or {})))
        # Without this the CPU's autocast may cast back to 16 bits.
        with torch.autocast("cpu", enabled=False):
            return func(*wide_args, **wide_kwargs)

    def _backward(self, loss: Tensor, **defaults: Any) -> None:
        """Tensor.backward of a loss, which may compute parts of the forward pass again.

        Torch turns a mode off inside its hook, and torch.autograd.backward would be hooked too.
        """
        if any(defaults.values()):
            raise NotImplementedError("CudaRules supports loss.backward() without arguments only")
        with self:
            _engine_run_backward(
                (loss,),
                (torch.ones_like(loss),),
                False,  # no graph is kept
                False,  # nor created
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor

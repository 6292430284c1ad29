"""Number formats of training: fp32, or 16-bit autocast over fp32 master weights."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from petlbench.errors import UserError

FORMATS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast and, for fp16, loss scaling; `auto` takes the best format of the device."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = _best(device) if name == "auto" else name
        if self.name == "fp16" and device.type != "cuda":
            raise UserError("train.precision=fp16 needs a GPU; on CPU choose fp32 or bf16")
        self.device = device
        # A disabled scaler passes all calls through. bf16 has the range of fp32 and needs none.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        kind = FORMATS[self.name]
        return nullcontext() if kind is None else torch.autocast(self.device.type, dtype=kind)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled with fp16."""
        self.scaler.scale(loss).backward()

    def step(self, optimiser: torch.optim.Optimizer, clip_grad: float | None) -> None:
        """One update; with fp16, a step with overflowing gradients is skipped.

        clip_grad: the largest norm of all gradients together; None for any.
        """
        if clip_grad is not None:
            self.scaler.unscale_(optimiser)
            tensors = [tensor for group in optimiser.param_groups for tensor in group["params"]]
            nn.utils.clip_grad_norm_(tensors, clip_grad)
        self.scaler.step(optimiser)
        self.scaler.update()


def _best(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):  # the question is of the current one
        is_supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if is_supported else "fp16"  # older GPUs only emulate bf16

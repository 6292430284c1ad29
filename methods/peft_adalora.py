"""AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning,
https://arxiv.org/abs/2303.10512, as PEFT has it.

PEFT leaves the schedule to the training loop and computes the regulariser for the models of
transformers alone; both are here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from petlbench.checks import fraction, whole
from petlbench.errors import UserError
from petlbench.method import Step
from petlbench.methods.peft_tuner import ADAPTER, PEFTTuner
from petlbench.model.backbone import Backbone

IGNORED = ("init_lora_weights", "use_rslora", "lora_bias")  # of LoRA's values, which PEFT inherits


class AdaLoRA(PEFTTuner):
    """Updates P Lambda Q, eq. 3, of which a schedule sets the least important values to zero.

    P (out, r) and Q (r, in) are B and A in PEFT, the diagonal of Lambda is E. In the first part
    `warm_up` of the steps all values stay; then their number falls with the cube of the time,
    eq. 12, to target_r for each layer, where it stays for the last part `tail`.

    The values at zero are in the delta. What a training goes on from, the averages of eq. 9 and 10
    and the values that are kept, is part of its saved state, and not of the delta.
    """

    given: Mapping[str, Any] = {"total_step": 1}  # until the first step tells

    def __init__(
        self,
        backbone: Backbone,
        *,
        tuner: str,
        targets: Sequence[str],
        init_r: int,
        target_r: int,
        warm_up: float,
        tail: float,
        **values: Any,
    ) -> None:
        for key in IGNORED:
            if key in values:
                raise UserError(f"method.{key} has no effect on AdaLoRA in PEFT; leave it out")
        whole("method.init_r", init_r, low=2)
        whole("method.target_r", target_r, low=1, high=init_r - 1, of="below init_r")
        whole("method.deltaT", values.get("deltaT", 1), low=1)
        for key in ("beta1", "beta2"):
            fraction(f"method.{key}", values.get(key, 0.0))
        self._parts = fraction("method.warm_up", warm_up), fraction("method.tail", tail)
        if sum(self._parts) >= 1:
            raise UserError(
                f"method.warm_up is {warm_up} and method.tail {tail}; their sum must be below 1"
            )
        super().__init__(
            backbone, tuner=tuner, targets=targets, init_r=init_r, target_r=target_r, **values
        )
        for layer in self.layers():  # PEFT makes it trainable as it moves a layer to meta
            layer.ranknum.requires_grad_(False)

    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Gamma times the mean distance of P^T P and Q Q^T from the identity, eq. 4, a scalar.

        As in PEFT it is the Frobenius norm without the square.
        """
        distances = []
        with torch.autocast(logits.device.type, enabled=False):  # 1e-2 is lost beside 1 in bf16
            for layer in self.layers():
                for rows in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T):  # (r, in), (r, out)
                    gram = rows @ rows.T  # (r, r)
                    distances.append((gram - torch.eye(*gram.shape, device=gram.device)).norm())
        return self._config.orth_reg_weight * torch.stack(distances).mean()  # type: ignore[no-any-return]

    def before_step(self, step: Step) -> None:
        """Give PEFT the schedule in steps. Raises UserError if no step is left to lower ranks."""
        config, (warm_up, tail) = self._config, self._parts
        config.total_step = step.total
        # PEFT reaches target_r at the first step of the last part, so this has one at least
        config.tinit, config.tfinal = int(warm_up * step.total), max(1, int(tail * step.total))
        if config.tinit + config.tfinal >= step.total:
            raise UserError(
                f"{step.total} training steps with method.warm_up={warm_up:g} and "
                f"method.tail={tail:g} leave none in which ranks fall; set a larger train.epochs "
                "or a smaller train.batch_size"
            )

    def after_step(self, step: Step) -> None:
        """Update the importance of the values, and set the least important ones to zero."""
        gradients = [tensor.grad for tensor in self.parameters() if tensor.grad is not None]
        # A step that overflows in fp16, if only in the head, must not count: the gradients that
        # are finite are still multiplied by the scale of the loss. One wait for the GPU.
        if torch.stack([gradient.isfinite().all() for gradient in gradients]).all():
            self.tuner.update_and_allocate(step.number)
        elif self.tuner.rankallocator.ipt:
            with _kept_averages(self.tuner.rankallocator):
                self.tuner.update_and_allocate(step.number)

    def get_extra_state(self) -> dict[str, Any]:
        """Hook of torch: what a training that goes on needs beside the tensors."""
        allocator = self.tuner.rankallocator
        averages = {name: getattr(allocator, name) for name in ("exp_avg_ipt", "exp_avg_unc")}
        return averages | {"ipt": allocator.ipt, "rank_pattern": self._config.rank_pattern}

    def set_extra_state(self, state: Any) -> None:
        """Hook of torch: the counterpart of `get_extra_state`."""
        self._config.rank_pattern = state["rank_pattern"]
        place = self.backbone.head.weight.device
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            averages = {key: tensor.to(place) for key, tensor in state[name].items()}
            setattr(self.tuner.rankallocator, name, averages)

    @property
    def _config(self) -> Any:
        return self.tuner.peft_config[ADAPTER]


@contextmanager
def _kept_averages(allocator: Any) -> Iterator[None]:
    """Let PEFT allocate by the averages of earlier steps alone."""
    allocator.update_ipt = lambda model: None
    try:
        yield
    finally:
        del allocator.update_ipt  # the class has it

"""Frozen parts of a network that run once for a common input, and as one batch for others."""

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.model.stage import Block
from petlbench.multitask.sharing import Shell


class Once:
    """A frozen part, called under torch.vmap with one lane per task.

    For an input that all tasks share the output is computed once and kept until `forget`, also
    for other branches. Inputs that differ run as one batch of T B images.
    """

    def __init__(self, part: Block) -> None:
        self.part = part
        self.is_common = False  # of the last input
        # Input and output by the id of the input, which is kept so that no other gets its id.
        self._outputs: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B, ...) in each lane"""
        if id(z) in self._outputs:
            return self._outputs[id(z)][1]
        self.is_common = False
        # torch calls `forward` for an input without lanes, else `vmap`
        output: Tensor = _OneBatch.apply(z, self)
        if self.is_common:
            self._outputs[id(z)] = (z, output)
        return output

    def forget(self) -> None:
        """Drop the outputs, before the next images."""
        self._outputs.clear()


class _OneBatch(torch.autograd.Function):
    """once.part, with the lanes of vmap as one batch."""

    @staticmethod
    def forward(z: Tensor, once: Once) -> Tensor:
        """An input without lanes: (B, ...) -> (B, ...)"""
        once.is_common = True
        return once.part(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Required by torch.func; saves nothing, since there is no backward."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], z: Tensor, once: Once) -> tuple[Tensor, int]:
        """An input with T lanes: (T, B, ...) -> (T, B, ...)"""
        lanes = z.movedim(in_dims[0], 0)
        return once.part(lanes.flatten(0, 1)).unflatten(0, lanes.shape[:2]), 0


def run_once(shell: Shell, parts: dict[bytes, Once]) -> None:
    """Replace the frozen parts of a shell by a `Once`, the same one as for equal parts in `parts`.

    A part is the embedding, a block or the entry of a stage; one with learned tensors stays.
    """
    backbone = shell.method.backbone

    def once(part: Block, content: object, excluded: Container[int] = ()) -> Block:
        fingerprint = shell.fingerprint(content, excluded)
        if fingerprint is None or fingerprint.has_holes:
            return part
        return parts.setdefault(fingerprint.content, Once(part))

    inner = [part for stage in backbone.stages for part in (stage.enter, *stage.blocks)]
    others = [part for part in (*inner, backbone.norm) if isinstance(part, nn.Module)]
    excluded = {id(module) for part in others for module in part.modules()}
    # a family refers to the whole network, of which only what precedes the blocks is the embedding
    embedding = (type(backbone).embed, backbone.family)
    backbone.embed = once(backbone.embed, embedding, excluded)  # type: ignore[method-assign,assignment]
    for stage in backbone.stages:
        stage.enter = once(stage.enter, stage.enter)
        stage.blocks[:] = [once(block, block) for block in stage.blocks]

"""Frozen parts of a network that answer a common input once, and all others as one batch."""

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.model.stage import Block
from petlbench.multitask.sharing import Shell


class Once:
    """A frozen part, called under torch.vmap with one lane a task.

    An input that is the same tensor for all tasks is answered once, until `forget`, also for the
    methods of another make that bring it. Inputs that differ go through as one batch of T B.
    """

    def __init__(self, part: Block) -> None:
        self.part = part
        self.is_common = False  # of the last input
        self._answers: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # inputs are kept, so ids are not reused

    def __call__(self, z: Tensor) -> Tensor:
        if id(z) in self._answers:
            return self._answers[id(z)][1]
        self.is_common = False
        answer: Tensor = _OneBatch.apply(z, self)
        if self.is_common:
            self._answers[id(z)] = (z, answer)
        return answer

    def forget(self) -> None:
        """Drop the answers, for the next images."""
        self._answers.clear()


class _OneBatch(torch.autograd.Function):
    """once.part, with the lanes of vmap laid one behind the other."""

    @staticmethod
    def forward(z: Tensor, once: Once) -> Tensor:
        """For an input without lanes."""
        once.is_common = True
        return once.part(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there is no backward."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], z: Tensor, once: Once) -> tuple[Tensor, int]:
        """For an input with T lanes: (T, B, ...) -> (T, B, ...)"""
        lanes = z.movedim(in_dims[0], 0)
        return once.part(lanes.flatten(0, 1)).unflatten(0, lanes.shape[:2]), 0


def answer_once(shell: Shell, answers: dict[bytes, Once]) -> None:
    """Let the frozen parts of a shell answer once, together with equal ones in `answers`.

    Parts are the embedding and what lies in the stages; those that hold learned tensors stay as
    they are.
    """
    backbone = shell.method.backbone

    def answering(part: Block, seen_as: object, apart: Container[int] = ()) -> Block:
        found = shell.fingerprint(seen_as, apart)
        if found is None or found.has_holes:
            return part
        return answers.setdefault(found.content, Once(part))

    inner = [part for stage in backbone.stages for part in (stage.enter, *stage.blocks)]
    elsewhere = [part for part in (*inner, backbone.norm) if isinstance(part, nn.Module)]
    apart = {id(module) for part in elsewhere for module in part.modules()}
    embedding = (type(backbone).embed, backbone.family)
    backbone.embed = answering(backbone.embed, embedding, apart)  # type: ignore[method-assign,assignment]
    for stage in backbone.stages:
        stage.enter = answering(stage.enter, stage.enter)
        stage.blocks[:] = [answering(block, block) for block in stage.blocks]

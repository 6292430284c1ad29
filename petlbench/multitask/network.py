"""Multi-task inference: one network and T deltas; what the tasks share runs once.

As in the section on advantages of DTL, https://arxiv.org/abs/2312.07856: blocks with the same
input for all tasks run once, and after them the tasks run as one batch. Methods declare nothing
for this. `torch.vmap` over the learned tensors computes once what does not depend on them, and
frozen blocks take the inputs of the tasks as one batch.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from petlbench import delta, registry
from petlbench.delta import delta_tensors
from petlbench.errors import Unsupported, UserError, first_line
from petlbench.method import Method, frozen_prefix
from petlbench.model.backbone import Backbone
from petlbench.multitask.once import Once, run_once
from petlbench.multitask.sharing import Pool, Shell, twin


class MultiTask(nn.Module):
    """The methods of several tasks as one network, with the outputs of each method alone.

    Equal frozen tensors are stored once. The methods are copied: later training does not reach
    this network. Methods of one kind (the same method and hyper-parameters) run as one batch, the
    kinds one after another, and frozen blocks with a common input once for all. The network is for
    inference: it stays in eval mode and saves nothing for backward.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """methods: by task.

        Raises UserError if their backbones differ, Unsupported if they cannot run as one batch.
        """
        super().__init__()
        _check_backbones(methods)
        self.tasks = tuple(methods)
        pool, parts = Pool(), dict[bytes, Once]()
        shells = {task: Shell(method, pool) for task, method in methods.items()}
        kinds: dict[object, list[str]] = {}
        for task, shell in shells.items():
            kinds.setdefault(shell.kind(), []).append(task)
        self.branches = nn.ModuleList()
        for tasks in kinds.values():
            first = methods[tasks[0]]
            # one for all: methods of a kind differ in nothing but learned tensors
            _check_readout(tasks[0], first)
            # only this shell of a kind runs; the others give their tensors to its stacks
            run_once(shells[tasks[0]], parts)
            places = [self.tasks.index(task) for task in tasks]
            self.branches.append(
                Branches([shells[task] for task in tasks], places, frozen_prefix(first))
            )
        self.heads = nn.ModuleList(_head(method) for method in methods.values())
        self._parts = list(parts.values())
        self.eval()
        self._check_batch(next(iter(methods.values())).backbone.example())

    @classmethod
    def load(cls, backbone: Backbone, deltas: Mapping[str, str | Path]) -> Self:
        """The network of deltas (paths by task) on a backbone with its weights loaded.

        Raises UserError if a delta cannot be read or belongs to another backbone.
        """
        return cls({task: restored(backbone, Path(path)) for task, path in deltas.items()})

    @property
    def shared_blocks(self) -> int:
        """Number of leading blocks that run once for all tasks."""
        columns = zip(*(branches.blocks for branches in self._kinds()), strict=True)
        # `run_once` puts one object in the place of equal blocks
        same = len(list(takewhile(lambda blocks: len(set(map(id, blocks))) == 1, columns)))
        return min(same, *(branches.prefix for branches in self._kinds()))

    @property
    def blocks(self) -> int:
        """Number of blocks of the backbone."""
        return len(self._kinds()[0].blocks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits of each task (B, its classes)"""
        return self._logits(images, None)

    def apart(self, images: Tensor) -> dict[str, Tensor]:
        """Other images for each task, (T, B, 3, H, W) -> logits of each task (B, its classes)

        One batch of T B images runs through all blocks. The order is that of `tasks`.
        """
        return self._logits(images, 0)

    def _check_batch(self, image: Tensor) -> None:
        """Refuse methods whose operations `torch.vmap` cannot run for several tasks at once."""
        try:
            self(image)
        except RuntimeError as error:
            raise Unsupported(
                f"these methods cannot run as one batch of tasks ({first_line(error)}); run each "
                "one alone"
            ) from error

    @torch.no_grad()
    def _logits(self, images: Tensor, lanes: int | None) -> dict[str, Tensor]:
        features: dict[int, Tensor] = {}  # by place of the task: (B, C)
        try:
            for branches in self._kinds():
                own = images if lanes is None else images[branches.places]
                features |= zip(branches.places, branches(own, lanes), strict=True)
        finally:
            # the same tensor may come again with other values
            for once in self._parts:
                once.forget()
        heads = zip(self.tasks, self.heads, strict=True)
        return {task: head(features[place]) for place, (task, head) in enumerate(heads)}

    def _kinds(self) -> list["Branches"]:
        return list(self.branches)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> Self:
        """The network stays in eval mode."""
        return super().train(False)


class Branches(nn.Module):
    """Methods of one kind: one shell, and their learned tensors as stacks of T.

    places: positions of their tasks among all. prefix: leading blocks with a constant output.
    """

    def __init__(self, shells: Sequence[Shell], places: list[int], prefix: int) -> None:
        super().__init__()
        first = shells[0]
        self.places = places
        self.prefix = prefix
        self.shell = first.method
        self.names = first.places
        self.stacked = nn.ParameterList(
            nn.Parameter(
                torch.stack([shell.learned[name].detach() for shell in shells]),
                requires_grad=False,
            )
            # each once, though modules may share it
            for name in dict.fromkeys(self.names.values())
        )
        # vmap needs an input with lanes even if only the head was trained.
        self.lane: Tensor
        self.register_buffer("lane", torch.arange(len(shells)), persistent=False)

    @property
    def blocks(self) -> list[Any]:
        """The blocks of the backbone, or what replaces them."""
        return [block for stage in self.shell.backbone.stages for block in stage.blocks]

    def forward(self, images: Tensor, lanes: int | None) -> Tensor:
        """(B, 3, H, W), or (T, B, 3, H, W) with `lanes` 0 -> inputs of the heads (T, B, C)"""
        names = list(dict.fromkeys(self.names.values()))

        def branch(_: Tensor, own: list[Tensor], images: Tensor) -> Tensor:
            tensors = dict(zip(names, own, strict=True))
            filled = {place: tensors[name] for place, name in self.names.items()}
            # tie_weights would restore the tensors of shared modules in a wrong order
            return functional_call(self.shell, filled, (images,), tie_weights=False)  # type: ignore[no-any-return]

        with warnings.catch_warnings():
            # Some attention on CPU has no batching rule and runs task by task, with equal results.
            warnings.filterwarnings("ignore", "There is a performance drop")
            return torch.vmap(branch, in_dims=(0, 0, lanes))(self.lane, list(self.stacked), images)


def restored(backbone: Backbone, path: Path) -> Method:
    """The method of a delta, on the frozen tensors of `backbone`.

    Raises UserError if the delta cannot be read or belongs to another backbone.
    """
    spec = delta.method_spec(path, backbone)
    with delta.building(path):
        method = _apart(registry.adapt(twin(backbone, spec.classes), spec.target), backbone)
    delta.load(path, method)
    return method


def on_shared(backbone: Backbone, name: str, values: Mapping[str, Any], *, classes: int) -> Method:
    """A method by name that shares the frozen tensors of `backbone`; the backbone is unchanged."""
    return _apart(registry.create(name, twin(backbone, classes), **values), backbone)


def _apart(method: Method, backbone: Backbone) -> Method:
    """The method in eval mode on the device of `backbone`, with learned tensors of its own."""
    method.to(next(backbone.parameters()))
    for tensor in delta_tensors(method).values():
        tensor.data = tensor.data.clone()  # training or loading them must not change the backbone
    return method.eval()


def _check_backbones(methods: Mapping[str, Method]) -> None:
    if not methods:
        raise UserError("multi-task inference needs at least one task and its delta")
    backbones = {task: _described(method.backbone) for task, method in methods.items()}
    first, *others = backbones
    for task in others:
        if backbones[task] != backbones[first]:
            raise UserError(
                f"task '{task}' has the backbone {backbones[task]}, task '{first}' has "
                f"{backbones[first]}; multi-task inference needs one backbone"
            )


def _described(backbone: Backbone) -> str:
    """Name, weights and images of a backbone."""
    weights = backbone.checkpoint["sha256"]
    return (
        f"{backbone.tag} (weights {weights[:12] if weights else 'random'}, {backbone.image_size} "
        f"px, mean {backbone.mean}, std {backbone.std})"
    )


@torch.no_grad()
def _check_readout(task: str, method: Method) -> None:
    """Refuse a method whose logits are not the output of its head; heads run separately here."""
    returned: list[Tensor] = []
    # torch calls it with module, inputs and output
    hook = method.backbone.head.register_forward_hook(lambda *call: returned.append(call[-1]))
    training = method.training
    try:
        logits = method.eval()(method.backbone.example())
    finally:
        hook.remove()
        method.train(training)
    if not returned or logits is not returned[-1]:
        raise Unsupported(
            f"task '{task}' cannot join multi-task inference: {type(method).__name__} changes the "
            "output of its head, and heads may differ in size; run its method alone"
        )


def _head(method: Method) -> nn.Module:
    return copy.deepcopy(method.backbone.head).requires_grad_(False)

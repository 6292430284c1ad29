"""A training of a method, epoch by epoch, which can be saved between two of them."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from petlbench.config.nodes import Train
from petlbench.data.feed import Feed
from petlbench.data.task import Score, Split
from petlbench.delta import delta_tensors
from petlbench.errors import UserError
from petlbench.layers.quantised import QuantisedLinear
from petlbench.method import Method, Step
from petlbench.progress import EpochProgress
from petlbench.train.forward import TrainingForward
from petlbench.train.hooks import StepHook
from petlbench.train.objective import Objective
from petlbench.train.optim import build_optimiser, schedule_time, set_rates
from petlbench.train.precision import Precision
from petlbench.train.random_states import plain_numpy
from petlbench.train.replay import Training, replay
from petlbench.train.step import Batch, accumulated_step
from petlbench.train.unfinished import Spent

EXTRA = "_extra_state"  # how torch names what Module.get_extra_state returns
State = dict[str, Any]


class Diverged(ArithmeticError):
    """A training loss, a trained tensor or a logit is not a finite number."""


@dataclass
class Epoch:
    """One epoch: mean training loss, last learning rate, scores of the select splits."""

    number: int
    loss: float
    lr: float
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Means:
    """What all phases of a run share.

    title: for the progress. feed: brings images to the device. classes: of the task. seed: of the
    order of images, drop path and mixing. spent: counts the images.
    """

    title: str
    feed: Feed
    precision: Precision
    classes: int
    seed: int
    spent: Spent


class Phase:
    """A training of a method on a split, by the values of `train`.

    name: of what is saved of it. epoch: the last one that is done. prefix_cache: what is replayed;
    None before the first step, and if nothing is. was_short: whether an earlier start computed
    the class token of the last block alone.
    """

    def __init__(
        self,
        means: Means,
        name: str,
        method: Method,
        split: Split,
        train: Train,
        before_step: StepHook,
    ) -> None:
        self.means = means
        self.name = name
        self.method = method.to(means.feed.device)
        self.split = split
        self.train = train
        self.before_step = before_step
        self.epoch = 0
        self.steps = _steps(train, len(split))
        if not self.steps:
            raise _without_step(train, len(split))
        self.optimiser = build_optimiser(method, train)
        self.forward = TrainingForward(method, train, before_step)
        self.objective = Objective.of(train, classes=means.classes, seed=means.seed)
        # Of drop path alone: its draws do not depend on other draws, or on an earlier phase.
        self.masks = torch.Generator().manual_seed(means.seed)
        self.prefix_cache: dict[str, Any] | None = None
        self.was_short = False

    @property
    def is_short(self) -> bool:
        """Whether the last block has computed the class token alone, in any start."""
        return self.was_short or self.forward.is_short

    @property
    def is_done(self) -> bool:
        """Whether no epoch is left."""
        return self.epoch == self.train.epochs

    @property
    def place(self) -> str:
        """How far it is, in words."""
        return f"epoch {self.epoch} of {self.train.epochs}"

    def epochs(self) -> Iterator[Epoch]:
        """Train the epochs that are left; the caller handles a result between two of them."""
        drawn = self.epoch * min(len(self.split), self.steps * self.train.step_images)
        stream = self.means.feed.training(self.split, self._order(), drawn)
        replayed = None if self.is_done else replay(self._training())
        if replayed is not None:
            self.prefix_cache = replayed.note
            stream = replayed.batches(stream, self._order())
        with (
            EpochProgress(self.means.title, self.train.epochs, self.epoch) as shown,
            self._compiler(),
        ):
            while not self.is_done:
                self.method.train()  # scoring between epochs leaves eval mode
                number = self.epoch + 1
                with nullcontext() if replayed is None else replayed.installed():
                    losses = [self._step(number, index, stream) for index in range(self.steps)]
                loss = _mean_loss(losses, number)
                self.epoch = number
                yield Epoch(number, loss, float(self.optimiser.param_groups[0]["lr"]))
                shown.advance(f"loss {loss:.3f}")

    def state(self) -> State:
        """All that the epochs left depend on, except the generators of the process."""
        return {
            "epoch": self.epoch,
            "tensors": changing(self.method),
            "extra": _extra(self.method),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.means.precision.scaler.state_dict(),
            "masks": self.masks.get_state(),
            "mixing": plain_numpy(self.objective.random_state),
            "prefix_cache": self.prefix_cache,
            "is_short": self.is_short,
        }

    def fits(self, state: State) -> bool:
        """Whether a state has the tensors of this network."""
        own, stored = changing(self.method), state["tensors"]
        return (
            _shapes(own) == _shapes(stored) and _extra(self.method).keys() == state["extra"].keys()
        )

    def restore(self, state: State) -> None:
        """Be as the phase was when the state was taken."""
        own = changing(self.method)
        with torch.no_grad():
            for name, tensor in state["tensors"].items():
                own[name].copy_(tensor)
        self.method.load_state_dict(state["extra"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])
        self.means.precision.scaler.load_state_dict(state["scaler"])
        self.masks.set_state(state["masks"])
        self.objective.random_state = state["mixing"]
        self.prefix_cache = state["prefix_cache"]
        self.was_short = state.get("is_short", False)  # older files have none
        self.epoch = state["epoch"]

    def _training(self) -> Training:
        """What decides whether outputs of the network are constant, and which."""
        means = self.means
        return Training(
            title=means.title,
            method=self.method,
            split=self.split,
            train=self.train,
            feed=means.feed,
            precision=means.precision,
            before_step=self.before_step,
        )

    @contextmanager
    def _compiler(self) -> Iterator[None]:
        """Leave nothing of a compiled training behind."""
        try:
            yield
        finally:
            # first the gradients, which may lie in the memory of CUDA graphs
            self.optimiser.zero_grad(set_to_none=True)
            self.forward.end()

    def _step(self, epoch: int, index: int, stream: Iterator[Batch]) -> Tensor:
        """One update; returns the loss, a tensor: a float would wait for the GPU."""
        train, steps = self.train, self.steps
        step = Step(epoch, index, (epoch - 1) * steps + index, train.epochs * steps)
        self.before_step(step)
        time = schedule_time(epoch, index / steps, train.schedule)
        set_rates(self.optimiser, time, train.schedule)
        total = min(train.step_images, len(self.split) - index * train.step_images)
        loss = accumulated_step(
            self.method,
            self.optimiser,
            self.means.precision,
            self._counted(islice(stream, math.ceil(total / train.batch_size))),
            total,
            self.masks,
            self.objective,
            train.clip_grad,
            self.forward,
        )
        self.method.after_step(step)
        return loss

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            self.means.spent.images_seen += len(labels)
            yield images, labels

    def _order(self) -> Iterator[Tensor]:
        """Indices of the images of each batch, (B,), of the epochs that are left."""
        total, train = len(self.split), self.train
        order = torch.Generator().manual_seed(self.means.seed)
        epochs = (torch.randperm(total, generator=order) for _ in range(train.epochs))
        for shuffled in islice(epochs, self.epoch, None):
            for places in shuffled.split(train.step_images)[: self.steps]:
                yield from places.split(train.batch_size)


def changing(method: Method) -> dict[str, Tensor]:
    """Tensors that training or hooks may change: those of the delta and the buffers, by name."""
    # Frozen weights, also quantised ones, are built again, and would be most of the file.
    codes = {
        id(buffer)
        for module in method.modules()
        if isinstance(module, QuantisedLinear)
        for buffer in module.codes()
    }
    buffers = {name: own for name, own in method.named_buffers() if id(own) not in codes}
    return buffers | delta_tensors(method)


def _extra(method: Method) -> State:
    """What modules return from torch's `get_extra_state`, by the names of a state dictionary."""
    return {name: value for name, value in method.state_dict().items() if name.endswith(EXTRA)}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _steps(train: Train, images: int) -> int:
    """Steps of an epoch."""
    full, rest = divmod(images, train.step_images)
    return full + bool(rest and not train.drop_last)


def _without_step(train: Train, images: int) -> UserError:
    """With `drop_last` an epoch of fewer images than a step has none."""
    times = f" times train.accumulate {train.accumulate}" if train.accumulate > 1 else ""
    return UserError(
        f"train.batch_size {train.batch_size}{times} is larger than the {images} training "
        f"images; set train.batch_size to at most {images // train.accumulate or 1}"
    )


def _mean_loss(losses: list[Tensor], epoch: int) -> float:
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise Diverged(f"the training loss became {loss} in epoch {epoch}")
    return loss

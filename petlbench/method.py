"""The interface of a method, and which of its blocks stay constant."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.data.task import Split
from petlbench.errors import UserError
from petlbench.model.backbone import Backbone
from petlbench.model.folding import folded
from petlbench.model.stage import Block


@dataclass(frozen=True)
class Step:
    """A training step: `epoch` counts from 1, `index` from 0 in the epoch, `number` over all."""

    epoch: int
    index: int
    number: int
    total: int


@dataclass(frozen=True)
class ParameterGroup:
    """Trained tensors with a learning rate or weight decay of their own.

    lr: peak learning rate, None for `train.lr`; it is multiplied by `lr_scale`. weight_decay: None
    for `train.weight_decay`.
    """

    parameters: Sequence[nn.Parameter]
    lr: float | None = None
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    network: what is evaluated and stored. made_by: name and values by which the method registry
    creates it, if they are not the configured ones; without a name it is the configured method.
    notes: for the record, as JSON has them.
    """

    network: "Method"
    made_by: tuple[str | None, Mapping[str, Any]] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


# Protocols, so that a method does not import petlbench/train, which imports this module.
class Saved(Protocol):
    """Parts of unfinished work, which outlive the process; petlbench/train/unfinished.py.

    The generators of Python, NumPy and torch are saved with a part and restored with it.
    """

    def load(self, name: str) -> Any:
        """What an earlier start of this run has saved under a name; None if there is nothing."""

    def save(self, name: str, state: Any, at: str) -> None:
        """Keep plain data and tensors. at: how far the part is, such as `generation 2 of 5`."""


class SearchTrainer(Protocol):
    """What a search inside `fit` may use: further training phases, and scores.

    unfinished: keeps what a search has done if the run is stopped. fit, val: two parts of the
    training split, to train on and to score on.
    """

    fit: Split
    val: Split

    @property
    def unfinished(self) -> Saved:
        """The parts of the search that are done."""

    def train(
        self,
        method: "Method",
        name: str,
        *,
        epochs: int,
        lr: float,
        before_step: Callable[[Step], None],
    ) -> None:
        """One phase on `fit`, with its own epochs and learning rate and without validation.

        name: of the phase, which is saved when it ends: in a later start it returns at once.
        """

    def score(self, method: nn.Module) -> float:
        """Top-1 accuracy in percent on `val`."""


class Trainer(Protocol):
    """What `fit` may use; petlbench/train/trainer.py implements it."""

    device: torch.device
    seed: int
    fit: Split  # the training split

    def train(self, method: "Method") -> None:
        """Train all parameters that require gradients, as the configuration says."""

    def outputs(
        self, method: "Method", part: Callable[[Tensor], Tensor]
    ) -> Callable[[Split], tuple[Tensor, Tensor]]:
        """A function split -> part(images) (N, ...) in fp32 on the CPU, and labels (N,), in order.

        part: of the method, on images (B, 3, H, W), whose tensors stay as they are. Each image is
        computed once, also if several splits hold it: in eval mode, without augmentation and
        gradients, in the precision of training.
        """

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B,) of the training split, once, in a random order."""

    def search(self) -> SearchTrainer:
        """The trainer of a search; raises UserError if there are too few images for one."""


def called(part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """part(*inputs)"""
    return part(*inputs)


class Method(nn.Module):
    """A frozen backbone and the few parameters that adapt it to a task.

    Override what the paper changes:
    __init__ -- the network (swap modules, unfreeze parameters)
    features -- the walk over the blocks (prompts, side networks)
    forward  -- the readout (VQT, LST)
    fit      -- the training plan (several phases, a search)
    and, more rarely, `extra_loss`, `parameter_groups`, `before_step`, `after_step`,
    `counted_parameters` and `merge`.

    `forward` is pure: it writes no state, but what `extra_loss` reads after it, and does not
    change z in place.
    starts_as_pretrained: the outputs before training are those of the pre-trained network.
    needs_weights: the constructor reads the backbone's weights, so that the method cannot be tried
    on shapes alone before a sweep.
    takes_steps: False if `fit` makes no training step; then no memory and no speed of one is
    measured.
    searches: whether `fit` calls `trainer.search`, which takes five images of a class.
    unmergeable: the reason why nothing of it can be merged into the backbone (merge.py).
    beside: beside(part, *inputs) calls a part that is not in the walk, such as a block of a side
    network, so that `train.memory=min` can keep its inputs alone.
    """

    starts_as_pretrained: bool = True
    needs_weights: bool = False
    takes_steps: bool = True
    searches: bool = False
    unmergeable: str = ""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone  # frozen, except for its head
        self.beside: Callable[..., Tensor] = called

    @classmethod
    def check(cls, backbone: Backbone, **values: Any) -> None:
        """What a class that `needs_weights` can refuse before a sweep; backbone: in shapes only.

        Raises UserError for wrong values, Unsupported for the backbone or a missing package.
        """

    def features(self, z: Tensor) -> Tensor:
        """Patch embedding -> output of the last block: (B, N, C), in a Swin (B, H, W, C)"""
        for stage in self.backbone.stages:  # one stage in a ViT, four in a Swin
            z = stage.enter(z)  # patch merging, or identity
            for block in stage.blocks:
                z = block(z)
        return z

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, K)"""
        return self.backbone.head(head_inputs(self, images))  # type: ignore[no-any-return]

    def fit(self, trainer: Trainer) -> Fitted:
        """Train; return the network to evaluate."""
        trainer.train(self)
        return Fitted(self)

    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor | None:
        """A term to add to the training loss, a scalar; None for none.

        images (B, 3, H, W), logits (B, K), targets (B,), or (B, K) if labels are mixed.
        """
        return None

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """Trained tensors with learning rates or weight decay of their own; none by default."""
        return ()

    def before_step(self, step: Step) -> None:
        """Called before each training step, for example to change a rank."""

    def after_step(self, step: Step) -> None:
        """Called after each update of the weights; gradients are still there."""

    def counted_parameters(self) -> Iterable[nn.Parameter]:
        """The tensors that count as parameters of the method: trained ones outside the head."""
        head = {id(tensor) for tensor in self.backbone.head.parameters()}
        return (t for t in self.parameters() if t.requires_grad and id(t) not in head)

    def merge(self) -> nn.Module:
        """A plain timm network with the outputs of this method; `merge.merged` checks them.

        By default every module with `folded()` is folded in a copy of the network. Raises
        Unsupported if one cannot be.
        """
        return folded(self.backbone.net)


def head_inputs(method: Method, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> what the head reads, (B, C), of a method with the readout of `Method`"""
    return method.backbone.pooled(method.features(method.backbone.embed(images)))


Accuracy = tuple[float, float]  # percent, and the mean log-likelihood, which orders equal ones


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Of logits (N, K) for labels (N,): what a choice on val compares.

    On few images many choices are right equally often, and one may be sure of nothing.
    """
    right = int((logits.argmax(1) == labels).sum())
    return 100 * right / len(labels), -float(F.cross_entropy(logits.double(), labels))


def searched(trainer: Trainer, instead: str) -> SearchTrainer:
    """The trainer of a search. instead: the setting that needs none, for its error."""
    try:
        return trainer.search()
    except UserError as error:
        raise UserError(f"{error}, and with {instead} there is nothing to choose") from error


def frozen_prefix(method: Method) -> int:
    """Number of leading blocks whose outputs do not depend on trained tensors.

    Without drop path and augmentation these outputs are the same at every step, and tasks can
    share them. One forward pass counts the blocks.
    """
    is_constant: list[bool] = []

    def watched(block: Block) -> Block:
        def call(z: Tensor) -> Tensor:
            out = block(z)
            # With frozen weights and a constant input autograd records nothing.
            is_constant.append(not out.requires_grad)
            return out

        return call

    stages, training = method.backbone.stages, method.training
    # Lists of what the walk calls now, replacements of the network's blocks included.
    original = [list(stage.blocks) for stage in stages]
    for stage in stages:
        stage.blocks[:] = map(watched, stage.blocks)
    try:
        # Under no_grad no output would require a gradient.
        with torch.enable_grad():
            method.eval()(method.backbone.example())  # eval mode needs no drop-path masks
    finally:
        method.train(training)
        for stage, blocks in zip(stages, original, strict=True):
            stage.blocks[:] = blocks
    return len(list(takewhile(bool, is_constant)))

"""The training loop: what every method's `fit` is given."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from petlbench.config.nodes import Train
from petlbench.data.feed import Feed
from petlbench.data.task import Score, Split
from petlbench.delta import delta_tensors, non_finite
from petlbench.errors import UserError
from petlbench.method import Method, Step
from petlbench.progress import EpochProgress, progress
from petlbench.train.objective import Objective
from petlbench.train.optim import build_optimiser, schedule_time, set_rates
from petlbench.train.precision import Precision
from petlbench.train.step import Batch, accumulated_step

EVALUATION_BATCH = 250
StepHook = Callable[[Step], None]


class Diverged(ArithmeticError):
    """A training loss, a trained tensor or a logit is not a finite number."""


@dataclass
class Epoch:
    """One epoch: mean training loss, last learning rate, scores of the select splits."""

    number: int
    loss: float
    lr: float
    scores: dict[str, Score] = field(default_factory=dict)


class TrainingLoop:
    """Trains on one split and, if the protocol says so, scores others; it holds no further data.

    feed: brings images to the device. fit, select: the only splits it can see. classes: of the
    task. halves: returns the two parts of `fit` that a search trains and scores on. seed: of the
    order of images. keep_best: return to the best epoch on the (only) select split at the end.
    every_epochs: distance of the epochs that are scored. on_epoch: called with every finished
    epoch. scratch: a folder for the unfinished work of a search.
    """

    def __init__(
        self,
        *,
        title: str,
        feed: Feed,
        fit: Split,
        select: Mapping[str, Split],
        classes: int,
        halves: Callable[[], tuple[Split, Split]],
        keep_best: bool,
        every_epochs: int | None,
        seed: int,
        train: Train,
        on_epoch: Callable[[Epoch], None],
        scratch: Path,
    ) -> None:
        _check_labels(fit, classes)
        _check_batch(train, len(fit))
        self.title = title
        self.feed = feed
        self.device = feed.device
        self.precision = Precision(train.precision, feed.device)
        self.fit = fit
        self.select = select
        self.classes = classes
        self.halves = halves
        self.scratch = scratch
        self.keep_best = keep_best
        self.every_epochs = every_epochs
        self.seed = seed
        self.settings = train
        self.on_epoch = on_epoch
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.images_seen = 0
        self.images_scored = 0
        # Of drop path alone: its draws do not depend on other draws.
        self.masks = torch.Generator().manual_seed(seed)

    def train(self, method: Method) -> None:
        """Train the method's trainable tensors for the epochs of the settings, in place."""
        best: dict[str, Tensor] = {}
        for epoch in self.epochs(method, self.fit, self.settings, method.before_step):
            self._watch(method, epoch)
            if self.keep_best and self.best is epoch:
                # All tensors of the delta, since hooks may change frozen ones too.
                best = {name: value.clone() for name, value in delta_tensors(method).items()}
            self.history.append(epoch)
            self.on_epoch(epoch)
        if best:
            with torch.no_grad():
                for name, value in delta_tensors(method).items():
                    value.copy_(best[name])

    def epochs(
        self, method: Method, split: Split, train: Train, before_step: StepHook
    ) -> Iterator[Epoch]:
        """Train epoch by epoch; the caller handles a result between two of them."""
        method.to(self.device)
        self.masks.manual_seed(self.seed)  # the same whether or not a phase came before
        optimiser = build_optimiser(method, train)
        objective = Objective.of(train, classes=self.classes, seed=self.seed)
        steps = _steps(train, len(split))
        stream = self.feed.training(split, self._order(len(split), train, steps))
        with EpochProgress(self.title, train.epochs) as shown:
            for number in range(1, train.epochs + 1):
                method.train()  # scoring between epochs leaves eval mode
                # Tensors: a float at each step would wait for the GPU.
                losses = []
                for index in range(steps):
                    step = Step(number, index, (number - 1) * steps + index, train.epochs * steps)
                    before_step(step)
                    time = schedule_time(number, index / steps, train.schedule)
                    set_rates(optimiser, time, train.schedule)
                    total = min(train.step_images, len(split) - index * train.step_images)
                    batches = islice(stream, math.ceil(total / train.batch_size))
                    losses.append(
                        accumulated_step(
                            method,
                            optimiser,
                            self.precision,
                            self._counted(batches),
                            total,
                            self.masks,
                            objective,
                            train.clip_grad,
                        )
                    )
                    method.after_step(step)
                lr = float(optimiser.param_groups[0]["lr"])
                epoch = Epoch(number, _mean_loss(losses, number), lr)
                yield epoch
                shown.advance(f"loss {epoch.loss:.3f}")

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B,) of the training split, once, in a random order.

        For methods that look at their training data before they train.
        """
        # A generator of its own: looking at the data leaves torch's random state as it is.
        order = torch.randperm(len(self.fit), generator=torch.Generator().manual_seed(self.seed))
        yield from self.feed.plain(self.fit, order.split(batch_size))

    def search(self) -> "SearchLoop":
        """The trainer of a search; raises UserError if there are too few images for one."""
        return SearchLoop(self)

    def evaluate(self, method: nn.Module, split: Split) -> Score:
        """Top-1 accuracy on a split, in eval mode, in the precision of training.

        Raises Diverged if a logit is not finite: argmax would take it for a class.
        """
        method.to(self.device).eval()
        self.images_scored += len(split)
        # Summed on the device, which is then waited for once.
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        batches = self.feed.in_order(split, EVALUATION_BATCH)
        number = math.ceil(len(split) / EVALUATION_BATCH)
        with torch.inference_mode():
            for images, labels in progress(batches, f"{self.title}: testing", number):
                with self.precision.autocast():
                    logits = method(images)
                correct += (logits.argmax(1) == labels).sum()
                finite &= logits.isfinite().all()
        if not bool(finite):
            raise Diverged("logits are not finite numbers; lower train.lr")
        return Score(int(correct), len(split))

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            self.images_seen += len(labels)
            yield images, labels

    def _order(self, total: int, train: Train, steps: int) -> Iterator[Tensor]:
        """Indices of the images of each batch, (B,), epoch after epoch."""
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(train.epochs):
            shuffled = torch.randperm(total, generator=order)
            for places in shuffled.split(train.step_images)[:steps]:
                yield from places.split(train.batch_size)

    def _watch(self, method: Method, epoch: Epoch) -> None:
        """Score the select splits every few epochs and after the last one."""
        last = epoch.number == self.settings.epochs
        if not self.select or (epoch.number % (self.every_epochs or 1) and not last):
            return
        epoch.scores = {name: self.evaluate(method, split) for name, split in self.select.items()}
        score = next(iter(epoch.scores.values()))
        # Strictly better: the first of equal epochs stays the best.
        if self.best is None or score.top1 > next(iter(self.best.scores.values())).top1:
            self.best = epoch


class SearchLoop:
    """Further phases and scores for a search inside `fit`, on two parts of the training split."""

    def __init__(self, trainer: TrainingLoop) -> None:
        self.trainer = trainer
        self.scratch = trainer.scratch
        self.fit, self.val = trainer.halves()

    def train(self, method: Method, *, epochs: int, lr: float, before_step: StepHook) -> None:
        """One phase on `fit`, with its own epochs and learning rate and without validation."""
        run = self.trainer.settings
        schedule = replace(run.schedule, cosine_epochs=epochs)  # the cosine ends with the phase
        train = replace(run, epochs=epochs, lr=lr, head_lr=lr, schedule=schedule)
        for _ in self.trainer.epochs(method, self.fit, train, before_step):
            pass

    def score(self, method: nn.Module) -> float:
        """Top-1 accuracy in percent on `val`."""
        return self.trainer.evaluate(method, self.val).top1


def require_finite(method: nn.Module) -> None:
    """Raise Diverged unless the trained tensors are finite: no loss follows the last step."""
    names = non_finite(method)
    if names:
        more = f" (and {len(names) - 1} more)" if names[1:] else ""
        raise Diverged(f"{names[0]}{more} is not finite after the last step; lower train.lr")


def _steps(train: Train, images: int) -> int:
    """Steps of an epoch."""
    full, rest = divmod(images, train.step_images)
    return full + bool(rest and not train.drop_last)


def _mean_loss(losses: list[Tensor], epoch: int) -> float:
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise Diverged(f"the training loss became {loss} in epoch {epoch}")
    return loss


def _check_labels(fit: Split, classes: int) -> None:
    if (highest := int(fit.labels.max())) >= classes:
        raise UserError(f"dataset.classes is {classes}, but there are labels up to {highest}")


def _check_batch(train: Train, images: int) -> None:
    """Refuse a step larger than the training split: with drop_last an epoch has no step."""
    if train.step_images > images:
        times = f" times train.accumulate {train.accumulate}" if train.accumulate > 1 else ""
        raise UserError(
            f"train.batch_size {train.batch_size}{times} is larger than the {images} training "
            f"images; set train.batch_size to at most {images // train.accumulate or 1}"
        )

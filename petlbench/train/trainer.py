"""The training loop: what every method's `fit` is given."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petlbench.data.feed import Feed
from petlbench.data.task import Score, Split
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.progress import EpochProgress
from petlbench.train.objective import Objective
from petlbench.train.optim import schedule_time
from petlbench.train.precision import Precision
from petlbench.train.settings import check
from petlbench.train.step import build_optimiser, set_rates, training_step

EVALUATION_BATCH = 250


class Diverged(ArithmeticError):
    """The training loss is not a finite number."""


@dataclass
class Epoch:
    """What one epoch left: mean training loss, last learning rate, scores of the select splits."""

    number: int
    loss: float
    lr: float
    scores: dict[str, Score] = field(default_factory=dict)


class Trainer:
    """Trains on one split and, if the protocol says so, watches others; it holds no further data.

    feed: brings images to the device. fit, select: the only splits it can see. classes: of the
    task. halves: the two parts of `fit` that a search inside a method trains and scores on. seed:
    of the order of images. keep_best: return to the best epoch of the (only) select split at the
    end. on_epoch: called with every finished epoch. scratch: a folder for the unfinished work of a
    long search, kept if the run is killed. A method leaves what is to be read in the record in
    `notes`.
    """

    def __init__(
        self,
        *,
        feed: Feed,
        fit: Split,
        select: Mapping[str, Split],
        classes: int,
        halves: Callable[[], tuple[Split, Split]],
        keep_best: bool,
        every_epochs: int | None,
        seed: int,
        settings: Mapping[str, Any],
        on_epoch: Callable[[Epoch], None],
        scratch: Path,
    ) -> None:
        check(settings)
        _check_batch(settings, len(fit))
        if (highest := int(fit.labels.max())) >= classes:
            raise UserError(f"dataset.classes is {classes}, and there are labels up to {highest}")
        self.feed = feed
        self.device = feed.device
        self.precision = Precision(settings["precision"], feed.device)
        self.fit = fit
        self.select = select
        self.classes = classes
        self.halves = halves
        self.scratch = scratch
        self.keep_best = keep_best
        self.every_epochs = every_epochs
        self.seed = seed
        self.settings = settings
        self.on_epoch = on_epoch
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.images_seen = 0
        self.images_scored = 0
        self.notes: dict[str, Any] = {}
        self.masks = torch.Generator().manual_seed(seed)

    def train(self, method: Method) -> None:
        """Train the method's trainable tensors for the epochs of the settings, in place."""
        best: dict[str, Tensor] = {}
        for epoch in self._epochs(method, self.fit, self.settings, _nothing):
            self._watch(method, epoch)
            if self.keep_best and self.best is epoch:
                best = {name: value.clone() for name, value in trained(method).items()}
            self.history.append(epoch)
            self.on_epoch(epoch)
        if best:
            with torch.no_grad():
                for name, value in trained(method).items():
                    value.copy_(best[name])

    def train_before(
        self,
        method: Method,
        split: Split,
        *,
        epochs: int,
        lr: float,
        before_step: Callable[[int, int], None],
    ) -> None:
        """Train ahead of the run's own training, for as long and as fast as is said, unwatched.

        before_step: called with the numbers of epoch (from 1) and step (from 0).
        """
        settings = dict(self.settings) | {"epochs": epochs, "lr": lr, "head_lr": lr}
        settings["schedule"] = dict(settings["schedule"]) | {"cosine_epochs": epochs}
        for _ in self._epochs(method, split, settings, before_step):
            pass

    def _epochs(
        self,
        method: Method,
        split: Split,
        settings: Mapping[str, Any],
        before_step: Callable[[int, int], None],
    ) -> Iterator[Epoch]:
        """Train epoch by epoch; what is done with a result happens between two of them."""
        method.to(self.device)
        self.masks.manual_seed(self.seed)  # alike whether or not a phase came before it
        optimiser = build_optimiser(method, settings)
        objective = Objective.of(settings, classes=self.classes, seed=self.seed)
        size, drop_last = settings["batch_size"], settings["drop_last"]
        steps = len(split) // size if drop_last else -(-len(split) // size)
        batches = self._order(len(split), size, steps, settings["epochs"])
        stream = self.feed.training(split, batches)
        with EpochProgress(settings["epochs"]) as progress:
            for number in range(1, settings["epochs"] + 1):
                method.train()
                losses, lr = [], 0.0
                for step in range(steps):
                    before_step(number, step)
                    time = schedule_time(number, step / steps, **_updating(settings["schedule"]))
                    set_rates(optimiser, time, settings["schedule"])
                    images, labels = next(stream)
                    losses.append(
                        training_step(
                            method,
                            optimiser,
                            self.precision,
                            images,
                            labels,
                            self.masks,
                            objective,
                        )
                    )
                    self.images_seen += len(labels)
                    lr = float(optimiser.param_groups[0]["lr"])
                loss = float(torch.stack(losses).mean())
                if not math.isfinite(loss):
                    raise Diverged(f"the training loss became {loss} in epoch {number}")
                yield Epoch(number, loss, lr)
                progress.advance(f"loss {loss:.3f}")

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B) of the training split, in a random order, once.

        For methods that look at their training data before they train.
        """
        order = torch.randperm(len(self.fit), generator=torch.Generator().manual_seed(self.seed))
        yield from self.feed.plain(self.fit, order.split(batch_size))

    def evaluate(self, method: nn.Module, split: Split) -> Score:
        """Top-1 accuracy on a split, in eval mode, in the precision of training."""
        method.to(self.device).eval()
        self.images_scored += len(split)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for images, labels in self.feed.in_order(split, EVALUATION_BATCH):
                with self.precision.autocast():
                    logits = method(images)
                correct += (logits.argmax(1) == labels).sum()
        return Score(int(correct), len(split))

    def _order(self, total: int, size: int, steps: int, epochs: int) -> Iterator[Tensor]:
        """Places of the images of each batch, epoch after epoch."""
        order = torch.Generator().manual_seed(self.seed)
        for _ in range(epochs):
            yield from torch.randperm(total, generator=order).split(size)[:steps]

    def _watch(self, method: Method, epoch: Epoch) -> None:
        """Score the select splits every few epochs and after the last one."""
        last = epoch.number == self.settings["epochs"]
        if not self.select or (epoch.number % (self.every_epochs or 1) and not last):
            return
        epoch.scores = {name: self.evaluate(method, split) for name, split in self.select.items()}
        score = next(iter(epoch.scores.values()))
        if self.best is None or score.top1 > next(iter(self.best.scores.values())).top1:
            self.best = epoch


def _updating(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """When the learning rate changes."""
    return {key: schedule[key] for key in ("lag_epochs", "update")}


def _nothing(epoch: int, step: int) -> None:
    """Before a step of the run's own training."""


def _check_batch(settings: Mapping[str, Any], images: int) -> None:
    """Refuse settings under which no step would be made."""
    if settings["batch_size"] > images:
        raise UserError(
            f"train.batch_size {settings['batch_size']} is larger than the {images} training "
            f"images; set train.batch_size to at most {images}"
        )

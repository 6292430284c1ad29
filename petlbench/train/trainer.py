"""The training loop: what every method's `fit` is given."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from petlbench.config.nodes import Train
from petlbench.data.feed import Feed
from petlbench.data.predictions import Predictions
from petlbench.data.task import Score, Split
from petlbench.delta import delta_tensors, non_finite
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.progress import progress
from petlbench.train.evaluation import batch_size
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.hooks import StepHook
from petlbench.train.outputs import ImageOutputs
from petlbench.train.phase import Diverged, Epoch, Means, Phase, State
from petlbench.train.precision import Precision
from petlbench.train.unfinished import Unfinished

NOT_FINITE = "logits are not finite numbers; lower train.lr, or change the values of method"


class TrainingLoop:
    """Trains on one split and, if the protocol says so, scores others; it holds no further data.

    feed: brings images to the device. fit, select: the only splits it can see. classes: of the
    task. halves: returns the two parts of `fit` that a search trains and scores on. seed: of the
    order of images. keep_best: return to the best epoch on the (only) select split at the end.
    every_epochs: distance of the epochs that are scored. on_epoch: called with every finished
    epoch, those of an earlier start included. unfinished: what is saved for a later start.
    prefix_cache: what the training replayed; None for nothing. is_short: whether its last block
    computed the class token alone.
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
        unfinished: Unfinished,
    ) -> None:
        _check_labels(fit, classes)
        self.title = title
        self.feed = feed
        self.device = feed.device
        self.precision = Precision(train.precision, feed.device)
        self.means = Means(title, feed, self.precision, classes, seed, unfinished.spent)
        self.fit = fit
        self.select = select
        self.halves = halves
        self.unfinished = unfinished
        self.spent = unfinished.spent
        self.keep_best = keep_best
        self.every_epochs = every_epochs
        self.seed = seed
        self.settings = train
        self.on_epoch = on_epoch
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.prefix_cache: Mapping[str, object] | None = None
        self.is_short = False

    def train(self, method: Method) -> None:
        """Train the method's trainable tensors for the epochs of the settings, in place."""
        phase = Phase(self.means, "training", method, self.fit, self.settings, method.before_step)
        best = self._resumed(self.restored(phase))
        with frozen_in_16_bit(method, self.precision):
            for epoch in phase.epochs():
                self._watch(method, epoch)
                if self.keep_best and self.best is epoch:
                    # All tensors of the delta, since hooks may change frozen ones too.
                    best = {name: value.clone() for name, value in delta_tensors(method).items()}
                self.history.append(epoch)
                self.on_epoch(epoch)
                if self.is_due(phase):
                    self.unfinished.save(phase.name, self._state(phase, best), phase.place)
        self.prefix_cache, self.is_short = phase.prefix_cache, phase.is_short
        if best:
            with torch.no_grad():
                for name, value in delta_tensors(method).items():
                    value.copy_(best[name])

    def restored(self, phase: Phase) -> State | None:
        """Bring a phase to where an earlier start has saved it; returns all that was saved."""
        state: State | None = self.unfinished.load(phase.name, phase.fits)
        if state is not None:
            phase.restore(state)
        return state

    def is_due(self, phase: Phase) -> bool:
        """Whether a phase is to be saved after its last epoch."""
        every = self.settings.checkpoint_every
        return every is not None and (phase.epoch % every == 0 or phase.is_done)

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, H, W) and labels (B,) of the training split, once, in a random order.

        For methods that look at their training data before they train.
        """
        # A generator of its own: looking at the data leaves torch's random state as it is.
        order = torch.randperm(len(self.fit), generator=torch.Generator().manual_seed(self.seed))
        for images, labels in self.feed.plain(self.fit, order.split(batch_size)):
            self.spent.images_seen += len(images)
            yield images, labels

    def outputs(self, method: Method, part: Callable[[Tensor], Tensor]) -> ImageOutputs:
        """A function of a split: part(images) (N, ...) and labels (N,), each image once."""
        method.to(self.device)
        return ImageOutputs(self.title, method, part, self.feed, self.precision, self.spent)

    def search(self) -> "SearchLoop":
        """The trainer of a search; raises UserError if there are too few images for one."""
        return SearchLoop(self)

    def evaluate(self, method: nn.Module, split: Split) -> Score:
        """Top-1 accuracy on a split, in eval mode, in the precision of training.

        Raises Diverged if a logit is not finite: argmax would take it for a class.
        """
        started = time.perf_counter()
        # Summed on the device, which is then waited for once.
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)

        def note(logits: Tensor, labels: Tensor) -> None:
            correct.add_((logits.argmax(1) == labels).sum())
            finite.logical_and_(logits.isfinite().all())

        self._test(method, split, note)
        if not bool(finite):
            raise Diverged(NOT_FINITE)
        self.spent.scored_s += time.perf_counter() - started
        return Score(int(correct), len(split))

    def predictions(self, method: nn.Module, split: Split) -> Predictions:
        """The predictions for all images of a split, in its order, from the logits of `evaluate`.

        Raises Diverged if a logit is not finite.
        """
        # On the device too, for the same reason.
        parts: list[tuple[Tensor, Tensor, Tensor]] = []

        def note(logits: Tensor, labels: Tensor) -> None:
            values = logits.float().log_softmax(1).half()
            parts.append((values, logits.argmax(1), logits.isfinite().all()))

        self._test(method, split, note)
        values, predicted, finite = zip(*parts, strict=True)
        if not bool(torch.stack(finite).all()):
            raise Diverged(NOT_FINITE)
        return Predictions(
            torch.cat(values).cpu().numpy(),
            torch.cat(predicted).cpu().numpy(),
            split.labels.numpy(),
            split.files,
        )

    def _test(
        self, method: nn.Module, split: Split, note: Callable[[Tensor, Tensor], None]
    ) -> None:
        """Give logits (B, K) and labels (B,) of a split to `note`, batch by batch."""
        method.to(self.device).eval()
        self.spent.images_scored += len(split)
        with frozen_in_16_bit(method, self.precision):
            size = batch_size(method, self.precision, self.feed.prepare.size)
            batches, number = self.feed.in_order(split, size), math.ceil(len(split) / size)
            with torch.inference_mode():
                for images, labels in progress(batches, f"{self.title}: testing", number):
                    with self.precision.autocast():
                        logits = method(images)
                    note(logits, labels)

    def _state(self, phase: Phase, best: dict[str, Tensor]) -> State:
        """All that the epochs after this one depend on; best: tensors of the best epoch."""
        history = [asdict(epoch) for epoch in self.history]
        number = self.best.number if self.best else None
        return phase.state() | {"history": history, "best": number, "best_tensors": best}

    def _resumed(self, state: State | None) -> dict[str, Tensor]:
        """Take over the epochs of an earlier start; returns the tensors of the best one."""
        if state is None:
            return {}
        for row in state["history"]:
            scores = {name: Score(**score) for name, score in row["scores"].items()}
            self.history.append(Epoch(row["number"], row["loss"], row["lr"], scores))
            self.on_epoch(self.history[-1])
        self.best = next((e for e in self.history if e.number == state["best"]), None)
        best: dict[str, Tensor] = state["best_tensors"]
        return best

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
        self.unfinished = trainer.unfinished
        self.fit, self.val = trainer.halves()

    def train(
        self, method: Method, name: str, *, epochs: int, lr: float, before_step: StepHook
    ) -> None:
        """One phase on `fit`, with its own epochs and learning rate and without validation."""
        run = self.trainer.settings
        schedule = replace(run.schedule, cosine_epochs=epochs)  # the cosine ends with the phase
        train = replace(run, epochs=epochs, lr=lr, head_lr=lr, schedule=schedule)
        phase = Phase(self.trainer.means, name, method, self.fit, train, before_step)
        self.trainer.restored(phase)
        with frozen_in_16_bit(method, self.trainer.precision):
            for _ in phase.epochs():
                # Its end always: what follows in the search needs no training again.
                if phase.is_done or self.trainer.is_due(phase):
                    self.unfinished.save(name, phase.state(), phase.place)

    def score(self, method: nn.Module) -> float:
        """Top-1 accuracy in percent on `val`."""
        return self.trainer.evaluate(method, self.val).top1


def require_finite(method: nn.Module) -> None:
    """Raise Diverged unless the trained tensors are finite: no loss follows the last step."""
    names = non_finite(method)
    if names:
        more = f" (and {len(names) - 1} more)" if names[1:] else ""
        raise Diverged(f"{names[0]}{more} is not finite after the last step; lower train.lr")


def _check_labels(fit: Split, classes: int) -> None:
    if (highest := int(fit.labels.max())) >= classes:
        raise UserError(f"dataset.classes is {classes}, but there are labels up to {highest}")

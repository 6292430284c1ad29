"""Logistic: multinomial logistic regression on frozen features, https://arxiv.org/abs/2103.00020.

A linear probe as in CLIP's evaluation: an L2 penalty chosen on val by halving the steps around
the best one, L-BFGS of scikit-learn. DINOv2 evaluates in the same way, on a plain grid
(facebookresearch/dinov2, eval/log_regression.py).
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from petlbench.checks import is_number, whole
from petlbench.errors import UserError
from petlbench.method import Accuracy, Fitted, Method, Trainer, accuracy, head_inputs, searched
from petlbench.model.backbone import Backbone

ABSENT = -1.0e4  # bias of a class without a training image: at the optimum it is -infinity


class Logistic(Method):
    """Trains the head alone, by minimising |W|^2 / 2 + C sum_i cross-entropy(W x_i + b, y_i).

    x_i: what the head reads of training image i. C = 10^power is chosen on val, the parts of the
    training split that a search is given: all of `powers`, then `halvings` times the two powers
    around the best one, half as far away as before. Of powers with equal accuracy the one with
    the higher mean log-likelihood on val is the better. With one power nothing is chosen. The head
    is then fitted to the whole training split with the same C. iterations: the most of L-BFGS; the
    record has how many the last fit took. For two classes scikit-learn fits the difference w of
    the rows of W with the penalty |w|^2 / 2; the rows are then -w / 2 and w / 2.
    """

    takes_steps = False

    def __init__(
        self, backbone: Backbone, *, powers: Sequence[float], halvings: int, iterations: int
    ) -> None:
        super().__init__(backbone)
        if not isinstance(powers, Sequence) or not powers or not all(map(_is_power, powers)):
            raise UserError(
                f"method.powers is {powers}; it must be a list of numbers from -30 to 30 such as "
                "[-2, 0, 2]"
            )
        self.powers = [float(power) for power in powers]
        self.searches = len(self.powers) > 1
        self.halvings = whole("method.halvings", halvings, low=0)
        self.iterations = whole("method.iterations", iterations, low=1)

    def fit(self, trainer: Trainer) -> Fitted:
        """Choose C if there is a choice, then fit the head."""
        read = trainer.outputs(self, partial(head_inputs, self))
        power, notes = self.powers[0], dict[str, Any]()
        if len(self.powers) > 1:
            search = searched(trainer, "method.powers=[0]")
            data = (*read(search.fit), *read(search.val))
            scores = refined(partial(self._score, *data), self.powers, self.halvings)
            power = max(scores, key=scores.__getitem__)
            notes = {"C": 10**power, "val_top1": {f"{p:g}": s for p, (s, _) in scores.items()}}
        estimator = self.regression(*read(trainer.fit), power)
        self.set_head(estimator)
        return Fitted(self, notes=notes | {"iterations": int(estimator.n_iter_.max())})

    def regression(self, features: Tensor, labels: Tensor, power: float) -> Any:
        """Scikit-learn's estimator, fitted to features (N, d) and labels (N,) in float64.

        Raises UserError if the images are of one class.
        """
        # they take a second, and other commands import methods
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        if len(labels.unique()) < 2:
            raise UserError(
                "logistic regression needs training images of two classes or more; choose "
                "method=knn"
            )
        estimator = LogisticRegression(C=10**power, max_iter=self.iterations)
        with warnings.catch_warnings():
            # the most iterations are a setting, and far from the best C they are few
            warnings.simplefilter("ignore", ConvergenceWarning)
            return estimator.fit(features.double().numpy(), labels.numpy())

    def _score(
        self, fit: Tensor, fit_labels: Tensor, val: Tensor, val_labels: Tensor, power: float
    ) -> Accuracy:
        """That of the regression with a power on val; features (N, d), labels (N,)."""
        self.set_head(self.regression(fit, fit_labels, power))
        head = cast(nn.Linear, self.backbone.head)
        with torch.no_grad():
            logits = head(val.to(head.weight)).cpu()
        # of a class without training images every power is sure that it is not there
        known = torch.isin(val_labels, fit_labels)
        likelihood = accuracy(logits[known], val_labels[known])[1] if known.any() else 0.0
        return accuracy(logits, val_labels)[0], likelihood

    @torch.no_grad()
    def set_head(self, estimator: Any) -> None:
        """Copy the weights of a fitted estimator into the head."""
        head = cast(nn.Linear, self.backbone.head)
        weight, bias = (torch.from_numpy(x) for x in (estimator.coef_, estimator.intercept_))
        if len(weight) == 1:  # of two classes: the difference
            weight, bias = (torch.cat([-x, x]) / 2 for x in (weight, bias))
        classes = torch.from_numpy(estimator.classes_).to(head.weight.device)
        head.weight.zero_()[classes] = weight.to(head.weight)
        head.bias.fill_(ABSENT)[classes] = bias.to(head.bias)


def _is_power(value: object) -> bool:
    return is_number(value) and abs(value) <= 30


def refined(
    score: Callable[[float], Accuracy], powers: Sequence[float], halvings: int
) -> dict[float, Accuracy]:
    """Scores of all powers and, between them, of those around the best one at half the distance.

    This is repeated with half the distance again. Of equal scores the first one is the best.
    """
    scores = {power: score(power) for power in powers}
    low, high = min(powers), max(powers)
    distance = (high - low) / (len(powers) - 1)
    for _ in range(halvings):
        distance /= 2
        best = max(scores, key=scores.__getitem__)
        for power in (best - distance, best + distance):
            if low <= power <= high and power not in scores:
                scores[power] = score(power)
    return scores

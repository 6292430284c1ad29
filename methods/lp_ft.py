"""LP-FT: Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution,
https://arxiv.org/abs/2202.10054.
"""

from collections.abc import Sequence

from petlbench.method import Fitted, Trainer
from petlbench.methods.logistic import Logistic
from petlbench.model.backbone import Backbone


class LPFT(Logistic):
    """Fits the head to frozen features by logistic regression, then trains all parameters.

    As in AnanyaKumar/transfer_learning @ 52b3d06f (log_reg_sk.py, baseline_train.py), but for the
    grid of C: there 100 values from 10^-7 to 10^2 of features with mean 0 and deviation 1.
    """

    takes_steps = True

    def __init__(
        self, backbone: Backbone, *, powers: Sequence[float], halvings: int, iterations: int
    ) -> None:
        super().__init__(backbone, powers=powers, halvings=halvings, iterations=iterations)
        backbone.requires_grad_(True)

    def fit(self, trainer: Trainer) -> Fitted:
        """Fit the head, then train all parameters from there."""
        probe = super().fit(trainer)
        trainer.train(self)
        return Fitted(self, notes=probe.notes)

"""MLP head: Visual Prompt Tuning (its baseline MLP-k), https://arxiv.org/abs/2203.12119.

Preset: MLP-3, conf/method/mlp_3.yaml.
"""

from typing import cast

from torch import Tensor, nn

from petlbench.checks import batch_statistics, fraction, whole
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.swap import swap_these

MOST_LAYERS = 100  # more would fill the memory before an error could name the value


class MLP(nn.Linear):
    """Hidden layers of width d, then a linear layer: `weight` (K, d) and `bias` (K,) are its own.

    h <- dropout(BN(relu(W h + b))) for each hidden layer. W starts from N(0, 2 / d).
    """

    def __init__(self, width: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__(width, classes)
        self.hidden = nn.Sequential(*(_layer(width, dropout) for _ in range(hidden)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, K); raises UserError for one image in training"""
        if self.training:
            batch_statistics("the head", len(x))
        return super().forward(self.hidden(x))


def _layer(width: int, dropout: float) -> nn.Sequential:
    linear = nn.Linear(width, width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    # the norm comes after the activation in KMnP/vpt
    return nn.Sequential(linear, nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(dropout))


class MLPHead(Method):
    """A head of `layers` layers on the frozen network; the last one starts as other heads do.

    As in KMnP/vpt @ 7f3942e4 (src/models/mlp.py), whose MODEL.MLP_NUM is the number of hidden
    layers. MLP-k is taken as k layers in all; that code has no settings of MLP-3, so this is
    not confirmed. A delta has the running statistics of the batch norms.
    """

    starts_as_pretrained = False
    unmergeable = "its head has several layers"

    def __init__(self, backbone: Backbone, *, layers: int, dropout: float) -> None:
        super().__init__(backbone)
        hidden = whole("method.layers", layers, low=2, high=MOST_LAYERS) - 1
        old = cast(nn.Linear, backbone.head)
        head = MLP(old.in_features, old.out_features, hidden, fraction("method.dropout", dropout))
        swap_these(backbone, {old: head})
        backbone.start_head()

"""DTL+ and DTL+*: DTL with a depthwise convolution, https://arxiv.org/abs/2312.07856.

DTL+* is DTL+ with an injection after every block: a preset, conf/method/dtl_plus_star.yaml.
"""

from torch import Tensor, nn

from petlbench.layers import DepthwiseConv
from petlbench.methods.dtl import DTL
from petlbench.model.backbone import Backbone
from petlbench.model.stage import Stage


class DTLPlus(DTL):
    """DTL with a convolved injection: z <- z + conv(theta(h)), one filter per channel.

    The blocks of a stage share the filter, which has no bias (and, unlike the paper's text, no
    pointwise part: heekhero/DTL @ bf6c51e). The class token bypasses it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int,
        extract_from: int,
        inject_from: int,
        beta: float | None,
        kernel: int,
    ) -> None:
        super().__init__(
            backbone, rank=rank, extract_from=extract_from, inject_from=inject_from, beta=beta
        )
        # The authors' Swin also has filters in stages without injection; they get no gradient.
        self.mix = nn.ModuleDict(
            {str(stage.first): DepthwiseConv(stage.width, kernel) for stage in self.injecting()}
        )

    def theta(self, h: Tensor, stage: Stage) -> Tensor:
        """The side state, activated and convolved over the patch grid; the shape stays."""
        return self.backbone.tokens.on_patches(self.mix[str(stage.first)], super().theta(h, stage))

"""The cost of a training step at full size, and how it is counted.

That bytes counted on shapes equal those of a real step is a property of every method
(petlbench.testing), tested in test_methods.py.
"""

import pytest
import torch

from petlbench.config import compose
from petlbench.cost import memory, shapes
from petlbench.method import Method
from petlbench.run import build
from petlbench.testing import images, tiny_method
from petlbench.train.precision import Precision
from tests.helpers import sampled
from tests.shallow import BLOCKS, shallow_method

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
# MB at batch 32 on ViT-B/16 in fp32 with fused attention; an upper bound.
BARS = {
    "full": 3820,
    "bitfit": 2400,
    "lora": 2600,
    "adaptformer": 2200,
    "ssf": 5000,
    "dtl": 1366,
    "dtl_plus": 1484,
    "linear": 1,
}


def on_vit_b16(name: str) -> Method:
    return build.on_meta(
        compose.single([f"method={name}", "backbone=vit_b16", "dataset=vtab/cifar"])
    )


@pytest.mark.parametrize("name", sampled(BARS, ["lora", "ssf", "dtl_plus", "linear"]))
def test_bytes_saved_at_full_size(name: str) -> None:
    saved = shapes.saved_bytes_on_cpu(on_vit_b16(name), FP32, batch=32, size=224)
    assert saved <= BARS[name] * 1e6


def test_flops_of_a_vit() -> None:
    """Forward by the formula of a ViT; a full step is three forwards without the gradient of the
    images.
    """
    width, tokens = 96, 37
    block = 12 * width**2 * tokens + 2 * tokens**2 * width
    embedding, head = 36 * width * 3 * 8 * 8, 2 * width
    forward = 2 * (BLOCKS * block + embedding + head)
    full = shapes.gflops(shallow_method("full"), batch=1, size=48)
    assert full["forward"] == pytest.approx(forward / 1e9, rel=1e-6)
    assert full["step"] == pytest.approx((3 * forward - 2 * embedding) / 1e9, rel=1e-6)
    linear = shapes.gflops(shallow_method("linear"), batch=1, size=48)
    assert linear["step"] == pytest.approx((forward + 2 * head) / 1e9, rel=1e-6)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_flops_of_a_grouped_convolution(groups: int) -> None:
    """Backward is twice forward, the input's gradient and the weight's, however it is grouped."""
    convolution = torch.nn.Conv2d(16, 16, 3, padding=1, groups=groups, bias=False)
    images = torch.randn(2, 16, 8, 8, requires_grad=True)
    forward = shapes.flops(lambda: convolution(images))
    assert forward == 2 * 2 * 16 * 8 * 8 * (16 // groups) * 9
    assert shapes.flops(lambda: convolution(images).sum().backward()) == 3 * forward


@pytest.mark.parametrize("saved", [0, 500, 5000])
def test_the_parts_of_a_peak_add_up(saved: int) -> None:
    state = {"weights": 300, "gradients": 10, "optimiser": 20}
    parts = memory.split(state, saved=saved, allocated=1000)
    assert parts["activations"] == min(saved, 670)
    assert sum(size for key, size in parts.items() if key != "allocated") == 1000


def test_what_belongs_to_a_network_after_a_step() -> None:
    method = tiny_method("lora", "vit")
    settings = compose.single(["method=lora"]).train
    step = memory.TrainingStep(method, FP32, settings, images())
    step()
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    tensors = len([p for p in method.parameters() if p.requires_grad])
    size = step.state_bytes()
    assert size["gradients"] == 4 * trained
    assert size["optimiser"] == 4 * (2 * trained + tensors)  # AdamW: two means, and a count
    assert size["weights"] == 4 * sum(p.numel() for p in method.parameters())

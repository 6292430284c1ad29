"""torch.compile takes every method as one graph, with the same outputs and gradients."""

from typing import cast

import pytest
import torch

from petlbench import registry
from petlbench.delta import trained
from petlbench.method import Method
from petlbench.testing import loss, method_on, randomised, supported, tiny, tiny_method
from tests.helpers import sampled


def compiled_agrees(method: Method, backend: str) -> None:
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    value = loss(method)
    value.backward()
    expected = {name: tensor.grad for name, tensor in trained(method).items()}
    method.zero_grad(set_to_none=True)
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend=backend)
    again = loss(cast(Method, compiled))
    again.backward()
    torch.testing.assert_close(again, value, rtol=1e-4, atol=1e-6)
    for name, tensor in trained(method).items():
        torch.testing.assert_close(tensor.grad, expected[name], rtol=1e-3, atol=1e-5)


PAIRS = [(name, family) for name in registry.names() for family in ("vit", "swin")]
# Tokens and a swapped projection; the tests below compile a walk of its own.
FAST = {("vpt_deep", "vit"), ("lora", "vit")}


@pytest.mark.parametrize(
    ("name", "family"), sampled([pair for pair in PAIRS if supported(*pair)], FAST)
)
def test_one_graph(name: str, family: str) -> None:
    compiled_agrees(randomised(tiny_method(name, family)), "aot_eager")


@pytest.mark.parametrize("name", sampled(["convpass", "dtl_plus"], ["dtl_plus"]))
def test_one_graph_with_drop_path(name: str) -> None:
    compiled_agrees(randomised(method_on(tiny("vit", drop_path=0.5), name)), "aot_eager")


@pytest.mark.parametrize("name", sampled(["lora", "dtl_plus", "ssf"], ["dtl_plus"]))
def test_inductor(name: str) -> None:
    compiled_agrees(randomised(tiny_method(name, "vit")), "inductor")

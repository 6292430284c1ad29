"""torch.compile takes every method as one graph, with the same outputs and gradients.

`train.compile` trains through it, and without it where it fails.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._inductor.exc import InvalidCxxCompiler

from petlbench.delta import trained
from petlbench.method import Method
from petlbench.testing import images, loss, method_on, randomised, tiny, tiny_method
from petlbench.train.forward import Compiled, TrainingForward
from petlbench.train.optim import build_optimiser
from petlbench.train.precision import Precision
from petlbench.train.step import training_step
from tests.helpers import supported_pairs
from tests.loops import method as fresh
from tests.loops import tensors, trainer
from tests.settings import train
from tests.shallow import tiny_shallow_method


def compiled_agrees(method: Method, backend: str) -> None:
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)  # of methods that draw without a dropout
    value = loss(method)
    value.backward()
    expected = {name: tensor.grad for name, tensor in trained(method).items()}
    method.zero_grad(set_to_none=True)
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend=backend)
    torch.manual_seed(0)
    again = loss(cast(Method, compiled))
    again.backward()
    torch.testing.assert_close(again, value, rtol=1e-4, atol=1e-6)
    for name, tensor in trained(method).items():
        torch.testing.assert_close(tensor.grad, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), supported_pairs("vit", "swin"))
def test_one_graph(name: str, family: str) -> None:
    compiled_agrees(randomised(tiny_method(name, family)), "aot_eager")


def test_one_graph_of_three_blocks() -> None:
    """Tokens; the tests below compile a walk of its own."""
    compiled_agrees(randomised(tiny_shallow_method("vpt_deep")), "aot_eager")


def test_one_graph_of_three_blocks_with_drop_path() -> None:
    method = tiny_shallow_method("dtl_plus", drop_path=0.5, inject_from=2)
    compiled_agrees(randomised(method), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convpass", "dtl_plus"])
def test_one_graph_with_drop_path(name: str) -> None:
    compiled_agrees(randomised(method_on(tiny("vit", drop_path=0.5), name)), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "dtl_plus", "ssf"])
def test_inductor(name: str) -> None:
    compiled_agrees(randomised(tiny_method(name, "vit")), "inductor")


def failing(error: Exception, calls: list[int]) -> Callable[..., Any]:
    """In place of torch.compile: what it returns fails when it is called."""

    def compile_(method: Method, **options: Any) -> Callable[[Tensor], Tensor]:
        def call(batch: Tensor) -> Tensor:
            calls.append(len(batch))
            raise RuntimeError("backend='inductor' raised:\na trace of many lines") from error

        return call

    return compile_


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidCxxCompiler("g++"), "there is no C++ compiler on this machine"),
        (TypeError("a branch on data\nin a method"), "TypeError: a branch on data"),
    ],
)
def test_a_method_that_cannot_be_compiled_trains_after_one_warning(
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "compile", failing(error, calls))
    made, plain = fresh("linear"), fresh("linear")
    trainer(train=train(compile=True)).train(made)
    assert calls == [8]  # once
    assert [record.message for record in caplog.records if "compile" in record.message] == [
        f"train.compile has no effect: {reason}"
    ]
    trainer(train=train()).train(plain)
    assert all(map(torch.equal, tensors(made), tensors(plain)))


@pytest.mark.parametrize("failures", [1, 2])
def test_graphs_of_earlier_methods_are_dropped_once(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resets: list[None] = []
    left = [FailOnRecompileLimitHit("fullgraph")] * failures

    def compile_(method: Method, **options: Any) -> Callable[[Tensor], Tensor]:
        def call(batch: Tensor) -> Tensor:
            if left:
                raise left.pop()
            return cast(Tensor, method(batch) + 1)  # another function, so that the test sees it

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    method = tiny_method("linear", "vit").eval()
    logits = Compiled(method)(images())
    assert torch.equal(logits, method(images()) + (1 if failures == 1 else 0))
    assert len(resets) == 1
    assert len(caplog.records) == failures - 1


def test_memory_that_runs_out_is_no_matter_of_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_(method: Method, **options: Any) -> Callable[[Tensor], Tensor]:
        def call(batch: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no room")

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(tiny_method("linear", "vit"))(images())


def losses(memory: str, *, compiled: bool) -> list[float]:
    """Of five steps on 4 or 2 images, with drop path."""
    method = randomised(method_on(tiny("vit", drop_path=0.2), "dtl_plus")).train()
    values = train(memory=memory, compile=compiled)
    forward, optimiser = TrainingForward(method, values), build_optimiser(method, values)
    precision, masks = Precision("fp32", torch.device("cpu")), torch.Generator().manual_seed(0)
    return [
        float(
            training_step(
                method, optimiser, precision, images(n), torch.arange(n), masks, forward=forward
            )
        )
        for n in (4, 2, 4, 2, 4)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["fast", "lean", "min"])
def test_a_compiled_training_has_the_same_losses_and_one_graph_for_each_size_of_a_batch(
    memory: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = losses(memory, compiled=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # inductor takes minutes for two sizes
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    assert losses(memory, compiled=True) == pytest.approx(expected, rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not [record for record in caplog.records if "compile" in record.message]

"""train.compile=cuda_graphs: refusals, what a step may keep, and what replay takes for fixed.

Without a GPU the compiler is a stand-in that returns the logits of each call in the same memory,
as replayed graphs do.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench.config import compose
from petlbench.config.nodes import CUDA_GRAPHS
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model.drop_path import DropPath, keep_masks
from petlbench.report.read import fields
from petlbench.run import build
from petlbench.testing import images, method_on, randomised, tiny, tiny_method
from petlbench.train import forward
from petlbench.train.forward import Graphed, TrainingForward, without_graphs
from petlbench.train.optim import build_optimiser
from petlbench.train.precision import Precision
from petlbench.train.step import training_step
from tests.loops import method as fresh
from tests.loops import tensors, trainer
from tests.settings import train

SIZES = (4, 2) * 3  # images of each step: warm-up, recording and a replay of each size
NEEDED = "train.compile=cuda_graphs needs a CUDA device; set device=cuda or train.compile=true"


class Overwritten(torch.autograd.Function):
    """The same numbers in given memory: (B, K) -> (B, K)"""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, memory: Tensor) -> Tensor:
        memory.copy_(logits)
        alias: Tensor = torch.from_numpy(memory.numpy())
        return alias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def replaying(method: Method, **options: Any) -> Callable[[Tensor], Tensor]:
    """In place of torch.compile."""
    assert options["mode"] == "reduce-overhead"
    memory: dict[int, Tensor] = {}

    def call(batch: Tensor) -> Tensor:
        logits = method(batch)
        place = memory.setdefault(len(batch), torch.empty_like(logits))
        return Overwritten.apply(logits, place)  # type: ignore[no-any-return]

    return call


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A compiler that needs no GPU; what it is told in the course of a training."""
    told: list[str] = []
    monkeypatch.setattr(forward, "check", lambda train, device: None)
    monkeypatch.setattr(torch, "compile", replaying)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: told.append("step"))
    monkeypatch.setattr(torch.compiler, "reset", lambda: told.append("reset"))
    return told


def steps(method: Method, device: str, **changes: Any) -> Iterator[Tensor]:
    """The losses of a few steps."""
    values = train(**changes)
    called, optimiser = TrainingForward(method.train(), values), build_optimiser(method, values)
    precision, masks = Precision("fp32", torch.device(device)), torch.Generator().manual_seed(0)
    size, draw = method.backbone.image_size, torch.Generator().manual_seed(0)
    for n in SIZES:
        batch = torch.rand(n, 3, size, size, generator=draw).to(device)
        labels = torch.arange(n, device=device) % 2
        yield training_step(method, optimiser, precision, batch, labels, masks, forward=called)


def dropping() -> Method:
    """A method with drop path."""
    return randomised(method_on(tiny("vit", drop_path=0.2), "dtl_plus"))


@pytest.mark.parametrize(
    "overrides", [("device=cpu",), ("device=cpu", "train.memory=min"), ("device=auto",)]
)
def test_a_cpu_is_refused_before_a_run_starts(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"^{NEEDED}$"):
        build.machine(compose.single(["method=lora", "train.compile=cuda_graphs", *overrides]))
    with pytest.raises(UserError, match=f"^{NEEDED}$"):
        TrainingForward(tiny_method("lora", "vit"), train(compile=CUDA_GRAPHS))


def test_several_batches_a_step_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.accumulate is 2 .*; set train\.accumulate=1 or"):
        compose.single(["method=lora", "train.compile=cuda_graphs", "train.accumulate=2"])


@pytest.mark.parametrize(
    ("value", "word"), [(False, "off"), (True, "on"), (CUDA_GRAPHS, "cuda_graphs"), (None, "off")]
)
def test_reports_name_the_way_to_compile(value: object, word: str) -> None:
    record = {"cost": {"parameters": {}}, "config": {"train": {"compile": value, "lr": 1.0}}}
    assert fields.compiled(record) == word


def test_memory_is_measured_without_graphs() -> None:
    assert without_graphs(train(compile=CUDA_GRAPHS)) == train(compile=True)
    assert without_graphs(train(compile=False)) == train(compile=False)


def test_logits_and_losses_outlive_the_next_replay(marks: list[str]) -> None:
    called = Graphed(tiny_method("lora", "vit").eval())
    first = called(images(4))
    value = first.detach().clone()
    assert not torch.equal(called(images(4) + 1), value)
    assert torch.equal(first, value)
    marks.clear()
    expected = list(steps(dropping(), "cpu"))
    graphed = list(steps(dropping(), "cpu", compile=CUDA_GRAPHS))
    torch.testing.assert_close(graphed, expected)  # the eager steps have a short last block
    assert marks == ["step"] * len(SIZES)


def test_a_training_ends_without_gradients_and_then_frees_its_graphs(
    marks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = fresh("linear"), fresh("linear")
    grown: list[bool] = []
    monkeypatch.setattr(
        torch.compiler,
        "reset",
        lambda: grown.append(any(t.grad is not None for t in trained(made).values())),
    )
    trainer(train=train(compile=CUDA_GRAPHS)).train(made)
    assert grown == [False]
    assert marks == ["step"] * 8  # two epochs of 36 images in batches of 8
    trainer(train=train()).train(plain)
    assert all(map(torch.equal, tensors(made), tensors(plain)))


def test_what_torch_takes_for_fixed_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each step would record a graph of its own. Masks of drop path are such tensors."""
    places: dict[int, list[list[int]]] = {}
    held = []  # so that no address is used again

    def backend(graph: Any, example: list[Tensor], **options: Any) -> Callable[..., Any]:
        inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        known = [node.meta.get("tensor_dict", {}) for node in inputs]
        fixed = [n for n, about in enumerate(known) if "_dynamo_static_input_type" in about]

        def call(*given: Any) -> Any:
            held.append(given)
            places.setdefault(id(graph), []).append([given[n].data_ptr() for n in fixed])
            return graph(*given)

        return call

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = nn.Sequential(nn.Linear(8, 8), DropPath(0.5)).train()
    called, drawn = Graphed(network), torch.Generator().manual_seed(0)
    for n in SIZES:
        batch = torch.rand(n, 8)
        with keep_masks(network, n, drawn):
            assert torch.equal(called(batch), network(batch))
    assert sorted(map(len, places.values())) == [3, 3]  # a graph for each size
    for calls in places.values():
        assert len(calls[0]) == 3  # weight, bias and mask
        assert all(call == calls[0] for call in calls)


def test_a_graph_that_torch_does_not_record_costs_one_warning(
    marks: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def skipping(method: Method, **options: Any) -> Callable[[Tensor], Tensor]:
        call = replaying(method, **options)

        def skipped(batch: Tensor) -> Tensor:
            torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] += 1
            return call(batch)

        return skipped

    monkeypatch.setattr(torch, "compile", skipping)
    list(steps(dropping(), "cpu", compile=CUDA_GRAPHS))
    [record] = [record for record in caplog.records if record.name == "petlbench"]
    assert record.getMessage().startswith("train.compile=cuda_graphs replays only a part")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CPU has no CUDA graphs")
@pytest.mark.parametrize("name", ["dtl", "lora"])
@pytest.mark.parametrize("drop_path", [0.0, 0.2])
def test_replayed_graphs_train_like_eager_steps(
    name: str, drop_path: float, caplog: pytest.LogCaptureFixture
) -> None:
    def losses(compile: bool | str) -> list[float]:
        made = fresh(name, drop_path=drop_path).to("cuda")
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # a compiler draws other numbers
        return [float(loss) for loss in steps(made, "cuda", compile=compile)]

    assert losses(CUDA_GRAPHS) == pytest.approx(losses(False), rel=1e-3)
    assert not [record for record in caplog.records if record.name == "petlbench"]

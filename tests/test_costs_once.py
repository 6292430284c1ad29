"""What is counted on shapes is counted once for runs that differ in nothing that it depends on."""

from typing import Any

import pytest
import torch

from petlbench.config import compose
from petlbench.cost import shapes
from petlbench.method import Method
from petlbench.run import build, costs
from petlbench.run.training import measuring
from tests.shallow import OVERRIDES

SMALL = ("backbone.pretrained=false", "train.batch_size=2")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The conditions of the counts of FLOPs that were made; counting itself takes a second."""
    made: list[dict[str, int]] = []

    def gflops(method: Method, **conditions: int) -> dict[str, float]:
        made.append(conditions)
        return {"forward": 1.0, "step": float(len(made))}

    monkeypatch.setattr(shapes, "gflops", gflops)
    monkeypatch.setattr(shapes, "saved_bytes_on_cpu", lambda *_, **__: 10**6)
    monkeypatch.setattr(costs, "_COUNTED", {})
    return made


def counted(*overrides: str) -> dict[str, Any]:
    config = compose.single(["method=lora", *SMALL, *overrides])
    conditions = measuring(config, torch.device("cpu"))
    return costs.counted_once(config, build.method(config), conditions, {})


def test_seeds_tasks_and_rates_share_a_count(counts: list[dict[str, int]]) -> None:
    first = counted()
    assert first == counted("seed=1", "train.lr=0.5", "train.weight_decay=0.1")
    first["parameters"]["method"] = 0  # a record belongs to its run
    assert counted("seed=2")["parameters"]["method"] > 0
    assert len(counts) == 1


@pytest.mark.parametrize("changed", ["method.rank=4", "train.batch_size=4", "input.size=64"])
def test_what_changes_a_count_is_counted_again(changed: str, counts: list[dict[str, int]]) -> None:
    assert counted() != counted(changed)
    assert len(counts) == 2


def test_reasons_of_missing_costs_are_noted_in_every_run(
    counts: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError(
            "it reads a value. File an issue. Registered at /build/RegisterMeta.cpp"
        )

    monkeypatch.setattr(shapes, "gflops", fails)
    config = compose.single(["method=lora", *SMALL])
    conditions = measuring(config, torch.device("cpu"))
    for _ in range(2):
        notes: dict[str, Any] = {}
        found = costs.counted_once(config, build.method(config), conditions, notes)
        assert found["gflops"] is None
        assert notes == {"gflops": "not counted: RuntimeError: it reads a value"}


def test_counting_leaves_the_random_state_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_COUNTED", {})
    config = compose.single(["method=lora", *SMALL, *OVERRIDES])
    method, conditions = build.method(config), measuring(config, torch.device("cpu"))
    state = torch.get_rng_state()
    costs.counted_once(config, method, conditions, {})
    assert torch.equal(torch.get_rng_state(), state)

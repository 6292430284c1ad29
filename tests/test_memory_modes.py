"""`train.memory`: equal losses and gradients in all modes, and what each mode keeps."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench.config import compose
from petlbench.config.nodes import MEMORY_MODES
from petlbench.cost import shapes
from petlbench.delta import trained
from petlbench.method import Method, frozen_prefix
from petlbench.model.drop_path import keep_masks
from petlbench.report.read.costs import costs_of
from petlbench.report.table.footnotes import footnotes
from petlbench.run import budget, probing
from petlbench.run.check import broken
from petlbench.run.identity import identity
from petlbench.run.record import Record
from petlbench.testing import FAMILIES, images, method_on, randomised, tiny, tiny_method
from petlbench.testing.networks import SIZE
from petlbench.train import last_block, live_bytes, recompute
from petlbench.train.precision import Precision
from petlbench.train.recompute import MODES
from tests.helpers import sampled, supported_pairs
from tests.records import probe
from tests.shallow import OVERRIDES as SHALLOW
from tests.shallow import tiny_shallow_method

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
SUPPORTED = supported_pairs(*FAMILIES)
# A walk, whole blocks, swapped projections, side blocks, queries, a norm with two readers; NOAH's
# sizes change.
NAMES = ("dtl_plus", "adaptformer", "fact_tk", "lst", "vqt", "convpass", "full", "linear")
SHALLOW_ONES = [(name, "shallow") for name in NAMES]
FAST = [*SHALLOW_ONES, ("noah", "vit"), ("lora", "swin")]
LATE = {"inject_from": 2}  # of three blocks


def dropping(name: str, family: str) -> Method:
    """A randomised method whose drop paths and dropouts are active."""
    if family == "shallow":
        made = tiny_shallow_method(name, 0.3, **LATE if name == "dtl_plus" else {})
    else:
        made = method_on(tiny(family, drop_path=0.3), name)
    method = randomised(made).double().train()
    for module in method.modules():
        if "dtype" in vars(module):  # PEFT's AdaMSS computes in the format it was built with
            vars(module)["dtype"] = torch.float64
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return method


def step(
    method: Method, mode: str, precision: Precision = FP32
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a step on `images()`; dropout and drop path draw the same ones."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    batch = images().to(next(method.parameters()).dtype)
    with keep_masks(method, len(batch), torch.Generator().manual_seed(0)):
        with precision.autocast(), recompute.held(method, mode)():
            loss = method(batch).float().square().mean()
        loss.backward()
    return loss.detach(), {
        name: tensor.grad for name, tensor in trained(method).items() if tensor.grad is not None
    }


def kept(method: Method, mode: str, precision: Precision = FP32) -> int:
    batch = images().to(next(method.parameters()).dtype)
    with keep_masks(method, len(batch)):
        return shapes.saved_bytes(method, precision, batch, mode)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], within: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=within, atol=within * float(gradient.abs().max()), msg=name
        )


def test_there_is_a_form_of_every_mode() -> None:
    assert tuple(MODES) == MEMORY_MODES


@pytest.mark.parametrize(("name", "family"), sampled([*SUPPORTED, *SHALLOW_ONES], FAST))
def test_modes_have_the_same_gradients_and_keep_less(name: str, family: str) -> None:
    method = dropping(name, family)
    loss, gradients = step(method, "fast")
    bytes_kept = {mode: kept(method, mode) for mode in MEMORY_MODES}
    for mode in ("lean", "min"):
        again, recomputed = step(method, mode)
        assert torch.equal(again, loss)
        assert_equal(recomputed, gradients, 1e-12)
    assert bytes_kept["min"] <= bytes_kept["lean"] <= bytes_kept["fast"]
    if next(iter(method.counted_parameters()), None) is not None:
        assert bytes_kept["min"] < bytes_kept["fast"]
        # A norm of another package may draw, so that `lean` does not call it twice.
        if name != "peft_ln_tune":
            assert bytes_kept["min"] < bytes_kept["lean"] < bytes_kept["fast"]


@pytest.mark.parametrize("name", sampled(["lora", "fact_tt", "ssf", "dtl", "full"], ["fact_tt"]))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_equal_to_the_bit_where_a_norm_has_one_reader(
    name: str, precision: str
) -> None:
    method, formats = randomised(tiny_method(name, "vit")).train(), Precision(precision, CPU)
    _, gradients = step(method, "fast", formats)
    for mode in ("lean", "min"):
        _, recomputed = step(method, mode, formats)
        assert all(torch.equal(recomputed[key], value) for key, value in gradients.items())


@pytest.mark.parametrize(("name", "calls"), [("linear", 0), ("dtl", 5), ("full", 12), ("lst", 12)])
def test_blocks_without_a_gradient_are_not_recomputed(
    name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint for each block after the constant prefix, or for each block of LST's side."""
    method, found = tiny_method(name, "vit").train(), []

    def counted(call: Callable[..., Tensor], *inputs: Tensor, **named: Any) -> Tensor:
        found.append(call)
        return call(*inputs)

    monkeypatch.setattr(recompute, "checkpoint", counted)
    step(method, "min")
    assert len(found) == calls
    assert calls in (12, 12 - frozen_prefix(method))


@pytest.mark.parametrize(
    ("name", "values"), [("lora", {}), ("dtl_plus", LATE), ("lst", {}), ("full", {})]
)
def test_the_bytes_kept_are_those_that_live_after_the_forward_pass(
    name: str, values: dict[str, Any]
) -> None:
    """Nothing else of the forward pass lives, but for logits and masks."""
    method, batch = randomised(tiny_shallow_method(name, **values)).train(), images()
    for mode in MEMORY_MODES:
        saved = kept(method, mode)
        with keep_masks(method, len(batch)), live_bytes.LiveBytes() as live:
            live.note([*method.parameters(), *method.buffers(), batch])
            before, counted = live.live, len(live.sizes)
            with last_block.held(method)(), recompute.held(method, mode)():
                logits = method(batch)
            # each is rounded up by less than that
            rounding = live_bytes.GRAIN * (len(live.sizes) - counted)
        assert logits.requires_grad
        assert saved - batch.nbytes <= live.live - before <= saved + rounding
        assert rounding < saved / 2


class Fails(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        raise ArithmeticError("in the middle of the walk")


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_a_mode_leaves_the_method_as_it_was_and_its_names_alone(mode: str) -> None:
    method = tiny_method("lst", "vit").train()
    names = list(method.state_dict())
    called = [list(stage.blocks) for stage in method.backbone.stages]
    held = recompute.held(method, mode)
    with held():
        assert list(method.state_dict()) == names
    step(method, mode)
    method.backbone.stages[0].blocks[5] = Fails()
    with pytest.raises(ArithmeticError):
        step(method, mode)
    method.backbone.stages[0].blocks[5] = called[0][5]
    assert [list(stage.blocks) for stage in method.backbone.stages] == called
    assert not any("forward" in vars(module) for module in method.modules())
    assert copy.deepcopy(method).beside is method.beside


@pytest.mark.parametrize("mode", ["lean", "min"])
def test_a_replaced_block_of_the_walk_is_called(mode: str) -> None:
    method, called = tiny_method("lora", "vit").train(), list[int]()

    def replacement(block: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        called.append(len(z))
        return block(z)

    blocks = method.backbone.stages[0].blocks
    blocks[3] = partial(replacement, blocks[3])
    step(method, mode)
    assert called == [3] * (2 if mode == "min" else 1)


class Noisy(nn.Module):
    """Draws outside of any dropout, as a module of another package may."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, z: Tensor) -> Tensor:
        return self.block(z) * torch.rand(z.shape)  # type: ignore[no-any-return]


def test_draws_of_unknown_modules_are_repeated() -> None:
    method = randomised(tiny_method("lora", "vit"))
    method.backbone.swap_blocks(lambda block, width: Noisy(block))
    _, gradients = step(method.train(), "fast")
    _, recomputed = step(method, "min")
    assert_equal(recomputed, gradients, 0.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.memory=small", "unknown train.memory 'small'; Known: fast, lean, min"),
        ("train.memory=null", "train.memory"),
        ("train.compile=maybe", "'maybe'; Known: cuda_graphs, false, true"),
        ("train.compile=null", "train.compile"),
    ],
)
def test_other_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        compose.single(["method=linear", override])


def test_the_identity_of_earlier_records_stays() -> None:
    plain = compose.single(["method=lora"]).plain()
    before = copy.deepcopy(plain)
    for key in ("memory", "compile"):
        del before["train"][key]
    assert identity(plain) == identity(before)
    for change in ({"memory": "min"}, {"compile": True}, {"compile": "cuda_graphs"}):
        assert identity(plain | {"train": plain["train"] | change}) != identity(plain)


def test_a_probe_has_the_memory_of_all_modes(tmp_path: Path) -> None:
    overrides = ["protocol=probe", "method=lora", "train.memory=lean", *SHALLOW]
    overrides += [f"results.root={tmp_path}"]
    record = probing.probe(compose.single(overrides))
    assert record["status"] == "finished", record["reason"]
    assert broken(record) == []
    modes, cost = record["cost"]["memory_modes"], record["cost"]
    assert tuple(modes) == MEMORY_MODES
    assert modes["lean"] == {key: cost[key] for key in modes["lean"]}
    for key in ("saved_mb", "image_mib"):
        assert modes["min"][key] < modes["lean"][key] < modes["fast"][key]
    peaks = [modes[mode]["predicted_mib"]["allocated"] for mode in MEMORY_MODES]
    assert peaks == sorted(peaks, reverse=True)
    assert costs_of(record)["min_saved_mb"] == modes["min"]["saved_mb"]


def in_modes(peaks: dict[str, float], own: str = "fast") -> Record:
    """A probe at batch 32 with a predicted peak in MiB for each mode, a half of it per batch."""
    run = probe("lora", 10.0)
    state = {"weights": 1.0, "gradients": 1.0, "optimiser": 1.0}
    modes = {
        mode: {"peak_mib": None, "image_mib": peak / 64}
        | {"predicted_mib": state | {"allocated": peak}}
        for mode, peak in peaks.items()
    }
    cost = run["cost"] | modes[own] | {"memory_modes": modes, "predicted_precision": "bf16"}
    train = {"batch_size": 32, "memory": own}
    return run | {"cost": cost, "config": run["config"] | {"train": train}}


def test_a_budget_names_the_first_mode_that_fits() -> None:
    lines = budget.table([in_modes({"fast": 2048.0, "lean": 1024.0, "min": 512.0})], 1.0)
    assert lines[1].split()[:5] == ["method", "backbone", "fast", "lean", "min"]
    batches = lines[2].split()[2:5]
    assert batches == ["none", "32", "96"]
    assert lines[2].endswith("(bf16, predicted); 32 images fit with train.memory=lean")
    (line,) = budget.table([in_modes({"fast": 2048.0, "lean": 1024.0, "min": 512.0}, "min")], 1.0)[
        2:
    ]
    assert line.split()[2:5] == batches
    assert "fit with" not in line


def test_a_probe_of_one_mode_has_a_line_too() -> None:
    record = in_modes({"fast": 512.0})
    del record["cost"]["memory_modes"]
    del record["config"]["train"]["memory"]
    (line,) = budget.table([record], 1.0)[2:]
    assert line.split()[2:5] == ["96", "-", "-"]


def test_a_table_says_which_rows_have_another_mode() -> None:
    usual, other = in_modes({"fast": 2.0, "min": 1.0}), in_modes({"fast": 2.0, "min": 1.0}, "min")
    texts = [note.text for note in footnotes([("A", usual), ("B", usual), ("C", other)])]
    assert texts == ["C: train.memory min, elsewhere fast."]


def test_recomputed_operations_count() -> None:
    method = tiny_shallow_method("lora")
    fast, least = (
        shapes.gflops(method, batch=2, size=SIZE, memory=mode) for mode in ("fast", "min")
    )
    assert least["forward"] == fast["forward"]
    # the last layer of an MLP is not computed again
    assert fast["step"] < least["step"] < fast["step"] + fast["forward"]


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_the_last_layer_of_an_mlp_is_not_computed_again(drop_path: float) -> None:
    method = method_on(tiny("vit", drop_path=drop_path), "lora").train()
    calls: list[int] = []
    for block in method.backbone.net.blocks:
        for number, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
            layer.register_forward_hook(lambda *_, n=number: calls.append(n))
    step(method, "fast")
    assert (calls.count(0), calls.count(1)) == (12, 12)
    calls.clear()
    step(method, "min")
    assert (calls.count(0), calls.count(1)) == (24, 12)  # a forward hook runs when a layer is done

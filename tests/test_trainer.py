"""The training loop: exact repeats, what it may see, which epoch it keeps, how it ends."""

import gc
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench.cost.section import Conditions, memory_taken, parameters, section
from petlbench.data.images import View
from petlbench.data.preparation import Preparation
from petlbench.data.task import Score, Split
from petlbench.delta import trained
from petlbench.errors import UserError
from petlbench.method import Method, ParameterGroup, Step
from petlbench.model.backbone import Backbone, create
from petlbench.system import wait_briefly
from petlbench.testing import tiny_method
from petlbench.testing.networks import SIZE
from petlbench.train import evaluation
from petlbench.train.live_bytes import LiveBytes
from petlbench.train.optim import parameter_groups
from petlbench.train.phase import Diverged, Epoch
from petlbench.train.precision import Precision
from petlbench.train.step import accumulated_step, training_step
from petlbench.train.unfinished import Spent
from tests.loops import CPU, bright, method, tensors, trainer
from tests.settings import train, vit_mini
from tests.shallow import shallow_method


def fitted(seed: int, drop_path: float = 0.1) -> list[Tensor]:
    made = shallow_method("lora", drop_path)
    torch.manual_seed(seed)
    return tensors(made.fit(trainer(seed)).network)


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    first, again, other = fitted(0), fitted(0), fitted(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_it_learns_what_can_be_learned() -> None:
    made, watched = method("linear"), bright(40, seed=2)
    loop = trainer(train=train(epochs=10))
    before = loop.evaluate(made, watched)
    after = loop.evaluate(made.fit(loop).network, watched)
    assert before.total == after.total == 40
    assert after.top1 == 100
    assert [epoch.number for epoch in loop.history] == list(range(1, 11))
    assert loop.history[-1].loss < loop.history[0].loss


def test_an_evaluation_takes_the_images_that_fit() -> None:
    """What one more image takes is counted on shapes, and exact."""
    made, precision = tiny_method("vpt_deep", "vit").eval(), Precision("fp32", CPU)
    few, many = (evaluation.forward_bytes(made, precision, SIZE, n) for n in (40, 80))
    assert many - few == peak(made, 80) - peak(made, 40)
    for room, images in [(99, 62), (100, 125), (399, 250), (400, 500), (1e9, 1000), (0, 1)]:
        assert evaluation.fitting(200, 400, room) == images
    assert evaluation.batch_size(made, precision, SIZE) == evaluation.USUAL  # on a CPU


def peak(made: Method, images: int) -> int:
    """Bytes of a forward pass, with the batch that is read meanwhile."""
    with torch.no_grad(), LiveBytes() as live:
        batches = [torch.zeros(images, 3, SIZE, SIZE) for _ in range(2)]
        made(batches[0])
    return int(live.peak)


@pytest.mark.parametrize(("drop_last", "images"), [(True, 32), (False, 36)])
def test_drop_last_leaves_out_the_incomplete_batch(drop_last: bool, images: int) -> None:
    loop = trainer(train=train(drop_last=drop_last, epochs=1))
    loop.train(method("linear"))
    assert loop.spent.images_seen == images


def test_seconds_of_scores_are_counted_apart() -> None:
    loop = trainer(select={"val": bright(8, seed=2)})
    assert loop.spent.scored_s == 0.0
    loop.train(method("linear"))
    assert 0.0 < loop.spent.scored_s < loop.spent.seconds
    again = Spent("cpu")
    again.restore(loop.spent.state())
    assert again.scored_s == loop.spent.scored_s


def test_images_that_a_method_looks_at_before_it_trains_count_as_seen() -> None:
    loop = trainer()
    batches = [len(labels) for _, labels in loop.examples(8)]
    assert loop.spent.images_seen == sum(batches) == len(loop.fit)


@pytest.mark.parametrize(("drop_last", "optimizer"), [(True, "sgd"), (False, "adamw")])
@pytest.mark.parametrize("clip_grad", [None, 0.01])
def test_accumulated_batches_train_as_one_large_batch(
    drop_last: bool, optimizer: str, clip_grad: float | None
) -> None:
    """36 images: four steps of 8 or of 2 times 4, and where it is kept a last one of 4."""
    made = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        values = train(
            drop_last=drop_last,
            optimizer=optimizer,
            clip_grad=clip_grad,
            batch_size=batch_size,
            accumulate=accumulate,
        )
        fresh, loop = method("linear"), trainer(train=values)
        loop.train(fresh)
        made.append(
            (tensors(fresh), [epoch.loss for epoch in loop.history], loop.spent.images_seen)
        )
    one, other = made
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert other[1] == pytest.approx(one[1], rel=1e-5)
    assert other[2] == one[2] == 2 * (32 if drop_last else 36)


def test_clipped_gradients_have_the_largest_norm_or_their_own() -> None:
    images, labels = bright(8, seed=1).images.float() / 255, bright(8, seed=1).labels
    norms = {}
    for clip_grad in (None, 1e-3, 1e9):
        made = method("linear")
        optimiser = torch.optim.SGD(trained(made).values(), 0.1)
        accumulated_step(
            made,
            optimiser,
            Precision("fp32", CPU),
            [(images, labels)],
            8,
            clip_grad=clip_grad,
        )
        gradients = [tensor.grad for tensor in trained(made).values() if tensor.grad is not None]
        norms[clip_grad] = float(torch.stack([grad.norm() for grad in gradients]).norm())
    assert norms[None] == norms[1e9] > 1e-3
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_a_step_larger_than_the_training_split_is_refused() -> None:
    message = "train.batch_size 16 times train.accumulate 3 is larger than the 36 training images"
    with pytest.raises(UserError, match=f"{message}; set train.batch_size to at most 12"):
        trainer(train=train(batch_size=16, accumulate=3)).train(method("linear"))


def test_a_part_of_the_training_split_may_be_too_small_for_a_step() -> None:
    loop = trainer(train=train(batch_size=32))
    with pytest.raises(UserError, match="batch_size 32 is larger than the 30 training images"):
        loop.search().train(method("linear"), "part", epochs=1, lr=0.1, before_step=lambda s: None)


def test_what_needs_no_step_of_that_size_takes_few_images() -> None:
    whole = trainer(train=train(batch_size=64, drop_last=False, epochs=1))
    whole.train(method("linear"))
    assert whole.spent.images_seen == 36


def test_the_best_epoch_on_val_is_kept() -> None:
    """Evaluation is scripted: the second of three epochs is the best."""
    loop = trainer(
        select={"val": bright(8, seed=3)},
        keep_best=True,
        every_epochs=1,
        train=train(epochs=3),
    )
    seen: list[list[Tensor]] = []

    def scripted(method: Any, split: Split) -> Score:
        seen.append(tensors(method))
        return Score([3, 7, 5][len(seen) - 1], 8)

    loop.evaluate = scripted  # type: ignore[method-assign]
    made = shallow_method("lora")
    loop.train(made)
    assert loop.best is not None
    assert loop.best.number == 2
    assert all(torch.equal(a, b) for a, b in zip(tensors(made), seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(tensors(made), seen[2], strict=True))


def test_select_splits_are_scored_every_few_epochs_and_at_the_end() -> None:
    loop = trainer(
        select={"val": bright(8, seed=3)},
        every_epochs=2,
        train=train(epochs=5),
    )
    loop.train(method("linear"))
    assert [epoch.number for epoch in loop.history if epoch.scores] == [2, 4, 5]


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    epochs: list[Epoch] = []
    loop = trainer(train=train(lr=1e12, head_lr=1e30), on_epoch=epochs.append)
    with pytest.raises(Diverged, match="epoch 1"):
        loop.train(shallow_method("full"))
    assert epochs == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 37}, "larger than the 36 training images"),
        ({"batch_size": 0}, "whole number from 1 to"),
        ({"epochs": 0}, "whole number from 1 to"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"precision": "fp8"}, "unknown train.precision 'fp8'"),
    ],
)
def test_settings_that_cannot_train_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(train=train(**change)).train(method("linear"))


CONDITIONS = Conditions(CPU, Precision("fp32", CPU), train(), 48)


def cost_of(made: Method) -> dict[str, Any]:
    return section(made, CONDITIONS, {})


def test_measuring_changes_nothing() -> None:
    made = shallow_method("lora", drop_path=0.1)
    before, state = tensors(made), torch.get_rng_state()
    cost_of(made)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(made), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert all(value.grad is None for value in made.parameters())


def test_bytes_saved_follow_what_is_trained() -> None:
    late = {"inject_from": 2}  # of three blocks; dtl_plus_star injects from the first on
    values: dict[str, dict[str, Any]] = {"linear": {}, "lora": {}, "full": {}, "dtl_plus_star": {}}
    saved = {
        name: memory_taken(shallow_method(name, **own), CONDITIONS, {})["saved_mb"]
        for name, own in (values | {"dtl": late, "dtl_plus": late}).items()
    }
    assert saved["linear"] <= 8 * 96 * 4 / 1e6 * 1.01
    # Both are close to what a gradient through all blocks needs.
    assert saved["linear"] < saved["dtl"] < min(saved["lora"], saved["full"])
    assert saved["dtl"] <= saved["dtl_plus"] < saved["dtl_plus_star"]


def test_measuring_leaves_nothing_in_memory() -> None:
    made = shallow_method("fact_tk")
    cost_of(made)
    gc.freeze()  # what exists by now is not among the objects below
    cost_of(made)
    gc.collect()
    assert not any(isinstance(thing, Tensor) for thing in gc.get_objects())


def test_parameters_exclude_the_head() -> None:
    head = 96 * 2 + 2
    assert parameters(method("linear")) == {"method": 0, "head": head}
    assert parameters(method("dtl")) == {"method": 2 * 2 * 96 * 12, "head": head}


def test_images_are_normalised_and_resized() -> None:
    seen = View(size=24, interpolation="bilinear", resize=None, aspect="squash")
    prepare = Preparation(seen, mean=[0.5, 0, 0], std=[0.5, 1, 2])
    out = prepare(torch.full((2, 3, 48, 48), 255, dtype=torch.uint8))
    assert out.shape == (2, 3, 24, 24)
    expected = torch.tensor([1.0, 1.0, 0.5]).view(1, 3, 1, 1).expand_as(out)
    assert torch.allclose(out, expected)


class Hooked(Method):
    """Counts its hooks, adds a loss term, and has a tensor with a learning rate of its own."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.gain = nn.Parameter(torch.ones(()))
        self.steps: list[tuple[str, Step]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * super().forward(images)

    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor | None:
        assert logits.shape == (len(images), 2)
        assert len(targets) == len(images)
        return 0.5 * self.gain.square()

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([self.gain], lr=0.3, lr_scale=2.0, weight_decay=0.7)]

    def before_step(self, step: Step) -> None:
        self.steps.append(("before", step))

    def after_step(self, step: Step) -> None:
        assert self.gain.grad is not None
        self.steps.append(("after", step))


def hooked() -> Hooked:
    torch.manual_seed(0)
    return Hooked(create(vit_mini(pretrained=False), classes=2, image_size=48))


def test_hooks_frame_every_step() -> None:
    method = hooked()
    trainer(train=train(epochs=2)).train(method)
    steps = [Step(number // 4 + 1, number % 4, number, 8) for number in range(8)]
    assert method.steps == [(when, step) for step in steps for when in ("before", "after")]


def test_a_term_of_the_loss_is_added() -> None:
    """Its gradient, the gain itself, comes on top of that of cross-entropy."""
    plain, own = hooked(), hooked()
    plain.extra_loss = lambda *batch: None  # type: ignore[method-assign]
    images, labels = torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 0, 1])
    for each in (plain, own):
        still = torch.optim.SGD(each.parameters(), lr=0.0)
        training_step(each, still, Precision("fp32", CPU), images, labels)
    assert plain.gain.grad is not None
    assert own.gain.grad is not None
    assert own.gain.grad - plain.gain.grad == pytest.approx(1.0)


def test_a_tensor_may_have_a_learning_rate_and_decay_of_its_own() -> None:
    method = hooked()
    [*others, own] = parameter_groups(method, train(lr=0.1, head_lr=0.2, weight_decay=0.01))
    assert own["params"] == [method.gain]
    assert (own["peak_lr"], own["weight_decay"]) == (0.6, 0.7)
    assert [part["peak_lr"] for part in others] == [0.2, 0.2]
    assert sum(len(part["params"]) for part in (own, *others)) == len(trained(method))


def test_a_method_may_say_which_tensors_count() -> None:
    method = hooked()
    assert parameters(method)["method"] == 1
    method.counted_parameters = lambda: ()  # type: ignore[method-assign]
    assert parameters(method) == {"method": 0, "head": 96 * 2 + 2}


class Undecided(Hooked):
    """Reads a value of its input, which shapes do not have."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if images.sum().item() else images.flatten(1)[:, :2]


def test_a_cost_that_shapes_do_not_tell_is_null_with_a_note() -> None:
    torch.manual_seed(0)
    method = Undecided(create(vit_mini(pretrained=False), classes=2, image_size=48))
    notes: dict[str, str] = {}
    cost = section(method, Conditions(CPU, Precision("fp32", CPU), train(), 48), notes)
    assert cost["gflops"] is None
    assert cost["saved_mb"] is None
    assert cost["parameters"] == {"method": 1, "head": 194}
    assert notes.keys() == {"gflops", "saved_mb"}
    assert all(note.startswith("not counted: ") for note in notes.values())


@pytest.mark.parametrize(
    ("own", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_wants_it_otherwise(
    own: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(key, raising=False)
    for key, value in own.items():
        monkeypatch.setenv(key, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="MKL alone is asked for it")
def test_the_number_of_threads_changes_no_bit() -> None:
    code = """
import petlbench, torch
a, b = torch.randn(6304, 192), torch.randn(6304, 8)
found = []
for number in (1, 2):
    torch.set_num_threads(number)
    found.append(a.T @ b)
assert torch.equal(*found)
"""
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)

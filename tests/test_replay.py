"""Prefix replay: equal bits with and without it, what is stored, who shares it, when it is off."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlbench import main_memory
from petlbench.config import compose
from petlbench.data.augment import Augmentation
from petlbench.delta import delta_tensors
from petlbench.method import Method, Step, frozen_prefix
from petlbench.run import contents
from petlbench.run.identity import identity, placeless
from petlbench.run.record import Store
from petlbench.run.training import run
from petlbench.testing import method_on, tiny, tiny_method
from petlbench.train.output_store import CPU, STORE, Outputs, OutputStore, limit_of
from petlbench.train.parts import parts_of
from petlbench.train.precision import Precision
from petlbench.train.prefix import Examples, constant_links, read_links
from petlbench.train.replay import Replay, Training
from petlbench.train.replay import replay as replay_of
from petlbench.train.trainer import TrainingLoop
from tests.helpers import sampled, supported_pairs, unsaved
from tests.loops import TINY_VIEW, noise, noise_feed, noise_trainer, outcome
from tests.settings import augment, config, train
from tests.shallow import BLOCKS, shallow, tiny_shallow_method

IMAGES, BATCH = 20, 8


pytestmark = pytest.mark.usefixtures("empty_store")
FAST = {("linear", "swin"), ("dtl", "vit"), ("dtl", "swin"), ("lst", "vit"), ("lora", "swin")}


def training(method: Method, **changes: Any) -> Training:
    """What a phase asks a replay for."""
    values = train(**changes)
    return Training(
        title="a run",
        method=method,
        split=noise(IMAGES),
        train=values,
        feed=noise_feed(),
        precision=Precision(values.precision, CPU),
        before_step=method.before_step,
    )


def replay(method: Method, **changes: Any) -> Replay | None:
    return replay_of(training(method, **changes))


def links_of(method: Method) -> tuple[int, list[int]]:
    """Number of links of the prefix, and those that the method reads."""
    examples, parts = Examples(method.train(), Precision("fp32", CPU)), parts_of(method.backbone)
    links = constant_links(parts, examples)
    return len(links), read_links(parts, links, examples)


def outcome_of(made: Method, **changes: Any) -> tuple[list[float], dict[str, Tensor], bool]:
    return outcome(noise_trainer(IMAGES, train=train(**changes)), made)


def assert_same_bits(make: Callable[[], Method], **changes: Any) -> None:
    losses, tensors, replayed = outcome_of(make(), **changes)
    plain = outcome_of(make(), prefix_cache="off", **changes)
    assert (replayed, plain[2]) == (True, False)
    assert losses == plain[0]
    assert all(torch.equal(value, plain[1][name]) for name, value in tensors.items())


@pytest.mark.parametrize(("name", "family"), sampled(supported_pairs("vit", "swin"), FAST))
def test_every_method_has_the_same_bits_with_and_without_it(name: str, family: str) -> None:
    method = tiny_method(name, family)
    prefix = frozen_prefix(method)
    is_drawn = replay(method) is None  # VQT's dropout of the embedded tokens
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    made = replay(method)
    assert (made.note["blocks"] if made else 0) == prefix
    if prefix and not is_drawn:
        assert_same_bits(lambda: tiny_method(name, family))


def test_dropout_behind_the_prefix_draws_the_same() -> None:
    assert_same_bits(lambda: tiny_shallow_method("vqt", embedding_dropout=0.0))


@pytest.mark.parametrize("family", ["dinov3", "convnext"])
@pytest.mark.parametrize("name", sampled(["linear", "dtl"], ["dtl"]))
def test_other_families_have_the_same_bits(name: str, family: str) -> None:
    """Rotary positions; outputs of convolutions, whose channels do not come last in memory."""
    assert_same_bits(lambda: tiny_method(name, family))


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_last": False},  # 20 images: the last batch of 4 is computed in every epoch
        {"drop_last": False, "accumulate": 2, "clip_grad": 0.1},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_other_steps_have_the_same_bits(changes: dict[str, Any]) -> None:
    assert_same_bits(lambda: tiny_shallow_method("dtl", inject_from=2), **changes)


class TwoViews(Method):
    """Logits of the images and of changed ones, which no stored output belongs to."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + super().forward(images.flip(-1))


def test_other_images_are_computed() -> None:
    assert_same_bits(lambda: TwoViews(tiny("vit")))


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def stopping(epoch: Any) -> None:
        # the epoch before was saved
        if epoch.number == 2:
            raise KeyboardInterrupt

    def begin(**others: Any) -> TrainingLoop:
        settings = train(epochs=3, checkpoint_every=1)
        return noise_trainer(IMAGES, train=settings, unfinished=unsaved(tmp_path), **others)

    losses, tensors, _ = outcome_of(tiny_method("dtl", "vit"), epochs=3)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        begin(on_epoch=stopping).train(tiny_method("dtl", "vit"))
    again, method = begin(), tiny_method("dtl", "vit")
    again.train(method)
    assert again.unfinished.resumed == ["training after epoch 1 of 3"]
    assert [epoch.loss for epoch in again.history] == losses
    assert again.prefix_cache is not None
    own = delta_tensors(method)
    assert all(torch.equal(value, own[name]) for name, value in tensors.items())


def test_the_network_is_as_before_between_steps_and_after_an_error() -> None:
    method = tiny_method("dtl", "vit")
    made = replay(method)
    assert made is not None
    backbone = method.backbone
    before = (backbone.embed, list(backbone.stages[0].blocks), list(method.state_dict()))

    def step() -> None:
        with made.installed():
            assert backbone.stages[0].blocks[0] is not before[1][0]
            assert list(method.state_dict()) == before[2]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()
    assert (backbone.embed, list(backbone.stages[0].blocks)) == before[:2]


def test_it_leaves_random_states_and_statistics_alone() -> None:
    method = method_on(tiny("vit"), "dtl")
    method.backbone.net.norm = nn.Sequential(nn.Dropout(0.5), Statistics())
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    state = torch.get_rng_state()
    assert replay(method) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, buffers[name]) for name, value in method.named_buffers())


class Statistics(nn.Module):
    """Counts its training steps in a buffer."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        self.steps += 1
        return z


# ---- what is stored


def test_a_method_that_reads_nothing_needs_the_last_output() -> None:
    assert links_of(tiny_method("linear", "vit")) == (13, [12])  # the embedding and 12 blocks
    # patch merging at three of four stages; the others are identities
    assert links_of(tiny_method("linear", "swin")) == (16, [15])


def test_side_networks_need_the_outputs_that_they_read() -> None:
    # the input of block `extract_from` is the output of the link before it
    dtl = method_on(tiny("vit"), "dtl", extract_from=3, inject_from=5)
    assert links_of(dtl) == (6, [2, 3, 4, 5])
    assert links_of(tiny_method("lst", "vit")) == (13, list(range(13)))


class ByTurns(Method):
    """Reads the largest values of two outputs, of which one is enough."""

    def features(self, z: Tensor) -> Tensor:
        first, second, *others = self.backbone.stages[0].blocks
        one = first(z)
        two = second(one)
        self.scale = torch.stack([one.abs().max(), two.abs().max()]).nan_to_num(0.0).sign().amax()
        for block in others:
            two = block(two)
        return two * self.scale


class Picky(Method):
    """Refuses values that are no numbers."""

    def features(self, z: Tensor) -> Tensor:
        if not z.isfinite().all():
            raise ValueError
        return super().features(z)


def test_outputs_that_are_read_by_turns_or_checked_are_stored() -> None:
    assert links_of(ByTurns(tiny("vit"))) == (13, [1, 2, 12])
    assert links_of(Picky(tiny("vit"))) == (13, [0, 12])


def test_outputs_keep_type_and_order_in_memory() -> None:
    like = torch.randn(2, 3, 4, 5, dtype=torch.float64).permute(0, 2, 3, 1).bfloat16()
    outputs = Outputs(6, like, CPU)
    outputs.put(torch.tensor([4, 1]), like)
    taken = outputs.take(torch.tensor([1, 4]), CPU)
    assert torch.equal(taken, like.flip(0))
    assert (taken.stride(), taken.dtype) == (like.stride(), like.dtype)
    assert outputs.size == 6 * 3 * 4 * 5 * 2


# ---- who shares it


def filled(method: Method, **changes: Any) -> tuple[list[Outputs], int]:
    """What a replay holds, and how many batches its first block computed for that."""
    batches = 0

    def note(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        nonlocal batches
        batches += len(inputs[0]) == BATCH  # the examples are two images

    method.backbone.net.blocks[0].register_forward_hook(note)
    made = replay(method, **changes)
    assert made is not None
    return list(made.stored.values()), batches


def test_a_second_training_computes_nothing() -> None:
    first, batches = filled(tiny_method("lst", "vit"))
    assert batches == 3  # 20 images
    again, none = filled(tiny_method("lst", "vit"), lr=0.5, epochs=9)
    assert (again, none) == (first, 0)
    # other methods find what they read, or add it
    assert filled(tiny_method("linear", "vit")) == (first[-1:], 0)
    STORE.clear()
    [last], _ = filled(tiny_method("linear", "vit"))
    more, batches = filled(tiny_method("lst", "vit"))
    assert (more[-1], len(more), batches) == (last, 13, 3)


def changed_weight(method: Method) -> None:
    method.backbone.net.blocks[3].mlp.fc1.bias.data[0] += 1


def changed_scale(method: Method) -> None:
    method.backbone.net.blocks[3].attn.scale *= 2
    method.backbone.unfuse_attention()


@pytest.mark.parametrize("change", [changed_weight, changed_scale])
def test_other_networks_share_the_outputs_before_their_difference(
    change: Callable[[Method], None],
) -> None:
    first, other = tiny_method("lst", "vit"), tiny_method("lst", "vit")
    first.backbone.unfuse_attention()
    change(other)
    other.backbone.unfuse_attention()
    pairs = zip(filled(first)[0], filled(other)[0], strict=True)
    assert [a is b for a, b in pairs] == [True] * 4 + [False] * 9


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"precision": "bf16"}], ids=str)
def test_other_roundings_share_nothing(changes: dict[str, Any]) -> None:
    filled(tiny_method("linear", "vit"))
    replay(tiny_method("linear", "vit"), **changes)
    assert len(STORE) == 2


def test_own_modules_and_unknown_data_share_nothing() -> None:
    replay(tiny_method("vqt", "vit"))  # blocks of its own
    asked = training(tiny_method("linear", "vit"))
    assert replay_of(replace(asked, split=replace(asked.split, fingerprint={}))) is not None
    assert len(STORE) == 0


def test_the_least_recently_used_outputs_make_room() -> None:
    def of(images: int) -> Outputs:
        return Outputs(images, torch.empty(2, 1), CPU)  # 4 bytes an image

    store, a, b, c = OutputStore(), of(1), of(2), of(3)
    store.add({"a": a, "b": b, "c": c})
    assert store.find("a") is a
    assert store.find("d") is None
    assert not store.make_room(8, CPU, 16, keep=[c])  # 12 bytes stay
    assert store.held(CPU) == 24
    assert store.make_room(8, CPU, 24, keep=[])
    assert store.find("b") is None
    store.shrink(CPU, 4)
    assert store.find("a") is a
    assert store.find("c") is None
    store.shrink(torch.device("meta"), 0)
    assert store.held(CPU) == 4


# ---- how much memory it takes


def test_a_number_is_an_upper_end_and_a_failure_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny_method("linear", "vit")
    size = IMAGES * 17 * 32 * 4  # images x tokens x channels x bytes
    gib = size / 2**30
    assert replay(method, prefix_cache=gib * 0.99) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "train.prefix_cache=" in record.message
    made = replay(method, prefix_cache=gib * 1.01)
    assert made is not None
    assert made.note == {"blocks": 12, "outputs": 1, "mb": round(size / 1e6, 3), "where": "cpu"}
    monkeypatch.setattr(main_memory, "available", lambda: 3 * size)
    STORE.clear()
    assert replay(method) is None
    STORE.clear()
    monkeypatch.setattr(main_memory, "available", lambda: 4 * size)
    assert replay(method) is not None


def test_a_share_counts_what_is_stored_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OutputStore()
    store.add({"a": Outputs(100, torch.empty(2, 1), CPU)})
    monkeypatch.setattr(main_memory, "available", lambda: 600)
    assert limit_of(CPU, None, store) == 250
    assert limit_of(CPU, 500 / 2**30, store) == 500
    assert limit_of(CPU, 1.0, store) == 1000
    monkeypatch.setattr(main_memory, "available", lambda: None)  # as on macOS
    assert limit_of(CPU, None, OutputStore()) == 0
    assert limit_of(CPU, 1.0, OutputStore()) == 2**30


def test_memory_of_earlier_trainings_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    replay(tiny_method("linear", "vit"))
    assert len(STORE) == 1
    monkeypatch.setattr(main_memory, "available", lambda: 0)
    assert replay(tiny_method("full", "vit")) is None
    assert len(STORE) == 0


def test_limits_of_control_groups_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_memory, "CGROUPS", tmp_path)

    def group(folder: Path, names: tuple[str, str, str], limit: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("70\n")
        (folder / "memory.stat").write_text(f"anon 50\n{names[2]} 20\n")

    group(tmp_path / "job/step", main_memory.VERSION_2, "max")
    group(tmp_path / "job", main_memory.VERSION_2, 100)
    group(tmp_path / "memory", main_memory.VERSION_1, 80)
    assert list(main_memory._rooms("", "/job/step")) == [50]
    assert list(main_memory._rooms("memory", "/hidden/by/a/container")) == [30]
    assert list(main_memory._rooms("cpu,cpuacct", "/job")) == []


# ---- when it is off


class Noisy(nn.Module):
    """Draws, but changes little."""

    def forward(self, z: Tensor) -> Tensor:
        return z + 0 * torch.rand(())


def noisy(method: Method) -> None:
    method.backbone.net.blocks[0] = Noisy()


def dropout(method: Method) -> None:
    method.backbone.net.blocks[0].mlp.drop1.p = 0.1


def batch_norm(method: Method) -> None:
    method.backbone.net.blocks[0].norm1 = nn.BatchNorm1d(17)


def function(method: Method) -> None:
    blocks = method.backbone.stages[0].blocks
    block = blocks[0]
    blocks[0] = lambda z: block(z)


def trained_embedding(method: Method) -> None:
    method.backbone.net.pos_embed.requires_grad_(True)


@pytest.mark.parametrize(
    "change", [noisy, dropout, batch_norm, function, trained_embedding], ids=lambda f: f.__name__
)
def test_a_first_block_that_is_not_known_to_be_constant_turns_it_off(
    change: Callable[[Method], None],
) -> None:
    method = tiny_method("linear", "vit")
    assert replay(method) is not None
    change(method)
    assert replay(method) is None


class Hooked(Method):
    def before_step(self, step: Step) -> None:
        """Might change anything."""


class Penalised(Method):
    def extra_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor | None:
        return None


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (lambda: training(linear(), mixup=0.8, prefix_cache=1), "training images are mixed"),
        (lambda: training(linear(), epochs=1, prefix_cache=1), "there is one epoch"),
        (lambda: training(linear(), batch_size=21, prefix_cache=1), "fewer images"),
        (lambda: training(Hooked(tiny("vit")), prefix_cache=1), "change in before_step"),
        (lambda: training(Penalised(tiny("vit")), prefix_cache=1), "change in extra_loss"),
        (
            lambda: replace(training(linear(), prefix_cache=1), before_step=lambda step: None),
            "change in before_step",
        ),
        (lambda: training(tiny_method("full", "vit"), prefix_cache=1), "no block"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_number_of_no_use_is_said(
    asked: Callable[[], Training], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert replay_of(asked()) is None
    assert reason in caplog.text
    caplog.clear()
    wanted = asked()
    assert replay_of(replace(wanted, train=replace(wanted.train, prefix_cache="auto"))) is None
    assert caplog.text == ""


def linear() -> Method:
    return tiny_method("linear", "vit")


def test_augmentation_and_off_turn_it_off() -> None:
    changes = Augmentation(augment(), TINY_VIEW, mean=[0.5] * 3)
    assert replay_of(replace(training(linear()), feed=noise_feed(changes))) is None
    assert replay(linear(), prefix_cache="off") is replay(linear(), prefix_cache=False) is None


def test_drop_path_leaves_the_first_block() -> None:
    made = replay(method_on(tiny("vit", drop_path=0.3), "linear"))
    assert made is not None
    assert made.note["blocks"] == 1  # the rate grows from 0
    # its network stays in eval mode
    made = replay(method_on(tiny("vit", drop_path=0.3), "vqt", embedding_dropout=0.0))
    assert made is not None
    assert made.note["blocks"] == 12


# ---- configuration and record


def test_the_record_says_that_it_was_on(tmp_path: Path) -> None:
    record = run(shallow(config(tmp_path, "linear")))
    assert record["status"] == "finished", record["reason"]
    [stored] = Store(tmp_path).records()
    note = stored["notes"]["prefix_cache"]
    assert (note["blocks"], note["outputs"], note["where"]) == (BLOCKS, 1, "cpu")
    assert note["mb"] > 0


def test_it_is_no_part_of_the_identity_of_a_run(tmp_path: Path) -> None:
    plain = [
        contents.identified(config(tmp_path, prefix_cache=value)) for value in ("auto", "off", 2.5)
    ]
    assert len({identity(each) for each in plain}) == 1
    assert "prefix_cache" not in placeless(plain[2])["train"]


@pytest.mark.parametrize("value", ["0", "-1", "true", "x", "null", "[1]", ".nan"])
def test_wrong_values_are_refused(value: str) -> None:
    with pytest.raises(Exception, match=r"train\.prefix_cache"):
        compose.single(["method=linear", f"train.prefix_cache={value}"])


@pytest.mark.parametrize("value", ["off", "false", "auto", "3", "0.5"])
def test_right_values_are_taken(value: str) -> None:
    assert str(compose.single(["method=linear", f"train.prefix_cache={value}"]).train.prefix_cache)

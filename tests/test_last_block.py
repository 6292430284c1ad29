"""The last block of a network with `backbone.pool=cls`: the class token alone, or the whole block.

The trial decides by what a method reads; the short block has the outputs and gradients of the
whole one.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from petlbench.config.nodes import MEMORY_MODES
from petlbench.cost import forecast, shapes
from petlbench.delta import trained
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.block import PreNormBlock
from petlbench.model.drop_path import keep_masks
from petlbench.run.training import run
from petlbench.testing import images, method_on, randomised, tiny
from petlbench.train import last_block, random_states, recompute
from petlbench.train.class_token import ClassTokenBlock
from petlbench.train.forward import TrainingForward
from petlbench.train.last_block import held, is_enough
from petlbench.train.precision import Precision
from petlbench.train.recompute import Held
from petlbench.train.step import training_step
from tests.helpers import sampled, supported_pairs, unsaved
from tests.loops import noise_trainer, outcome
from tests.settings import config, train

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)
NAMES = [name for name, _ in supported_pairs("vit")]
# Swapped projections, prompts, a side network, adapters without dropout, all tensors, the head.
SHORT = ("lora", "bitfit", "full", "dtl", "dtl_plus", "adapter_plus", "vpt_deep", "ssf", "linear")
# Convolutions and side attention read other tokens; dropout draws for each token; the adapter of
# ARC lies between norm and attention.
WHOLE = ("convpass", "mona", "lst", "adaptformer", "arc")
FAST = ("lora", "dtl_plus", "vpt_deep", "adapter_plus")
SINGLE = ("c3a", "deft")  # of PEFT, which computes a part in fp32


def method_of(name: str, **backbone: Any) -> Method:
    return method_on(tiny("vit", **{"pool": "cls"} | backbone), name)


def step(method: Method, *modes: Held) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of a step on `images()`, in the type of the method."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    batch = images().to(next(method.parameters()).dtype)
    with keep_masks(method, len(batch), torch.Generator().manual_seed(0)):
        with modes[0](), modes[-1]():
            logits = method(batch)
        logits.square().mean().backward()
    gradients = {name: t.grad for name, t in trained(method).items() if t.grad is not None}
    return logits.detach(), gradients


def assert_equal(
    ours: tuple[Tensor, dict[str, Tensor]],
    theirs: tuple[Tensor, dict[str, Tensor]],
    within: float = 1e-12,
) -> None:
    assert ours[1].keys() == theirs[1].keys()
    expected = {"logits": theirs[0], **theirs[1]}
    for name, tensor in {"logits": ours[0], **ours[1]}.items():
        bound = within * float(expected[name].abs().max())
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize("name", sampled(NAMES, FAST))
def test_a_short_block_has_the_outputs_and_gradients_of_the_whole_one(name: str) -> None:
    method = randomised(method_of(name, drop_path=0.3)).double().train()
    for module in method.modules():
        if "dtype" in vars(module):  # PEFT's AdaMSS computes in the format it was built with
            vars(module)["dtype"] = torch.float64
    short = held(method)
    if short is not nullcontext:
        within = 1e-5 if name in SINGLE else 1e-12
        assert_equal(step(method, short), step(method, nullcontext), within)


@pytest.mark.parametrize("name", SHORT)
def test_methods_that_read_the_class_token_alone_have_the_short_block(name: str) -> None:
    assert is_enough(method_of(name))


@pytest.mark.parametrize("name", WHOLE)
def test_methods_that_read_other_tokens_or_draw_for_them_have_the_whole_block(name: str) -> None:
    assert not is_enough(method_of(name))


@pytest.mark.parametrize("name", [*SHORT[:5], *WHOLE])
def test_a_network_without_numbers_has_the_block_that_it_trains_with(name: str) -> None:
    with torch.device("meta"):
        method = method_of(name, drop_path=0.1)
    assert is_enough(method) == (name in SHORT)


@pytest.mark.parametrize("family", ["vit", "dinov3", "swin"])
def test_other_poolings_and_other_blocks_stay_whole(family: str) -> None:
    pool = "cls" if family == "dinov3" else "norm_then_mean"
    assert held(method_on(tiny(family, pool=pool), "lora")) is nullcontext


class Mixing(PreNormBlock):
    """Adds a gate, zero at the start, times a mean over tokens at a place of the block."""

    def __init__(self, block: nn.Module, place: str) -> None:
        super().__init__(block)
        self.place = place
        self.gate = nn.Parameter(torch.zeros(()))

    def mixed(self, place: str, z: Tensor) -> Tensor:
        return z + self.gate * z.mean(1, keepdim=True) if place == self.place else z

    def forward(self, z: Tensor) -> Tensor:
        n = self.mixed("before attention", self.norm1(z))
        z = z + self.attention(n)
        z = self.mixed("before the MLP", z)
        return self.mixed("behind the block", z + self.mlp(self.norm2(z)))


class Mixed(Method):
    """A method with such blocks, or with such a term of its own behind them."""

    def __init__(self, backbone: Backbone, place: str) -> None:
        super().__init__(backbone)
        backbone.swap_blocks(lambda block, width: Mixing(block, place))
        self.place = place

    def features(self, z: Tensor) -> Tensor:
        z = super().features(z)
        if self.place != "in the walk":
            return z
        gate: Tensor = self.backbone.net.blocks[-1].gate
        return z + gate * z.mean(1, keepdim=True)


PLACES = ("before attention", "before the MLP", "behind the block", "in the walk")


@pytest.mark.parametrize("place", PLACES)
def test_a_reading_that_has_no_effect_yet_is_found(place: str) -> None:
    assert is_enough(Mixed(tiny("vit", pool="cls"), "nowhere"))
    assert not is_enough(Mixed(tiny("vit", pool="cls"), place))


class Scaled(PreNormBlock):
    """Multiplies the input of attention in its place, by ones at the start."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        self.scale = nn.Parameter(torch.ones(self.block.norm1.normalized_shape))

    def forward(self, z: Tensor) -> Tensor:
        n = self.norm1(z)
        n *= self.scale
        z = z + self.attention(n)
        return z + self.mlp(self.norm2(z))


class Averaging(nn.Module):
    """A layer, and a little of the mean of its outputs over tokens; of their number with `sized`.

    A layer scale starts as small.
    """

    def __init__(self, layer: nn.Module, sized: bool = False) -> None:
        super().__init__()
        self.layer: Any = layer
        self.sized = sized
        self.gate = nn.Parameter(torch.full((), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        read = out * out.shape[1] if self.sized else out.mean(1, keepdim=True)
        return out + self.gate * read


class AddedLoss(torch.autograd.Function):
    """Logits with a loss of which they show nothing; its gradient is added in backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


class Reading(Method):
    """A method that reads other tokens in a way that its logits do not show at the start."""

    def __init__(self, backbone: Backbone, way: str) -> None:
        super().__init__(backbone)
        self.way = way
        self.kept: list[Tensor] = []
        self.mean: Tensor
        first, last = backbone.net.blocks[0], backbone.net.blocks[-1]
        last.mlp.requires_grad_(True)
        if way == "in place":
            backbone.swap_blocks(lambda block, width: Scaled(block))
        elif way == "by a factor near zero":
            last.attn.proj = Averaging(last.attn.proj)
        elif way == "by their number":
            last.mlp = Averaging(last.mlp, sized=True)
        elif way == "by a function of its own":
            last.register_forward_hook(lambda block, given, out: self.keep(block, given, out))
            self.kept = [torch.zeros(1, 1, backbone.stages[0].width)]  # of an earlier pass
        elif way == "if an earlier block ran":
            first.register_forward_hook(self.keep)
        elif way == "into a buffer":
            self.register_buffer("mean", torch.zeros(backbone.stages[0].width))

    def keep(self, block: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        self.kept = [out]

    def forward(self, images: Tensor) -> Tensor:
        z = self.features(self.backbone.embed(images))
        if self.kept:
            z = z + self.kept.pop().mean() * z.mean(1, keepdim=True)
        if self.way == "into a buffer":
            self.mean += z.detach().mean((0, 1))
        logits: Tensor = self.backbone.head(self.backbone.pooled(z))
        if self.way == "by a gradient":
            return AddedLoss.apply(logits, z.square().mean())  # type: ignore[no-any-return]
        return logits


WAYS = (
    *("in place", "by a factor near zero", "by their number", "by a gradient", "into a buffer"),
    *("by a function of its own", "if an earlier block ran"),
)


@pytest.mark.parametrize("way", WAYS)
def test_a_reading_that_logits_do_not_show_is_found(way: str) -> None:
    assert is_enough(Reading(tiny("vit", pool="cls"), "not at all"))
    assert not is_enough(Reading(tiny("vit", pool="cls"), way))


def test_weights_held_in_16_bits_change_no_answer() -> None:
    """The memory of a step on a GPU is measured with them."""
    method = method_of("bitfit")
    for module in method.backbone.net.blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.bfloat16()
    assert is_enough(method)


def test_a_trial_leaves_the_method_as_it_was() -> None:
    method = Reading(tiny("vit", pool="cls"), "into a buffer")
    gradients: list[Tensor] = []
    for tensor in trained(method).values():
        tensor.register_hook(gradients.append)
    tensors = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    states = random_states.taken(CPU)
    assert not is_enough(method)
    assert random_states.equal(states, random_states.taken(CPU))
    assert all(torch.equal(value, tensors[name]) for name, value in method.state_dict().items())
    assert modes == [module.training for module in method.modules()]
    assert all(tensor.grad is None for tensor in method.parameters())
    assert gradients == []


def hooked(name: str) -> type[Method]:
    """A method that overrides a hook."""
    return type("Hooked", (Method,), {name: lambda self, *_: None})


@pytest.mark.parametrize("name", ["before_step", "after_step", "extra_loss"])
def test_a_method_with_hooks_keeps_the_whole_block(name: str) -> None:
    assert is_enough(Method(tiny("vit", pool="cls")))
    assert not is_enough(hooked(name)(tiny("vit", pool="cls")))


def test_a_search_that_changes_the_network_keeps_the_whole_block() -> None:
    method = method_of("lora")
    assert not is_enough(method, lambda step: None)
    assert is_enough(method, method.before_step)


@pytest.mark.parametrize("name", ["full", "sct"])
def test_memory_modes_have_the_same_gradients_and_keep_less(name: str) -> None:
    method = randomised(method_of(name)).double().train()
    expected = step(method, nullcontext)
    batch = images().double()
    for mode in MEMORY_MODES:
        assert_equal(step(method, held(method), recompute.held(method, mode)), expected)
        with pytest.MonkeyPatch.context() as patch:
            kept = shapes.saved_bytes(method, FP32, batch, mode)
            patch.setattr(last_block, "held", lambda method: nullcontext)
            whole = shapes.saved_bytes(method, FP32, batch, mode)
        assert kept < whole if mode != "min" else kept <= whole


def test_unfused_attention_is_the_same() -> None:
    method = randomised(method_of("lora", fused_attention=False)).double().train()
    assert_equal(step(method, held(method)), step(method, nullcontext))


def test_the_network_is_as_before_after_a_step_and_after_an_error() -> None:
    method = method_of("lora").train()
    short, slot = held(method), method.backbone.stages[0].blocks.slots[-1]
    with short():
        assert isinstance(slot.get(), ClassTokenBlock)
        method(images())
        with pytest.raises(RuntimeError):
            method(images()[:, :2])
    assert slot.replacement is None
    assert not any("forward" in vars(module) for module in method.modules())


def test_a_compiled_step_has_the_whole_block() -> None:
    method = method_of("lora")
    assert isinstance(TrainingForward(method, train()).last, last_block.ShortWalk)
    assert TrainingForward(method, train(compile=True)).last is nullcontext


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize(("name", "is_short"), [("dtl", True), ("linear", False)])
def test_replay_and_short_block_train_as_the_whole_network(name: str, is_short: bool) -> None:
    """Stored outputs of a last block are those of all tokens, and no step computes it."""
    results = []
    for patched in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if patched:
                patch.setattr(last_block, "held", lambda *_: nullcontext)
            trainer = noise_trainer(8, train=train(batch_size=4))
            losses, tensors, is_replayed = outcome(trainer, method_of(name))
        assert is_replayed
        assert trainer.is_short == (is_short and not patched)
        results.append((torch.tensor(losses), tensors))
    assert_equal(results[0], results[1], within=1e-5)


def test_a_start_after_the_last_step_knows_what_was_computed(tmp_path: Path) -> None:
    for _ in range(2):
        begun = noise_trainer(
            8,
            train=train(batch_size=4, epochs=1, checkpoint_every=1),
            unfinished=unsaved(tmp_path),
        )
        begun.train(method_of("bitfit"))
        assert begun.is_short
    assert begun.unfinished.resumed


def test_a_step_in_16_bit_is_within_its_rounding() -> None:
    losses = []
    for forward in (TrainingForward, lambda method, _: method):
        method = randomised(method_of("lora")).train()
        optimiser = torch.optim.SGD(trained(method).values(), lr=0.1)
        call: Callable[[Tensor], Tensor] = forward(method, train())
        batch, labels = images(), torch.zeros(len(images()), dtype=torch.long)
        precision = Precision("bf16", CPU)
        torch.manual_seed(0)
        losses.append(training_step(method, optimiser, precision, batch, labels, forward=call))
    torch.testing.assert_close(*losses, rtol=2**-7, atol=0)


def test_costs_are_those_of_the_short_block(monkeypatch: pytest.MonkeyPatch) -> None:
    method, size = method_of("bitfit").train(), tiny("vit").image_size

    def counts() -> tuple[float, float]:
        kept = shapes.saved_bytes_on_cpu(method, FP32, batch=4, size=size)
        return kept, shapes.gflops(method, batch=4, size=size)["step"]

    short = counts()
    assert short[0] == shapes.saved_bytes(method, FP32, torch.zeros(4, 3, size, size))
    monkeypatch.setattr(last_block, "is_enough", lambda *_: False)
    assert all(few < many for few, many in zip(short, counts(), strict=True))


@pytest.mark.slow
def test_a_predicted_peak_is_that_of_the_short_block(monkeypatch: pytest.MonkeyPatch) -> None:
    method, size = method_of("bitfit").train(), tiny("vit").image_size

    def activations() -> float:
        peak = forecast.peak_mib(method, precision="fp32", train=train(), batch=4, size=size)
        return peak["activations"]

    short = activations()
    monkeypatch.setattr(last_block, "is_enough", lambda *_: False)
    assert short < activations()


@pytest.mark.parametrize(("name", "is_used"), [("linear", False), ("bitfit", True)])
def test_a_constant_output_has_the_bits_of_the_whole_block(name: str, is_used: bool) -> None:
    method = randomised(method_of(name)).train()
    forward = TrainingForward(method, train())
    assert torch.equal(forward(images()), method(images())) or is_used
    assert forward.is_short == is_used


def test_a_block_of_another_type_stays_whole() -> None:
    class Other(Block):
        """Might compute something else."""

    method = method_of("lora")
    method.backbone.net.blocks[-1].__class__ = Other
    assert held(method) is nullcontext


def test_the_record_says_what_was_computed(tmp_path: Path) -> None:
    made = config(tmp_path, "bitfit", epochs=1)
    record = run(replace(made, backbone=replace(made.backbone, pool="cls")))
    assert record["status"] == "finished", record["reason"]
    assert record["notes"]["last_block"] == "class token only"

"""Layers that keep few bytes for backward, and frozen weights in 16 bits: nothing else changes."""

import copy
import gc
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.side_state import running_sum
from petlbench.cost import shapes
from petlbench.delta import trained
from petlbench.layers import LowRank, ScaleShift, SideState, Swish
from petlbench.layers.kept import unchanged
from petlbench.layers.lean import lean
from petlbench.layers.linear import Linear
from petlbench.layers.side_state import called_again
from petlbench.merge import merged
from petlbench.method import Method
from petlbench.methods.dtl import DTL
from petlbench.model.drop_path import keep_masks
from petlbench.testing import images, loss, randomised, tiny_method
from petlbench.train import frozen, last_block
from petlbench.train.frozen import frozen_in_16_bit, in_16_bit
from petlbench.train.live_bytes import LiveBytes
from petlbench.train.precision import Precision
from tests.shallow import BLOCKS, tiny_shallow_method

CPU = torch.device("cpu")
FP32, BF16 = Precision("fp32", CPU), Precision("bf16", CPU)
WIDTH, OUT = 12, 8
INPUTS: dict[str, Callable[[], nn.Module]] = {
    "norm": lambda: nn.LayerNorm(WIDTH),
    "norm without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "norm without weights": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "reshaped norm": lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Unflatten(-1, (1, -1))),
    "residual": lambda: Added(),
    "other": nn.Tanh,
}


class Added(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


class Textbook(nn.Module):
    """gamma x + beta in plain autograd."""

    def __init__(self, pair: ScaleShift) -> None:
        super().__init__()
        self.scale, self.shift = pair.scale, pair.shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of the input and of all trained tensors."""
    x = x.clone().requires_grad_()
    out = network(x)
    trains = [tensor for tensor in network.parameters() if tensor.requires_grad]
    grads = torch.autograd.grad((out.double() * draws(*out.shape, seed=1)).sum(), [x, *trains])
    return [out, *grads]


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-12) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


def kept_bytes(network: nn.Module, x: Tensor) -> int:
    return shapes.saved_bytes(network, FP32, x)


def plain_and_lean(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """The same network with torch's linear layer and with the lean one."""
    torch.manual_seed(0)
    plain = nn.Sequential(make(), nn.Linear(WIDTH, OUT)).double()
    ours = copy.deepcopy(plain)
    lean(ours)
    assert [type(module) for module in ours.modules() if isinstance(module, nn.Linear)] == [Linear]
    return plain, ours


@pytest.mark.parametrize("name", INPUTS)
def test_a_linear_layer_has_the_gradients_of_torch(name: str) -> None:
    plain, ours = plain_and_lean(INPUTS[name])
    same(gradients(ours, draws(2, 3, WIDTH)), gradients(plain, draws(2, 3, WIDTH)))


@pytest.mark.parametrize("name", INPUTS)
def test_a_linear_layer_keeps_no_copy_of_a_norm_or_an_activation(name: str) -> None:
    plain, ours = plain_and_lean(INPUTS[name])
    x = draws(2, 3, WIDTH).requires_grad_()
    saved = 0 if name in ("residual", "other") else x.numel() * 8
    assert kept_bytes(ours, x) == kept_bytes(plain, x) - saved


def test_a_linear_layer_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(WIDTH).double(), layer

        def forward(self, x: Tensor) -> Tensor:
            n = self.norm(x)
            return self.layer(n) * self.layer(self.layer(F.gelu(n)) + n)  # type: ignore[no-any-return]

    plain = Twice(nn.Linear(WIDTH, WIDTH).double())
    ours = copy.deepcopy(plain)
    lean(ours)
    same(gradients(ours, draws(4, WIDTH)), gradients(plain, draws(4, WIDTH)))


def test_a_linear_layer_in_a_checkpoint() -> None:
    """Reading what a norm keeps would compute the block again while it is computed."""
    plain, ours = plain_and_lean(INPUTS["norm"])

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = ours

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=False)  # type: ignore[no-any-return]

    same(gradients(Checkpointed(), draws(4, WIDTH)), gradients(plain, draws(4, WIDTH)))


@pytest.mark.parametrize("name", ["norm", "gelu", "residual", "other"])
def test_a_linear_layer_under_autocast(name: str) -> None:
    """The products of autocast to the bit, and gradients up to the last of 8 binary digits."""
    plain, ours = (network.float() for network in plain_and_lean(INPUTS[name]))
    x = draws(2, 3, WIDTH).float()
    with BF16.autocast():
        out, theirs = gradients(ours, x), gradients(plain, x)
    assert torch.equal(out[0], theirs[0])
    assert [t.dtype for t in out] == [t.dtype for t in theirs]
    same(out, theirs, 2**-7)


def test_a_layer_without_gradients_keeps_nothing() -> None:
    _, ours = plain_and_lean(INPUTS["norm"])
    x = draws(4, WIDTH)
    with torch.no_grad():
        assert not ours(x).requires_grad
    ours.requires_grad_(False)
    assert kept_bytes(ours, x) == 0
    cast(nn.Sequential, ours)[1].get_parameter("bias").requires_grad_(True)
    assert kept_bytes(ours, x) == 0


def test_an_input_without_gradient() -> None:
    plain, ours = plain_and_lean(INPUTS["other"])
    for network in (plain, ours):
        network(draws(4, WIDTH)).sum().backward()
    same([p.grad for p in ours.parameters()], [p.grad for p in plain.parameters()])  # type: ignore[misc]


@pytest.mark.parametrize("name", INPUTS)
def test_scale_and_shift(name: str) -> None:
    pair = ScaleShift(WIDTH)
    plain = nn.Sequential(INPUTS[name](), Textbook(pair)).double()
    ours = nn.Sequential(plain[0], pair).double()
    with torch.no_grad():
        pair.scale[0] = 0.0  # x cannot be computed from the output
    x = draws(2, 3, WIDTH)
    same(gradients(ours, x), gradients(plain, x))
    x.requires_grad_()
    saved = 0 if name in ("residual", "other") else x.numel() * 8
    assert kept_bytes(ours, x) == kept_bytes(plain, x) - saved


class Side(nn.Module):
    """theta(sum_j B_j A_j z) twice, with one term and with two."""

    def __init__(self, *, running: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.running = running
        self.first, self.second = (LowRank(WIDTH, WIDTH, 2) for _ in range(2))
        for update in (self.first, self.second):
            nn.init.normal_(update.up.weight)
        self.theta = Swish(3.0)

    def forward(self, z: Tensor) -> Tensor:
        h, state = torch.zeros((), dtype=z.dtype), SideState()
        for update in (self.first, self.second):
            if self.running:
                h = h + update(z)
                z = z + self.theta(h)
            else:
                state = state.plus(update, z)
                z = z + state.through(self.theta)
        return z


def test_the_side_state_has_the_gradients_of_a_running_sum() -> None:
    ours, theirs = (
        gradients(Side(running=running).double(), draws(2, 5, WIDTH)) for running in (False, True)
    )
    same(ours, theirs)


def test_the_side_state_keeps_codes_alone() -> None:
    z = torch.zeros(2, 50, WIDTH, requires_grad=True)
    codes = 2 * z.numel() // WIDTH * 2 * 4  # 2 updates of rank 2
    inputs = (
        z.numel() * 4
    )  # z of the second update, made by the first injection; z itself is given
    assert kept_bytes(Side(running=False), z) == 2 * inputs + codes


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("name", ["dtl", "dtl_plus"])
def test_dtl_has_the_gradients_of_a_running_sum(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = randomised(tiny_method(name, family)).double()

    def step() -> list[Tensor]:
        with keep_masks(method, 3, torch.Generator().manual_seed(0)):
            logits = method(images().double())
        return [
            logits,
            *torch.autograd.grad(logits.square().sum(), list(trained(method).values())),
        ]

    ours, bytes_of_ours = step(), kept_bytes(method, images().double())
    monkeypatch.setattr(DTL, "features", running_sum)
    theirs, bytes_of_theirs = step(), kept_bytes(method, images().double())
    same(ours, theirs)
    assert bytes_of_ours < bytes_of_theirs


def test_called_again_under_no_grad_calls_the_function_once() -> None:
    calls: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        calls.append(x)
        return x

    with torch.no_grad():
        called_again(noted, torch.ones(1))
    assert len(calls) == 1


def on_three_blocks(name: str) -> Method:
    return tiny_shallow_method(name, **{"inject_from": 2} if name == "dtl_plus" else {})


@pytest.mark.parametrize("name", ["dtl_plus", "lora", "ssf", "full", "fact_tk", "adapter"])
def test_bytes_that_hooks_count_are_those_that_live_until_backward(name: str) -> None:
    fake, batch = FakeTensorMode(), 32
    method = shapes.empty_copy(on_three_blocks(name), CPU, fake).train()
    with fake, shapes.masks(method, batch):
        batch_of_images = torch.empty(batch, 3, 16, 16)
        saved = shapes.saved_bytes(method, FP32, batch_of_images)
        gc.collect()
        with LiveBytes() as live:
            live.note([*method.parameters(), *method.buffers(), batch_of_images])
            before = live.live
            with last_block.held(method)():
                logits = method(batch_of_images)
            kept = live.live - before
    assert logits.requires_grad
    # The tracker rounds each tensor up to 512 bytes; the images, which `full` keeps, lived before.
    kept += batch_of_images.nbytes if name == "full" else 0
    assert 0.98 * saved <= kept <= 1.02 * saved + 75 * 512


def step(method: Method) -> list[Tensor]:
    """Logits and gradients under bf16 autocast."""
    with keep_masks(method, 3, torch.Generator().manual_seed(0)), BF16.autocast():
        logits = method(images())
    return [
        logits,
        *torch.autograd.grad(logits.float().square().sum(), list(trained(method).values())),
    ]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("dtl_plus", "shallow"),
        ("lora", "swin"),
        ("dora", "shallow"),
        ("ssf", "convnext"),
        ("bitfit", "dinov3"),
    ],
)
def test_frozen_weights_in_16_bit_change_nothing(name: str, family: str) -> None:
    made = on_three_blocks(name) if family == "shallow" else tiny_method(name, family)
    method = randomised(made).train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    random = torch.get_rng_state()
    expected = step(method)
    with frozen_in_16_bit(method, BF16):
        assert any(tensor.dtype == torch.bfloat16 for tensor in method.parameters())
        assert all(tensor.dtype == torch.float32 for tensor in trained(method).values())
        assert method.training
        for ours, theirs in zip(step(method), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(torch.get_rng_state(), random)
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_which_weights_are_in_16_bit() -> None:
    """Those of products alone: DoRA takes norms of its projections, and norms stay in fp32."""

    def narrow(name: str) -> set[str]:
        method = tiny_shallow_method(name)
        with frozen_in_16_bit(method, BF16):
            names = method.backbone.net.named_parameters()
            return {key for key, tensor in names if tensor.dtype == torch.bfloat16}

    products = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    blocks = {f"blocks.{number}.{part}.weight" for number in range(BLOCKS) for part in products}
    assert narrow("linear") == blocks | {"patch_embed.proj.weight"}
    assert narrow("dora") == {key for key in narrow("linear") if "qkv" not in key}
    assert narrow("full") == set()


@pytest.mark.parametrize(
    ("name", "is_merged"),
    [
        *((name, False) for name in ("full", "lora", "dora", "linear", "adaptformer")),
        *((name, True) for name in ("full", "lora", "dora", "linear")),
    ],
)
def test_weights_in_16_bit_for_inference_change_nothing(name: str, is_merged: bool) -> None:
    """Those of a plain or trained network too, whose timing would else contain their casts."""
    method = randomised(tiny_shallow_method(name)).eval()
    network = merged(method) if is_merged else method
    images = method.backbone.example()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}

    def run() -> Tensor:
        with torch.no_grad(), BF16.autocast():
            return cast(Tensor, network(images))

    expected = run()
    products = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "head", "patch_embed.proj")
    with in_16_bit([network], BF16, run):
        narrow = {
            key.removesuffix(".weight")
            for key, tensor in network.named_parameters()
            if tensor.dtype == torch.bfloat16 and key.endswith(".weight")
        }
        assert torch.equal(run(), expected)
    for part in products:
        if name != "dora" or is_merged or "qkv" not in part:  # DoRA takes norms of them
            assert any(part in key for key in narrow), part
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    with in_16_bit([network], FP32, run):
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_frozen_weights_come_back_after_an_error_and_stay_in_fp32() -> None:
    method = tiny_shallow_method("lora")
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    with pytest.raises(ZeroDivisionError), frozen_in_16_bit(method, BF16):
        raise ZeroDivisionError
    with frozen_in_16_bit(method, FP32):
        assert {tensor.dtype for tensor in method.parameters()} == {torch.float32}
    for key, tensor in method.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_the_weights_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search scores one network many times."""
    method = tiny_shallow_method("lora")
    with frozen_in_16_bit(method, BF16):
        narrow = [tensor.dtype for tensor in method.parameters()]
    monkeypatch.setattr(frozen, "_watched", None)
    with frozen_in_16_bit(method, BF16), frozen_in_16_bit(method, BF16):
        assert [tensor.dtype for tensor in method.parameters()] == narrow
    assert {tensor.dtype for tensor in method.parameters()} == {torch.float32}


def test_a_step_after_a_pass_on_shapes_is_the_same() -> None:
    """The pass that looks for the weights leaves nothing behind."""
    method = randomised(tiny_shallow_method("vpt_deep")).eval()
    expected = loss(method)
    with frozen_in_16_bit(method, BF16):
        pass
    assert torch.equal(loss(method), expected)


def test_a_watching_hook_returns_what_it_got() -> None:
    x = torch.ones(1)
    assert unchanged(x) is x
    assert partial(unchanged)(x) is x


def test_weights_stay_in_fp32_where_a_step_hook_may_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = tiny_shallow_method("lora")
    with frozen_in_16_bit(method, BF16):
        assert method.backbone.net.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    monkeypatch.setattr(type(method), "after_step", lambda self, step: None)
    with frozen_in_16_bit(method, BF16):
        assert method.backbone.net.blocks[0].mlp.fc1.weight.dtype == torch.float32

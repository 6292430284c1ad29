"""What methods of other packages may do, under replay, memory modes, lean layers and 16 bits."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from petlbench.layers import ScaleShift
from petlbench.layers.lean import lean
from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.testing import images, tiny
from petlbench.train import recompute
from petlbench.train.frozen import frozen_in_16_bit
from petlbench.train.parts import calling, parts_of
from petlbench.train.precision import Precision
from petlbench.train.prefix import Examples, constant_links, read_links
from petlbench.train.stand_in import chain, stand_ins

CPU = torch.device("cpu")
FP32, BF16 = Precision("fp32", CPU), Precision("bf16", CPU)
WIDTH = 6
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "norm and linear": lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)),
    "gelu and linear": lambda: nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 3)),
    "frozen norm": lambda: nn.Sequential(
        nn.LayerNorm(WIDTH).requires_grad_(False), nn.Linear(WIDTH, 3)
    ),
    "norm of two dimensions": lambda: nn.LayerNorm((4, WIDTH)),
    "scale and shift": lambda: nn.Sequential(nn.LayerNorm(WIDTH), ScaleShift(WIDTH)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The same layers of torch, where there are such, and ours."""
    networks = []
    for change in (lambda network: None, lean):
        torch.manual_seed(0)
        network = LAYERS[name]().double()
        for tensor in network.parameters():
            nn.init.normal_(tensor)
        change(network)
        networks.append(network)
    return networks[0], networks[1]


def example(rows: int = 5) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, WIDTH, generator=source, dtype=torch.float64)


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


# ---- layers


def penalty(network: nn.Module) -> list[Tensor]:
    """Gradients of the square of a gradient."""
    x = example().requires_grad_()
    trained = [x, *(tensor for tensor in network.parameters() if tensor.requires_grad)]
    first = torch.autograd.grad(network(x).pow(3).sum(), trained, create_graph=True)
    square = sum((each.pow(2).sum() for each in first), torch.zeros(()))
    found = torch.autograd.grad(square, trained, allow_unused=True)
    return [torch.zeros(()) if each is None else each for each in found]


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_can_be_differentiated(name: str) -> None:
    theirs, ours = pair(name)
    # The pair of scale and shift has one form alone; without a graph it is plain autograd.
    assert torch.autograd.gradgradcheck(ours, example(2).requires_grad_())
    same(penalty(ours), penalty(theirs))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_each_image_by_torch_func(name: str) -> None:
    def each(network: nn.Module) -> list[Tensor]:
        def total(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(network, tensors, (x,)).pow(2).sum()  # type: ignore[no-any-return]

        tensors = {key: value.detach() for key, value in network.named_parameters()}
        of_one = torch.func.grad(total)
        return list(torch.func.vmap(of_one, in_dims=(None, 0))(tensors, example()).values())

    theirs, ours = pair(name)
    same(each(ours), each(theirs))


@pytest.mark.parametrize("name", LAYERS)
def test_tangents(name: str) -> None:
    def tangent(network: nn.Module) -> Tensor:
        with forward_ad.dual_level():
            x = forward_ad.make_dual(example(), example().flip(0))
            return forward_ad.unpack_dual(network(x)).tangent.detach()  # type: ignore[no-any-return]

    theirs, ours = pair(name)
    same([tangent(ours)], [tangent(theirs)])


def test_a_product_takes_the_formats_of_torch() -> None:
    theirs, ours = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)
    lean(ours)
    with BF16.autocast():  # which leaves float64 alone
        assert ours.double()(example()).dtype == theirs.double()(example()).dtype == torch.float64
    for layer in (theirs.float(), ours.float()):
        with pytest.raises(RuntimeError, match="dtype"):
            layer(example())


# ---- memory modes


def step(method: Method, mode: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and buffers after a step."""
    torch.manual_seed(0)
    with keep_masks(method, 3):
        with recompute.held(method.train(), mode)():
            loss = method(images()).square().mean()
        loss.backward()
    gradients = {n: t.grad for n, t in method.named_parameters() if t.grad is not None}
    return gradients, dict(method.named_buffers())


class Dropping(Method):
    """Drops random tokens in functions that it sets in the walk."""

    def __init__(self, backbone: "torch.nn.Module") -> None:
        super().__init__(backbone)  # type: ignore[arg-type]
        self.requires_grad_(True)
        blocks = self.backbone.stages[0].blocks
        blocks[:] = [partial(self.call, block) for block in blocks]

    @staticmethod
    def call(block: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        return block(z * (torch.rand(z.shape[1]) > 0.3)[:, None])


class Attended(nn.Module):
    """A block with an attention of torch, whose dropout is no module."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block = block
        self.more = nn.MultiheadAttention(width, 4, dropout=0.5, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.block(z) + self.more(z, z, z)[0]  # type: ignore[no-any-return]


class Batched(nn.Module):
    """A norm over the batch, whose statistics a step writes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(z.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def attended() -> Method:
    torch.manual_seed(0)
    method = Method(tiny("vit"))
    method.backbone.swap_blocks(Attended)
    return method.requires_grad_(True)


def batched() -> Method:
    torch.manual_seed(0)
    method = Method(tiny("vit"))
    for block in method.backbone.net.blocks:
        block.norm2 = Batched(32)
        block.mlp.norm = Batched(128)
    return method.requires_grad_(True)


@pytest.mark.parametrize("mode", ["lean", "min"])
@pytest.mark.parametrize("make", [lambda: Dropping(tiny("vit")), attended, batched])
def test_what_is_computed_again_draws_the_same_and_writes_once(
    make: Callable[[], Method], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Attended, Batched):  # as if it were torch's own
        monkeypatch.setattr(kind, "__module__", "torch.nn")
    gradients, buffers = step(make(), "fast")
    again, written = step(make(), mode)
    for ours, theirs in ((again, gradients), (written, buffers)):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


# ---- frozen weights in 16 bits


class InFP32(Method):
    """Computes its blocks without autocast."""

    def features(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().features(z.float())


def test_weights_of_products_without_autocast_stay_in_fp32() -> None:
    method = InFP32(tiny("vit")).eval()
    with BF16.autocast():
        expected = method(images())
    with frozen_in_16_bit(method, BF16), BF16.autocast():
        assert torch.equal(method(images()), expected)
        assert method.backbone.net.patch_embed.proj.weight.dtype == torch.bfloat16


# ---- replay


def test_an_embedding_that_a_method_has_set_stays() -> None:
    backbone = tiny("vit")
    own = backbone.embed
    changed = backbone.embed = lambda images: own(images) + 1  # type: ignore[method-assign]
    with calling(backbone, [part.call for part in parts_of(backbone)]):
        pass
    assert backbone.embed is changed


class AtRandom(Method):
    """Reads the output of a random block beside that of the last one."""

    def features(self, z: Tensor) -> Tensor:
        outputs = [z]
        for block in self.backbone.stages[0].blocks:
            outputs.append(block(outputs[-1]))
        return outputs[-1] + outputs[int(torch.randint(len(outputs), ()))]


def test_outputs_that_are_not_stored_are_computed_when_read() -> None:
    method = AtRandom(tiny("vit")).train()
    examples, parts = Examples(method, FP32), parts_of(method.backbone)
    links = constant_links(parts, examples)
    [last] = read_links(parts, links, examples)[-1:]
    stored = {last: links[last].output}
    for seed in range(20):
        torch.manual_seed(seed)
        expected = method(examples.images)
        torch.manual_seed(seed)
        known = chain(links, examples.images, stored, FP32)
        with calling(method.backbone, stand_ins(parts, links, known)):
            assert torch.equal(method(examples.images), expected)


def test_what_says_nothing_of_the_numbers_reads_nothing() -> None:
    class Shaped(Method):
        def features(self, z: Tensor) -> Tensor:
            first = self.backbone.stages[0].blocks[0](z)
            side = first.new_zeros(first.shape) + len(first) * first.ndim
            for block in self.backbone.stages[0].blocks[1:]:
                first = block(first)
            return first + side

    method = Shaped(tiny("vit")).train()
    examples, parts = Examples(method, FP32), parts_of(method.backbone)
    links = constant_links(parts, examples)
    assert read_links(parts, links, examples) == [12]

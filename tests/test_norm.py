"""LayerNorms have the outputs and gradients of torch, for any number of threads."""

from collections.abc import Callable, Iterator

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from petlbench.layers.lean import lean, plain
from petlbench.layers.norm import LayerNorm, LayerNorm2d

MAKES: dict[str, Callable[[int], nn.Module]] = {
    "torch": nn.LayerNorm,
    "timm": timm.layers.LayerNorm,
    "without bias": lambda width: nn.LayerNorm(width, bias=False),
    "without weights": lambda width: nn.LayerNorm(width, elementwise_affine=False),
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pair(make: Callable[[int], nn.Module], width: int) -> tuple[nn.Module, nn.Module]:
    """A norm of torch or timm with other weights than at the start, and ours in its place."""
    made = []
    for change in (lambda module: None, lean):
        norm = make(width).double()
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in norm.parameters():
                tensor.copy_(torch.randn(width, generator=source))
        change(norm)
        made.append(norm)
    return made[0], made[1]


def gradients(norm: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = norm(x)
    return [out, *torch.autograd.grad(out.pow(3).sum(), [x, *norm.parameters()])]


@pytest.mark.parametrize("name", MAKES)
def test_gradients_are_those_of_torch(name: str) -> None:
    theirs, ours = pair(MAKES[name], 12)
    assert isinstance(ours, LayerNorm)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, other in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_gradients_over_the_channels_of_a_map() -> None:
    theirs, ours = pair(timm.layers.LayerNorm2d, 12)
    assert type(ours) is LayerNorm2d
    x = torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, other in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MAKES)
def test_a_network_that_leaves_has_the_classes_of_torch_and_timm(name: str) -> None:
    theirs, ours = pair(MAKES[name], 12)
    plain(ours)
    assert type(ours) is type(theirs)


def test_a_frozen_norm_is_that_of_torch() -> None:
    theirs, ours = pair(nn.LayerNorm, 12)
    ours.requires_grad_(False)
    x = torch.ones(3, 12, dtype=torch.float64, requires_grad=True)
    out = ours(x)
    assert torch.equal(out, theirs(x))
    assert type(out.grad_fn).__name__ == "NativeLayerNormBackward0"


@pytest.mark.parametrize("width", [192, 200, 768])
@pytest.mark.usefixtures("threads")
def test_gradients_do_not_depend_on_threads(width: int) -> None:
    norm = LayerNorm(width)
    x = torch.randn(16, 37, width, generator=torch.Generator().manual_seed(1))
    found = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        found.append(gradients(norm, x))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))

"""What several test files share: pairs of methods and tiny networks, formulas, a trainer."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petlbench import registry
from petlbench.config import options
from petlbench.method import Method
from petlbench.testing import FAMILIES, images, randomised, supported, tiny, tiny_method, trains
from petlbench.train.unfinished import Unfinished


def pairs(*families: str) -> pytest.MarkDecorator:
    """Each registered method on each of the families that it supports."""
    return pytest.mark.parametrize(("name", "family"), supported_pairs(*families))


def supported_pairs(*families: str) -> list[tuple[str, str]]:
    """Names of methods that train tensors, each with each of the families that it supports."""
    rows = [(name, family) for name in filter(trains, registry.names()) for family in families]
    return [row for row in rows if supported(*row)]


def sampled(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Values for parametrize: those outside `fast` are marked slow, see `make check-all`."""
    return [
        value if value in fast else pytest.param(*_several(value), marks=pytest.mark.slow)
        for value in values
    ]


def one_of_each_class() -> list[str]:
    """A registered method for each class, the first by name; others differ in values alone."""
    names: dict[str, str] = {}
    for name in registry.names():
        names.setdefault(options.content("method", name)["method"]["_target_"], name)
    return sorted(names.values())


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


where_supported = pairs(*FAMILIES)

Net = Any


def pair(name: str, family: str = "vit", **values: Any) -> tuple[Method, Net, dict[str, Tensor]]:
    """A randomised method in float64, the same network untouched, and the method's tensors.

    Tensors of a block are found under `<number of the block>.<the rest of the name>`.
    """
    method = randomised(tiny_method(name, family, **values)).double().eval()
    tensors = {}
    for key, tensor in method.named_parameters(remove_duplicate=False):
        short = key.removeprefix("backbone.net.").removeprefix("blocks.")
        tensors[short] = tensor.detach()
    return method, tiny(family).double().eval().net, tensors


def embedded(net: Net) -> Tensor:
    return net.norm_pre(net._pos_embed(net.patch_embed(images().double())))  # type: ignore[no-any-return]


def quick_gelu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-1.702 * z))


def linear(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", torch.zeros(1))


def unsaved(folder: Path) -> Unfinished:
    """Where a training on the CPU saves what it has done, of no run in particular."""
    return Unfinished(folder, {}, torch.device("cpu"), "cpu")


class Examples:
    """A trainer that offers images and does not train."""

    device = torch.device("cpu")
    seed = 0
    fit: Any = None

    def search(self) -> Any:
        """No search."""

    def outputs(self, method: Method, part: Any) -> Any:
        """No outputs."""

    def examples(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        batch, labels = images(8), torch.arange(8) % 5
        yield from zip(batch.split(batch_size), labels.split(batch_size), strict=True)

    def train(self, method: Method) -> None:
        """Leave the method as it starts."""

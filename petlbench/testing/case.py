"""A method on a tiny network, and what the properties of methods have in common."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from petlbench import registry
from petlbench.delta import delta_tensors, trained
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.drop_path import keep_masks
from petlbench.model.template import Template
from petlbench.testing.facts import declared
from petlbench.testing.networks import images, tiny

Forward = Callable[[Tensor], Tensor]


def method_on(backbone: Backbone, name: str, **changed: Any) -> Method:
    """A method with its yaml's values, those of `facts.tiny`, and then `changed`."""
    return registry.create(name, backbone, **declared(name).get("tiny", {}) | changed)


def tiny_method(name: str, family: str, **changed: Any) -> Method:
    """A method on a tiny network, the same at each call; so is torch's random state afterwards."""
    if changed:
        return method_on(tiny(family), name, **changed)
    return Case(name, family).start()


@lru_cache(maxsize=8)
def _template(case: "Case") -> tuple[Template[Method], Tensor]:
    return Template(method_on(case.backbone(), case.method)), torch.get_rng_state()


def randomised(method: Method) -> Method:
    """The method with all trained tensors changed, also those that start at zero.

    If it trains none, with all that a delta stores, except whole numbers.
    """
    # A tensor at zero would hide mistakes in its term.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in (trained(method) or delta_tensors(method)).values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return method


def tensors(method: Method) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names, each once."""
    yield from method.named_parameters()
    yield from method.named_buffers()


def loss(method: Method) -> Tensor:
    """A scalar of the logits for `images()`, with drop-path masks from a fixed seed."""
    with keep_masks(method, len(images()), torch.Generator().manual_seed(0)):
        return method(images()).square().mean()  # type: ignore[no-any-return]


def plain_logits(backbone: Backbone) -> Tensor:
    """(B, K): logits of the backbone without a method, for `images()`."""
    with torch.no_grad():
        return Method(backbone).eval()(images())  # type: ignore[no-any-return]


def watch_blocks(method: Method, watch: Callable[[Forward], Forward]) -> None:
    """Replace every block of the walk by watch(block)."""
    for stage in method.backbone.stages:
        # This changes the walk alone; the network keeps its blocks.
        stage.blocks[:] = map(watch, stage.blocks)


def error_of(call: Callable[[], object]) -> str | None:
    """The message of the UserError that a call raises, or None; asserts that it is one line."""
    message = None
    try:
        call()
    except UserError as error:
        message = str(error)
    assert "\n" not in (message or ""), f"an error message has several lines: {message}"
    return message


@dataclass(frozen=True)
class Case:
    """A method by name, a family of tiny networks, and how the network holds frozen weights."""

    method: str
    family: str
    weights: str = "fp32"

    def backbone(self) -> Backbone:
        """The network without the method."""
        return tiny(self.family, weights=self.weights)

    def start(self) -> Method:
        """The method before training."""
        # A copy is cheaper than a new network.
        method, state = _template(self)
        # Later draws are then those after a first call.
        torch.set_rng_state(state)
        return method.copy()

    def randomised(self) -> Method:
        """The method with all trained tensors changed."""
        return randomised(self.start())

    def refusal(self) -> str | None:
        """The message of the error if the method does not support the network."""
        return error_of(lambda: _template(self))

"""Weights in the format of 16-bit autocast, while a network trains, is tested or is timed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from petlbench.method import Method
from petlbench.model.drop_path import keep_masks
from petlbench.train.hooks import STEP_HOOKS, is_overridden
from petlbench.train.precision import FORMATS, Precision

IMAGES = 2  # of the pass that watches the weights; one is too few for some norms
PRODUCTS = {F.linear, F.conv2d}  # of input, weight, ...: autocast casts all of them
# What says nothing of a weight's numbers and format.
SHAPES = {
    *(getattr(Tensor, name).__get__ for name in ("requires_grad", "shape", "ndim", "device")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__),
}
# The passes take about 1 s on ViT-B/16, and a search scores one network a thousand times.
_OF_PRODUCTS: WeakKeyDictionary[Method, set[Tensor]] = WeakKeyDictionary()


@contextmanager
def frozen_in_16_bit(network: nn.Module, precision: Precision) -> Iterator[None]:
    """Hold frozen weights of the backbone in the 16-bit format of `precision`; nothing for fp32.

    These are the weights that linear layers and convolutions alone read. Autocast would cast them
    at each use and keep the copies for backward, so outputs and gradients are equal to the bit.
    Afterwards the weights are those that they were.
    """
    dtype = FORMATS[precision.name]
    weights = [] if dtype is None else _weights_of_products(network, precision)
    with _held(weights, dtype):
        yield


@contextmanager
def in_16_bit(
    networks: Sequence[nn.Module], precision: Precision, passes: Callable[[], object]
) -> Iterator[None]:
    """The same for inference: all fp32 weights that products alone read, trained ones too.

    A plain network, such as a merged one, then takes no longer than a method on frozen weights.
    passes: calls the networks, which are in eval mode, in all ways that are used meanwhile.
    """
    dtype, weights = FORMATS[precision.name], list[nn.Parameter]()
    if dtype is not None:
        found = {tensor: None for network in networks for tensor in network.parameters()}
        try:
            safe = _watched(list(found), precision, passes).of_products()
        except Exception:  # what does not run on shapes alone keeps its weights
            safe = set()
        weights = [each for each in found if id(each) in safe and each.dtype == torch.float32]
    with _held(weights, dtype):
        yield


@contextmanager
def _held(weights: Sequence[nn.Parameter], dtype: torch.dtype | None) -> Iterator[None]:
    # Parameters of several tasks may be one place in memory, which stays one.
    places = [_place(weight) for weight in weights]
    by_place = dict(zip(places, weights, strict=True))
    # On the host, where they take no memory of a GPU.
    originals = {place: weight.data.cpu() for place, weight in by_place.items()}
    try:
        _set(weights, places, {place: each.data.to(dtype) for place, each in by_place.items()})
        yield
    finally:
        devices = {place: weight.device for place, weight in by_place.items()}
        wide = {place: each.to(devices[place]) for place, each in originals.items()}
        _set(weights, places, wide)


def _place(weight: Tensor) -> tuple[Any, ...]:
    """What two views of the same numbers have in common; tensors without numbers have it too."""
    storage = weight.untyped_storage()._cdata
    return storage, weight.storage_offset(), weight.shape, weight.stride()


def _set(
    weights: Sequence[nn.Parameter],
    places: Sequence[tuple[Any, ...]],
    values: Mapping[tuple[Any, ...], Tensor],
) -> None:
    for weight, place in zip(weights, places, strict=True):
        weight.data = values[place]


def _weights_of_products(network: nn.Module, precision: Precision) -> list[nn.Parameter]:
    """The frozen fp32 weights that only products read, found by passes on shapes."""
    # A step hook may read a weight, and no pass on shapes calls it.
    if not isinstance(network, Method) or any(map(partial(is_overridden, network), STEP_HOOKS)):
        return []
    # Not those that a method has added: a delta stores them, also during training.
    plain = {id(tensor) for tensor in network.backbone.plain_parameters}
    frozen = [
        tensor
        for tensor in network.parameters()
        if id(tensor) in plain and tensor.dtype == torch.float32 and not tensor.requires_grad
    ]
    if network not in _OF_PRODUCTS:
        try:
            passes = partial(_step_and_test, network)
            safe = _watched(frozen, precision, passes).of_products() if frozen else set()
        except Exception:  # a method that does not run on shapes alone keeps its weights
            safe = set()
        _OF_PRODUCTS[network] = {tensor for tensor in frozen if id(tensor) in safe}
    return [tensor for tensor in frozen if tensor in _OF_PRODUCTS[network]]


def _watched(
    weights: Sequence[Tensor], precision: Precision, passes: Callable[[], object]
) -> "Uses":
    """How passes on shapes use weights."""
    uses = Uses()
    mode = detect_fake_mode(list(weights)) or FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad(), precision.autocast(), uses:
        passes()
    return uses


def _step_and_test(method: Method) -> None:
    device, size = next(method.parameters()).device, method.backbone.image_size
    training = method.training
    try:
        images = torch.empty(IMAGES, 3, size, size, device=device)
        labels = torch.zeros(IMAGES, dtype=torch.long, device=device)
        with keep_masks(method, IMAGES, torch.Generator()):
            method.extra_loss(images, method.train()(images), labels)
        method.eval()(images)
    finally:
        method.train(training)


class Uses(TorchFunctionMode):
    """Notes tensors by their ids: weights of products, and tensors in other places."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[int] = set()
        self.others: set[int] = set()

    def of_products(self) -> set[int]:
        """The tensors that products alone read."""
        return self.products - self.others

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Hook of torch, called for every function of torch."""
        named = dict(kwargs or {})
        if func not in SHAPES:
            weight = _weight(args, named) if func in PRODUCTS else None
            # A method may compute a part of it without autocast.
            if isinstance(weight, Tensor) and not torch.is_autocast_enabled(weight.device.type):
                weight = None
            for value in tree_leaves((args, named)):
                if isinstance(value, Tensor):
                    (self.products if value is weight else self.others).add(id(value))
        return func(*args, **named)


def _weight(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """The weight in the arguments of a product."""
    return args[1] if len(args) > 1 else named.get("weight")

"""Frozen tensors and structure that several methods share, by comparison."""

import copy
import io
import pickle
from collections.abc import Container
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from petlbench.delta import delta_tensors
from petlbench.method import Method
from petlbench.model.backbone import Backbone

AnyTensor = TypeVar("AnyTensor", bound=Tensor)
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError, NotImplementedError)


def twin(backbone: Backbone, classes: int) -> Backbone:
    """A copy of a backbone with a new head; both have the same frozen tensors."""
    # deepcopy returns what its memo holds for an id instead of a copy
    memo: dict[int, Any] = {id(tensor): tensor for tensor in backbone.buffers()}
    for tensor in chain(backbone.parameters(), backbone.plain_parameters):
        # A new parameter on the old storage: unfreezing it leaves the original frozen.
        memo[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False)
    copied = copy.deepcopy(backbone, memo)
    copied.net.reset_classifier(classes)
    copied.start_head()
    copied.head.to(next(backbone.parameters())).requires_grad_(True)
    return copied


class Pool:
    """Frozen tensors, each stored once for all methods that have an equal one.

    On the meta device, where tensors have no values, equal shapes suffice.
    """

    def __init__(self) -> None:
        self._tensors: dict[Any, list[Any]] = {}

    def __call__(self, tensor: AnyTensor) -> AnyTensor:
        """The stored tensor that equals `tensor`, or else `tensor`, which is stored."""
        layout = (type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride())
        stored: list[AnyTensor] = self._tensors.setdefault(layout, [])
        same_place = (old for old in stored if old.data_ptr() == tensor.data_ptr())
        same_values = (old for old in stored if torch.equal(old, tensor))
        # addresses first, because comparing values reads both tensors; on meta all addresses are 0
        match = next(chain(same_place, same_values), None)
        if match is None:
            stored.append(tensor)
        return tensor if match is None else match


@dataclass(frozen=True)
class Fingerprint:
    """An object without the values of learned tensors; equal ones have equal outputs."""

    content: bytes
    has_holes: bool


class Shell:
    """A copy of a method without its head: frozen tensors from the pool, holes for learned ones.

    Learned are the trained parameters and, as integers, indices chosen from the data. Frozen
    random tensors come from the pool: equal ones are shared, and with others the kinds differ.

    `places`: the holes, as `torch.func.functional_call` names them, each with the name that
    `delta_tensors(method)` has for its tensor; one that modules share has several places.
    """

    def __init__(self, method: Method, pool: Pool) -> None:
        self.pool = pool
        self.learned = {
            name: tensor
            for name, tensor in delta_tensors(method).items()
            if tensor.requires_grad or not tensor.is_floating_point()
        }
        self.holes = {name: _hole(tensor) for name, tensor in self.learned.items()}
        memo: dict[int, Any] = {id(self.learned[name]): h for name, h in self.holes.items()}
        plain = method.backbone.plain_parameters
        for tensor in chain(method.parameters(), method.buffers(), plain):
            if id(tensor) not in memo:
                memo[id(tensor)] = pool(tensor)
        self.method = copy.deepcopy(method, memo).eval()
        self.method.backbone.net.reset_classifier(0)  # heads may differ in size
        self.names = {id(hole): name for name, hole in self.holes.items()}
        self.places = {
            f"{prefix}.{name}".lstrip("."): self.names[id(tensor)]
            for prefix, module in self.method.named_modules()
            for name, tensor in chain(
                module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            )
            if id(tensor) in self.names
        }

    def kind(self) -> object:
        """Equal for two methods that differ in the values of their learned tensors alone."""
        fingerprint = self.fingerprint(self.method)
        tensors = [(place, self.learned[name]) for place, name in self.places.items()]
        shapes = tuple((place, tensor.shape, tensor.dtype) for place, tensor in tensors)
        if fingerprint is None:
            return object()  # equal to nothing else
        return fingerprint.content, shapes, tuple(self.places.values())

    def fingerprint(self, part: object, excluded: Container[int] = ()) -> Fingerprint | None:
        """The fingerprint of a part of the shell, without the objects whose id is in `excluded`.

        None if the part cannot be pickled; it then equals no other one.
        """
        file = io.BytesIO()
        pickler = _Pickler(file, self, excluded)
        try:
            pickler.dump(part)
        except UNPICKLABLE:
            return None
        return Fingerprint(file.getvalue(), pickler.has_holes)


class _Pickler(pickle.Pickler):
    """Pickles structure and plain values in full; of a tensor only its identity."""

    def __init__(self, file: io.BytesIO, shell: Shell, excluded: Container[int]) -> None:
        super().__init__(file)
        self.shell = shell
        self.excluded = excluded
        self.has_holes = False

    def persistent_id(self, obj: object) -> object:
        """Pickle's hook: a substitute for an object, or None to pickle the object itself."""
        if id(obj) in self.excluded:
            return "excluded"
        if not isinstance(obj, Tensor):
            return None
        if id(obj) in self.shell.names:
            self.has_holes = True
            return "hole"
        return id(self.shell.pool(obj))  # equal tensors are one object there


def _hole(tensor: Tensor) -> Tensor:
    empty = tensor.detach().new_empty(0)  # functional_call replaces it
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

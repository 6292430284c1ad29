"""What several methods have in common, found by comparison: frozen tensors, and whole makes."""

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
    """A backbone with modules and a head of its own, on the same frozen tensors."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in backbone.buffers()}
    for tensor in chain(backbone.parameters(), backbone.plain_parameters):
        # a new parameter on the old storage: what a method unfreezes stays frozen elsewhere
        memo[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False)
    made = copy.deepcopy(backbone, memo)
    made.net.reset_classifier(classes)
    made.start_head()
    made.head.to(next(backbone.parameters())).requires_grad_(True)
    return made


class Pool:
    """Frozen tensors, each kept once however many methods bring an equal one.

    On the meta device, where tensors have no values, equal shapes are enough.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, list[Any]] = {}

    def __call__(self, tensor: AnyTensor) -> AnyTensor:
        make = (type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride())
        known: list[AnyTensor] = self._kept.setdefault(make, [])
        same_place = (old for old in known if old.data_ptr() == tensor.data_ptr())
        same_values = (old for old in known if torch.equal(old, tensor))
        found = next(chain(same_place, same_values), None)
        if found is None:
            known.append(tensor)
        return tensor if found is None else found


@dataclass(frozen=True)
class Fingerprint:
    """What an object is but for the values of learned tensors: equal for what computes alike."""

    content: bytes
    has_holes: bool


class Shell:
    """A copy of a method without its head: frozen tensors from the pool, holes for learned ones.

    Learned are the trained parameters and, as integers, indices chosen from the data. Frozen
    random tensors come from the pool: methods share equal ones, and differ by others.

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
        self.method.backbone.net.reset_classifier(0)
        self.names = {id(hole): name for name, hole in self.holes.items()}
        self.places = {
            f"{prefix}.{name}".lstrip("."): self.names[id(tensor)]
            for prefix, module in self.method.named_modules()
            for name, tensor in chain(
                module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            )
            if id(tensor) in self.names
        }

    def make(self) -> object:
        """Equal for two methods where the values of their learned tensors are all that differs."""
        found = self.fingerprint(self.method)
        tensors = [(place, self.learned[name]) for place, name in self.places.items()]
        shapes = tuple((place, tensor.shape, tensor.dtype) for place, tensor in tensors)
        return object() if found is None else (found.content, shapes, tuple(self.places.values()))

    def fingerprint(self, part: object, apart: Container[int] = ()) -> Fingerprint | None:
        """The fingerprint of something inside the shell, objects with an id in `apart` left out.

        None where it cannot be taken, so that it equals nothing.
        """
        file = io.BytesIO()
        pickler = _Pickler(file, self, apart)
        try:
            pickler.dump(part)
        except UNPICKLABLE:
            return None
        return Fingerprint(file.getvalue(), pickler.has_holes)


class _Pickler(pickle.Pickler):
    """Pickles structure and plain values in full, and of a tensor only which one it is."""

    def __init__(self, file: io.BytesIO, shell: Shell, apart: Container[int]) -> None:
        super().__init__(file)
        self.shell = shell
        self.apart = apart
        self.has_holes = False

    def persistent_id(self, obj: object) -> object:
        """Pickle's hook: what stands for an object, None for the object itself."""
        if id(obj) in self.apart:
            return "apart"
        if not isinstance(obj, Tensor):
            return None
        if id(obj) in self.shell.names:
            self.has_holes = True
            return "hole"
        return id(self.shell.pool(obj))


def _hole(tensor: Tensor) -> Tensor:
    empty = tensor.detach().new_empty(0)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

"""Copies of a module, several times faster than copy.deepcopy."""

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Template(Generic[M]):
    """A module to copy. It is pickled once, without its tensors; each copy is read from that.

    A module that cannot be pickled is copied by copy.deepcopy. The module must not change.
    """

    def __init__(self, module: M) -> None:
        self._module = module
        self._tensors: list[Tensor] = []
        self._pickled = self._dumped()

    @property
    def is_pickled(self) -> bool:
        """Whether copies share no function with the module, as those by copy.deepcopy may."""
        return self._pickled is not None

    def copy(self, memo: dict[int, Any] | None = None) -> M:
        """A copy. It shares no tensor with the module, but those that memo gives it.

        memo: as that of copy.deepcopy, what to put in the place of a thing with that id.
        """
        copied = {} if memo is None else memo
        if self._pickled is None:
            return copy.deepcopy(self._module, copied)
        made: M = _Reader(self._pickled, self._tensors, copied).load()
        return made

    def _dumped(self) -> bytes | None:
        file = io.BytesIO()
        try:
            _Writer(file, self._tensors).dump(self._module)
        except (pickle.PicklingError, AttributeError, TypeError):  # for example a local function
            return None
        return file.getvalue()


def refilled(
    module: M, tensors: Iterable[Tensor], fill: Callable[[Tensor], Tensor], is_apart: bool = False
) -> M:
    """A copy of a module with fill(tensor) in the place of each of its tensors.

    tensors: those of the module, also such as no submodule lists any more. is_apart: raise
    ValueError if the copy may call a function that belongs to the module, such as a hook that
    is a lambda.
    """
    memo: dict[int, Any] = {}
    for tensor in tensors:
        filled = fill(tensor)
        if isinstance(tensor, nn.Parameter) and filled is not tensor:
            filled = nn.Parameter(filled, tensor.requires_grad)
        memo[id(tensor)] = filled
    template = Template(module)
    if is_apart and not template.is_pickled:
        raise ValueError("the module has a function that is copied by reference")
    return template.copy(memo)


class _Writer(pickle.Pickler):
    """Puts the place of each tensor in a list where the tensor was."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file, protocol=5)
        self.tensors = tensors
        self.places: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, Tensor):
            return None
        if id(thing) not in self.places:
            self.places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self.places[id(thing)]


class _Reader(pickle.Unpickler):
    """Puts copies of the tensors in their places; tensors that share memory still do."""

    def __init__(self, pickled: bytes, tensors: Sequence[Tensor], copied: dict[int, Any]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.tensors, self.copied = tensors, copied

    def persistent_load(self, place: int) -> Tensor:
        return copy.deepcopy(self.tensors[place], self.copied)

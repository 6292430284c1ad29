"""Stages of blocks as a live view of the network: replacing a block there replaces it here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

from torch import Tensor, nn

Block = Callable[[Tensor], Tensor]
Adapt = Callable[[nn.Module], nn.Module]  # network's block -> module called as block(z)


class Slot:
    """A place in the walk: the module that the network has there, called as block(z).

    adapt: for modules that the network calls differently (None: no difference). It also applies
    to a module that takes the place of another one by `swap` or assignment, since that one is
    called as its predecessor was; modules of `put` take z alone.
    """

    def __init__(self, net: nn.Module, name: str | None, adapt: Adapt | None) -> None:
        """name: dotted name in the network; None for an identity outside of it."""
        self.net = net
        self.name = name
        self.adapt = adapt
        self.replacement: Block | None = None
        self._module: nn.Module | None = None
        self._adapted: nn.Module = nn.Identity()  # what own() returns without a name

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the module that the network has now."""
        self.own()
        return self.__dict__

    def get(self) -> Block:
        """The block to call: the replacement if there is one, or else the network's own."""
        return self.own() if self.replacement is None else self.replacement

    def own(self) -> nn.Module:
        """The network's module, adapted; the same object until the network has another one."""
        if self.name is None:
            return self._adapted
        # Looked up at each call, so that `swap` and setattr on the network reach the walk.
        module = self.net.get_submodule(self.name)
        if module is not self._module:
            self._module = module
            self._adapted = module if self.adapt is None else self.adapt(module)
        return self._adapted

    def set(self, block: Block) -> None:
        """Call another block instead; the network keeps its own, which ends the replacement."""
        self.replacement = None if block is self.own() else block

    def put(self, module: nn.Module) -> None:
        """Replace the network's module by one that takes z alone."""
        assert self.name is not None
        parent, _, child = self.name.rpartition(".")
        setattr(self.net.get_submodule(parent), child, module)
        self.adapt = None  # `module` is called as block(z)
        self.replacement = None


class Blocks(Sequence[Block]):
    """The blocks of a stage; a block that is assigned is called in place of the network's."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = list(slots)

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Block]:
        return iter([slot.get() for slot in self.slots])

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [slot.get() for slot in self.slots[index]]
        return self.slots[index].get()

    @overload
    def __setitem__(self, index: int, block: Block) -> None: ...
    @overload
    def __setitem__(self, index: slice, block: Iterable[Block]) -> None: ...
    def __setitem__(self, index: int | slice, block: Any) -> None:
        if isinstance(index, slice):
            for slot, single in zip(self.slots[index], list(block), strict=True):
                slot.set(single)
        else:
            self.slots[index].set(block)


class Stage:
    """Blocks of one width, and what comes before them.

    first: number of the first block, counted from 1 over all stages. enter: patch merging (timm's
    Swin merges at the start of a stage), or identity. Assigning `enter` or one of `blocks` changes
    the walk alone; the network and its parameters stay as they are.
    """

    def __init__(self, first: int, entry: Slot, blocks: Sequence[Slot], width: int) -> None:
        self.first = first
        self.entry = entry
        self.blocks = Blocks(blocks)
        self.width = width

    @property
    def enter(self) -> Block:
        """What z passes before the first block."""
        return self.entry.get()

    @enter.setter
    def enter(self, block: Block) -> None:
        self.entry.set(block)

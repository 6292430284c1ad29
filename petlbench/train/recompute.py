"""Memory modes: what a training step keeps for backward, and what backward computes again.

The gradients are the same in all modes, to the bit where the kernels repeat exactly. `fast` keeps
what autograd keeps. `lean` computes norm and MLP of a block again from the input of the norm, so
the input of the activation, four times as wide, is not kept. `min` keeps the inputs of the blocks
alone. The modes change the calls of a forward pass, never a method or a name of its tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from petlbench.method import Method
from petlbench.model.stage import Block, Slot

Held = Callable[[], AbstractContextManager[object]]  # a mode, held over a forward pass
WITHOUT_DRAWS = ("torch", "timm", "petlbench")  # packages whose modules draw in a dropout alone


def held(method: nn.Module, mode: str) -> Held:
    """A memory mode of a method, which is entered for each forward pass of its training."""
    return MODES[mode](method) if isinstance(method, Method) else nullcontext


def recomputed(call: Callable[..., Tensor], parts: Iterable[nn.Module], *inputs: Tensor) -> Tensor:
    """call(*inputs), keeping the inputs alone for backward, which computes the rest again.

    parts: the modules that `call` runs.
    """
    parts = list(parts)
    if not any(z.requires_grad for z in inputs) and not any(map(_is_trained, parts)):
        return call(*inputs)  # autograd keeps nothing of it
    # On a GPU, states of the generators take longer to save than a small block takes to run.
    preserve = any(map(_draws, parts))
    written = [buffer for part in parts for buffer in _written(part)]
    if written:
        call = _writing_once(call, written)
    return checkpoint(call, *inputs, use_reentrant=False, preserve_rng_state=preserve)


class RecomputedBlock:
    """A block of the walk that keeps its input alone: (B, ..., C) -> (B, ..., C).

    block: what is called. own: the network's module in that place, whose tensors may be trained.
    """

    def __init__(self, block: Block, own: nn.Module) -> None:
        self.block = block
        known = (block,) if isinstance(block, nn.Module) else None
        self.parts: tuple[nn.Module, ...] = known or (own, Unknown())

    def __call__(self, z: Tensor) -> Tensor:
        return recomputed(self.block, self.parts, z)


class Unknown(nn.Module):
    """In the place of what a function may do beside calling a module."""


class RecomputedMLP:
    """The norm and the MLP of a block as one part that keeps the input of the norm alone.

    The MLP finds the input of the norm by the norm's output, so other readers of that output are
    left as they are, and so is an MLP that reads something else.
    """

    def __init__(self, norm: nn.Module, mlp: nn.Module) -> None:
        self.parts = (norm, mlp)
        self.norm_forward, self.mlp_forward = norm.forward, mlp.forward
        self.read: tuple[Tensor, Tensor] | None = None  # input and output of the norm

    def norm(self, z: Tensor) -> Tensor:
        """Stands for the norm: (B, ..., C) -> (B, ..., C)"""
        n: Tensor = self.norm_forward(z)
        self.read = (z, n)
        return n

    def mlp(self, n: Tensor) -> Tensor:
        """Stands for the MLP: (B, ..., C) -> (B, ..., C)"""
        read, self.read = self.read, None
        if read is not None and read[1] is n:
            return recomputed(self.both, self.parts, read[0])
        return recomputed(self.mlp_forward, self.parts[1:], n)

    def both(self, z: Tensor) -> Tensor:
        """The MLP of the norm: (B, ..., C) -> (B, ..., C)"""
        return self.mlp_forward(self.norm_forward(z))  # type: ignore[no-any-return]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stand in for the forward passes of both modules."""
        norm, mlp = self.parts
        with called_as(norm, self.norm), called_as(mlp, self.mlp):
            try:
                yield
            finally:
                self.read = None


def _lean(method: Method) -> Held:
    parts = [RecomputedMLP(norm, mlp) for norm, mlp in _mlps(method)]

    @contextmanager
    def hold() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part.held())
            yield

    return hold


def _min(method: Method) -> Held:
    slots = [slot for stage in method.backbone.stages for slot in stage.blocks.slots]
    stand_ins: dict[Slot, RecomputedBlock] = {}

    def stand_in(slot: Slot) -> RecomputedBlock:
        block, known = slot.get(), stand_ins.get(slot)
        # The same object in every step: a compiled pass checks which one it calls.
        if known is None or known.block is not block:
            known = stand_ins[slot] = RecomputedBlock(block, slot.own())
        return known

    def beside(part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return recomputed(part, (method,), *inputs)

    @contextmanager
    def hold() -> Iterator[None]:
        called = [slot.get() for slot in slots]
        own, method.beside = method.beside, beside
        try:
            for slot in slots:
                slot.set(stand_in(slot))
            yield
        finally:
            method.beside = own
            for slot, block in zip(slots, called, strict=True):
                slot.set(block)

    return hold


MODES: Mapping[str, Callable[[Method], Held]] = {
    "fast": lambda method: nullcontext,
    "lean": _lean,
    "min": _min,
}


def _mlps(method: Method) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The MLPs of all blocks, those of side networks included, each with the norm before it."""
    for module in method.modules():
        # timm's names: a ConvNeXt block has one norm, other blocks have two.
        norm = getattr(module, "norm2", getattr(module, "norm", None))
        mlp = getattr(module, "mlp", None)
        if not (isinstance(norm, nn.Module) and isinstance(mlp, nn.Module)):
            continue
        # The norm is called twice in a forward pass.
        if not _draws(norm) and not list(_written(norm)):
            yield norm, mlp


@contextmanager
def called_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward pass of one module, without a change of its class or its name."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        if before is not None:
            vars(module)["forward"] = before


def _is_trained(module: nn.Module) -> bool:
    return any(tensor.requires_grad for tensor in module.parameters())


def _draws(module: nn.Module) -> bool:
    """Whether a forward pass may draw random numbers, which have to be drawn again."""
    return any(_is_unknown(part) or (part.training and _rate(part)) for part in module.modules())


def _rate(module: nn.Module) -> bool:
    """Whether a module of a known package has a rate of random draws above zero."""
    # In the names of torch's and timm's dropouts, attentions and recurrent layers.
    rates = (vars(module).get(name) for name in ("p", "dropout", "drop_prob", "prob"))
    return isinstance(module, nn.RReLU) or any(
        isinstance(rate, int | float) and rate > 0 for rate in rates
    )


def _written(module: nn.Module) -> Iterator[Tensor]:
    """The buffers that a forward pass may write, which it has to write once."""
    for part in module.modules():
        is_batch_norm = isinstance(part, nn.modules.batchnorm._NormBase) and part.training
        if is_batch_norm or (_is_unknown(part) and type(part) is not Unknown):
            yield from part.buffers(recurse=False)


def _writing_once(call: Callable[..., Tensor], buffers: Iterable[Tensor]) -> Callable[..., Tensor]:
    """A call that writes into buffers the first time alone."""
    is_first = True

    def called(*inputs: Tensor) -> Tensor:
        nonlocal is_first
        if is_first:
            is_first = False
            return call(*inputs)
        before = [(buffer, buffer.clone()) for buffer in buffers]
        try:
            return call(*inputs)
        finally:
            for buffer, value in before:
                # By its data, so that autograd takes saved tensors for unchanged: they are.
                buffer.data.copy_(value)

    return called


def _is_unknown(module: nn.Module) -> bool:
    package = type(module).__module__.partition(".")[0]
    return package not in WITHOUT_DRAWS or type(module) is Unknown

"""The hooks through which a method may change its network, or read it, between training steps."""

from collections.abc import Callable

from petlbench.method import Method, Step

HOOKS = ("before_step", "after_step", "extra_loss")
StepHook = Callable[[Step], None]


def overridden(method: Method, before_step: StepHook | None = None) -> list[str]:
    """The hooks that are not those of `Method`.

    before_step: of the training; None for the method's own.
    """
    names = [name for name in HOOKS if not _is_inherited(method, name)]
    if before_step not in (None, method.before_step):
        names.append("before_step")
    return names


def _is_inherited(method: Method, name: str) -> bool:
    return getattr(getattr(method, name), "__func__", None) is getattr(Method, name)

"""The hooks through which a method may change its network, or read it, between training steps."""

from collections.abc import Callable

from petlbench.method import Method, Step

STEP_HOOKS = ("before_step", "after_step")
HOOKS = (*STEP_HOOKS, "extra_loss")
StepHook = Callable[[Step], None]


def overridden(method: Method, before_step: StepHook | None = None) -> list[str]:
    """The hooks that are not those of `Method`.

    before_step: of the training; None for the method's own.
    """
    names = [name for name in HOOKS if is_overridden(method, name)]
    if before_step not in (None, method.before_step):
        names.append("before_step")
    return names


def is_overridden(method: Method, name: str) -> bool:
    """Whether a hook is another one than that of `Method`."""
    return getattr(getattr(method, name), "__func__", None) is not getattr(Method, name)

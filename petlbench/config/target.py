"""Objects that the configuration names by `_target_`: their signature is the schema."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from petlbench.checks import is_number, is_whole
from petlbench.errors import UserError, unknown

KINDS: Mapping[object, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    str: ("a text", lambda value: isinstance(value, str)),
    NoneType: ("null", lambda value: value is None),
}


def find(path: str, where: str) -> Any:
    """The object of a dotted name.

    where: the node that names it. Raises UserError if there is no such object; an error inside an
    existing module passes through, since its author needs the traceback.
    """
    module, names = _module(path.split("."))
    value: Any = module
    for name in names:
        value = getattr(value, name, None)
    if module is None or value is None:
        raise UserError(f"{where} names '{path}', which does not exist; check the dotted name")
    return value


def _module(parts: list[str]) -> tuple[ModuleType | None, list[str]]:
    """The longest importable part of a dotted name, and the names after it."""
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            return import_module(name), parts[end:]
        except ModuleNotFoundError as error:
            # missing at or above this name: a wrong name; elsewhere: an import inside the module
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
        except ValueError:  # an empty name, such as in `a..b`
            continue
    return None, []


def check_arguments(
    target: Callable[..., Any], values: Mapping[str, object], where: str, *, given: Sequence[str]
) -> None:
    """Refuse unknown and missing keyword arguments, and values of another type than annotated.

    given: names of arguments that the caller adds to `values`. Raises UserError.
    """
    signature = inspect.signature(target)
    parameters = {name: p for name, p in signature.parameters.items() if name not in given}
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in values:
            if key not in parameters:
                raise unknown(f"key of {where}", key, parameters)
    hints = _hints(target)
    for name, parameter in parameters.items():
        if name in values:
            _check_type(f"{where}.{name}", values[name], hints.get(name, Any))
        elif _is_needed(parameter):
            raise UserError(f"{where}.{name} is missing; set {where}.{name}=VALUE")


def _is_needed(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variable


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of the arguments; none where they cannot be resolved."""
    # get_type_hints of a class has its attributes, which are the arguments of a dataclass alone
    is_other = inspect.isclass(target) and not is_dataclass(target)
    function = target.__init__ if is_other else target
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _check_type(name: str, value: object, hint: Any) -> None:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(_fits(value, kind) for kind in kinds):
        return
    words = [_words(kind) for kind in kinds]
    raise UserError(f"{name} is {value!r}; it must be {' or '.join(words)}")


def _fits(value: object, kind: Any) -> bool:
    if kind in KINDS:
        return KINDS[kind][1](value)
    base = get_origin(kind) or kind
    if base is Literal:
        return any(_is_word(value, word) for word in get_args(kind))
    if not inspect.isclass(base):  # left to the constructor
        return True
    if issubclass(base, Mapping):
        return isinstance(value, Mapping)
    if issubclass(base, Sequence):
        # list and tuple, not Sequence: a text is a Sequence of texts too
        parts = get_args(kind)[:1] or (Any,)
        return isinstance(value, list | tuple) and all(_fits(part, parts[0]) for part in value)
    return True


def _is_word(value: object, word: object) -> bool:
    """Whether a value is a word of a Literal; True is not 1."""
    # PEFT writes pissa_niter_[number of iters] for all words that begin so.
    start, bracket, _ = word.partition("[") if isinstance(word, str) else ("", "", "")
    if bracket:
        return isinstance(value, str) and value.startswith(start)
    return type(value) is type(word) and value == word


def _words(kind: Any) -> str:
    if kind in KINDS:
        return KINDS[kind][0]
    base = get_origin(kind) or kind
    if base is Literal:
        return " or ".join(map(str, get_args(kind)))
    if inspect.isclass(base) and issubclass(base, Mapping):
        return "a mapping"
    part = next(iter(get_args(kind)), None)
    return (
        f"a list of {KINDS[part][0].removeprefix('a ')}s"
        if part in (int, float, str)
        else "a list"
    )

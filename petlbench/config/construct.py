"""From plain values to the frozen dataclasses of the schema, and the types that Hydra composes."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, cast, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from petlbench.config.wrong_values import wrong_value
from petlbench.errors import UserError

T = TypeVar("T")
TWIN = "composable:"  # how qualified names of the classes of `composable` begin


@cache
def composable(schema: type) -> type:
    """The dataclass for OmegaConf: as `schema`, but not frozen, since composing sets values."""
    hints = get_type_hints(schema)
    parts: list[Any] = []
    for part in fields(schema):
        kind: Any = hints[part.name]
        if is_dataclass(kind):
            kind = composable(kind)  # type: ignore[arg-type]
        elif any(map(is_dataclass, getattr(kind, "__args__", ()))):
            kind = Any  # OmegaConf cannot set one key of a node that is null
        default = {} if part.default is MISSING else {"default": part.default}
        if part.default_factory is not MISSING:
            default = {"default_factory": part.default_factory}
        parts.append((part.name, kind, field(**default)))
    # kw_only: a key without a default may follow one that has one
    made = make_dataclass(schema.__name__, parts, kw_only=True)
    # launchers of Hydra send it to their workers by its name, see `__getattr__`
    name = f"{TWIN}{schema.__module__}:{schema.__name__}"
    made.__module__, made.__qualname__ = (
        __name__,
        name.replace(".", "/"),
    )  # a dot would be a parent
    return made


def __getattr__(name: str) -> Any:
    """The class of `composable` with a qualified name, for pickles."""
    if not name.startswith(TWIN):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, schema = name.removeprefix(TWIN).replace("/", ".").partition(":")
    return composable(getattr(import_module(module), schema))


def build(schema: type[T], plain: Mapping[str, Any], where: str = "") -> T:
    """The frozen dataclass of plain values, which already have their types.

    where: dotted name of the node, for the message. Raises UserError for unknown, missing and
    wrong values.
    """
    prefix, keys = f"{where}." if where else "", _keys(cast(type, schema))
    for name in plain:
        if name not in keys:
            has = f"{where or 'the root'} has {', '.join(keys)}"
            raise UserError(f"no key '{prefix}{name}'; {has}")
    values: dict[str, Any] = {}
    for name, key in keys.items():
        if name not in plain:
            if key.is_required:
                raise UserError(f"{prefix}{name} is missing; set {prefix}{name}=VALUE")
            continue
        value = plain[name]
        if key.nested is not None and value is not None:
            # `composable` makes an optional node Any, so OmegaConf has not converted its values
            value = typed(key.nested, value, prefix + name) if key.is_optional else value
            value = build(key.nested, value, prefix + name)
        values[name] = value
    return schema(**values)


def typed(schema: type, plain: Any, where: str) -> dict[str, Any]:
    """Plain values converted to the types of a schema, as composition does it.

    Raises UserError for values of other types and for interpolations.
    """
    if not isinstance(plain, Mapping):
        raise UserError(f"{where} is {plain}; it must map keys to values")
    for key in plain:
        if key not in (known := [part.name for part in fields(schema)]):
            raise UserError(f"no key '{where}.{key}'; {where} has {', '.join(known)}")
    for name, value in flat(plain):
        # resolvers read the environment and call functions, which values of a data file must not
        if "${" in str(value):
            raise UserError(f"{where}.{name} is {value!r}; a value here cannot refer to others")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(composable(schema)), dict(plain))
        found = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}.{wrong_value(error)}") from error
    assert isinstance(found, dict)
    # ??? is OmegaConf's missing value; `build` names a key that is left out
    return {str(key): value for key, value in found.items() if value != "???"}


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all values of a nested mapping, each with its value."""
    if isinstance(node, Mapping) and node:  # an empty mapping is a value
        for key, value in node.items():
            yield from flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


class _Key(NamedTuple):
    """A key of a schema. nested: the dataclass of its values, if they are nodes."""

    nested: type | None
    is_optional: bool
    is_required: bool


@cache
def _keys(schema: type) -> dict[str, _Key]:
    hints = get_type_hints(schema)
    return {
        part.name: _Key(
            _nested(hints[part.name]),
            is_optional=type(None) in _kinds(hints[part.name]),
            is_required=part.default is MISSING and part.default_factory is MISSING,
        )
        for part in fields(schema)
    }


def _kinds(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", None) or (hint,)


def _nested(hint: Any) -> type | None:
    """The dataclass in an annotation, if there is one."""
    return next(
        (kind for kind in _kinds(hint) if isinstance(kind, type) and is_dataclass(kind)), None
    )

"""The method registry: the yaml files of conf/method, and how to create a method in Python."""

import inspect
from collections.abc import Mapping
from typing import Any

from petlbench.config import options, renamed, target
from petlbench.config.schema import Target
from petlbench.errors import UserError, unknown
from petlbench.layers.lean import lean
from petlbench.method import Method
from petlbench.model.backbone import Backbone


def names() -> list[str]:
    """Names of all methods, sorted; a yaml with a top-level `suite` is a list of methods."""
    return [name for name, content in _files().items() if "suite" not in content]


def suites() -> dict[str, list[str]]:
    """Names of all method suites with the methods they list."""
    lists = {name: options.members("method", content) for name, content in _files().items()}
    return {name: members for name, members in lists.items() if members is not None}


def values(name: str) -> dict[str, Any]:
    """The hyper-parameters of a method, as its yaml sets them."""
    return {key: value for key, value in _node(name).items() if not key.startswith("_")}


def kind(name: str) -> type[Method]:
    """The class of a method. Raises UserError if its target is none."""
    return _class(Target(_node(name)["_target_"], {}))


def create(name: str, backbone: Backbone, **changed: Any) -> Method:
    """A method around `backbone`, with its yaml's values but for `changed`.

    Raises UserError for an unknown method or value, or a value out of its range.
    """
    known = values(name)
    arguments = inspect.signature(kind(name)).parameters.values()
    # a class with **values has more than its yaml sets, and checks them itself
    if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        for key in changed:
            if key not in known:
                raise unknown(f"value of method {name}", key, known)
    return adapt(backbone, Target(_node(name)["_target_"], known | changed))


def adapt(backbone: Backbone, node: Target) -> Method:
    """The method of a configuration around `backbone`, with lean linear layers.

    Weights that it leaves frozen are then quantised as `backbone.weights` says. Raises UserError
    for a target that is not a method, and for unknown, missing and wrong values.
    """
    method_class = _class(node)
    # Checked before the call, so a TypeError of the constructor is a bug of the method.
    target.check_arguments(method_class, node.values, "method", given=["backbone"])
    method = method_class(backbone, **node.values)
    lean(method)
    method.backbone.quantise_frozen()
    return method


def needs_weights(node: Target) -> bool:
    """Whether the constructor reads weights, so that only `check` can try it on shapes."""
    return _class(node).needs_weights


def check(backbone: Backbone, node: Target) -> None:
    """What a class that `needs_weights` refuses without building it; backbone: in shapes only."""
    kind = _class(node)
    target.check_arguments(kind, node.values, "method", given=["backbone"])
    kind.check(backbone, **node.values)


def _class(node: Target) -> type[Method]:
    found = target.find(node.path, "method._target_")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method._target_ {node.path} is not a subclass of petlbench.Method")
    return found


def recorded(name: object, node: object) -> Target:
    """The registered method of a node in a data file, under its name of today.

    name: of the method, for a node without `_target_`. Nothing is imported by a name of the file
    before it is found among the registered ones. Raises UserError if it is none of them.
    """
    known = {key: content["method"].get("_target_") for key, content in _methods().items()}
    if not isinstance(node, Mapping):
        raise UserError(f"its method is {node!r}; it must map keys to values")
    plain = renamed.current_name(node)
    path = plain.get("_target_", known.get(name) if isinstance(name, str) else None)
    if not isinstance(path, str) or path not in known.values():
        raise UserError(
            f"its method {plain.get('_target_', name)!r} is not registered here, and a file "
            "cannot choose the code that runs; install the package that registers the method"
        )
    return Target(path, {key: value for key, value in plain.items() if not key.startswith("_")})


def _node(name: str) -> Mapping[str, Any]:
    # Reads one file: this is called for each method that is created.
    content = options.content("method", name)
    if "method" not in content:
        raise unknown("method", name, names())
    node: Mapping[str, Any] = content["method"]
    return node


def _methods() -> dict[str, dict[str, Any]]:
    """The yaml of each method, without suites and files that hold no method."""
    return {
        name: content
        for name, content in _files().items()
        if isinstance(content.get("method"), Mapping)
    }


def _files() -> dict[str, dict[str, Any]]:
    return options.contents("method")

"""PEFT: the tuners of Hugging Face's library as methods, https://github.com/huggingface/peft.

A tuner replaces linear layers, the targets, by layers of its own that hold the frozen ones. Its
values are those of its `*Config` class in PEFT, with PEFT's defaults for what a yaml leaves out;
the docstrings there name the papers. The library is an extra: pip install "petlbench[peft]".
"""

import copy
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from petlbench.checks import at_least, fraction, is_number, positive
from petlbench.config import target
from petlbench.errors import Unsupported, UserError, first_line, one_line, unknown
from petlbench.layers.frozen import whole
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.folding import folded
from petlbench.swap import matching

ADAPTER = "default"  # PEFT's name of the only adapter
# They need a model of transformers, its tokens, or the number of a task beside the images.
TEXT = {"ADAPTION_PROMPT", "POLY", "SHADOW", "TRAINABLE_TOKENS", "XLORA"}
# `targets` says where, the head is trained anyway, torch's weights are (out, in), nothing here
# calls a schedule, and there are no tokens of a language model.
OWN = {
    *("target_modules", "target_parameters", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("total_step", "tinit", "tfinal", "use_asa"),
    *("alora_invocation_tokens", "ensure_weight_tying", "layer_replication"),
}
# What PEFT raises of values that it does not check itself, such as more vectors than there are.
UNCHECKED = (ArithmeticError, AssertionError, AttributeError, RuntimeError)
REPLACED = re.compile(r"Setting (\w+) to (\w+)|Invalid `(\w+)` .* to \((\w+)\)")
PLAIN = (bool, int, float, str, NoneType, list, Literal)


class PEFTTuner(Method):
    """A tuner of PEFT on the modules whose names match `targets`, and the head.

    tuner: PEFT's name, such as vera. targets: patterns over the names of timm's modules, such as
    `*.mlp.fc1`; each must match. values: of PEFT's config. Raises Unsupported if PEFT or the tuner
    is not installed, or if the tuner does not fit a layer.

    `starts_as_pretrained` and `unmergeable` are what the tuner shows when it is built. Tensors
    that PEFT keeps outside the state of its layers or does not save, such as random places in a
    weight, become buffers that it saves.
    given: values of the config that a class of its own sets.
    """

    given: Mapping[str, Any] = {}

    def __init__(
        self, backbone: Backbone, *, tuner: str, targets: Sequence[str], **values: Any
    ) -> None:
        super().__init__(backbone)
        kind, layer = _kinds(tuner)
        config = _config(kind, values, _names(backbone, targets), self.given)
        before = _logits(self)
        with _refusals(tuner, backbone.tag):
            self.tuner = _injected(layer, backbone, config)
            self.unmergeable = _unmergeable(self.layers()[0])
        backbone.head.requires_grad_(True)
        self.starts_as_pretrained = _equal(before, _logits(self))

    def layers(self) -> list[Any]:
        """The layers that PEFT has put around others."""
        return list(_layers(self.backbone.net))

    def merge(self) -> nn.Module:
        """A copy of the network with PEFT's updates in the weights."""
        twin = copy.deepcopy(self).eval()
        whole(twin.backbone.net)  # PEFT adds to the weights in place
        try:
            with _quiet():
                return folded(twin.tuner.merge_and_unload())
        except ValueError as error:
            raise Unsupported(f"PEFT says '{first_line(error)}'") from error


class PEFTWeightTuner(PEFTTuner):
    """A tuner that cannot be tried on shapes: it decomposes weights or finds places in them."""

    needs_weights = True

    @classmethod
    def check(cls, backbone: Backbone, **values: Any) -> None:
        """Refuse what needs no weights: missing tuners, names of layers, values of the config."""
        tuner, targets = values.pop("tuner"), values.pop("targets")
        _config(_kinds(tuner)[0], values, _names(backbone, targets), cls.given)


def library() -> Any:
    """The module peft. Raises Unsupported if it is not installed."""
    # PEFT imports bitsandbytes where it is installed, which misses kernels that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return import_module("peft")  # here, since it takes seconds to import
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"it needs the package {error.name}, which is not installed; "
            'pip install "petlbench[peft]"'
        ) from error


def tuners() -> list[str]:
    """The tuners of the installed PEFT that replace layers of a network, sorted."""
    return sorted(
        kind.value.lower() for kind, layer in _known().items() if _is_usable(kind, layer)
    )


def _known() -> dict[Any, Any]:
    """Each type of adapter in PEFT with its class, None for a prompt."""
    library()
    known: dict[Any, Any] = import_module("peft.mapping").PEFT_TYPE_TO_TUNER_MAPPING
    return known


def _is_usable(kind: Any, layer: Any) -> bool:
    base = import_module("peft.tuners.tuners_utils").BaseTuner
    return isinstance(layer, type) and issubclass(layer, base) and kind.value not in TEXT


def _kinds(tuner: str) -> tuple[Any, Any]:
    """The classes of config and tuner in PEFT. Raises Unsupported for one that is not there."""
    peft = library()
    if tuner not in (names := tuners()):
        raise Unsupported(
            f"PEFT {peft.__version__}: {unknown('tuner', tuner, names)}; a later one may have it: "
            "pip install --upgrade peft"
        )
    configs = import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
    kind = peft.PeftType(tuner.upper())
    return configs[kind], _known()[kind]


def _names(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """The dotted names of the targets in timm's network: layers with weights, but the head."""
    head = {id(module) for module in backbone.head.modules()}
    places = dict(place for pattern in targets for place in matching(backbone.net, pattern))
    names = [
        name
        for name, module in places.items()
        if id(module) not in head and any(True for _ in module.parameters(recurse=False))
    ]
    if not names:
        raise UserError(f"method.targets is {list(targets)}; it must match layers of the network")
    return names


def _config(
    kind: Any, values: dict[str, Any], names: Sequence[str], given: Mapping[str, Any]
) -> Any:
    """PEFT's config. Raises UserError for an unknown value, or one of a wrong type or range."""
    defaults = {one.name: one.default for one in fields(kind)}
    target.check_arguments(kind, values, "method", given=[*(defaults.keys() - _settable(kind))])
    for key, value in values.items():
        if is_number(value):
            _check_number(key, value, defaults[key])
    try:
        with _quiet() as heard:
            # A pattern of exact names: PEFT compares the ends of names that it gets as a list.
            config = kind(target_modules="|".join(map(re.escape, names)), **values, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"PEFT refuses the values of method: {first_line(error)}") from error
    for warning in heard:
        if "ignored" in (text := str(warning.message)):
            raise UserError(f"PEFT would ignore a value of method: {text}")
    return config


def _check_number(key: str, value: float, default: object) -> None:
    """Refuse a size, rate or scale out of its range."""
    if key.endswith("dropout"):
        fraction(f"method.{key}", value)
        return
    if key.endswith(("alpha", "scaling")) and value != default:
        positive(f"method.{key}", value)  # a factor of 0 trains nothing
        return
    # A few defaults below that stand for a choice, such as OFT's rank of 0.
    low = 1 if key == "r" else 0
    at_least(f"method.{key}", value, min(default, low) if is_number(default) else low)


def _settable(kind: Any) -> set[str]:
    """The values of a config that a yaml may set: numbers, words, flags and lists of them.

    Not names of modules to import and the like, since a delta of anybody holds values too.
    """
    common = {one.name for one in fields(import_module("peft").PeftConfig)}
    hints = get_type_hints(kind)
    return {name for name in hints.keys() - common - OWN if _is_plain(hints[name])}


def _is_plain(hint: Any) -> bool:
    """Whether an annotation has numbers, words, flags, choices and lists alone."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_plain, get_args(hint)))
    base = get_origin(hint) or hint
    return base in PLAIN or (isinstance(base, type) and issubclass(base, Enum))


@contextmanager
def _refusals(tuner: str, network: str) -> Iterator[None]:
    """Turn PEFT's errors about values that a layer of the network cannot take into one line."""
    try:
        yield
    except (TypeError, ValueError) as error:  # PEFT's for layers, widths and formats of numbers
        raise Unsupported(
            f"PEFT's tuner {tuner} does not fit {network}: {first_line(error)}"
        ) from error
    except UNCHECKED as error:
        raise UserError(
            f"PEFT's tuner {tuner} cannot be built with these values of method "
            f"({one_line(error)}); docs/peft.md says where PEFT describes them"
        ) from error


def _injected(layer: Any, backbone: Backbone, config: Any) -> Any:
    """The tuner, whose layers are in the network afterwards."""
    place = next(backbone.net.parameters()).device
    # Not on meta: random places in a weight are found by operations that need numbers.
    with torch.device("cpu"), _quiet() as heard:
        made = layer(backbone.net, config, ADAPTER)
    _check_kept(config, heard)
    # The network is a part of the method already; as a module of the tuner it would be one twice.
    vars(made)["model"] = made._modules.pop("model")
    _keep_tensors(made)
    backbone.net.to(place)
    return made


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings of PEFT, which advise on merging, types and compilers."""
    compiler = logging.getLogger("torch.utils.cpp_extension")  # BOFT tries to build a kernel
    level = compiler.level
    compiler.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield heard
    finally:
        compiler.setLevel(level)


def _check_kept(config: Any, heard: Iterable[warnings.WarningMessage]) -> None:
    """Refuse values that PEFT replaces with a mere warning: a record would hold others."""
    for warning in heard:
        match = REPLACED.match(str(warning.message))
        key, other = [text for text in match.groups() if text] if match else ("", "")
        if str(given := getattr(config, key, other)) != other:
            raise ValueError(f"method.{key} is {given}, which PEFT would set to {other} here")


def _keep_tensors(tuner: Any) -> None:
    """Make buffers of tensors in plain dictionaries, and save those of all dictionaries.

    They depend on random numbers, or on the weights by decompositions that other machines round
    differently; as buffers they also move with the network.
    """
    buffers = import_module("peft.tuners._buffer_dict").BufferDict
    for module in [*tuner.modules(), *_layers(tuner.model)]:
        for name, value in list(vars(module).items()):
            # Torch's own dictionaries begin with _.
            if not name.startswith("_") and _holds_tensors(value):
                delattr(module, name)
                setattr(module, name, buffers(value, persistent=True))
        for part in module.modules():
            if isinstance(part, buffers):
                part._non_persistent_buffers_set.clear()


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(one, Tensor) for one in value.values())


def _layers(network: nn.Module) -> Iterator[Any]:
    kind = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return (module for module in network.modules() if isinstance(module, kind))


def _unmergeable(layer: Any) -> str:
    """Why PEFT cannot merge a layer, asked of a copy; "" if it can."""
    twin = copy.deepcopy(layer)
    if next(layer.parameters()).is_meta:  # merging may read values
        twin.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
    try:
        with torch.device("cpu"), _quiet():
            twin.merge()
    except (NotImplementedError, ValueError) as error:
        return f"PEFT says '{first_line(error)}'"
    return ""


def _equal(before: Tensor | None, after: Tensor | None) -> bool:
    return before is None or after is None or torch.equal(before, after)


def _logits(method: Method) -> Tensor | None:
    """(1, K) for an example; None on the meta device."""
    image = method.backbone.example()
    if image.is_meta:
        return None
    training = method.training
    try:
        with torch.no_grad():
            return method.eval()(image)  # type: ignore[no-any-return]
    finally:
        method.train(training)

"""PEFT's tuners and configs, and its errors and warnings as errors of this project."""

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
from torch import nn

from petlbench.checks import at_least, fraction, is_number, is_whole, positive
from petlbench.config import target
from petlbench.errors import Unsupported, UserError, first_line, one_line, unknown
from petlbench.model.backbone import Backbone
from petlbench.swap import matching

# Adapters of PEFT that do not work on a vision network, and why.
TEXT = {
    "ADAPTION_PROMPT": "it prompts the layers of a language model",
    "POLY": "it takes the number of a task beside the images",
    "SHADOW": "it needs a model of transformers",
    "TRAINABLE_TOKENS": "it trains rows of an embedding of tokens",
    "XLORA": "it mixes adapters of a model of transformers that were trained before",
}
PROMPT = "it is a prompt among the tokens of a language model"
# Not settable: where the tuner acts (`targets` says it), the head, the layout of weights,
# schedules, what PEFT's own files hold, and options for language models.
OWN = {
    *("target_modules", "target_parameters", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("total_step", "tinit", "tfinal", "use_asa", "init_warmup", "final_warmup", "mask_interval"),
    *("asa_importance_beta", "asa_uncertainty_beta", "asa_target_subspaces"),
    *("asa_total_steps", "asa_schedule_exponent"),
    *("save_projection", "save_indices", "save_only_topk_weights", "save_precomputed_indices"),
    *("use_qalora", "qalora_group_size"),
    *("alora_invocation_tokens", "ensure_weight_tying", "layer_replication", "megatron_core"),
}
# Starts from data or configs that nothing here gives to PEFT; of eva's it would keep the usual one
# in silence.
FROM_DATA = ("eva", "corda", "loftq")
# A start from a random approximation changes the frozen weights, which no delta holds.
RANDOM_START = re.compile(r"\w+_niter_\d+")
BIAS = re.compile(r"none|all|\w+_only")
POOLING = "attn_pool"  # of a SigLIP: it has an MLP of its own
SHARED_BY_NAME = {"frod"}  # tuners whose layers of one name share a matrix
# with one term OFT's rotation is the identity
LEAST = {"r": 1, "subspace_rank": 1, "num_cayley_neumann_terms": 2}
# What PEFT raises of values that it does not check itself, such as more vectors than there are.
UNCHECKED = (ArithmeticError, AssertionError, AttributeError, RuntimeError)
REPLACED = re.compile(r"Setting (\w+) to (\w+)|Invalid `(\w+)` .* to \((\w+)\)")
PLAIN = (bool, int, float, str, NoneType, list, Literal)


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


def classes(tuner: str) -> tuple[Any, Any]:
    """The classes of config and tuner in PEFT. Raises Unsupported for one that is not there."""
    peft = library()
    if tuner not in (names := tuners()):
        if tuner.upper() in {kind.value for kind in _known()}:
            reason = TEXT.get(tuner.upper(), PROMPT)
            raise Unsupported(
                f"PEFT's {tuner} is not for vision networks: {reason}; set method.tuner to one of "
                f"{', '.join(names)}"
            )
        raise Unsupported(
            f"PEFT {peft.__version__}: {unknown('tuner', tuner, names)}; a later one may have it: "
            "pip install --upgrade peft"
        )
    configs = import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
    kind = peft.PeftType(tuner.upper())
    return configs[kind], _known()[kind]


def target_names(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """The dotted names of the targets in timm's network: layers with weights, but the head.

    Layers of an attention pooling match only patterns that name it.
    """
    head = {id(module) for module in backbone.head.modules()}
    places: dict[str, nn.Module] = {}
    for pattern in targets:
        try:
            found = matching(backbone.net, pattern)
        except Unsupported as error:
            raise Unsupported(f"method.targets has '{pattern}': {error}") from error
        kept = [each for each in found if POOLING in pattern or POOLING not in each[0].split(".")]
        if not kept:
            raise Unsupported(
                f"method.targets has '{pattern}', which matches the attention pooling alone; "
                f"name it, as in '{found[0][0]}'"
            )
        places |= kept
    names = [
        name
        for name, module in places.items()
        if id(module) not in head and any(True for _ in module.parameters(recurse=False))
    ]
    if not targets:
        raise UserError("method.targets is []; it must match layers of the network")
    if not names:
        raise Unsupported(
            f"method.targets is {list(targets)}, which matches the head or modules without "
            "weights alone; name other layers, as in '*.attn.qkv'"
        )
    return names


def checked_config(
    kind: Any, values: dict[str, Any], names: Sequence[str], given: Mapping[str, Any]
) -> Any:
    """PEFT's config. Raises UserError for an unknown value, or one of a wrong type or range."""
    defaults = {one.name: one.default for one in fields(kind)}
    target.check_arguments(kind, values, "method", given=[*(defaults.keys() - _settable(kind))])
    for key, value in values.items():
        if is_number(value):
            _check_number(key, value, defaults[key])
        elif key.endswith("seed") and value is None and defaults[key] is not None:
            raise UserError(f"method.{key} is null; it must be a whole number")
        elif key == "bias" and not (isinstance(value, str) and BIAS.fullmatch(value)):
            raise UserError(f"method.bias is {value}; it must be none, all or TUNER_only")
        elif key.endswith("_modules") and value:
            _check_names(key, value, names)
        elif isinstance(value, str) and value in FROM_DATA:
            raise UserError(
                f"method.{key} is {value}, a start that needs more than weights; choose another"
            )
        elif isinstance(value, str) and RANDOM_START.fullmatch(value):
            exact = value.partition("_")[0]
            raise UserError(
                f"method.{key} is {value}, a start by random numbers that a delta does not hold; "
                f"set method.{key}={exact}"
            )
    try:
        with quiet() as heard:
            # A pattern of exact names: PEFT compares the ends of names that it gets as a list.
            config = kind(target_modules="|".join(map(re.escape, names)), **values, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f"PEFT refuses the values of method: {first_line(error)}") from error
    if (most := getattr(config, "num_vectors", None)) and (topk := config.topk) > most:
        raise UserError(f"method.topk is {topk}; it must be at most method.num_vectors, {most}")
    for warning in heard:
        if "ignored" in (text := str(warning.message)):
            raise UserError(f"PEFT would ignore a value of method: {text}")
    return config


def _check_number(key: str, value: float, default: object) -> None:
    """Refuse a size, rate or scale out of its range."""
    if key.endswith("dropout"):
        fraction(f"method.{key}", value)
        return
    if key.endswith(("alpha", "scaling", "lambda")) and value != default:
        positive(f"method.{key}", value)  # a factor of 0 trains nothing
        return
    # A few defaults below that stand for a choice, such as OFT's rank of 0.
    low = LEAST.get(key, 0)
    at_least(f"method.{key}", value, min(default, low) if is_number(default) else low)


def _check_names(key: str, value: Any, names: Sequence[str]) -> None:
    """Refuse names of modules that are no targets: PEFT would pass over them."""
    # PEFT takes a text for a pattern of whole names, and a list for ends of names.
    patterns = [value] if isinstance(value, str) else [f".*{re.escape(end)}" for end in value]
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, name) for name in names)
        except re.error:
            found = False
        if not found:
            raise UserError(f"method.{key} is {value}; each must match a layer of method.targets")


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
def refusals(tuner: str, network: str) -> Iterator[None]:
    """Turn PEFT's errors about values that a layer of the network cannot take into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError) as error:  # PEFT's for layers, widths and formats of numbers
        raise Unsupported(
            f"PEFT's tuner {tuner} does not fit {network}: {first_line(error)}; set other values "
            "of method, or choose another backbone"
        ) from error
    except UNCHECKED as error:
        raise UserError(
            f"PEFT's tuner {tuner} cannot be built with these values of method "
            f"({one_line(error)}); docs/peft.md says where PEFT describes them"
        ) from error


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
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


def check_kept(config: Any, heard: Iterable[warnings.WarningMessage]) -> None:
    """Refuse values that PEFT replaces with a mere warning: a record would hold others."""
    for warning in heard:
        match = REPLACED.match(str(warning.message))
        key, other = [text for text in match.groups() if text] if match else ("", "")
        if str(given := getattr(config, key, other)) != other:
            raise ValueError(f"method.{key} is {given}, which PEFT would set to {other} here")


def check_used(layers: Iterable[Any], values: Mapping[str, Any], adapter: str) -> None:
    """Refuse numbers that a layer replaces in silence, such as a rank above its width.

    Raises ValueError, as PEFT does for what a layer cannot take.
    """
    for layer in layers:
        for key, value in values.items():
            kept = getattr(layer, key, None)
            used = kept.get(adapter) if isinstance(kept, dict) else None
            # 0 leaves the choice to PEFT, as for the sizes of OFT's blocks
            # and below 1 it is a part of the most, such as of OSF's directions
            if is_whole(used) and is_number(value) and value >= 1 and used != value:
                raise ValueError(f"method.{key} is {value}, of which a layer can use {used}")
        # LoRA's starts from a decomposition have no more directions than the weight
        maps = getattr(layer, "lora_A", None)
        if isinstance(maps, nn.ModuleDict):
            rows = len(maps[adapter].get_parameter("weight"))
            if rows != layer.r[adapter]:
                raise ValueError(
                    f"method.r is {layer.r[adapter]}, of which a layer can use {rows}"
                )


def check_directions(backbone: Backbone, names: Iterable[str], values: Mapping[str, Any]) -> None:
    """Raise Unsupported for a rank above that of a weight from whose decomposition LoRA starts."""
    rank = values.get("r")
    if not (isinstance(values.get("init_lora_weights"), str) and is_number(rank)):
        return
    sizes = (backbone.net.get_submodule(name).weight.shape for name in names)
    if rank > (most := min(min(size) for size in sizes)):
        raise Unsupported(
            f"method.r is {rank}, of which a layer of {backbone.tag} can use {most}; "
            "set a smaller one"
        )


def check_widths(backbone: Backbone, names: Iterable[str], tuner: str) -> None:
    """Raise Unsupported if layers that share a matrix have inputs of different sizes."""
    if tuner not in SHARED_BY_NAME:
        return
    widths: dict[str, set[int]] = {}
    for name in names:
        kind = ".".join(name.split(".")[-2:])
        widths.setdefault(kind, set()).add(backbone.net.get_submodule(name).weight.shape[1])
    for kind, found in widths.items():
        if len(found) > 1:
            raise Unsupported(
                f"PEFT's tuner {tuner} needs layers {kind} of one width; those of {backbone.tag} "
                f"have {', '.join(map(str, sorted(found)))} inputs"
            )

"""PEFT's tuners, and the values and targets of their configs."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from petlbench.checks import at_least, fraction, is_number, is_whole, positive, whole
from petlbench.config import target
from petlbench.errors import Unsupported, UserError, first_line, unknown
from petlbench.methods.peft_checks import quiet
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
# with one term OFT's rotation is the identity
LEAST = {"r": 1, "subspace_rank": 1, "num_cayley_neumann_terms": 2}
PLAIN = (bool, int, float, str, NoneType, list, Literal)


def library() -> Any:
    """The module peft. Raises Unsupported if it is not installed."""
    # PEFT imports bitsandbytes where it is installed, which misses kernels that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return import_module("peft")  # here, since it takes seconds to import
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"PEFT's tuners need the package {error.name}, which is not installed; "
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
    least = min(default, low) if is_number(default) else low
    if is_whole(value) and (is_whole(default) or key in LEAST):
        whole(f"method.{key}", value, low=int(least))
    else:
        at_least(f"method.{key}", value, least)


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

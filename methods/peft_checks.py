"""PEFT's errors and warnings as errors of this project, and checks of targets and layers."""

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from petlbench.checks import is_number, is_whole
from petlbench.errors import Unsupported, UserError, first_line, one_line
from petlbench.model.backbone import Backbone

SHARED_BY_NAME = {"frod"}  # tuners whose layers of one name share a matrix
# What PEFT raises of values that it does not check itself, such as more vectors than there are.
UNCHECKED = (ArithmeticError, AssertionError, AttributeError, RuntimeError)
REPLACED = re.compile(r"Setting (\w+) to (\w+)|Invalid `(\w+)` .* to \((\w+)\)")


@contextmanager
def refusals(tuner: str, network: str) -> Iterator[None]:
    """Turn PEFT's errors about values that a layer of the network cannot take into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError) as error:  # PEFT's for layers, widths and formats of numbers
        raise Unsupported(
            f"PEFT's tuner {tuner} does not fit {network}: {_own_words(error)}; set other values "
            "of method, or choose another backbone"
        ) from error
    except UNCHECKED as error:
        raise UserError(
            f"PEFT's tuner {tuner} cannot be built with these values of method "
            f"({one_line(error)}); docs/peft.md says where PEFT describes them"
        ) from error


def _own_words(error: Exception) -> str:
    """The first line of PEFT's error, with the key of this project."""
    return first_line(error).replace("`peft_config.target_modules`", "method.targets")


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

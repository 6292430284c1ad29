"""A reference vector, and how a method of this project corresponds to it."""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petlbench.method import Method


@dataclass(frozen=True)
class Case:
    """A pair of files: <name>.json (what was run) and <name>.npz (float64 numbers)."""

    path: Path  # of the json

    @cached_property
    def about(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        with np.load(self.path.with_suffix(".npz")) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.about["config"]
        return config

    @property
    def method_tensors(self) -> list[str]:
        return list(self.below("method/"))

    @property
    def depths(self) -> list[int]:
        """Blocks in each stage; a ViT is one stage."""
        options = self.about["timm_kwargs"]
        return list(options["depths"]) if "depths" in options else [options["depth"]]

    @property
    def is_swin(self) -> bool:
        return "depths" in self.about["timm_kwargs"]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Arrays whose name starts with the prefix, by the rest of their name."""
        return {
            name.removeprefix(prefix): a
            for name, a in self.arrays.items()
            if name.startswith(prefix)
        }

    def network(self) -> nn.Module:
        """The timm network that the vector was made for, in float64, with its weights."""
        module, _, kind = self.about["timm_class"].rpartition(".")
        # Where the classifier is a tensor of the method, the one of the network is not stored.
        options = self.about["timm_kwargs"] | {"num_classes": self.about["num_classes"]}
        net: nn.Module = getattr(importlib.import_module(module), kind)(**options)
        head = {} if self.about["timm_kwargs"]["num_classes"] else _head(net.double())
        net.double().load_state_dict(self.below("backbone/") | head, strict=True)
        return net


def _head(net: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if name.startswith("head.")}


def as_it_is(tensor: Tensor) -> Tensor:
    """The same layout in the vector and in the method."""
    return tensor


@dataclass(frozen=True)
class Tied:
    """The parameter that corresponds to a tensor of the vector, or the buffer.

    parameter: its name, None if the method has no such tensor. view: a view of the parameter, or
    of its gradient, in the vector's layout; values are written through it.
    """

    parameter: str | None
    view: Callable[[Tensor], Tensor] = as_it_is


def nothing_further(method: Method) -> dict[str, float]:
    """No comparison beside the usual ones."""
    return {}


@dataclass(frozen=True)
class Plan:
    """How to build the method of a vector.

    method, values: for the registry. pool: of the backbone. tensors: the parameter of each method
    tensor of the vector. zeros: parameters that the vector does not have; they are set to zero.
    of_backbone: parameters that are not those of the network, by timm's name of the tensor whose
    place they take. further: comparisons of this kind of vector alone, largest differences by
    name; it gets the filled method, before the usual comparisons, and may prepare it. training:
    the mode in which outputs and gradients were computed.
    """

    method: str
    values: Mapping[str, Any]
    pool: str
    tensors: Mapping[str, Tied] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    of_backbone: Mapping[str, Tied] = field(default_factory=dict)
    further: Callable[[Method], Mapping[str, float]] = nothing_further
    training: bool = True


def usual_pool(case: Case) -> str:
    """The mean of normalised patches on Swin; on ViT the class token, or what timm was told."""
    options = case.about["timm_kwargs"]
    if case.is_swin:
        return "norm_then_mean"
    if options.get("global_pool") != "avg":
        return "cls"
    return "norm_then_mean" if options.get("fc_norm") is False else "patch_mean_then_norm"


def apart(value: Tensor, reference: Tensor) -> float:
    """The largest absolute difference; infinite for other shapes."""
    if value.shape != reference.shape:
        return float("inf")
    return float((value.detach() - reference).abs().max())

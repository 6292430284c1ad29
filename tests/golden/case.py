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
        net: nn.Module = getattr(importlib.import_module(module), kind)(
            **self.about["timm_kwargs"]
        )
        net.double().load_state_dict(self.below("backbone/"), strict=True)
        return net


def as_it_is(tensor: Tensor) -> Tensor:
    """The same layout in the vector and in the method."""
    return tensor


@dataclass(frozen=True)
class Tied:
    """The parameter that corresponds to a method tensor of the vector.

    parameter: its name, None if the method has no such tensor. view: a view of the parameter, or
    of its gradient, in the vector's layout; values are written through it.
    """

    parameter: str | None
    view: Callable[[Tensor], Tensor] = as_it_is


@dataclass(frozen=True)
class Plan:
    """How to build the method of a vector.

    method, values: for the registry. pool: of the backbone. tensors: the parameter of each method
    tensor of the vector, and by `backbone/<timm's name>` that of a backbone's tensor that the
    method trains as another one. zeros: parameters that the vector does not have; they are set to
    zero.
    """

    method: str
    values: Mapping[str, Any]
    pool: str
    tensors: Mapping[str, Tied] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()


def usual_pool(case: Case) -> str:
    """The mean of normalised patches on Swin, the class token on ViT."""
    return "norm_then_mean" if case.is_swin else "cls"

"""The states of the random generators of this process, as plain data and tensors."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

States = dict[str, Any]


def taken(device: torch.device) -> States:
    """Of Python, NumPy, torch and, if it is a GPU, the device."""
    states = {
        "python": random.getstate(),
        "numpy": plain_numpy(np.random.get_state()),  # noqa: NPY002 -- timm draws from it
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: States, device: torch.device) -> None:
    """Set the generators to what `taken` has read."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def equal(first: States, second: States) -> bool:
    """Whether nothing was drawn between the two."""
    return all(
        torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        for name, value in first.items()
    )


def plain_numpy(state: Any) -> tuple[Any, ...]:
    """A state of NumPy's legacy generator, which can be set again, without its array."""
    kind, keys, *rest = state
    return (kind, np.asarray(keys).tolist(), *rest)

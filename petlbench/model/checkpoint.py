"""Loading a checkpoint file into a timm network, strictly.

Formats: .safetensors, torch's files (a state dict, alone or inside a training checkpoint), and
.npz in the layout of the original JAX code of ViT,
https://github.com/google-research/vision_transformer. The classifier of a file belongs to the
classes of its pre-training, so it is loaded on request only, whatever its size.
"""

import argparse
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petlbench.errors import UserError, first_line
from petlbench.model import jax_checkpoint
from petlbench.model.misfits import damaged, headless, listed, more, unfit
from petlbench.model.nested import CLASSIFIERS, chosen, prefixes

FORMATS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")
AVERAGE = "patch_mean_then_norm"  # of networks with fc_norm


def load_checkpoint(net: nn.Module, head: str, path: Path, *, with_head: bool) -> list[str]:
    """Load a file into `net`, whose classification head is the module named `head`.

    with_head: load the classifier of the file as well; otherwise the head stays as it is. Returns
    what was mapped to the names of the network, in words. Raises UserError if the file is damaged
    or does not fit, or lacks the classifier that was asked for.
    """
    if path.suffix == ".npz":
        jax_checkpoint.load(net, head, path, with_head)
        return []
    return _load_state(net, head, path, with_head)


def _load_state(net: nn.Module, head: str, path: Path, with_head: bool) -> list[str]:
    own = net.state_dict()
    classifier = {key: value for key, value in own.items() if key.startswith(f"{head}.")}
    content, mapped = _network_of(net, head, _read(path), path)
    renamed = _with_final_norm(_in_timms_layout(net, content, path), own, mapped)
    state, stored = _divided(renamed, own, head)
    if with_head:
        state |= _fitting(stored, classifier, path)
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, the network needs {tuple(value.shape)}"
            raise unfit(path, f"{key} has shape {shapes}")
    missing = [key for key in own if key not in state and key not in classifier]
    if missing:
        raise unfit(path, f"it has no {missing[0]}{more(missing)}")
    foreign = [key for key in state if key not in own]
    if foreign:
        raise unfit(path, f"the network has no {foreign[0]}{more(foreign)}")
    net.load_state_dict(state, strict=False)  # not strict: the classifier may be missing
    return mapped


def _network_of(
    net: nn.Module, head: str, content: dict[str, Any], path: Path
) -> tuple[dict[str, Any], list[str]]:
    """The part of a file that holds the network, and where it stood; at the top nothing is said.

    Files without a known beginning of a network are left to timm's filter as they are.
    """
    states = prefixes(content)
    if not states:
        return content, []
    found = chosen(states, lambda state: _is_whole(net, head, state, path))
    if isinstance(found, list):
        names = ", ".join(prefix or "the top" for prefix in found)
        raise UserError(
            f"checkpoint '{path}' holds {len(found)} networks ({names}) and does not say which "
            "one to load; save the state_dict of one alone"
        )
    prefix, state = found
    return (state, [f"from {prefix.removesuffix('.')}"]) if prefix else (content, [])


def _is_whole(net: nn.Module, head: str, state: dict[str, Tensor], path: Path) -> bool:
    """Whether a state has a tensor of the right shape for each of the network, but the head."""
    own = net.state_dict()
    try:
        converted = _with_final_norm(_in_timms_layout(net, dict(state), path), own, [])
    except UserError:
        return False
    shapes = {name: value.shape for name, value in converted.items()}
    return all(
        shapes.get(name) == value.shape
        for name, value in own.items()
        if not name.startswith(f"{head}.")
    )


def _with_final_norm(
    state: dict[str, Tensor], own: Mapping[str, Tensor], mapped: list[str]
) -> dict[str, Tensor]:
    """The final norm under the network's name: timm calls it fc_norm if the mean comes first.

    The new name is added to `mapped`.
    """
    for theirs, ours in (("fc_norm", "norm"), ("norm", "fc_norm")):
        pairs = {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}
        present = [key for key in (*pairs, *pairs.values()) if key in state]
        if present == list(pairs) and set(pairs.values()) <= own.keys():
            first = f" (its network has the pooling {AVERAGE})" if theirs == "fc_norm" else ""
            mapped.append(f"{theirs} as {ours}{first}")
            return {pairs.get(key, key): value for key, value in state.items()}
    return state


def _divided(
    state: dict[str, Tensor], own: Mapping[str, Tensor], head: str
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A state without its classifiers; these, with the names of the network's, by their own."""
    body: dict[str, Tensor] = {}
    classifiers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, _, part = key.rpartition(".")
        # a network may use one of the names for another module
        if module == head or (module in CLASSIFIERS and key not in own):
            classifiers.setdefault(module, {})[f"{head}.{part}"] = value
        else:
            body[key] = value
    return body, classifiers


def _fitting(
    stored: Mapping[str, dict[str, Tensor]], own: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The classifier of a file, for a head with the tensors `own`."""
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    if len(stored) != 1:
        raise headless(path, shapes, f"it has {', '.join(stored)}" if stored else "it has none")
    [(name, tensors)] = stored.items()
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if found != shapes:
        raise headless(path, shapes, f"its {name} has {listed(found)}")
    return tensors


def _read(path: Path) -> dict[str, Any]:
    try:
        path.open("rb").close()  # safetensors calls a file without permission missing
        if path.suffix == ".safetensors":
            return load_file(path)
        # An error says it all, in one line. Training scripts keep their arguments in a Namespace,
        # which runs no code.
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint '{path}' is damaged or holds Python objects, which could run code, and "
            "is not read; save the state_dict alone, or convert it to .safetensors"
        ) from error
    except Exception as error:  # a damaged file may raise anything, even KeyError
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise unfit(path, f"it holds a {type(content).__name__}, not named tensors")
    return content


def _in_timms_layout(net: nn.Module, state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """A state dict with timm's names and patch grid, by timm's own filter for the family."""
    convert: Callable[..., Mapping[str, Any]] | None
    # One filter per timm module; Swin's moves the merging that ends a stage in the original.
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(state, net) if convert else state
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise unfit(path, f"timm cannot convert it ({first_line(error)})") from error
    return {key: value for key, value in converted.items() if isinstance(value, Tensor)}

"""Loading a checkpoint file into a timm network, strictly.

Formats: .safetensors, .pth (a state dict alone), and .npz in the layout of the original JAX code
of ViT, https://github.com/google-research/vision_transformer. The classifier of a file belongs to
the classes of its pre-training, so it is loaded on request only, whatever its size.
"""

import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petlbench.errors import UserError, first_line

FORMATS = (".safetensors", ".pth", ".npz")
# names of classifiers in timm, torchvision, DeiT, DINO, CLIP's and other published code
CLASSIFIERS = (
    "head",
    "head.fc",
    "head_dist",
    "heads.head",
    "fc",
    "classifier",
    "cls_head",
    "linear",
    "linear_head",
    "last_linear",
)
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)


def load_checkpoint(net: nn.Module, head: str, path: Path, *, with_head: bool) -> None:
    """Load a file into `net`, whose classification head is the module named `head`.

    with_head: load the classifier of the file as well; otherwise the head stays as it is. Raises
    UserError if the file is damaged or does not fit, or lacks the classifier that was asked for.
    """
    if path.suffix == ".npz":
        _load_jax(net, head, path, with_head)
    else:
        _load_state(net, head, path, with_head)


def _load_state(net: nn.Module, head: str, path: Path, with_head: bool) -> None:
    own = net.state_dict()
    classifier = {key: value for key, value in own.items() if key.startswith(f"{head}.")}
    state, stored = _divided(_in_timms_layout(net, _read(path), path), own, head)
    if with_head:
        state |= _fitting(stored, classifier, path)
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, the network needs {tuple(value.shape)}"
            raise _unfit(path, f"{key} has shape {shapes}")
    missing = [key for key in own if key not in state and key not in classifier]
    if missing:
        raise _unfit(path, f"it has no {missing[0]}{_more(missing)}")
    foreign = [key for key in state if key not in own]
    if foreign:
        raise _unfit(path, f"the network has no {foreign[0]}{_more(foreign)}")
    net.load_state_dict(state, strict=False)  # not strict: the classifier may be missing


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
        raise _headless(path, shapes, f"it has {', '.join(stored)}" if stored else "it has none")
    [(name, tensors)] = stored.items()
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if found != shapes:
        raise _headless(path, shapes, f"its {name} has {_shapes(found)}")
    return tensors


def _headless(path: Path, shapes: Mapping[str, tuple[int, ...]], why: str) -> UserError:
    return UserError(
        f"backbone.head_start=stored needs a classifier with {_shapes(shapes)}, and checkpoint "
        f"'{path}' holds no such one: {why}; set backbone.head_start=small_normal"
    )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {shape}" for key, shape in sorted(shapes.items()))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # an error says it all, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint '{path}' is damaged or holds Python objects, which could run code, and "
            "is not read; save the state_dict alone, or convert it to .safetensors"
        ) from error
    except Exception as error:  # a damaged file may raise anything, even KeyError
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _unfit(path, f"it holds a {type(content).__name__}, not named tensors")
    return content


def _in_timms_layout(net: nn.Module, state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """A state dict with timm's names and patch grid, by timm's own filter for the family."""
    convert: Callable[..., Mapping[str, Any]] | None
    # One filter per timm module; Swin's moves the merging that ends a stage in the original.
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(state, net) if convert else state
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise _unfit(path, f"timm cannot convert it ({first_line(error)})") from error
    return {key: value for key, value in converted.items() if isinstance(value, Tensor)}


def _load_jax(net: Any, head: str, path: Path, with_head: bool) -> None:
    if not hasattr(net, "load_pretrained"):
        raise _unfit(path, ".npz is the JAX layout of ViT; use .safetensors or .pth")
    _check_jax(net, path)
    classifier = {n: p for n, p in net.named_parameters() if n.startswith(f"{head}.")}
    before = {name: parameter.detach().clone() for name, parameter in classifier.items()}
    required = {n: p for n, p in net.named_parameters() if n not in classifier}
    with torch.no_grad():
        # Timm skips some arrays that a file lacks; the parameters of these stay NaN.
        for parameter in (*required.values(), *classifier.values()):
            parameter.fill_(torch.nan)
        try:
            net.load_pretrained(str(path))
        except KeyError as error:
            raise _unfit(path, f"it has no {str(error.args[0]).split()[0]}") from error
        except (AssertionError, *UNREADABLE) as error:
            raise _unfit(path, first_line(error)) from error
        if with_head and any(parameter.isnan().any() for parameter in classifier.values()):
            shapes = {name: tuple(value.shape) for name, value in before.items()}
            raise _headless(path, shapes, "its head has another size, or it has none")
        # timm copies a classifier whose size happens to fit
        for name, parameter in classifier.items() if not with_head else ():
            parameter.copy_(before[name])
    missing = [name for name, parameter in required.items() if parameter.isnan().any()]
    if missing:
        raise _unfit(path, f"it has nothing for {missing[0]}{_more(missing)}")


def _check_jax(net: Any, path: Path) -> None:
    """Refuse another width (timm names no key then) or more blocks (timm ignores them)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kernels = [file[key] for key in file.files if key.endswith("embedding/kernel")]
            blocks = {
                part
                for key in file.files
                for part in key.split("/")
                if part[:13] == "encoderblock_"
            }
    except Exception as error:  # a damaged archive may raise anything, even tokenize.TokenError
        raise _damaged(path, error) from error
    if not kernels:
        raise _unfit(path, "it has no embedding/kernel")
    if kernels[0].shape[-1] != net.embed_dim:
        width = kernels[0].shape[-1]
        raise _unfit(
            path, f"embedding/kernel has width {width}, the network needs {net.embed_dim}"
        )
    if len(blocks) > len(net.blocks):
        raise _unfit(path, f"it has {len(blocks)} encoderblocks, the network {len(net.blocks)}")


def _unfit(path: Path, why: str) -> UserError:
    return UserError(f"checkpoint '{path}' does not fit the network: {why}; check backbone.name")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"checkpoint '{path}' cannot be read, is it cut short? ({first_line(error)})")


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""

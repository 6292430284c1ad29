"""Checkpoints in the layout of the original JAX code of ViT, by timm's own loader, strictly."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from petlbench.errors import first_line
from petlbench.model.misfits import damaged, headless, more, unfit

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)


def load(net: Any, head: str, path: Path, with_head: bool) -> None:
    """Load a file into a network. Raises UserError if it does not fit."""
    if not hasattr(net, "load_pretrained"):
        raise unfit(path, ".npz is the JAX layout of ViT; use .safetensors or .pth")
    _check(net, path)
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
            raise unfit(path, f"it has no {str(error.args[0]).split()[0]}") from error
        except (AssertionError, *UNREADABLE) as error:
            raise unfit(path, first_line(error)) from error
        if with_head and any(parameter.isnan().any() for parameter in classifier.values()):
            shapes = {name: tuple(value.shape) for name, value in before.items()}
            raise headless(path, shapes, "its head has another size, or it has none")
        # timm copies a classifier whose size happens to fit
        for name, parameter in classifier.items() if not with_head else ():
            parameter.copy_(before[name])
    missing = [name for name, parameter in required.items() if parameter.isnan().any()]
    if missing:
        raise unfit(path, f"it has nothing for {missing[0]}{more(missing)}")


def _check(net: Any, path: Path) -> None:
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
        raise damaged(path, error) from error
    if not kernels:
        raise unfit(path, "it has no embedding/kernel")
    if kernels[0].shape[-1] != net.embed_dim:
        width = kernels[0].shape[-1]
        raise unfit(path, f"embedding/kernel has width {width}, the network needs {net.embed_dim}")
    if len(blocks) > len(net.blocks):
        raise unfit(path, f"it has {len(blocks)} encoderblocks, the network {len(net.blocks)}")

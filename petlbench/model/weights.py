"""Finding, hashing and loading the weights of a pre-trained network."""

import hashlib
import pickle
import sys
import threading
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petlbench.errors import UserError

Checkpoint = dict[str, str | None]  # tag, file (name only) and sha256; no file: random weights

HUB_FILE = "model.safetensors"
HUB_ANSWER_S = 3.0
FORMATS = (".safetensors", ".pth", ".npz")
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)


@dataclass(frozen=True)
class Origin:
    """Where weights come from: a file, the package or the hub by timm's tagged name, or chance."""

    name: str
    checkpoint: str | None
    pretrained: bool

    def unloaded(self) -> Checkpoint:
        """Provenance of random weights."""
        return {"tag": self.name, "file": None, "sha256": None}

    def load(self, net: nn.Module, head: str) -> Checkpoint:
        """Load the weights into `net`, whose classification head is the module named `head`.

        Raises UserError where a file is missing, damaged, or fits another network.
        """
        path = self.find()
        if path is None:
            return self.unloaded()
        if path.suffix == ".npz":
            _load_jax(net, head, path)
        else:
            _load_state(net, head, path)
        return {"tag": self.name, "file": path.name, "sha256": sha256(path)}

    def find(self) -> Path | None:
        """The file, from the hub if need be; None where the weights are random.

        Raises UserError where there is none and none can be fetched.
        """
        if self.checkpoint is not None:
            return _existing(Path(str(self.checkpoint)).expanduser())
        if not self.pretrained:
            return None
        packaged = resources.files("petlbench.mini") / "weights" / f"{self.name}.safetensors"
        return Path(str(packaged)) if packaged.is_file() else _from_hub(self.name)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: Path) -> Path:
    if path.suffix not in FORMATS:
        raise UserError(
            f"checkpoint '{path}' is none of {', '.join(FORMATS)}; convert it to one of them"
        )
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist; set backbone.checkpoint to a file")
    return path


def _from_hub(name: str) -> Path:
    """The hub's file of a tagged timm network: from the local cache, else downloaded."""
    known = timm.get_pretrained_cfg(name) if "." in name else None
    if known is None or not known.hf_hub_id:
        tags = ", ".join(_tagged(name))
        raise UserError(
            f"backbone.name={name} names no pre-trained weights; use one of: {tags or 'none'}; "
            "or set backbone.checkpoint=FILE or backbone.pretrained=false"
        )
    cached = try_to_load_from_cache(known.hf_hub_id, HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    address = f"{constants.ENDPOINT}/{known.hf_hub_id}/resolve/main/{HUB_FILE}"
    advice = (
        f"download {address} on another machine and set backbone.checkpoint=FILE, "
        "or set backbone.pretrained=false"
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"no weights of {name} here and HF_HUB_OFFLINE is set; {advice}")
    if not _answers(constants.ENDPOINT):
        raise UserError(
            f"no weights of {name} here and {constants.ENDPOINT} does not answer; {advice}"
        )
    try:
        return Path(hf_hub_download(known.hf_hub_id, HUB_FILE))
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"weights of {name} could not be fetched ({reason}); {advice}") from error


def _tagged(name: str) -> list[str]:
    """Names with tags that a name without one may mean; old names of timm end in the tag."""
    plain = name.partition(".")[0]
    known = timm.list_models(f"{plain}.*", pretrained=True)
    return known or [
        found
        for found in timm.list_models(f"{plain.rpartition('_')[0]}.*", pretrained=True)
        if found.endswith(plain.rpartition("_")[2])
    ]


def _answers(address: str) -> bool:
    """Whether a server answers within HUB_ANSWER_S, whatever name resolution does meanwhile."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HUB_ANSWER_S):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_S)
    return answered.is_set()


def _load_state(net: nn.Module, head: str, path: Path) -> None:
    """Load .safetensors or .pth, strictly but for a classifier of another size."""
    state = _in_timms_layout(net, _read(path), path)
    own = net.state_dict()
    classifier = {f"{head}.weight", f"{head}.bias"}
    if any(key in state and state[key].shape != own[key].shape for key in classifier):
        state = {key: value for key, value in state.items() if key not in classifier}
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
    net.load_state_dict(state, strict=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # what matters ends up in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint '{path}' is damaged or holds Python objects, which could run code, and "
            "is not read; save the state_dict alone, or convert it to .safetensors"
        ) from error
    except Exception as error:  # of a damaged file anything, even KeyError and IndexError
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _unfit(path, f"it holds a {type(content).__name__} and no named tensors")
    return content


def _in_timms_layout(net: nn.Module, state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Through timm's own filter for the family: foreign key layouts, other patch grids."""
    convert: Callable[..., Mapping[str, Any]] | None
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(state, net) if convert else state
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise _unfit(path, f"timm cannot convert it ({_line(error)})") from error
    return {key: value for key, value in converted.items() if isinstance(value, Tensor)}


def _load_jax(net: Any, head: str, path: Path) -> None:
    """Load a ViT from .npz in the layout of the original JAX code, through timm."""
    if not hasattr(net, "load_pretrained"):
        raise _unfit(path, ".npz is the JAX layout of ViT; use .safetensors or .pth")
    _check_jax(net, path)
    wanted = {n: p for n, p in net.named_parameters() if not n.startswith(f"{head}.")}
    with torch.no_grad():
        # timm passes over some arrays that a file lacks; what it left untouched stays NaN.
        for parameter in wanted.values():
            parameter.fill_(torch.nan)
        try:
            net.load_pretrained(str(path))
        except KeyError as error:
            raise _unfit(path, f"it has no {str(error.args[0]).split()[0]}") from error
        except (AssertionError, *UNREADABLE) as error:
            raise _unfit(path, _line(error)) from error
    missing = [name for name, parameter in wanted.items() if parameter.isnan().any()]
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
    except Exception as error:  # of a damaged archive anything, even tokenize.TokenError
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
    return UserError(f"checkpoint '{path}' cannot be read, is it cut short? ({_line(error)})")


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

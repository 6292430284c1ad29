"""The trained tensors of a run, on disk: all that a fine-tuned method adds to its backbone."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from petlbench.errors import UserError
from petlbench.layers import Chosen
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.system import write_atomically

FORMAT = "1"


@dataclass(frozen=True)
class Made:
    """What the method of a delta is: its name, values and number of classes."""

    method: str
    values: dict[str, Any]
    classes: int


def trained(method: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name; a shared one once."""
    return {name: tensor for name, tensor in method.named_parameters() if tensor.requires_grad}


def learned(method: nn.Module) -> dict[str, Tensor]:
    """What a delta holds: the trained parameters, and what was chosen from the training data."""
    chosen = {
        f"{name}.index": module.index
        for name, module in method.named_modules()
        if isinstance(module, Chosen)
    }
    return {**trained(method), **chosen}


def save(path: Path, method: Method, metadata: Mapping[str, Any]) -> int:
    """Write the trained tensors as safetensors and return the file's bytes.

    The file also says which backbone they belong to, and `metadata` (its values as JSON: `method`
    and `network`, see `network`). What is frozen is not in it: a backbone with random weights has
    to be made again from its seed.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in learned(method).items()
    }
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    content = serialised(tensors, metadata=texts | {"format": FORMAT} | _backbone(method.backbone))
    write_atomically(path, content)
    return len(content)


def load(path: Path, method: Method) -> None:
    """Copy the tensors of a delta into a method of the same make, exactly.

    Raises UserError where the file is unreadable, or made on another backbone or another method.
    """
    _, tensors = _read_for(method.backbone, path)
    own = learned(method)
    for names, where in (
        (own.keys() - tensors.keys(), "it has no"),
        (tensors.keys() - own.keys(), "the method has no"),
    ):
        if names:
            raise _unfit(path, f"{where} {_listed(names)}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            raise _unfit(path, f"{name} has shape {shapes}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def network(path: Path) -> dict[str, Any]:
    """What a run says of the network that its delta belongs to.

    method and backbone (what makes them), input, and the names of the classes in their order.
    """
    return _network(path, _read(path)[0])


def made(path: Path, backbone: Backbone) -> Made:
    """What has to be made on `backbone` to load a delta into.

    Raises UserError where the file is unreadable, belongs to another backbone, or does not say.
    """
    metadata, _ = _read_for(backbone, path)
    found = _network(path, metadata)
    own = {key: value for key, value in found["method"].items() if not key.startswith("_")}
    return Made(json.loads(metadata["method"]), own, len(found["classes"]))


def _network(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT or not {"network", "method"} <= metadata.keys():
        raise UserError(f"'{path}' is no delta of a run, or one of an older version; run it again")
    found: dict[str, Any] = json.loads(metadata["network"])
    return found


def _backbone(backbone: Backbone) -> dict[str, str]:
    return {
        "backbone": backbone.tag,
        "backbone_sha256": backbone.checkpoint["sha256"] or "none, random weights",
    }


def _read_for(backbone: Backbone, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a delta that belongs to this backbone."""
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"delta '{path}' has format {metadata.get('format')}, not {FORMAT}")
    for key, here in _backbone(backbone).items():
        if metadata.get(key) != here:
            raise _unfit(path, f"its {key} is {metadata.get(key)}, not {here}")
    return metadata, tensors


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"delta '{path}' cannot be read ({str(error).splitlines()[0]})") from error


def _unfit(path: Path, why: str) -> UserError:
    return UserError(f"delta '{path}' does not fit this method and backbone: {why}")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else first

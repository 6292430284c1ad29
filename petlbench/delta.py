"""The file of a fine-tuned method: every tensor that its plain backbone does not have.

A delta is a .safetensors file. It holds the trained parameters, and frozen parameters and
persistent buffers that the method created: random projections, indices chosen from the data. The
metadata say which backbone it belongs to, and as JSON how to build the method.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from petlbench.config import renamed
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.system import write_atomically

FORMAT = "1"  # a text: safetensors' metadata hold nothing else
ALIASES = "aliases"  # metadata: names of equal buffers, each with the name that is in the file


@dataclass(frozen=True)
class MethodSpec:
    """The method of a delta: its name, hyper-parameters and number of classes."""

    name: str
    values: dict[str, Any]
    classes: int


def trained(method: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name; a shared one once."""
    return {name: tensor for name, tensor in method.named_parameters() if tensor.requires_grad}


def non_finite(method: nn.Module) -> list[str]:
    """Names of trained tensors with a value that is not a finite number."""
    return [name for name, tensor in trained(method).items() if not tensor.isfinite().all()]


def delta_tensors(method: Method) -> dict[str, Tensor]:
    """All tensors of a method that its plain backbone does not have, by name.

    A shared parameter is listed once. A shared buffer is listed under each of its names, because
    `Module.to` makes several tensors of it.
    """
    backbone = method.backbone
    # By identity: a method may keep a plain module under another name.
    plain = {id(part) for part in (*backbone.plain_modules, *backbone.plain_parameters)}
    parameters = {
        name: tensor
        for name, tensor in method.named_parameters()
        if tensor.requires_grad or id(tensor) not in plain
    }
    buffers = {
        f"{prefix}.{name}".lstrip("."): tensor
        for prefix, module in method.named_modules()
        if id(module) not in plain
        for name, tensor in module._buffers.items()
        if tensor is not None and name not in module._non_persistent_buffers_set
    }
    return {**parameters, **buffers}


def save(path: Path, method: Method, metadata: Mapping[str, Any]) -> int:
    """Write the tensors of a method as safetensors; returns the size of the file in bytes.

    metadata: values are written as JSON; `method` and `network` are read by `network`. The
    tensors of the backbone are not in the file: one with random weights must be built again from
    its seed.
    """
    # safetensors refuses tensors that are not contiguous.
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in delta_tensors(method).items()
    }
    # safetensors refuses tensors that share memory, so equal buffers are stored once.
    aliases = _aliases(tensors, {name for name, _ in method.named_parameters()})
    stored = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    if aliases:
        texts[ALIASES] = json.dumps(aliases)
    content = serialised(stored, metadata=texts | {"format": FORMAT} | _backbone(method.backbone))
    write_atomically(path, content)
    return len(content)


def load(path: Path, method: Method) -> None:
    """Copy the tensors of a delta into a method with the same hyper-parameters, exactly.

    Raises UserError if the file cannot be read, belongs to another backbone or method, or holds
    trained values that are not finite.
    """
    metadata, tensors = _read_for(method.backbone, path)
    aliases: dict[str, str] = json.loads(metadata.get(ALIASES, "{}"))
    tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    own = delta_tensors(method)
    for names, owner in (
        (own.keys() - tensors.keys(), "it has no"),
        (tensors.keys() - own.keys(), "the method has no"),
    ):
        if names:
            raise _unfit(path, f"{owner} {_listed(names)}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            raise _unfit(path, f"{name} has shape {shapes}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            # In place, on the device and in the type that the method has.
            own[name].copy_(tensor)
    if broken := non_finite(method):
        raise UserError(
            f"delta '{path}' is of a training that diverged: its {_listed(broken)} holds values "
            "that are not finite; train again with a lower train.lr"
        )


def network(path: Path) -> dict[str, Any]:
    """The network that a delta belongs to, as its run recorded it.

    Keys: `method`, `backbone` and `input` (nodes of the configuration), and `classes` (the names,
    in the order of the logits). Raises UserError if the file is not the delta of a run.
    """
    return _network(path, _read(path)[0])


def method_spec(path: Path, backbone: Backbone) -> MethodSpec:
    """The method to build on `backbone` before a delta is loaded.

    Raises UserError if the file cannot be read, belongs to another backbone, or does not say.
    """
    metadata, _ = _read_for(backbone, path)
    recorded = _network(path, metadata)
    node = renamed.current_name(recorded["method"])
    values = {key: value for key, value in node.items() if not key.startswith("_")}
    return MethodSpec(json.loads(metadata["method"]), values, len(recorded["classes"]))


def _aliases(tensors: Mapping[str, Tensor], parameters: set[str]) -> dict[str, str]:
    """Names of buffers that equal an earlier one, each with the name of that one."""
    names: list[str] = []
    aliases: dict[str, str] = {}
    for name in (name for name in tensors if name not in parameters):
        same = next((old for old in names if _equal(tensors[old], tensors[name])), None)
        if same is None:
            names.append(name)
        else:
            aliases[name] = same
    return aliases


def _equal(one: Tensor, other: Tensor) -> bool:
    # torch.equal is true for equal values of different types.
    return one.dtype == other.dtype and torch.equal(one, other)


def _network(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT or not {"network", "method"} <= metadata.keys():
        raise UserError(f"'{path}' is not the delta of a run, or is too old; run it again")
    recorded: dict[str, Any] = json.loads(metadata["network"])
    return recorded


def _backbone(backbone: Backbone) -> dict[str, str]:
    return {
        "backbone": backbone.tag,
        # On other weights a delta would load without an error and classify wrongly.
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

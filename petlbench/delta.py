"""The file of a fine-tuned method: every tensor that its plain backbone does not have.

A delta is a .safetensors file. It holds the trained parameters, and frozen parameters and
persistent buffers that the method created: random projections, indices chosen from the data. The
metadata say which backbone it belongs to, and as JSON how to build the method. Equal tensors and
metadata give equal bytes.

A delta may come from anybody: its method must be a registered one, which its values then build;
nothing else that it names is called.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from petlbench import registry
from petlbench.config.schema import Target
from petlbench.errors import UserError, one_line
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.system import write_atomically

FORMAT = "1"  # a text: safetensors' metadata hold nothing else
ALIASES = "aliases"  # metadata: names of equal buffers, each with the name that is in the file
CHECKSUM = "tensors_sha256"  # metadata: of all tensors; the first deltas have none
ALIGNMENT = 8  # bytes; the header of a .safetensors file ends at a multiple of it


@dataclass(frozen=True)
class MethodSpec:
    """The registered method of a delta, with its hyper-parameters, and the number of classes."""

    target: Target
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
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    if aliases:
        texts[ALIASES] = json.dumps(aliases, sort_keys=True)
    texts |= {"format": FORMAT, CHECKSUM: _checksum(tensors)} | _backbone(method.backbone)
    content = _canonical(serialised(stored, metadata=texts))
    write_atomically(path, content)
    return len(content)


def load(path: Path, method: Method) -> None:
    """Copy the tensors of a delta into a method with the same hyper-parameters, exactly.

    Raises UserError if the file cannot be read, is damaged, belongs to another backbone or method,
    or holds trained values that are not finite.
    """
    _, tensors = _read_for(method.backbone, path)
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

    Keys: `backbone` and `input` (nodes of the configuration), and `classes` (the names, in the
    order of the logits). Raises UserError if the file is not the delta of a run.
    """
    recorded = _network(path, _read(path)[0])
    for key in ("backbone", "input"):
        if not isinstance(recorded.get(key), dict):
            raise _damaged(path, f"its network has no node {key}")
    return recorded


def target(path: Path) -> Target:
    """The registered method of a delta. Raises UserError if it names another one."""
    return _target(path, _read(path)[0])


def method_spec(path: Path, backbone: Backbone) -> MethodSpec:
    """The method to build on `backbone` before a delta is loaded.

    Raises UserError if the file cannot be read, belongs to another backbone, or does not say.
    """
    metadata, _ = _read_for(backbone, path)
    return MethodSpec(_target(path, metadata), len(_network(path, metadata)["classes"]))


def run_of(path: Path) -> str | None:
    """The identity of the run that wrote a delta. Raises UserError for a file that is damaged."""
    metadata, _ = _read(path)
    return str(_value(path, metadata, "record")) if "record" in metadata else None


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Report the values of a delta that build no network: they are a mistake of the file."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"delta '{path}': {error}") from error
    except Exception as error:  # whatever a constructor or an allocator makes of strange values
        raise UserError(f"delta '{path}' builds no network ({one_line(error)})") from error


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
    network = _mapping(path, metadata, "network")
    classes = network.get("classes")
    if not isinstance(classes, list) or not classes:
        raise _damaged(path, "its network has no list of classes")
    return network | {"classes": [str(name) for name in classes]}


def _target(path: Path, metadata: Mapping[str, str]) -> Target:
    network = _network(path, metadata)
    try:
        return registry.recorded(_value(path, metadata, "method"), network.get("method"))
    except UserError as error:
        raise UserError(f"delta '{path}' cannot be used: {error}") from error


def _mapping(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    value = _value(path, metadata, key)
    if not isinstance(value, dict):
        raise _damaged(path, f"its {key} is no mapping")
    return value


def _value(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its {key} is not JSON") from error


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
    """Metadata and tensors, equal buffers under each of their names; the checksum is right."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise UserError(f"delta '{path}' is not a file; name the .safetensors file of a run")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    if ALIASES in metadata:
        aliases = _mapping(path, metadata, ALIASES)
        for alias, name in aliases.items():
            if not isinstance(name, str) or name not in tensors:
                raise _damaged(path, f"it has no tensor for {alias}")
        tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    if metadata.get(CHECKSUM, checksum := _checksum(tensors)) != checksum:
        raise UserError(
            f"delta '{path}' is damaged: its tensors have another SHA-256 than when it was "
            "written; restore it, or run again"
        )
    return metadata, tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values; independent of the layout of a file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical(content: bytes) -> bytes:
    """A .safetensors file with a sorted header: safetensors writes metadata in random order.

    Format: https://github.com/huggingface/safetensors#format.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"delta '{path}' cannot be read ({why})")


def _unfit(path: Path, why: str) -> UserError:
    return UserError(f"delta '{path}' does not fit this method and backbone: {why}")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else first

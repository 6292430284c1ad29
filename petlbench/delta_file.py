"""A delta as a .safetensors file: its tensors and metadata, canonical and checked.

Equal tensors and metadata give equal bytes. Equal buffers are stored once.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from petlbench.errors import UserError
from petlbench.system import write_atomically

FORMAT = "1"  # a text: safetensors' metadata hold nothing else
ALIASES = "aliases"  # metadata: names of equal buffers, each with the name that is in the file
CHECKSUM = "tensors_sha256"  # metadata: of all tensors; the first deltas have none
ALIGNMENT = 8  # bytes; the header of a .safetensors file ends at a multiple of it


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    parameters: Collection[str],
) -> int:
    """Write tensors and metadata; returns the size of the file in bytes.

    tensors: contiguous, on the CPU. parameters: names of those that are no buffers.
    """
    # safetensors refuses tensors that share memory, so equal buffers are stored once.
    aliases = _aliases(tensors, parameters)
    stored = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    texts = {**metadata, "format": FORMAT, CHECKSUM: _checksum(tensors)}
    if aliases:
        texts[ALIASES] = json.dumps(aliases, sort_keys=True)
    content = _canonical(serialised(stored, metadata=texts))
    write_atomically(path, content)
    return len(content)


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, equal buffers under each of their names; the checksum is right.

    Raises UserError if the file cannot be read or is damaged.
    """
    if path.suffix == ".json":
        delta = path.with_suffix(".safetensors")
        raise UserError(f"'{path}' is a record; name its delta, '{delta.name}' beside it")
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise UserError(f"delta '{path}' is not a file; name the .safetensors file of a run")
        path.open("rb").close()  # safetensors calls a file without permission missing
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise damaged(path, reason) from error
    if ALIASES in metadata:
        aliases = mapping(path, metadata, ALIASES)
        for alias, name in aliases.items():
            if not isinstance(name, str) or name not in tensors:
                raise damaged(path, f"it has no tensor for {alias}")
        tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    if metadata.get(CHECKSUM, checksum := _checksum(tensors)) != checksum:
        raise UserError(
            f"delta '{path}' is damaged: its tensors have another SHA-256 than when it was "
            "written; restore it, or run again"
        )
    return metadata, tensors


def mapping(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """A mapping in the metadata. Raises UserError if it is none."""
    found = value(path, metadata, key)
    if not isinstance(found, dict):
        raise damaged(path, f"its {key} is no mapping")
    return found


def value(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    """A value in the metadata, which is JSON. Raises UserError if it is not."""
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its {key} is not JSON") from error


def damaged(path: Path, why: str) -> UserError:
    """The error of a file that cannot be read."""
    return UserError(f"delta '{path}' cannot be read ({why})")


def _aliases(tensors: Mapping[str, Tensor], parameters: Collection[str]) -> dict[str, str]:
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

"""The file of a fine-tuned method: every tensor that its plain backbone does not have.

A delta is a .safetensors file. It holds the trained parameters, and frozen parameters and
persistent buffers that the method created: random projections, indices chosen from the data. The
metadata say which backbone it belongs to, and as JSON how to build the method.

A delta may come from anybody: its method must be a registered one, which its values then build;
nothing else that it names is called.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petlbench import delta_file, registry
from petlbench.config.nodes import WHOLE
from petlbench.config.schema import Target
from petlbench.errors import UserError, one_line
from petlbench.method import Method
from petlbench.model.backbone import Backbone


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
    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    parameters = {name for name, _ in method.named_parameters()}
    return delta_file.write(
        path, tensors, texts | _backbone(method.backbone), parameters=parameters
    )


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
    recorded = _network(path, delta_file.read(path)[0])
    for key in ("backbone", "input"):
        if not isinstance(recorded.get(key), dict):
            raise delta_file.damaged(path, f"its network has no node {key}")
    return recorded


def target(path: Path) -> Target:
    """The registered method of a delta. Raises UserError if it names another one."""
    return _target(path, delta_file.read(path)[0])


def method_spec(path: Path, backbone: Backbone) -> MethodSpec:
    """The method to build on `backbone` before a delta is loaded.

    Raises UserError if the file cannot be read, belongs to another backbone, or does not say.
    """
    metadata, _ = _read_for(backbone, path)
    return MethodSpec(_target(path, metadata), len(_network(path, metadata)["classes"]))


def run_of(path: Path) -> str | None:
    """The identity of the run that wrote a delta. Raises UserError for a file that is damaged."""
    metadata, _ = delta_file.read(path)
    return str(delta_file.value(path, metadata, "record")) if "record" in metadata else None


@contextmanager
def building(path: Path) -> Iterator[None]:
    """Report the values of a delta that build no network: they are a mistake of the file."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"delta '{path}': {error}") from error
    except Exception as error:  # whatever a constructor or an allocator makes of strange values
        raise UserError(f"delta '{path}' builds no network ({one_line(error)})") from error


def _network(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != delta_file.FORMAT or not {"network", "method"} <= metadata.keys():
        raise UserError(f"'{path}' is not the delta of a run, or is too old; run it again")
    network = delta_file.mapping(path, metadata, "network")
    classes = network.get("classes")
    if not isinstance(classes, list) or not classes:
        raise delta_file.damaged(path, "its network has no list of classes")
    return network | {"classes": [str(name) for name in classes]}


def _target(path: Path, metadata: Mapping[str, str]) -> Target:
    network = _network(path, metadata)
    try:
        return registry.recorded(delta_file.value(path, metadata, "method"), network.get("method"))
    except UserError as error:
        raise UserError(f"delta '{path}' cannot be used: {error}") from error


def _backbone(backbone: Backbone) -> dict[str, str]:
    return {
        "backbone": backbone.tag,
        # On other weights a delta would load without an error and classify wrongly.
        "backbone_sha256": backbone.checkpoint["sha256"] or "none, random weights",
    }


def _read_for(backbone: Backbone, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a delta that belongs to this backbone."""
    metadata, tensors = delta_file.read(path)
    if metadata.get("format") != delta_file.FORMAT:
        raise UserError(
            f"delta '{path}' has format {metadata.get('format')}, not {delta_file.FORMAT}"
        )
    for key, here in _backbone(backbone).items():
        if metadata.get(key) != here:
            raise _unfit(path, f"its {key} is {metadata.get(key)}, not {here}")
    if "network" in metadata:  # tensors that are saved without a run have none
        _check_settings(backbone, path, delta_file.mapping(path, metadata, "network"))
    return metadata, tensors


def _check_settings(backbone: Backbone, path: Path, network: Mapping[str, Any]) -> None:
    """Refuse a backbone with equal weights that computes something else from an image."""
    settings = {
        "backbone.pool": backbone.pool,
        "backbone.weights": backbone.weight_format,
        "backbone.mean": list(backbone.mean),
        "backbone.std": list(backbone.std),
        "input.size": backbone.image_size,
    }
    for setting, here in settings.items():
        node, _, key = setting.partition(".")
        values = network.get(node)
        # earlier deltas lack the format, which was always the same
        usual = WHOLE if key == "weights" else here
        trained = values.get(key, usual) if isinstance(values, Mapping) else usual
        if trained != here:
            needed = f"{setting}={json.dumps(trained)}".replace('"', "").replace(" ", "")
            raise _unfit(path, f"its {setting} is {trained}, not {here}; build it with {needed}")


def _unfit(path: Path, why: str) -> UserError:
    return UserError(f"delta '{path}' does not fit this method and backbone: {why}")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else first

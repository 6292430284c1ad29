"""LoRA and DoRA in the files of Hugging Face PEFT: adapter_config.json, adapter_model.safetensors.

    export.to_peft(method, folder)
    network = timm.create_model(name, pretrained=True, num_classes=K, img_size=S, global_pool=P)
    peft.PeftModel.from_pretrained(network, folder)

The network has to be what the run had: its very weights, image size and pooling (`backbone.pool`
cls is timm's token, norm_then_mean its avg); PEFT's files say nothing of these.

PEFT knows one pair of matrices for a linear map. The pairs of query and value, which share timm's
fused projection, become one pair of twice the rank: A holds both down maps, B is block-shaped with
zeros in the rows of the key. So the exported tensors are larger than the delta, and training them
on in PEFT would train the zeros too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from petlbench.errors import Unsupported
from petlbench.layers import LowRank, Parallel, QueryAndValue, Scaled
from petlbench.method import Method
from petlbench.system import write_atomically

PREFIX = "base_model.model."  # what PEFT wraps the network in


@dataclass(frozen=True)
class Update:
    """W + scale B A, with `down` A (r, in) and `up` B (out, r); DoRA has a `magnitude` (out)."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None


@runtime_checkable
class Updated(Protocol):
    """A module that stands in for a linear map and knows its update."""

    def low_rank_update(self) -> Update:
        """The update of the map that it stands in for."""


def to_peft(method: Method, folder: Path) -> None:
    """Write a method's low-rank updates and its head for PEFT; the folder is made.

    Raises Unsupported where something else was learned than low-rank updates of linear maps.
    """
    updates = _updates(method)
    kinds = {(u.scale, len(u.down), u.magnitude is not None) for u in updates.values()}
    if len(kinds) > 1:
        raise _only_low_rank("its layers have several scales or ranks, or DoRA only in part")
    [(scale, rank, decomposed)] = kinds
    names = {id(module): name for name, module in method.backbone.net.named_modules()}
    head = names[id(method.backbone.head)]
    tensors: dict[str, Tensor] = {
        f"{PREFIX}{head}.{name}": tensor
        for name, tensor in method.backbone.head.named_parameters()
    }
    for name, update in updates.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = update.down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = update.up
        if update.magnitude is not None:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = update.magnitude
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": method.backbone.tag,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": scale * rank,  # PEFT multiplies by alpha / r
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": decomposed,
        "target_modules": sorted(updates),
        "modules_to_save": [head],
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / "adapter_model.safetensors", save(content, {"format": "pt"}))
    write_atomically(folder / "adapter_config.json", json.dumps(config, indent=2).encode())


def _updates(method: Method) -> dict[str, Update]:
    """By the names of the linear maps in the plain network."""
    found: dict[str, Update] = {}
    told = {id(tensor) for tensor in method.backbone.head.parameters()}
    for name, module in method.backbone.net.named_modules():
        if isinstance(module, Updated):
            found[name] = module.low_rank_update()
        elif isinstance(module, QueryAndValue):
            found[name] = side_by_side(_pair(module.query), _pair(module.value))
        elif isinstance(module, Parallel):
            found[name] = _pair(module.branch)
        else:
            continue
        told |= {id(tensor) for tensor in module.parameters()}
    others = [n for n, p in method.named_parameters() if p.requires_grad and id(p) not in told]
    if others or not found:
        what = f"it learned {others[0]}" if others else "it learned none"
        raise _only_low_rank(what)
    return found


def _pair(branch: nn.Module) -> Update:
    if isinstance(branch, Scaled):
        inner = branch.op[-1] if isinstance(branch.op, nn.Sequential) else branch.op
        if isinstance(inner, LowRank):
            return Update(inner.down.weight, inner.up.weight, branch.scale)
    raise _only_low_rank(f"it learned a {type(branch).__name__} of another kind")


def side_by_side(query: Update, value: Update) -> Update:
    """One update of a fused query, key and value projection; the key's rows stay as they are.

    Raises Unsupported where the two have different scales.
    """
    if query.scale != value.scale:
        raise _only_low_rank("query and value have different scales")
    (width, rank), down = query.up.shape, torch.cat([query.down, value.down])
    up = query.up.new_zeros(3 * width, 2 * rank)
    up[:width, :rank] = query.up.detach()
    up[2 * width :, rank:] = value.up.detach()
    return Update(down, up, query.scale)


def _only_low_rank(why: str) -> Unsupported:
    return Unsupported(f"only equal low-rank updates of linear maps fit PEFT's files, and {why}")

"""LoRA and DoRA as files of Hugging Face PEFT: adapter_config.json, adapter_model.safetensors.

    to_peft(method, folder)
    arguments = json.loads((folder / "timm.json").read_text())
    network = timm.create_model(**arguments, pretrained=True)
    peft.PeftModel.from_pretrained(network, folder)

The network must have the weights, image size and pooling of the run, which PEFT's files do not
record: timm.json has the name of the weights, and the arguments for the rest. For the average
after the norm these are global_pool="avg" and fc_norm=False; without the latter, timm would build
an untrained norm.

PEFT has one pair of matrices per linear layer. The pairs of query and value, which share timm's
fused projection, become one pair of twice the rank: A stacks both down matrices, B is block-shaped
with zeros in the rows of the key. So the exported tensors are larger than the delta, and further
training in PEFT would also train the zeros.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from petlbench.config.nodes import WHOLE
from petlbench.errors import Unsupported
from petlbench.layers import LowRank, Parallel, QueryAndValue, Scaled
from petlbench.merge import merged_with_pooling
from petlbench.method import Method
from petlbench.model.pooling import norm_is_after_pooling
from petlbench.system import write_atomically

PREFIX = "base_model.model."  # of the wrapper that PEFT puts around the network


@dataclass(frozen=True)
class Update:
    """W + scale B A, with `down` A (r, in) and `up` B (out, r).

    magnitude: m (out,) of DoRA, m (W + scale B A) / ||W + scale B A|| with the norm of each row;
    https://arxiv.org/abs/2402.09353, eq. 5. None for LoRA.
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None


@runtime_checkable
class Updated(Protocol):
    """A module that replaces a linear layer and knows its update."""

    def low_rank_update(self) -> Update:
        """The update of the layer that it replaces."""


def to_peft(method: Method, folder: Path) -> None:
    """Write the low-rank updates and the head of a method for PEFT; creates the folder.

    Raises Unsupported if something other than equal low-rank updates of linear layers was learned,
    if timm cannot pool as the method does with the pre-trained weights, or if the updates were
    learned beside quantised weights.
    """
    if (weights := method.backbone.weight_format) != WHOLE:
        raise Unsupported(
            f"its updates were learned beside weights in {weights} (backbone.weights), and PEFT "
            "would add them to the whole ones; write the merged network by "
            "petlbench.merge.save_merged"
        )
    updates = _updates(method)
    kinds = {(u.scale, len(u.down), u.magnitude is not None) for u in updates.values()}
    if len(kinds) > 1:
        raise _only_low_rank("its layers have several scales or ranks, or DoRA only in part")
    # One r and lora_alpha for all layers: PEFT's patterns for single layers are not used.
    [(scale, rank, decomposed)] = kinds
    network = _timm_arguments(method)
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
        "modules_to_save": [head],  # not low-rank: the whole module is in the file
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / "adapter_model.safetensors", save(content, {"format": "pt"}))
    write_atomically(folder / "adapter_config.json", json.dumps(config, indent=2).encode())
    write_atomically(folder / "timm.json", json.dumps(network, indent=2).encode())


def _timm_arguments(method: Method) -> dict[str, Any]:
    """The arguments of timm.create_model for the network that PEFT adapts."""
    backbone = method.backbone
    net, pooling = merged_with_pooling(method)
    if norm_is_after_pooling(net) != norm_is_after_pooling(backbone.net):
        raise Unsupported(
            f"with backbone.pool={backbone.pool} timm's {backbone.tag} has its final norm under "
            "another name than its pre-trained weights, which PEFT's files do not hold; write the "
            "merged network by petlbench.merge.save_merged"
        )
    return {"model_name": backbone.tag, **backbone.timm_arguments(), **pooling}


def _updates(method: Method) -> dict[str, Update]:
    """Updates by the names of their linear layers in the plain network."""
    updates: dict[str, Update] = {}
    exported = {id(tensor) for tensor in method.backbone.head.parameters()}
    for name, module in method.backbone.net.named_modules():
        if isinstance(module, Updated):
            updates[name] = module.low_rank_update()
        elif isinstance(module, QueryAndValue):
            updates[name] = side_by_side(_pair(module.query), _pair(module.value))
        elif isinstance(module, Parallel):
            updates[name] = _pair(module.branch)
        else:
            continue
        exported |= {id(tensor) for tensor in module.parameters()}
    others = [n for n, p in method.named_parameters() if p.requires_grad and id(p) not in exported]
    if others or not updates:
        raise _only_low_rank(f"it learned {others[0]}" if others else "it learned none")
    return updates


def _pair(branch: nn.Module) -> Update:
    if isinstance(branch, Scaled):
        # In NOAH's LoRA a dropout comes first, which does nothing at inference.
        inner = branch.op[-1] if isinstance(branch.op, nn.Sequential) else branch.op
        if isinstance(inner, LowRank):
            return Update(inner.down.weight, inner.up.weight, branch.scale)
    raise _only_low_rank(f"it learned another {type(branch).__name__}")


def side_by_side(query: Update, value: Update) -> Update:
    """One update of a fused query, key and value projection; the rows of the key stay zero.

    A (r, d) and B (d, r) of each -> A (2 r, d) and B (3 d, 2 r). Raises Unsupported if their
    scales differ.
    """
    if query.scale != value.scale:
        raise _only_low_rank("query and value have different scales")
    (width, rank), down = query.up.shape, torch.cat([query.down, value.down])
    up = query.up.new_zeros(3 * width, 2 * rank)  # (3 d, 2 r), rows of query, key and value
    up[:width, :rank] = query.up.detach()
    up[2 * width :, rank:] = value.up.detach()
    return Update(down, up, query.scale)


def _only_low_rank(why: str) -> Unsupported:
    return Unsupported(
        f"PEFT's files hold only equal low-rank updates of linear layers, and {why}"
    )

"""The state of a network inside a file that holds more: containers, prefixes, averaged copies."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

State = dict[str, Tensor]
# The first weight of a ViT or Swin, of timm's ConvNeXt and of the original one: it marks where a
# network begins.
FIRST = ("patch_embed.proj.weight", "stem.0.weight", "downsample_layers.0.0.weight")
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
AVERAGED = {
    "ema",
    "teacher",
}  # copies that are evaluated; timm too prefers them to the trained one


def prefixes(content: Mapping[str, Any]) -> dict[str, State]:
    """The states in a file by their prefixes, for example `state_dict.module.`.

    A nested dictionary counts as a prefix. Classifiers beside a network belong to its state.
    """
    flat = dict(_flat(content))
    starts = dict.fromkeys(
        name.removesuffix(first)
        for name in flat
        for first in FIRST
        if f".{name}".endswith(f".{first}")
    )
    return {start: _below(start, flat) for start in starts}


def chosen(
    states: Mapping[str, State], fits: Callable[[State], bool]
) -> tuple[str, State] | list[str]:
    """The prefix and state that a file is meant to load, or the prefixes that leave it open.

    The one that fits the network, or among several the averaged one: an EMA or a teacher.
    """
    fitting = states if len(states) == 1 else {p: s for p, s in states.items() if fits(s)}
    averaged = [prefix for prefix in fitting if AVERAGED & set(re.split(r"[._]", prefix))]
    for names in (list(fitting), averaged):
        if len(names) == 1:
            return names[0], fitting[names[0]]
    return list(fitting or states)


def _flat(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{above}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")


def _below(prefix: str, flat: Mapping[str, Tensor]) -> State:
    """The tensors with a prefix, without it, and the classifier that stands beside them."""
    state = {
        name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)
    }
    parts = prefix.split(".")[:-1]
    for count in range(len(parts)):
        above = "".join(f"{part}." for part in parts[:count])
        for name, value in flat.items():
            inner = name.removeprefix(above)
            if name.startswith(above) and inner.rpartition(".")[0] in CLASSIFIERS:
                state.setdefault(inner, value)
    return state

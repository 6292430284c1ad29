"""Facts: what the yaml of a method declares about it for the tests, under the root key `facts`."""

from collections.abc import Mapping
from typing import Any

from petlbench.config import options
from petlbench.errors import unknown

VIT = "vit_b16"
KEYS = {
    "parameters": "trained parameters without the head by backbone, e.g. {vit_b16: 294912}",
    "head": "trained parameters of the head by backbone, if it is not the plain one",
    "units": "structural units on vit_b16",
    "start": "distribution of each trained tensor by a pattern of its name (starts.py)",
    "dropout": "dropouts in a training step on the tiny vit by shape, e.g. {17 x 8: 24}",
    "unsupported": "families of networks that the method refuses, e.g. [swin]",
    "unmergeable": "families on which the method cannot be merged, though it can elsewhere",
    "data_dependent": "true if a pass reads numbers, so that it cannot run on shapes",
    "mixes_images": "true if the logits of an image depend on the other images of its batch",
    "noise": "true if a training pass draws numbers that no dropout draws",
    "tiny": "hyper-parameters for networks of width 16 and 32, e.g. {rank: 4}",
}


class Skipped(Exception):
    """A property that does not apply, with the reason."""


class Undeclared(Skipped):
    """A property that cannot be tested because the yaml lacks a fact."""

    def __init__(self, method: str, key: str, reason: str = "") -> None:
        prefix = reason and f"{reason}; "
        where = f"facts.{key} in the yaml of method {method}"
        super().__init__(f"{prefix}declare {where}: {KEYS[key]}")


def declared(method: str) -> Mapping[str, Any]:
    """The facts of a method; empty without any. Raises UserError for an unknown key."""
    # An empty `facts:` is null in yaml.
    facts: dict[str, Any] = options.content("method", method).get("facts") or {}
    for key in facts:
        if key not in KEYS:
            raise unknown(f"fact of method {method}", key, KEYS)
    return facts


def fact(method: str, key: str) -> Any:
    """One fact. Raises Undeclared if the yaml lacks it."""
    facts = declared(method)
    if key not in facts:
        raise Undeclared(method, key)
    return facts[key]


def supported(method: str, family: str) -> bool:
    """Whether a method is declared to work on a family of networks; it is if nothing says so."""
    return family not in declared(method).get("unsupported", ())


def trains(method: str) -> bool:
    """Whether a method is declared to train a tensor by gradients, if only its head."""
    facts = declared(method)
    counts = (facts.get("parameters", {}), facts.get("head", {VIT: 1}))
    return any(any(by_backbone.values()) for by_backbone in counts)


def overlay(method: str, backbone: str) -> dict[str, Any]:
    """Hyper-parameters that conf/method_on changes for a method on a backbone."""
    content = options.content("method_on", f"{method}/{backbone}")
    if content.keys() & {"method", "train"}:  # written to the root of the configuration
        return dict(content.get("method", {}))
    return content

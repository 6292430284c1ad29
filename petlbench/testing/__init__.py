"""The properties that every method is tested for: python -m petlbench.testing METHOD [METHOD ...].

Works for any registered method, also one of an installed package; pytest is not needed. A
property is a function that takes a Case (a method on a tiny network) and returns None, raises
AssertionError with a message, or raises Skipped with a reason. NETWORK_PROPERTIES hold on each
family of networks; METHOD_PROPERTIES are tested once for each method.
"""

from petlbench.testing.case import (
    Case,
    loss,
    method_on,
    plain_logits,
    randomised,
    tiny_method,
)
from petlbench.testing.facts import Skipped, Undeclared, declared, supported, trains
from petlbench.testing.networks import FAMILIES, images, tiny
from petlbench.testing.once import METHOD_PROPERTIES, support_is_as_declared
from petlbench.testing.passes import PASS_PROPERTIES
from petlbench.testing.properties import STATE_PROPERTIES

NETWORK_PROPERTIES = (*STATE_PROPERTIES, *PASS_PROPERTIES)
PROPERTIES = (*METHOD_PROPERTIES, support_is_as_declared, *NETWORK_PROPERTIES)
__all__ = [
    "FAMILIES",
    "METHOD_PROPERTIES",
    "NETWORK_PROPERTIES",
    "PROPERTIES",
    "Case",
    "Skipped",
    "Undeclared",
    "declared",
    "images",
    "loss",
    "method_on",
    "plain_logits",
    "randomised",
    "support_is_as_declared",
    "supported",
    "tiny",
    "tiny_method",
    "trains",
]

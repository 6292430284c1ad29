"""The cost section of a run: what is counted on shapes is counted once in a process."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from petlbench.config.schema import Config
from petlbench.cost.section import Conditions, counts, memory_taken, section
from petlbench.method import Method

Section = dict[str, Any]
_COUNTED: dict[str, tuple[Section, dict[str, Any]]] = {}  # sections and their notes


def counted_once(
    config: Config, method: Method, conditions: Conditions, notes: dict[str, Any]
) -> Section:
    """`section` of the method of a configuration, before its training.

    Runs that differ in seed, task or learning rates share what is counted on shapes: on CPU all
    of it. What a GPU takes is measured in every run.
    """
    on_shapes = conditions.device.type != "cuda"
    key = _key(config, method, conditions)
    if key not in _COUNTED:
        reasons: dict[str, Any] = {}
        count = section if on_shapes else counts
        _COUNTED[key] = count(method, conditions, reasons), reasons
    found, reasons = deepcopy(_COUNTED[key])
    notes |= reasons
    return found if on_shapes else found | memory_taken(method, conditions, notes)


def _key(config: Config, method: Method, conditions: Conditions) -> str:
    """All that a count depends on."""
    train = replace(conditions.train, lr=0.0, head_lr=0.0, weight_decay=0.0)
    # a constructor may draw its shapes, or find them in the weights
    shapes = [
        (name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
        for name, tensor in (*method.named_parameters(), *method.named_buffers())
    ]
    formats = conditions.precision.name, conditions.device.type
    return repr((config.method, config.backbone, conditions.size, train, formats, shapes))

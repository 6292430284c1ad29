"""PEFT: the tuners of Hugging Face's library as methods, https://github.com/huggingface/peft.

A tuner replaces linear layers, the targets, by layers of its own that hold the frozen ones. Its
values are those of its `*Config` class in PEFT, with PEFT's defaults for what a yaml leaves out;
the docstrings there describe them, and each yaml names its paper. The library is an extra:
pip install "petlbench[peft]".
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor, nn

from petlbench.errors import Unsupported, UserError, first_line
from petlbench.layers.quantised import dequantise
from petlbench.method import Method
from petlbench.methods.peft_checks import (
    check_directions,
    check_kept,
    check_used,
    check_widths,
    quiet,
    refusals,
)
from petlbench.methods.peft_config import checked_config, classes, target_names
from petlbench.model.backbone import Backbone
from petlbench.model.folding import folded

ADAPTER = "default"  # PEFT's name of the only adapter
UNMERGEABLE = (NotImplementedError, ValueError)  # what PEFT raises of a layer without a merge


class PEFTTuner(Method):
    """A tuner of PEFT on the modules whose names match `targets`, and the head.

    tuner: PEFT's name, such as vera. targets: patterns over the names of timm's modules, such as
    `*.mlp.fc1`; each must match. values: of PEFT's config. Raises Unsupported if PEFT or the tuner
    is not installed, or if the tuner does not fit a layer.

    The constructor finds `starts_as_pretrained` and `unmergeable` by trying; on the meta device,
    where no numbers are compared, the first is True. Tensors that PEFT keeps outside the state of
    its layers or does not save, such as random places in a weight, become buffers that it saves.
    given: values of the config that a class of its own sets.
    """

    given: Mapping[str, Any] = {}

    def __init__(
        self, backbone: Backbone, *, tuner: str, targets: Sequence[str], **values: Any
    ) -> None:
        super().__init__(backbone)
        config_class, tuner_class = classes(tuner)
        config = checked_config(config_class, values, target_names(backbone, targets), self.given)
        before = _logits(self)
        with refusals(tuner, backbone.tag):
            self.tuner = _injected(tuner_class, backbone, config)
            check_used(self.layers(), values, ADAPTER)
            self.unmergeable = _unmergeable(self.layers()[0])
        backbone.head.requires_grad_(True)
        after = _logits(self)
        if after is not None and not after.isfinite().all():
            raise UserError(
                f"PEFT's tuner {tuner} starts with outputs that are not finite; change the values "
                "of method"
            )
        self.starts_as_pretrained = _equal(before, after)

    def layers(self) -> list[Any]:
        """The layers that PEFT has put around others."""
        return list(_layers(self.backbone.net))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; layers with dropout rates of 0 stay in eval mode.

        LoHa and LoKr would draw a number for each image batch and branch on it, which neither
        shapes nor torch.compile can do.
        """
        super().train(mode)
        for layer in self.layers():
            if _never_drops(layer):
                layer.training = False
        return self

    def merge(self) -> nn.Module:
        """A copy of the network with PEFT's updates in the weights."""
        twin = copy.deepcopy(self).eval()
        dequantise(twin.backbone.net)  # PEFT adds to the weights in place
        try:
            with quiet():
                return folded(twin.tuner.merge_and_unload())
        except UNMERGEABLE as error:
            raise Unsupported(f"PEFT says '{first_line(error)}'") from error


class PEFTWeightTuner(PEFTTuner):
    """A tuner that cannot be tried on shapes: it decomposes weights or finds places in them."""

    needs_weights = True

    def __init__(
        self, backbone: Backbone, *, tuner: str, targets: Sequence[str], **values: Any
    ) -> None:
        self.check(backbone, tuner=tuner, targets=targets, **values)
        super().__init__(backbone, tuner=tuner, targets=targets, **values)

    @classmethod
    def check(cls, backbone: Backbone, **values: Any) -> None:
        """Refuse what needs no weights: missing tuners, names of layers, values of the config."""
        tuner, targets = values.pop("tuner"), values.pop("targets")
        names = target_names(backbone, targets)
        checked_config(classes(tuner)[0], values, names, cls.given)
        check_directions(backbone, names, values)
        check_widths(backbone, names, tuner)


def _injected(tuner_class: Any, backbone: Backbone, config: Any) -> Any:
    """The tuner, whose layers are in the network afterwards."""
    place = next(backbone.net.parameters()).device
    # Not on meta: random places in a weight are found by operations that need numbers.
    with torch.device("cpu"), quiet() as heard:
        made = tuner_class(backbone.net, config, ADAPTER)
    check_kept(config, heard)
    # The network is a part of the method already; as a module of the tuner it would be one twice.
    vars(made)["model"] = made._modules.pop("model")
    _keep_tensors(made)
    backbone.net.to(place)
    return made


def _keep_tensors(tuner: Any) -> None:
    """Make buffers of tensors in plain dictionaries, and save those of all dictionaries.

    They depend on random numbers, or on the weights by decompositions that other machines round
    differently; as buffers they also move with the network.
    """
    buffers = import_module("peft.tuners._buffer_dict").BufferDict
    for module in [*tuner.modules(), *_layers(tuner.model)]:
        for name, value in list(vars(module).items()):
            # Torch's own dictionaries begin with _.
            if not name.startswith("_") and _holds_tensors(value):
                delattr(module, name)
                setattr(module, name, buffers(value, persistent=True))
        for part in module.modules():
            if isinstance(part, buffers):
                part._non_persistent_buffers_set.clear()


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(one, Tensor) for one in value.values())


def _layers(network: nn.Module) -> Iterator[Any]:
    kind = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return (module for module in network.modules() if isinstance(module, kind))


def _never_drops(layer: Any) -> bool:
    """Whether a layer drops itself or ranks at random, with rates of 0."""
    rates = [getattr(layer, name, None) for name in ("module_dropout", "rank_dropout")]
    return all(isinstance(each, dict) and not any(each.values()) for each in rates)


def _unmergeable(layer: Any) -> str:
    """Why PEFT cannot merge a layer, asked of a copy; "" if it can."""
    twin = copy.deepcopy(layer)
    if next(layer.parameters()).is_meta:  # merging may read values
        twin.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
    try:
        with torch.device("cpu"), quiet():
            twin.merge()
    except UNMERGEABLE as error:
        return f"PEFT says '{first_line(error)}'"
    return ""


def _equal(before: Tensor | None, after: Tensor | None) -> bool:
    return before is None or after is None or torch.equal(before, after)


def _logits(method: Method) -> Tensor | None:
    """(1, K) for an example; None on the meta device."""
    image = method.backbone.example()
    if image.is_meta:
        return None
    training = method.training
    try:
        with torch.no_grad():
            return method.eval()(image)  # type: ignore[no-any-return]
    finally:
        method.train(training)

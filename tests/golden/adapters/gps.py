"""GPS: no tensors of its own; its selection is compared, and the gradients of what it selects."""

from collections.abc import Mapping

import torch
from torch import Tensor

from petlbench.method import Method
from petlbench.methods.gps import GPS
from tests.golden.case import Case, Plan, Tied, apart, usual_pool

INDEX = "select/index/"


def gps(case: Case) -> Plan:
    config = case.config
    indices = case.below(INDEX)
    values = {
        "per_neuron": config["per_neuron"],
        "selection_loss": config["selection_loss"],
        "temperature": config.get("temperature") or 0.07,  # cross-entropy has none
        "selection_batch": case.arrays["select/y"].shape[1],
    }

    def selection(method: Method) -> Mapping[str, float]:
        """Let the method select; the losses, and the number of other indices."""
        assert isinstance(method, GPS)
        images, labels = case.arrays["select/x"], case.arrays["select/y"]
        views = images.unflatten(0, (len(labels), -1)).flatten(1, -5)  # (batches, V, B, 3, H, W)
        losses = method.select(zip(views, labels, strict=True))
        own = dict(method.backbone.net.named_buffers())
        wrong = sum(
            int((own[_entries(name, "index")] != index).sum()) for name, index in indices.items()
        )
        return {
            "selection_loss": apart(torch.stack(losses), case.arrays["select/loss"]),
            "wrong_indices": float(wrong),
        }

    def full(name: str) -> Tied:
        shape, index = case.arrays[f"backbone/{name}"].shape, indices[name]

        def view(gradient: Tensor) -> Tensor:
            return gradient.new_zeros(shape).flatten(1).scatter(1, index, gradient).view(shape)

        return Tied(f"backbone.net.{_entries(name, 'values')}", view)

    of_backbone = {name: full(name) for name in indices}
    return Plan("gps", values, usual_pool(case), of_backbone=of_backbone, further=selection)


def _entries(weight: str, tensor: str) -> str:
    return f"{weight.removesuffix('.weight')}.entries.{tensor}"


ADAPTERS = {"gps": gps}

"""A fine-tuned network from the delta of a run, ready to classify images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petlbench import delta, registry
from petlbench.config.construct import build as build_node
from petlbench.config.construct import typed
from petlbench.config.nodes import BackboneConfig, Input
from petlbench.data import configured
from petlbench.data.images import GREY_MAX, OWN, Decoding, View, original
from petlbench.data.preparation import Preparation
from petlbench.errors import UserError
from petlbench.merge import for_inference
from petlbench.method import Method
from petlbench.model.backbone import create
from petlbench.run import build, identity

BATCH = 32  # images
T = TypeVar("T")


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned network, the preparation of its images, and the names of its classes.

    method and network: normalised images (B, 3, size, size) -> logits (B, classes). The second is
    the merged network where that pays.
    """

    method: Method
    network: nn.Module
    decoding: Decoding
    view: View
    prepare: Preparation
    names: Sequence[str]
    device: torch.device

    def probabilities(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (size, size, 3) -> softmax of the logits (images, classes), on the CPU."""
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # (B, 3, size, size)
        with torch.inference_mode():
            images = self.prepare(stacked.to(self.device))
            probabilities: Tensor = self.network(images).float().softmax(1).cpu()
        return probabilities

    def best(
        self, paths: Sequence[Path], top: int, refuse: Callable[[UserError], None]
    ) -> Iterator[tuple[Path, list[Any]]]:
        """Each image with its `top` classes and their probabilities, the most probable first.

        refuse: called with the error of each file that cannot be decoded, or for which a logit is
        not finite; such a file is left out.
        """
        for start in range(0, len(paths), BATCH):
            pixels: dict[Path, NDArray[np.uint8]] = {}
            for path in paths[start : start + BATCH]:
                try:
                    pixels[path] = self.view.of(original(path, self.decoding))
                except UserError as error:
                    refuse(error)
            if not pixels:
                continue
            probabilities = self.probabilities(list(pixels.values()))
            # values and classes, each (B, top)
            best = probabilities.topk(min(top, len(self.names)))
            finite = probabilities.isfinite().all(1).tolist()
            rows = zip(pixels, finite, *(x.tolist() for x in best), strict=True)
            for path, is_finite, values, classes in rows:
                if not is_finite:
                    refuse(UserError(f"the network's logits for '{path}' are not finite numbers"))
                    continue
                yield path, [(self.names[k], p) for k, p in zip(classes, values, strict=True)]


def load(file: Path, *, checkpoint: str | None, device: str, images: int = 0) -> Predictor:
    """The fine-tuned network of a delta.

    checkpoint: file of the backbone's weights, if they are neither in the package nor on the hub.
    device: auto, cpu or cuda. images: how many there are, if known; for many it is merged.
    Raises UserError if the delta or the weights are missing or do not fit.
    """
    network, target = delta.network(file), delta.target(file)
    place, names = build.device(device), network["classes"]
    with delta.building(file):
        # an earlier delta lacks the keys that came later
        values = identity.completed({key: network[key] for key in ("backbone", "input")})
        config = node(BackboneConfig, values["backbone"], "backbone")
        settings = node(Input, values["input"], "input")
    config = _with_weights(config, file, checkpoint)
    with delta.building(file):
        backbone = create(config, classes=len(names), image_size=settings.size)
    backbone.load_weights()
    with delta.building(file):
        method = registry.adapt(backbone, target)
    delta.load(file, method)
    view = configured.view(settings)
    prepare = Preparation(view, mean=config.mean, std=config.std)
    # as dataset=folder reads images, whatever the network was trained on
    decoding = replace(OWN, grey_max=network.get("grey_max", GREY_MAX))
    tested = for_inference(method.eval().to(place), images)
    return Predictor(method, tested, decoding, view, prepare, names, place)


def node(schema: type[T], values: Mapping[str, Any], name: str) -> T:
    """The typed node `name` of the configuration in a delta."""
    # `identity.completed` adds the `_target_` of the first records, which the schema lacks
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    return build_node(schema, typed(schema, own, name), name)


def _with_weights(config: BackboneConfig, file: Path, checkpoint: str | None) -> BackboneConfig:
    """The backbone with the weights that the delta was trained on."""
    if checkpoint is not None:
        return replace(config, checkpoint=checkpoint, pretrained=True)
    # a delta holds the name of the file without its folder
    if config.checkpoint is not None:
        raise UserError(
            f"delta '{file}' was trained on the weights in file '{config.checkpoint}'; "
            "name that file with --checkpoint"
        )
    if not config.pretrained:
        raise UserError(
            f"delta '{file}' belongs to random weights, which are in no file; fine-tune a "
            "pre-trained backbone"
        )
    return config

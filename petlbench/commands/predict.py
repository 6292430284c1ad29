"""python -m petlbench.predict: what a fine-tuned network sees in images of your own.

Loads the backbone and the delta that a run left, and prints the most probable classes of each
image as CSV (path, rank, class, probability), or as JSON.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petlbench import checks, delta
from petlbench.config import compose
from petlbench.config.schema import BackboneConfig, Input, typed
from petlbench.config.schema import build as build_node
from petlbench.data.images import Preparation, View, original
from petlbench.data.readers.tree import SUFFIXES, images_below
from petlbench.errors import UserError
from petlbench.method import Method
from petlbench.model.backbone import create
from petlbench.run import build, identity

BATCH = 32
T = TypeVar("T")
EXAMPLE = (
    "example: python -m petlbench.predict --delta results/runs/folder/birds/lora-*.safetensors "
    "photographs/"
)
INTERRUPTED = 130


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned network, how it sees images, and what its classes are called."""

    method: Method
    view: View
    prepare: Preparation
    names: Sequence[str]
    device: torch.device

    def probabilities(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (size, size, 3) -> (images, classes): softmax of the logits, on the CPU."""
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            images = self.prepare(stacked.to(self.device))
            found: Tensor = self.method(images).float().softmax(1).cpu()
        return found

    def best(
        self, paths: Sequence[Path], top: int, refuse: Callable[[UserError], None]
    ) -> Iterator[tuple[Path, list[Any]]]:
        """Each image with its `top` classes and their probabilities, the most probable first.

        refuse: is told of each file that cannot be decoded; the others go on.
        """
        for start in range(0, len(paths), BATCH):
            seen: dict[Path, NDArray[np.uint8]] = {}
            for path in paths[start : start + BATCH]:
                try:
                    seen[path] = self.view.of(original(path, upright=True))
                except UserError as error:
                    refuse(error)
            if not seen:
                continue
            found = self.probabilities(list(seen.values())).topk(min(top, len(self.names)))
            for path, row, chosen in zip(seen, *(part.tolist() for part in found), strict=True):
                yield path, [(self.names[k], value) for k, value in zip(chosen, row, strict=True)]


def load(file: Path, *, checkpoint: str | None, device: str) -> Predictor:
    """The network that a delta was trained in.

    checkpoint: file of the backbone's weights, if they are neither in the package nor on the hub.
    Raises UserError if the delta or the weights are missing or do not fit.
    """
    network = delta.network(file)
    values = identity.completed({key: network[key] for key in ("backbone", "input")})
    config = _node(BackboneConfig, values["backbone"], "backbone")
    config = _with_weights(config, file, checkpoint)
    where, names = build.device(device), network["classes"]
    seen = _node(Input, values["input"], "input")
    backbone = create(config, classes=len(names), image_size=seen.size)
    backbone.load_weights()
    target = compose.target_of(identity.current_form(network["method"]), "method")
    method = build.adapted(target, backbone)
    delta.load(file, method)
    view = build.view(seen)
    prepare = Preparation(view, mean=config.mean, std=config.std)
    return Predictor(method.eval().to(where), view, prepare, names, where)


def _node(schema: type[T], values: Mapping[str, Any], name: str) -> T:
    """A node of the configuration from a delta."""
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    return build_node(schema, typed(schema, own, name), name)


def _with_weights(config: BackboneConfig, file: Path, checkpoint: str | None) -> BackboneConfig:
    """The backbone with the weights that the delta was trained on."""
    if checkpoint is not None:
        return replace(config, checkpoint=checkpoint, pretrained=True)
    if config.checkpoint is not None:
        raise UserError(
            f"delta '{file}' was trained on the weights of a file '{config.checkpoint}'; "
            "give it by --checkpoint"
        )
    if not config.pretrained:
        raise UserError(
            f"delta '{file}' belongs to random weights, which no file holds; fine-tune "
            "pre-trained ones"
        )
    return config


def images(places: Sequence[Path]) -> list[Path]:
    """The images named, and all below the folders named, each once."""
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = list(images_below(place))
            if not inside:
                raise UserError(f"folder '{place}' holds no image ({', '.join(SUFFIXES)})")
            found |= dict.fromkeys(inside)
        elif place.is_file():
            found[place] = None
        else:
            raise UserError(f"no image or folder '{place}'")
    return list(found)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m petlbench.predict",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--delta", type=Path, required=True, help="a run's .safetensors file")
    made.add_argument("--checkpoint", help="file of the backbone's weights, where they are local")
    made.add_argument("--top", type=int, default=1, help="classes an image (default: 1)")
    made.add_argument("--json", action="store_true", help="a JSON object a line instead of CSV")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    made.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    return made


def write(found: Iterator[tuple[Path, list[Any]]], *, as_json: bool) -> None:
    """Print each image as soon as it is known."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        table.writerow(["path", "rank", "class", "probability"])
    for path, best in found:
        if as_json:
            classes = [{"class": name, "probability": value} for name, value in best]
            print(json.dumps({"path": str(path), "classes": classes}), flush=True)
            continue
        for rank, (name, value) in enumerate(best, 1):
            table.writerow([path, rank, name, f"{value:.4f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict; a mistake of the user, and each bad image, is a line on stderr and status 1."""
    chosen = parser().parse_args(arguments)
    refused: list[UserError] = []

    def refuse(error: UserError) -> None:
        refused.append(error)
        print(f"error: {error}", file=sys.stderr, flush=True)

    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # odd file names
    try:
        top = checks.whole("--top", chosen.top, low=1)
        paths = images(chosen.images)
        predictor = load(chosen.delta, checkpoint=chosen.checkpoint, device=chosen.device)
        write(predictor.best(paths, top, refuse), as_json=chosen.json)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1 if refused else 0

"""Building timm networks by their tagged names."""

from difflib import get_close_matches
from typing import Any

import timm
from timm.layers import DropPath as TimmDropPath
from torch import nn

from petlbench.errors import Unsupported, UserError, first_line, unknown
from petlbench.model import vit_mini  # its import registers vit_mini with timm
from petlbench.model.drop_path import DropPath
from petlbench.swap import swap_type

REGISTERED = {"vit_mini": vit_mini.TIMMS_OWN}  # networks that timm alone does not name


def timms_own(name: str) -> tuple[str, dict[str, Any]]:
    """Name without tag and arguments by which timm builds a network where this package is not."""
    plain = name.partition(".")[0]
    return REGISTERED.get(plain, (plain, {}))


def build_network(name: str, *, classes: int, image_size: int, drop_path: float) -> nn.Module:
    """A timm network with random weights, for square images of `image_size` pixels.

    drop_path: rate of the last block; it grows linearly from 0. Raises UserError for an unknown
    name, Unsupported if the network cannot be built.
    """
    _check_name(name)
    # Timm's Swin drops paths at a rate of 0.1 by default.
    options: dict[str, Any] = {"num_classes": classes, "drop_path_rate": drop_path}
    try:
        net = _sized(name, image_size, options)
    except (TypeError, AssertionError, ValueError) as error:
        raise Unsupported(
            f"{name} cannot be built for {image_size} px images: {first_line(error)}; set "
            "input.size or choose another backbone.name"
        ) from error
    swap_type(net, TimmDropPath, lambda path: DropPath(path.drop_prob))
    return net


def _sized(name: str, image_size: int, options: dict[str, Any]) -> nn.Module:
    """A network for one image size, or one for all sizes: timm's convolutional ones."""
    try:
        return timm.create_model(name, pretrained=False, img_size=image_size, **options)
    except TypeError as error:
        # A convolutional network has no argument img_size; if this was not it, nothing changes.
        try:
            return timm.create_model(name, pretrained=False, **options)
        except TypeError:
            raise error from None


def _check_name(name: str) -> None:
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = get_close_matches(plain, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"unknown backbone.name '{name}'; {hint}"
            "python -c 'import timm; print(timm.list_models())' lists all"
        )
    tagged = timm.list_models(f"{plain}.*", pretrained=True)
    tags = [full_name.partition(".")[2] for full_name in tagged]
    if tag and tag not in tags:
        raise unknown(f"weights tag of {plain}", tag, tags)

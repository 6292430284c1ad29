"""Merging a method into its backbone: a plain timm network with no extra cost at inference."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from petlbench.data.images import View
from petlbench.errors import Unsupported
from petlbench.layers.lean import plain
from petlbench.layers.quantised import QuantisedLinear
from petlbench.method import Method
from petlbench.model.backbone import Backbone
from petlbench.model.folding import Foldable
from petlbench.model.network import timms_own
from petlbench.model.pooling import set_pooling
from petlbench.system import write_atomically

TOLERANCE = 1e-2  # of the largest logit: a wrong merge differs by more, rounding by far less


# Merging takes as long as the merged network saves on 140 images with LoRA on ViT-B/16, on fewer
# with SSF and on more with FacT-TK: docs/speed.md.
WORTH = 250  # images


def merged(method: Method) -> nn.Module:
    """A plain timm network, in eval mode, with the outputs of the method.

    Its state loads strictly into timm's own network if that pools as `backbone.pool` says, which
    the state does not record: `save_merged` does. The method itself does not change. Raises
    Unsupported, with the reason, if the method cannot be merged or the outputs for one image
    differ.
    """
    return merged_with_pooling(method)[0]


def for_inference(method: Method, images: int) -> nn.Module:
    """What to call on so many images: the merged network if that saves time, or the method itself.

    It does if layers disappear and the images are many. Layers that hold their weights in fewer
    bits stay, since a merged network holds them in fp32.
    """
    if images < WORTH or not _merges_layers(method):
        return method
    try:
        return merged(method)
    except Unsupported:  # on this backbone, or with what it has learned
        return method


def _merges_layers(method: Method) -> bool:
    if method.unmergeable or any(isinstance(part, QuantisedLinear) for part in method.modules()):
        return False
    is_own = type(method).merge is not Method.merge
    return is_own or any(isinstance(part, Foldable) for part in method.modules())


def save_merged(
    method: Method, folder: Path, *, names: Sequence[str] = (), view: View | None = None
) -> None:
    """Write the merged network so that timm builds it and loads its weights.

        timm.create_model(f"local-dir:{folder}", pretrained=True)

    The folder, which is created, gets `model.safetensors`, and `config.json` with the classes, the
    size and normalisation of the images and the pooling. names: of the classes, which timm keeps
    as `pretrained_cfg["label_names"]`. view: how images are resized and cropped, for timm's own
    transforms; a predictor has both. Raises Unsupported as `merged` does.
    """
    net, pooling = merged_with_pooling(method)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    config = _timm_config(method.backbone, net, pooling)
    if names:
        config["label_names"] = list(names)
    if view is not None:
        config["pretrained_cfg"] |= _transforms(view)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def _timm_config(backbone: Backbone, net: nn.Module, pooling: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` of a model on the Hugging Face hub has, for timm."""
    size = backbone.image_size
    architecture, own = timms_own(backbone.tag)
    arguments = own | backbone.timm_arguments() | pooling
    given: dict[str, Any] = getattr(net, "pretrained_cfg", {})
    kept = {key: given[key] for key in ("first_conv", "classifier") if given.get(key)}
    return {
        "architecture": architecture,
        "num_classes": arguments["num_classes"],
        "num_features": backbone.widths[-1],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": backbone.mean,
            "std": backbone.std,
            "crop_pct": 1.0,
            "custom_load": False,
            "num_classes": arguments["num_classes"],
            **kept,
        },
    }


def _transforms(view: View) -> dict[str, Any]:
    """A view in timm's words."""
    # timm resizes to floor(size / crop_pct), where rounding must not lose a pixel
    share = math.nextafter(view.size / view.resize, 0) if view.resize else 1.0
    return {
        "interpolation": view.interpolation,
        "crop_mode": "squash" if view.aspect == "squash" else "center",
        "crop_pct": share,
    }


def merged_with_pooling(method: Method) -> tuple[nn.Module, dict[str, Any]]:
    """The merged network, and the arguments by which timm builds its pooling."""
    name = type(method).__name__
    if method.unmergeable:
        raise Unsupported(f"{name} cannot be merged into its backbone: {method.unmergeable}")
    try:
        net = method.merge().eval()
        _check_plain(net, method.backbone)
    except Unsupported as error:
        raise Unsupported(
            f"{name} cannot be merged into {method.backbone.tag}: {error}"
        ) from error
    plain(net)
    pooling = set_pooling(net, method.backbone.pool)
    _check_outputs(net, method)
    return net.requires_grad_(False), pooling


def _check_plain(net: nn.Module, backbone: Backbone) -> None:
    """Refuse a network with tensors that timm's own does not have: a module was not folded."""
    extra = next((name for name in net.state_dict() if name not in backbone.plain_state), None)
    if extra is None:
        return
    path = extra.rpartition(".")[0]
    while not any(name.startswith(f"{path}.") for name in backbone.plain_state) and path:
        path = path.rpartition(".")[0]  # up to the module that was replaced
    kind = type(net.get_submodule(path)).__name__
    raise Unsupported(
        f"{kind} at {path} has {extra[len(path) + 1 :]}, which the plain network lacks; give the "
        "module folded(), which returns the plain one, or set the method's unmergeable to a reason"
    )


def _check_outputs(net: nn.Module, method: Method) -> None:
    training = method.training
    try:
        with torch.no_grad():
            example = method.backbone.example()
            # Noise: the patches of a smooth image are alike, and all ways of pooling agree there.
            noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
            image = noise.to(example)
            expected, logits = method.eval()(image), net(image)
    finally:
        method.train(training)
    bound = TOLERANCE * float(expected.abs().max())
    if not torch.allclose(logits, expected, rtol=0, atol=bound):
        raise Unsupported(
            f"{type(method).__name__} cannot be merged into {method.backbone.tag}: the plain "
            "network has other outputs, because it cannot pool as "
            f"backbone.pool={method.backbone.pool} or because something was learned outside its "
            "layers"
        )

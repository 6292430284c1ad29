"""From the typed configuration to objects: backbone, method, trainer."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch

from petlbench import registry
from petlbench.config import recipes
from petlbench.config.nodes import BackboneConfig
from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.data.augment import Augmentation
from petlbench.data.feed import Feed
from petlbench.data.preparation import Preparation
from petlbench.data.task import Task
from petlbench.errors import UserError, unknown
from petlbench.method import Method
from petlbench.model import backbone as backbones
from petlbench.model.backbone import Backbone
from petlbench.model.quick_shapes import QuickShapes
from petlbench.model.template import Template
from petlbench.model.weights import WeightSource
from petlbench.run import splits
from petlbench.train import forward
from petlbench.train.phase import Epoch
from petlbench.train.precision import Precision
from petlbench.train.trainer import TrainingLoop
from petlbench.train.unfinished import Unfinished


def device(name: str) -> torch.device:
    """cuda, cuda:1, cpu, or auto: a GPU if there is one. Raises UserError if it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:  # torch does not know the type
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1"]) from error
    if chosen.type not in ("cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1"])
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is {name}; torch finds {torch.cuda.device_count()} GPUs; set device=cpu or "
            "device=auto"
        )
    return chosen


def machine(config: Config) -> None:
    """Refuse a device, number format or way to compile that this machine lacks."""
    chosen = device(config.device)
    Precision(config.train.precision, chosen)
    forward.check(config.train, chosen)


def feed(config: Config) -> Feed:
    """What brings images to the network, in the backbone's normalisation."""
    network, augment, seen = config.backbone, config.input.augment, configured.view(config.input)
    return Feed(
        device=device(config.device),
        prepare=Preparation(seen, mean=network.mean, std=network.std),
        augmentation=Augmentation(augment, seen, mean=network.mean) if augment else None,
        workers=config.data.workers,
        seed=config.seed,
    )


def method(config: Config) -> Method:
    """The method around its backbone, with pre-trained weights if the configuration says so."""
    return registry.adapt(backbone(config), config.method)


def backbone(config: Config) -> Backbone:
    """The backbone alone, with pre-trained weights if the configuration says so."""
    network = _backbone(config)
    network.load_weights()
    return network


def on_meta(config: Config) -> Method:
    """The method around its backbone, in shapes only."""
    with torch.device("meta"):
        return registry.adapt(_backbone_on_meta(config), config.method)


def check(config: Config) -> None:
    """Try the method on its backbone, in shapes; refuse wrong values and unsupported pairs.

    Nothing is read or computed, so a plan can be checked before its first run. An error other than
    UserError is a bug of the method and passes through.
    """
    recipes.check(config)
    # refuses augmentations that timm does not know; on CPU, since a plan may be made on a machine
    # without the GPU of its runs, and the device is checked before the first run
    feed(_on_cpu(config))
    # its constructor reads values, which tensors on meta do not have
    if registry.needs_weights(config.method):
        backbone = _backbone_on_meta(config)
        backbone.check_size()
        registry.check(backbone, config.method)
        return
    with suppress(Exception), QuickShapes():
        _try(config)
        return
    _try(config)  # the verdict and its words are those of torch's own operations


def _try(config: Config) -> None:
    built = on_meta(config)
    built.backbone.check_size()
    with torch.device("meta"):
        # shapes that do not fit show only in a forward pass
        built.eval()(built.backbone.example())


def weights(config: Config) -> None:
    """Refuse unavailable weights; downloads them if they are on the hub only."""
    source(config.backbone).find()


def source(node: BackboneConfig) -> WeightSource:
    """Where the weights of a backbone come from."""
    return WeightSource(name=node.name, checkpoint=node.checkpoint, pretrained=node.pretrained)


def trainer(
    config: Config, opened: Task, on_epoch: Callable[[Epoch], None], unfinished: Unfinished
) -> TrainingLoop:
    """The trainer with the splits that the protocol lets it see."""
    protocol = config.protocol
    factors = config.factors
    return TrainingLoop(
        title=f"{factors.method} {factors.task} seed {factors.seed}",
        feed=feed(config),
        fit=opened.open(splits.fit_on(config)),
        select={name: opened.open(name) for name in splits.select_names(config, opened)},
        classes=opened.classes,
        halves=partial(splits.halves, config, opened),
        # not for the tests: the audit compares their best epoch with the last one
        keep_best=protocol.select_on == "val",
        every_epochs=protocol.every_epochs,
        seed=config.seed,
        train=config.train,
        on_epoch=on_epoch,
        unfinished=unfinished,
    )


@dataclass(frozen=True)
class _Shape:
    """What the shapes of a backbone depend on, and a configuration that has it."""

    key: str
    config: Config = field(compare=False)


@lru_cache(maxsize=16)  # building takes 0.4 s, copying 5 ms, and a plan checks many methods
def _in_shapes(shape: _Shape) -> Template[Backbone]:
    return Template(_backbone(shape.config))


def _backbone_on_meta(config: Config) -> Backbone:
    shape = _Shape(repr((config.backbone, config.dataset.classes, config.input.size)), config)
    with torch.device("meta"):
        return _in_shapes(shape).copy()


def _on_cpu(config: Config) -> Config:
    return replace(config, device="cpu")


def _backbone(config: Config) -> Backbone:
    return backbones.create(
        config.backbone, classes=config.dataset.classes, image_size=config.input.size
    )

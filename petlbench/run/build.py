"""From the typed configuration to objects: backbone, method, trainer."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial

import torch

from petlbench import registry
from petlbench.config import recipes, target
from petlbench.config.nodes import BackboneConfig
from petlbench.config.schema import Config
from petlbench.data import configured
from petlbench.data.augment import Augmentation
from petlbench.data.feed import Feed
from petlbench.data.preparation import Preparation
from petlbench.data.readers import numbering
from petlbench.data.task import Split, Task, held_out
from petlbench.errors import UserError, unknown
from petlbench.method import Method
from petlbench.model import backbone as backbones
from petlbench.model.backbone import Backbone
from petlbench.model.template import Template
from petlbench.model.weights import WeightSource
from petlbench.train.phase import Epoch
from petlbench.train.trainer import TrainingLoop
from petlbench.train.unfinished import Unfinished

log = logging.getLogger("petlbench")


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
    kind = target.find(config.method.path, "method._target_")
    # its constructor reads values, which tensors on meta do not have
    if getattr(kind, "needs_weights", False):
        target.check_arguments(kind, config.method.values, "method", given=["backbone"])
        kind.check(_backbone_on_meta(config), **config.method.values)
        return
    built = on_meta(config)
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
        fit=opened.open(_fit_on(config)),
        select={name: opened.open(name) for name in select_names(config, opened)},
        classes=opened.classes,
        halves=partial(halves, config, opened),
        # not for the tests: the audit compares their best epoch with the last one
        keep_best=protocol.select_on == "val",
        every_epochs=protocol.every_epochs,
        seed=config.seed,
        train=config.train,
        on_epoch=on_epoch,
        unfinished=unfinished,
    )


def halves(config: Config, opened: Task) -> tuple[Split, Split]:
    """The two parts of the training split that a search inside a method trains and scores on.

    They are train and val where the protocol selects on val.
    """
    fit_on = _fit_on(config)
    if fit_on in opened.parts:
        first, second = opened.parts[fit_on]
        return opened.open(first), opened.open(second)
    if config.protocol.select_on == "val":
        return opened.open(fit_on), opened.open("val")
    # few-shot and DG lists have no parts, and a search sees val only if the protocol selects on it
    first_part, second_part = held_out(opened.open(fit_on))
    if not len(second_part):
        raise UserError(
            f"{opened.suite}/{opened.name} has too few training images a class for a search to "
            "score on some of them; protocol=best_on_val scores on val"
        )
    return first_part, second_part


def select_names(config: Config, opened: Task) -> tuple[str, ...]:
    """Splits that the protocol scores during training: none, val, or (dishonestly) the tests."""
    chosen = config.protocol.select_on
    return opened.tests if chosen == "tests" else (chosen,) if chosen else ()


def tests(config: Config, opened: Task) -> dict[str, Split]:
    """The splits to score at the end; opened here, after training, and not before."""
    return {name: opened.open(name) for name in scored_names(config, opened)}


def scored_names(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits that the protocol scores at the end."""
    names = config.protocol.tests
    return opened.tests if names == "all" else tuple(names)


def data(config: Config) -> Task:
    """The task; refused if it lacks what the protocol needs. Nothing is decoded."""
    opened = configured.task(config)
    if config.protocol.fit_on is None:  # a probe opens no data
        return opened
    scored = scored_names(config, opened)
    for name in scored:
        if name not in (known := (*opened.tests, "val")):  # val: of protocol=trial
            raise unknown("split in protocol.tests", name, known)
    for split in _needed(config, opened):
        opened.check(split)
    return opened


def opened_names(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits that a run may open: those of its protocol, and the parts for a search."""
    return tuple(dict.fromkeys((*_needed(config, opened), *opened.parts.get(_fit_on(config), ()))))


def _needed(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits of a protocol. A search opens parts of them, whose images these have too."""
    names = (*select_names(config, opened), *scored_names(config, opened))
    return tuple(dict.fromkeys((_fit_on(config), *names)))


def prepared(config: Config) -> None:
    """`decoded`, and a line for what the reader leaves out.

    Raises UserError also for lists that number their classes differently.
    """
    opened = data(config)
    _check_numbering(config, opened)
    _decode(config, opened)
    if opened.splits and (remarks := opened.remarks()):
        _warn_once(f"{opened.suite}/{opened.name}: {'; '.join(remarks)}")


@cache
def _warn_once(line: str) -> None:
    """Log a warning unless this process has: the folds of a folder have the same one."""
    log.warning("%s", line)


def _check_numbering(config: Config, opened: Task) -> None:
    # a user's own folder names its classes itself, and a probe opens no data
    if opened.names is not None or config.protocol.fit_on is None:
        return
    needed = [name for name in _needed(config, opened) if name in opened.lists]
    conflict = next(numbering.conflicts({name: opened.lists[name]() for name in needed}), None)
    if conflict is not None:
        raise UserError(f"{opened.suite}/{opened.name}: {conflict}")


def decoded(config: Config) -> Task:
    """The task, with the images that the protocol needs decoded, but not scored.

    A broken one shows before hours of training. Raises UserError for it, and as `data` does.
    """
    opened = data(config)
    _decode(config, opened)
    return opened


def _decode(config: Config, opened: Task) -> None:
    for split in _needed(config, opened) if config.protocol.fit_on is not None else ():
        opened.decode(split)


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


def _fit_on(config: Config) -> str:
    if config.protocol.fit_on is None:
        raise UserError("protocol=probe trains nothing; choose another protocol")
    return config.protocol.fit_on


def _backbone(config: Config) -> Backbone:
    return backbones.create(
        config.backbone, classes=config.dataset.classes, image_size=config.input.size
    )

"""From the resolved configuration to objects: task, backbone, method, trainer."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from petlbench.checks import whole
from petlbench.config import recipes
from petlbench.data.augment import Augmentation
from petlbench.data.feed import Feed
from petlbench.data.images import Preparation, View
from petlbench.data.task import Split, Task, held_out
from petlbench.errors import Unsupported, UserError, unknown
from petlbench.method import Method
from petlbench.model import backbone as backbones
from petlbench.model.weights import Origin
from petlbench.train.settings import check as check_training
from petlbench.train.trainer import Epoch, Trainer

Config = Mapping[str, Any]
FIT_ON = ("train", "trainval")
SELECT_ON = (None, "val", "tests")  # records of `tests` say that they are dishonest


def device(config: Config) -> torch.device:
    """cuda, cuda:1, cpu, or auto: a GPU where there is one."""
    name = config["device"]
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:1"]) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}' asks for a GPU and torch finds none; set device=cpu")
    return chosen


def task(config: Config) -> Task:
    """The task; its splits open on demand."""
    values = {key: value for key, value in config["dataset"].items() if key != "task"}
    made: Callable[..., Task] = _made(values, _partial_=True)
    try:
        signature(made).bind(view=None)
    except TypeError as error:
        raise UserError(f"dataset: {error}") from error
    return made(view=view(config))


def view(config: Config) -> View:
    """How images become the network's square ones."""
    return View(**{key: value for key, value in config["input"].items() if key != "augment"})


def feed(config: Config) -> Feed:
    """What brings images to the network, in the backbone's normalisation."""
    means, values = config["backbone"], config["input"]["augment"]
    seen = view(config)
    return Feed(
        device=device(config),
        prepare=Preparation(seen, mean=means["mean"], std=means["std"]),
        augmentation=Augmentation(values, seen, mean=means["mean"]) if values else None,
        workers=config["data"]["workers"],
        seed=config["seed"],
    )


def method(config: Config) -> Method:
    """The method around its backbone, with pre-trained weights unless told otherwise."""
    built: Method = _made(config["method"])(backbone(config))
    return built


def backbone(config: Config) -> "backbones.Backbone":
    """The backbone alone, with pre-trained weights unless told otherwise."""
    network = _backbone(config)
    network.load_weights()
    return network


def on_meta(config: Config) -> Method:
    """The method around its backbone, in shapes only."""
    with torch.device("meta"):
        built: Method = _made(config["method"])(_backbone(config))
    return built


def check(config: Config) -> None:
    """Try the method on its backbone on the meta device; refuse wrong values and pairs.

    Nothing is read or computed there, so that a plan can be checked before its first run.
    """
    recipes.check(config)
    check_training(config["train"])
    check_protocol(config["protocol"])
    built = on_meta(config)
    with torch.device("meta"):
        try:
            built.eval()(built.backbone.example())
        except (TypeError, AttributeError, RuntimeError) as error:
            line = str(error).splitlines()[0]
            raise Unsupported(f"it cannot run on {built.backbone.tag}: {line}") from error
    feed(dict(config) | {"device": "cpu"})


def check_protocol(protocol: Config) -> None:
    """Refuse a protocol that trains on, or watches, what it must not see."""
    if "fit_on" not in protocol:  # a probe opens no data
        return
    for key, choices in (("fit_on", FIT_ON), ("select_on", SELECT_ON)):
        if protocol[key] not in choices:
            raise unknown(f"protocol.{key}", protocol[key], map(str, choices))
    if protocol["every_epochs"] is not None:
        whole("protocol.every_epochs", protocol["every_epochs"], low=1)


def weights(config: Config) -> None:
    """Refuse pre-trained weights that are not to be had; downloads them where they are needed."""
    node = config["backbone"]
    Origin(name=node["name"], checkpoint=node["checkpoint"], pretrained=node["pretrained"]).find()


def trainer(
    config: Config, opened: Task, on_epoch: Callable[[Epoch], None], scratch: Path
) -> Trainer:
    """The trainer with the splits that the protocol lets it see."""
    protocol = config["protocol"]
    return Trainer(
        feed=feed(config),
        fit=opened.open(protocol["fit_on"]),
        select={name: opened.open(name) for name in select_names(config, opened)},
        classes=opened.classes,
        halves=partial(halves, config, opened),
        keep_best=protocol["select_on"] == "val",
        every_epochs=protocol["every_epochs"],
        seed=config["seed"],
        settings=config["train"],
        on_epoch=on_epoch,
        scratch=scratch,
    )


def halves(config: Config, opened: Task) -> tuple[Split, Split]:
    """What a search inside a method trains and scores on: two parts of what it may train on.

    Or train and val, where the protocol chooses on val anyhow.
    """
    fit_on, select_on = config["protocol"]["fit_on"], config["protocol"]["select_on"]
    if fit_on in opened.parts:
        first, second = opened.parts[fit_on]
        return opened.open(first), opened.open(second)
    if select_on == "val":
        return opened.open(fit_on), opened.open("val")
    first_part, second_part = held_out(opened.open(fit_on))
    if not len(second_part):
        raise UserError(
            f"{opened.suite}/{opened.name} has too few training images a class for a search to "
            "score on some of them; protocol=best_on_val scores on val"
        )
    return first_part, second_part


def select_names(config: Config, opened: Task) -> tuple[str, ...]:
    """Splits that the protocol watches while it trains: none, val, or (dishonestly) the tests."""
    chosen = config["protocol"]["select_on"]
    return opened.tests if chosen == "tests" else (chosen,) if chosen else ()


def tests(config: Config, opened: Task) -> dict[str, Split]:
    """The splits to score at the end; opened here, after training, and not before."""
    return {name: opened.open(name) for name in tested(config, opened)}


def tested(config: Config, opened: Task) -> tuple[str, ...]:
    """The splits that the protocol scores at the end."""
    names = config["protocol"]["tests"]
    return opened.tests if names == "all" else tuple(names)


def data(config: Config) -> Task:
    """The task, refused where it lacks what the protocol needs of it; nothing is decoded."""
    opened, protocol = task(config), config["protocol"]
    if "fit_on" in protocol:  # a probe opens no data
        watched = select_names(config, opened)
        for name in tested(config, opened):
            if name not in (known := (*opened.tests, "val")):
                raise unknown("split in protocol.tests", name, known)
        for split in dict.fromkeys((protocol["fit_on"], *watched, *tested(config, opened))):
            opened.look(split)
    return opened


def _backbone(config: Config) -> "backbones.Backbone":
    built: backbones.Backbone = _made(config["backbone"])(
        classes=config["dataset"]["classes"], image_size=config["input"]["size"]
    )
    return built


def _made(node: Config, **more: Any) -> Any:
    """What a node's _target_ makes; a user's mistake inside comes out as itself."""
    try:
        return instantiate(node, **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise

"""The settings of `petlbench try`, from the images alone: few images need other ones than many.

None of them was tuned: they are usual values for photographs, and each is printed with its reason.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petlbench.config import command_line, options
from petlbench.config.command_line import as_text
from petlbench.config.nodes import Train
from petlbench.data.readers.division import divided
from petlbench.data.readers.tree import Tree
from petlbench.errors import UserError

FEW = 500  # images, below which a fifth of them is too small a test set
FOLDS = 5
SMALL = 2000  # training images, below which they are augmented
BATCH = 32
STEPS = 1000  # of a training, about
EPOCHS = (10, 100)  # fewest and most
# no flip: letters, road signs and left hands differ from their mirror images
LIGHT = (
    "{scale:[0.6,1.0],ratio:[0.75,1.3333333333333333],interpolation:bicubic,hflip:0.0,"
    "color_jitter:0.0,auto_augment:null,erase:0.0}"
)
# what has an option of its own, or is decided by the folder
TAKEN = {
    "method": "--methods",
    "backbone": "--backbone",
    "dataset": "FOLDER",
    "dataset.root": "FOLDER",
    "dataset.fold": "dataset.folds",
    "results.root": "--out",
    "results.predictions": "petlbench sweep, since this report shows single images",
    "protocol.tests": "protocol=NAME",
}
# nodes and groups that only other commands take
ELSEWHERE = {
    "experiment": "petlbench sweep",
    "hydra": "petlbench sweep",
    "job": "petlbench run",
    "probe": "petlbench probe",
    "select": "petlbench sweep",
    "title": "petlbench run",
    "tune": "petlbench sweep",
}


@dataclass(frozen=True)
class Setting:
    """A value as Hydra's command line takes it, and why it is chosen."""

    value: str
    reason: str


@dataclass(frozen=True)
class Sizes:
    """Images of a run: trained on (train and val), tested. folds: runs of a method, or None."""

    train: int
    test: int
    folds: int | None

    @property
    def runs(self) -> int:
        """Runs of one method."""
        return self.folds or 1


def given(overrides: Sequence[str]) -> dict[str, str]:
    """The user's own values by their keys. Raises UserError for what is no KEY=VALUE of a run."""
    values = {}
    for text in command_line.quoted(overrides):
        key, sign, value = text.partition("=")
        key = key.lstrip("+")  # all keys are there already
        if not sign or key.startswith("~"):
            raise UserError(f"'{text}' is no KEY=VALUE; one folder comes first, then such values")
        node = re.split(r"[./@]", key)[0]
        if (instead := TAKEN.get(key) or ELSEWHERE.get(node)) is not None:
            raise UserError(f"{key} cannot be set here; use {instead}")
        if key in values:
            raise UserError(f"{key} is given twice; give it once")
        if command_line.is_sweep(text):
            raise UserError(f"{text} names several values; use petlbench sweep")
        if key == "protocol":
            _check_protocol(value)
        values[key] = value
    return values


def _check_protocol(name: str) -> None:
    """Refuse a protocol whose runs test nothing, such as probe; an unknown one is named."""
    command_line.check_groups([f"protocol={name}"])
    if options.content("protocol", name).get("tests") != "all":
        raise UserError(
            f"protocol={name} scores no test images, which this comparison is about; leave it "
            "out, or use petlbench sweep"
        )


def sizes(tree: Tree, reader: Mapping[str, Any], own: Mapping[str, str]) -> Sizes:
    """The images of each run. reader: the values of the data set with the user's own ones.

    Raises UserError for images that cannot be divided.
    """
    total = len(tree.images)
    folds: int | None = reader["folds"]
    if "dataset.folds" not in own and _is_for_folds(tree):
        folds = FOLDS
    if folds:
        tested = -(-total // folds)  # of the largest fold
        return Sizes(total - tested, tested, folds)
    parts = divided(
        tree, val=reader["val_share"], test=reader["test_share"], seed=reader["split_seed"]
    )
    return Sizes(len(parts["train"]) + len(parts["val"]), len(parts["test"]), None)


def _is_for_folds(tree: Tree) -> bool:
    """Whether a share of the images is too small a test set, and all can be tested in turn."""
    is_divided = any(image.split in ("val", "test") for image in tree.images)
    classes = Counter(image.label for image in tree.images)
    return not is_divided and len(tree.images) < FEW and min(classes.values()) > 1


def chosen(
    size: Sizes, own: Mapping[str, str], train: Train, *, takes_steps: bool
) -> dict[str, Setting]:
    """The settings that the user has not set, in the order in which they are shown.

    train: the user's own values, with any others for the rest. takes_steps: whether a method makes
    training steps; then it raises UserError for a step of more images than there are.
    """
    batch = train.batch_size if "train.batch_size" in own else min(BATCH, size.train)
    if takes_steps and train.drop_last and batch * train.accumulate > size.train:
        raise UserError(
            f"a step has {batch * train.accumulate} images, and each run trains on {size.train}; "
            f"set train.batch_size to at most {size.train // train.accumulate or 1}"
        )
    epochs = min(EPOCHS[1], max(EPOCHS[0], round(STEPS * batch / size.train)))
    trained = train.epochs if "train.epochs" in own else epochs
    light = Setting(LIGHT, f"less than {SMALL} training images: random crops, no flips")
    settings = {
        "input.aspect": Setting("keep", "photographs keep their shape; the centre is cut out"),
        "input.augment": light if size.train < SMALL else Setting("null", "enough images"),
        "train.batch_size": Setting(str(batch), f"{size.train} training images"),
        "train.epochs": Setting(str(epochs), f"about {STEPS} steps, {EPOCHS[0]} to {EPOCHS[1]}"),
        "train.schedule.warmup_epochs": Setting(str(trained // 10), "a tenth of the epochs"),
        "dataset.folds": Setting(
            str(size.folds or "null"),
            f"less than {FEW} images: each is tested once" if size.folds else "a test split",
        ),
        "results.predictions": Setting("true", "reports show single images"),
    }
    return {key: value for key, value in settings.items() if key not in own}


def overrides(
    root: str,
    backbone: str,
    runs: str,
    settings: Mapping[str, Setting],
    own: Mapping[str, str],
) -> list[str]:
    """What all runs have in common, for the configuration."""
    return [
        "dataset=folder",
        f"dataset.root={as_text(root)}",
        f"backbone={backbone}",
        f"results.root={as_text(runs)}",
        *(f"{key}={setting.value}" for key, setting in settings.items()),
        *(f"{key}={value}" for key, value in own.items()),
    ]

"""The most confident wrong predictions of a row: a table and a sheet of the images."""

import os
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from PIL import Image

from petlbench.data.images import OWN, BadImage, original
from petlbench.data.readers import tree
from petlbench.errors import UserError
from petlbench.report.model.picture import Sheet, Tile
from petlbench.report.model.table import Column, Table
from petlbench.report.read.predictions import Outcomes
from petlbench.system import user_path

MOST = 24  # mistakes that are shown
SIDE = 220  # pixels of an image on the sheet
COLUMNS = [
    Column("class", "class", "Image", None),
    Column("predicted", "predicted", "Prediction", None),
    Column("confidence", "confidence (%)", "Prediction", 1),
    Column("wrong", "wrong runs", "Prediction", 0),
]


def mistakes(outcomes: Outcomes) -> pd.DataFrame:
    """A line an image that a run gets wrong, by decreasing confidence in wrong classes.

    Columns: class, predicted (most often among the wrong runs), confidence (percent, mean over all
    runs; 0 for a right one) and wrong (runs).
    """
    lines = outcomes.lines()
    wrong = lines[~lines["right"]]
    images = wrong.groupby("image")
    answers = wrong.groupby(["image", "predicted"]).size()
    answers = answers.sort_values(ascending=False, kind="stable")
    most_often = answers.reset_index().drop_duplicates("image").set_index("image")["predicted"]
    names = dict(enumerate(outcomes.classes))
    table = pd.DataFrame(
        {
            "class": images["label"].first().map(names),
            "predicted": most_often.map(names),
            "confidence": 100 * images["confidence"].sum() / lines.groupby("image").size(),
            "wrong": images.size(),
        }
    )
    # the images that every run gets right have no class here
    shown = table.dropna().astype({"wrong": int})
    return shown.sort_values("confidence", ascending=False, kind="stable")


def mistake_table(found: pd.DataFrame, outcomes: Outcomes, best: str) -> Table:
    """The MOST most confident mistakes."""
    shown = found.head(MOST)
    files, rows = outcomes.has_files, [str(image) for image in shown.index]
    return Table(
        rows=rows,
        columns=COLUMNS,
        values=shown,
        spread=pd.DataFrame(index=shown.index),
        caption=f"The most confident mistakes of {best}: {len(shown)} of {len(found)}.",
        name="mistakes",
        head="file" if files else "place in the split",
        methods=dict.fromkeys(rows, best),
        notes=[
            "Confidence: probability of the wrong class, mean over the runs that tested the "
            "image; a right run counts as 0.",
            "A confident mistake is often a wrong label, or an image of two classes: look first.",
        ],
    )


def sheet(found: pd.DataFrame, folder: str, grey_max: int) -> Sheet:
    """The images of the table. folder: what dataset.root was; grey_max: see `Decoding`.

    Raises UserError if none of them is in the folder.
    """
    root = user_path("--images", folder)
    root = tree.scan(folder).folder if root.is_file() else root  # dataset.root may be a CSV file
    shown = found.head(MOST)
    paths = {image: _inside(root, str(image)) for image in shown.index}
    if not any(path is not None for path in paths.values()):
        raise UserError(
            f"--images '{folder}' has none of the test images, e.g. '{shown.index[0]}'; "
            "give the folder that was dataset.root"
        )
    tiles = [
        Tile(
            _pixels(paths[image], grey_max),
            f"{line['class']}\n→ {line['predicted']} ({line['confidence']:.0f} %)",
        )
        for image, line in shown.iterrows()
    ]
    return Sheet(
        "worst", "The most confident mistakes: class, prediction and its confidence.", tiles
    )


def _inside(root: Path, name: str) -> Path | None:
    """The file of an image; a file of predictions cannot name one elsewhere."""
    relative = PurePath(name)
    if relative.is_absolute() or ".." in relative.parts or "\0" in name:
        return None
    path = root / relative
    return path if os.path.isfile(path) else None  # unlike Path.is_file for any length


def _pixels(path: Path | None, grey_max: int) -> np.ndarray | None:
    if path is None:
        return None
    try:
        image = original(path, replace(OWN, grey_max=grey_max))
    except BadImage:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)

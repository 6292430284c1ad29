"""A confusion matrix and a sheet of images, by matplotlib."""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from petlbench.report.draw.text import drawable
from petlbench.report.model.picture import Matrix, Sheet

WIDTH = 6.9  # inches, both columns of a paper
CELL = 0.3  # inches, of a matrix
NUMBERED = 20  # classes of a matrix whose cells have numbers
ACROSS = 6  # images side by side
LONGEST = 22  # characters of a label


def matrix(picture: Matrix) -> Figure:
    """Shares of a class by colour, images as numbers in the cells of a small matrix."""
    count = len(picture.labels)
    side = min(WIDTH, 1.6 + CELL * max(count, 4))
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    with np.errstate(invalid="ignore"):
        shares = picture.counts / picture.total[:, None]  # NaN, hence white, without an image
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [drawable(label, LONGEST) for label in picture.labels]
    size = min(8.0, 190 / count)
    axis.set_xticks(range(count), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(count), labels, fontsize=size)
    axis.tick_params(length=0)
    axis.set(xlabel="predicted class", ylabel="class")
    axis.spines[["top", "right"]].set_visible(True)
    for row, column in np.argwhere(picture.counts) if count <= NUMBERED else ():
        axis.text(
            column,
            row,
            f"{picture.counts[row, column]:.3g}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    return figure


def sheet(picture: Sheet) -> Figure:
    """Images with their texts, ACROSS in a line."""
    lines = math.ceil(len(picture.tiles) / ACROSS)
    figure = Figure(figsize=(WIDTH, 1.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, ACROSS, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, tile in zip(axes, picture.tiles, strict=False):
        if tile.image is None:
            axis.text(0.5, 0.5, "no image", ha="center", transform=axis.transAxes)
        else:
            axis.imshow(tile.image)
        text = "\n".join(drawable(line, LONGEST) for line in tile.text.split("\n"))
        axis.set_title(text, fontsize=6, fontweight="normal")
    return figure

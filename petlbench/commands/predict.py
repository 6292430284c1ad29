"""Classify your own images with a fine-tuned network.

Loads a backbone and the delta of a run, and prints the most probable classes of each image as CSV
(path, rank, class, probability), or as JSON. In the CSV, a text that a spreadsheet would take for
a formula gets a leading apostrophe, and control characters are escapes; JSON has every text as it
is.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from petlbench import checks
from petlbench.arguments import MISTYPED, Parser, command
from petlbench.cells import cell
from petlbench.data.readers.image_files import USUAL, foreign, images_below
from petlbench.errors import UserError
from petlbench.progress import say
from petlbench.run.record import DELTA

EXAMPLE = (
    "example: petlbench predict --delta results/runs/folder/birds/lora-*.safetensors photographs/"
)


def images(places: Sequence[Path]) -> list[Path]:
    """The named images, and all images below the named folders, each once.

    Raises UserError if a place does not exist or a folder has no image.
    """
    files: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = list(images_below(place))
            if not inside:
                raise UserError(f"folder '{place}' has no image ({USUAL})")
            if others := foreign(place):
                say(f"note: {len(others)} files of '{place}' are no images, e.g. '{others[0]}'")
            files |= dict.fromkeys(inside)
        elif place.suffix == DELTA:  # a pattern after --delta may match the deltas of all folds
            raise UserError(
                f"'{place}' is a delta and no image; --delta takes one, a pattern matches several"
            )
        elif place.is_file():
            files[place] = None
        else:
            raise UserError(f"no image or folder '{place}'")
    return list(files)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    options = Parser(
        prog="petlbench predict",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--delta", type=Path, required=True, help="a run's .safetensors file")
    options.add_argument("--checkpoint", help="file of the backbone's weights, if they are local")
    options.add_argument("--top", type=int, default=1, help="classes per image (default: 1)")
    options.add_argument("--json", action="store_true", help="JSON, one object per line, not CSV")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    options.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    return options


def write(results: Iterator[tuple[Path, list[Any]]], *, as_json: bool) -> None:
    """Print the classes of each image as soon as they are computed."""
    # csv ends lines with \r\n by default
    table = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        table.writerow(["path", "rank", "class", "probability"])
    for path, best in results:
        if as_json:
            classes = [{"class": name, "probability": value} for name, value in best]
            print(json.dumps({"path": str(path), "classes": classes}), flush=True)
            continue
        for rank, (name, value) in enumerate(best, 1):
            table.writerow([cell(str(path)), rank, cell(name), f"{value:.4f}"])


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr.

    Exit status: 2 for a mistake of the user, also if none of the images can be decoded; 1 if some
    cannot.
    """
    options = parser().parse_args(arguments)
    errors: list[UserError] = []

    def refuse(error: UserError) -> None:
        errors.append(error)
        print(f"error: {error}", file=sys.stderr, flush=True)

    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # odd file names
    top = checks.whole("--top", options.top, low=1)
    paths = images(options.images)
    from petlbench.commands.predictor import load  # imports torch, so after cheap mistakes

    predictor = load(
        options.delta,
        checkpoint=options.checkpoint,
        device=options.device,
        images=len(paths),
    )
    write(predictor.best(paths, top, refuse), as_json=options.json)
    return 0 if not errors else 1 if len(errors) < len(paths) else MISTYPED

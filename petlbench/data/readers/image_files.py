"""The image files below a folder, as a user's own images lie there. Imports no torch."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from petlbench.errors import UserError

USUAL = ".bmp, .gif, .jpeg, .jpg, .png, .tiff, .webp or another that Pillow reads"
# Pillow recognises these and decodes them with another program or not at all
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# folders that archivers, servers and file systems leave beside images
LEFT_BEHIND = {
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
}


def images_below(folder: Path) -> Iterator[Path]:
    """All image files below a folder, sorted, without hidden files and folders.

    Linked folders belong to it.
    """
    return (path for path in visible(folder) if is_image(path) and path.is_file())


def foreign(folder: Path) -> list[Path]:
    """The visible files below a folder whose suffix is not that of an image."""
    return [path for path in visible(folder) if not is_image(path) and path.is_file()]


def is_image(path: Path) -> bool:
    """Whether Pillow decodes files with the suffix of a path."""
    return path.suffix.lower() in suffixes()


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of the files that Pillow decodes, with the plugins that are loaded."""
    from PIL import Image as pillow

    pillow.init()
    return frozenset(
        suffix
        for suffix, name in pillow.registered_extensions().items()
        if name in pillow.OPEN and name not in NOT_DECODED
    )


def visible(folder: Path) -> list[Path]:
    """All that is below a folder and not hidden, sorted; links are followed."""
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    place = folder.resolve()
    for path, is_folder in _inside(folder):
        yield path
        # a link to a folder above it has no end
        if is_folder and path.resolve() not in {*above, place, *place.parents}:
            yield from _walk(path, above | {place})


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    return sorted(path for path, is_folder in _inside(folder) if is_folder)


def _inside(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder and not hidden, and whether it is a folder itself.

    Raises UserError if the folder cannot be read.
    """
    try:
        return [(path, path.is_dir()) for path in folder.iterdir() if not _is_hidden(path)]
    except OSError as error:
        raise UserError(f"folder '{folder}' cannot be read: {error.strerror}") from error


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in LEFT_BEHIND

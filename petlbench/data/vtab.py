"""VTAB-1K as the archives that circulate have it: four lists and a folder of images for each task.

`root/name/` holds train800.txt, val200.txt, train800val200.txt and test.txt, with a path relative
to that folder and a label a line (ZhangYuanhan-AI/NOAH, data/vtab-source).
"""

from pathlib import Path

from petlbench.data import lists, store
from petlbench.data.task import Split, Task
from petlbench.errors import UserError

LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
COUNTS = {"train": 800, "val": 200, "trainval": 1000}
ALIASES = {  # names of the folders in the authors' scripts
    "cifar": ("cifar100", "cifar_100"),
    "oxford_iiit_pet": ("oxford_pet", "pets"),
    "oxford_flowers102": ("flowers102",),
}


def load(
    *,
    name: str,
    title: str,
    suite: str,
    group: str,
    classes: int,
    test_images: int,
    size: int,
    interpolation: str,
    root: str,
    cache: str,
) -> Task:
    """One task, its images resized to `size` pixels. Raises UserError where data are missing."""
    folder = _folder(Path(root).expanduser(), name)
    counts = COUNTS | {"test": test_images}

    def split(which: str) -> Split:
        listed = lists.read(folder / f"{LISTS[which]}.txt", classes=classes, count=counts[which])
        return store.opened(
            folder,
            listed,
            size=size,
            interpolation=interpolation,
            cache=Path(cache).expanduser() / "vtab",
        )

    return Task(name, title, suite, group, classes, ("test",), split)


def _folder(root: Path, name: str) -> Path:
    tried = [name, *ALIASES.get(name, ())]
    for folder in tried:
        if (root / folder).is_dir():
            return root / folder
    raise UserError(
        f"vtab/{name} has no folder '{root / name}'"
        + (f" (nor {', '.join(tried[1:])})" if tried[1:] else "")
        + "; put the VTAB-1K archive there, or set data.root or PETLBENCH_DATA to the folder that "
        "holds vtab/; dataset=mini runs without any data"
    )

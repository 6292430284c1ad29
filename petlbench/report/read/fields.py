"""Values of a record, and differences between two records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from petlbench.config.nodes import CUDA_GRAPHS
from petlbench.run.record import Record

Labelled = tuple[str, Record]  # the label of its row, and the record
BEST = "@best"  # after the name of a test set: the score of the epoch that is best on it


def config_value(record: Record, dotted: str) -> Any:
    """A value of the configuration by its dotted key, for example method.rank; None if absent."""
    node: Any = record["config"]
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def finished(labelled: Iterable[Labelled]) -> list[Labelled]:
    """The finished runs."""
    return [(row, record) for row, record in labelled if record["status"] == "finished"]


def main_test(record: Record) -> str | None:
    """The test set whose score a table shows: the first; never the best epoch's score."""
    return next((name for name in record["scores"] if not name.endswith(BEST)), None)


def epochs(record: Record) -> int | None:
    """Epochs of training."""
    number: int | None = record["config"]["train"].get("epochs")
    return number


def normalisation(record: Record) -> str | None:
    """Mean and standard deviation of the normalisation of images, in RGB."""
    backbone = record["config"].get("backbone") or {}
    if not (backbone.get("mean") and backbone.get("std")):
        return None
    return " / ".join(" ".join(f"{x:g}" for x in backbone[key]) for key in ("mean", "std"))


def batch_size(record: Record) -> int | None:
    """Images in a training step; None if nothing was trained."""
    size: int | None = _training(record).get("batch_size")
    return size


def optimiser(record: Record) -> str | None:
    """Name of the optimiser; None if nothing was trained."""
    name: str | None = _training(record).get("optimizer")
    return name


def memory(record: Record) -> str | None:
    """Memory mode of training; None if nothing was trained. Without the key it was fast."""
    train = _training(record)
    return str(train.get("memory", "fast")) if train else None


def compiled(record: Record) -> str | None:
    """`on`, `off` or `cuda_graphs`: how training was compiled; None if nothing was trained."""
    train = _training(record)
    value = train.get("compile")
    words = CUDA_GRAPHS if value == CUDA_GRAPHS else "on" if value else "off"
    return words if train else None


def _training(record: Record) -> dict[str, Any]:
    """The `train` node; empty if not even one training step ran."""
    measured = record["cost"].get("parameters") is not None
    return record["config"]["train"] if measured else {}


def image_size(record: Record) -> int | None:
    """Height and width of the images, in pixels."""
    size: int | None = (record["config"].get("input") or {}).get("size")
    return size


def attention(record: Record) -> str | None:
    """`fused` or `unfused`."""
    kind: str | None = record["provenance"].get("attention")
    return kind


def pooling(record: Record) -> str | None:
    """How the backbone pools its tokens."""
    pool: str | None = (record["config"].get("backbone") or {}).get("pool")
    return pool


def weights(record: Record) -> str | None:
    """Tag of the pre-trained weights and the first 12 digits of their SHA-256."""
    checkpoint = record["provenance"].get("checkpoint")
    if not checkpoint:
        return None
    # weights without a file are random
    return f"{checkpoint.get('tag')} {(checkpoint.get('sha256') or 'random')[:12]}"


def joined(values: Iterable[Any], comma: str = ", ") -> str:
    """Each value once, in order; None is dropped."""
    return comma.join(str(value) for value in dict.fromkeys(values) if value is not None)


def folds(record: Record) -> int | None:
    """In how many folds the images of a record are tested in turn; None without folds."""
    found: int | None = (record["config"].get("dataset") or {}).get("folds")
    return found


def missing_folds(labelled: Iterable[Labelled]) -> dict[tuple[str, str], list[int]]:
    """(row, task) -> the folds that another row was tested on and this one was not."""
    tested: dict[tuple[str, str], set[int]] = {}
    for row, record in finished(labelled):
        if folds(record):
            factors = record["factors"]
            tested.setdefault((row, factors["task"]), set()).add(factors["draw"])
    every: dict[str, set[int]] = {}
    for (_, task), numbers in tested.items():
        every[task] = every.get(task, set()) | numbers
    missing = {cell: sorted(every[cell[1]] - numbers) for cell, numbers in tested.items()}
    return {cell: numbers for cell, numbers in missing.items() if numbers}


def untested_folds(labelled: Iterable[Labelled]) -> dict[str, list[int]]:
    """Task -> the folds that no row was tested on."""
    left: dict[str, set[int]] = {}
    for _, record in finished(labelled):
        if number := folds(record):
            factors = record["factors"]
            left.setdefault(factors["task"], set(range(number))).discard(factors["draw"])
    return {task: sorted(numbers) for task, numbers in left.items() if numbers}


def differences(first: Record, second: Record, keys: Sequence[str]) -> dict[str, Any]:
    """The values below `keys` that differ, for example {"train.lr": (0.01, 0.1)}."""
    ours, theirs = (
        {key: record["config"][key] for key in keys if key in record["config"]}
        for record in (first, second)
    )
    return dict(_differences(ours, theirs))


def _differences(first: Any, second: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if first == second:
        return
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        # a key that one side lacks counts as null
        for key in dict.fromkeys([*first, *second]):
            below = f"{name}.{key}" if name else key
            yield from _differences(first.get(key), second.get(key), below)
    else:
        yield name, (first, second)

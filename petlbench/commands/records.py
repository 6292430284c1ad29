"""Check whether records can be contributed.

PATH is a record or a folder of records. Each must be a finished run in the schema of this version,
with its provenance, without a path of a machine, of a known method, with scores that its test sets
allow, parameters as they are counted on its network, and the identity of its values. Prints a
line for each fault; exit status 0 without a fault, 1 with one, 2 for a mistake.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from petlbench.arguments import Parser, command
from petlbench.checks import is_whole
from petlbench.errors import UserError, one_line
from petlbench.run.identity import completed, identity, without_folders
from petlbench.run.record import NoRecord, Record, Store, read

EXAMPLE = "example: petlbench records check results/community"
FAULTY = 1
NEEDED = ("versions", "device", "started")  # of the provenance; of runs on data also the splits
PROBE = "probe"  # the protocol
WINDOWS = re.compile(r"\b[A-Za-z]:\\")  # how a path begins there
Faults = Iterator[str]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a mistake is one line on stderr."""
    options = parser().parse_args(arguments)
    files = [file for path in options.paths for file in found(path)]
    lines = [f"{file}: {fault}" for file in files for fault in faults(file)]
    lines += _twice(files)
    print("\n".join([*lines, f"{len(files)} records, {len(lines)} faults"]))
    return FAULTY if lines else 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = Parser(
        prog="petlbench records",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = options.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="print what is wrong with records")
    check.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="record or folder")
    return options


def found(path: Path) -> list[Path]:
    """The record, or the records below a folder. Raises UserError if there is none."""
    files = [path] if path.is_file() else list(Store(path).files())
    if not files:
        raise UserError(f"'{path}' is no record and no folder of records")
    return files


def faults(file: Path) -> Faults:
    """What is wrong with the record in a file, a line each."""
    try:
        record = read(file)
    except NoRecord as error:
        yield str(error)
        return
    if record["status"] != "finished":
        yield f"status is {record['status']}; only finished runs are compared"
        return
    yield from _place(file, record)
    yield from _provenance(record)
    yield from _paths(record)
    yield from _scores(record)
    yield from _network(record)


def _place(file: Path, record: Record) -> Faults:
    if (own := identity(record["config"])) != record["id"]:
        yield f"id is {record['id']}, but its values have {own}; they were changed by hand"
    if file.name != (name := Store("").path(record).name):
        yield f"the file must be named {name}"


def _provenance(record: Record) -> Faults:
    own = record["provenance"]
    # a probe opens no data
    needed = NEEDED if record["protocol"] == PROBE else ("splits", *NEEDED)
    yield from (f"provenance.{key} is missing" for key in needed if not own.get(key))
    if record["config"].get("backbone") and not own.get("checkpoint"):
        yield "provenance.checkpoint is missing"


def _paths(record: Record) -> Faults:
    for text in dict.fromkeys(_texts(record)):
        if without_folders(text) != text or WINDOWS.search(text):
            yield f"'{text}' names a path of a machine"


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, also the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *_texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _scores(record: Record) -> Faults:
    """Faults of the scores, whose ratio and range `read` has checked."""
    if not record["scores"] and record["protocol"] != PROBE:
        yield "scores is empty"
    splits = record["provenance"].get("splits") or {}
    for name, score in record["scores"].items():
        images = splits.get(name.partition("@")[0], {}).get("images")
        if images is not None and images != score["total"]:
            yield f"scores.{name}.total is {score['total']}, but its split has {images} images"
        if score["total"] and "sha256" not in splits.get(name.partition("@")[0], {}):
            yield f"provenance.splits.{name} has no sha256"


def _network(record: Record) -> Faults:
    """Faults of the method, and of the parameters, which are counted on the network's shapes."""
    from petlbench import registry  # imports torch

    config, name = completed(record["config"]), record["factors"]["method"]
    if name not in registry.names():
        yield f"method {name} is not registered here; contribute it first"
        return
    try:
        own = counted(config, name)
    except UserError as error:
        yield str(error)
    except Exception as error:  # whatever a constructor makes of strange values
        yield f"its values build no network ({one_line(error)})"
    else:
        stated = record["cost"].get("parameters")
        if own is not None and own != stated:
            yield f"cost.parameters is {stated}, but its network has {own}"


def counted(config: dict[str, Any], name: str) -> dict[str, int] | None:
    """`cost.parameters` of a completed configuration; None if its shapes do not determine them.

    That is so for a method that reads the weights of the backbone or has a training plan of its
    own, such as a search.
    """
    classes, size = config["dataset"].get("classes"), (config.get("input") or {}).get("size")
    if not (is_whole(classes) and is_whole(size) and config.get("backbone")):
        return None
    nodes = {key: config[key] for key in ("backbone", "method")}
    return _counted(json.dumps(nodes, sort_keys=True), name, classes, size)


@cache
def _counted(nodes: str, name: str, classes: int, size: int) -> dict[str, int] | None:
    import torch

    from petlbench import registry
    from petlbench.commands.predictor import node
    from petlbench.config.nodes import BackboneConfig
    from petlbench.cost.section import parameters
    from petlbench.method import Method
    from petlbench.model.backbone import create

    plain = json.loads(nodes)
    target = registry.recorded(name, plain["method"])
    backbone = node(BackboneConfig, plain["backbone"], "backbone")
    with torch.device("meta"):
        method = registry.adapt(create(backbone, classes=classes, image_size=size), target)
    chooses = method.needs_weights or type(method).fit is not Method.fit
    return None if chooses else parameters(method)


def _twice(files: Sequence[Path]) -> list[str]:
    """A line for each file whose name, and hence run, an earlier one has."""
    first: dict[str, Path] = {}
    return [
        f"{file}: the same run as {first[file.name]}"
        for file in files
        if first.setdefault(file.name, file) != file
    ]

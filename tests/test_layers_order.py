"""The architecture: imports go down the layers, and no package is a cycle."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom; a module may import from its own layer (without a cycle of packages) and below.
# Commands of `python -m` are entry points: they stand on top, wherever their file lies.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "checks",
        "system",
        "units",
        "garbage",
        "main_memory",
        "gpu_memory",
        "progress",
        "arguments",
        "cells",
        "interrupts",
    ),
    ("config",),
    ("layers", "swap"),
    ("model",),
    ("data",),
    ("method", "registry", "delta", "delta_file", "merge", "peft", "exported"),
    ("methods", "train", "multitask", "mini"),
    ("cost",),
    ("run",),
    ("sweep", "report"),
    ("commands", "testing"),
    ("",),  # petlbench/__init__.py, which names the public objects of all
)
ENTRIES = {"console", "predict", "probe", "push_hub", "records", "status", "support", "tracking"}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for top, folder in (
        ("petlbench", ROOT / "petlbench"),
        ("petlbench.methods", ROOT / "methods"),
    ):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((top, *(part for part in parts if part != "__init__")))] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file imports when it is imported, when it works, or for its types."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(module: str) -> str:
    """The first name below petlbench: `config` of petlbench.config.schema."""
    return f"{module}.".split(".")[1]


def is_entry(module: str) -> bool:
    """Whether a module is a command that nothing else imports."""
    above, _, name = module.rpartition(".")
    return name == "__main__" or (above == "petlbench" and name in ENTRIES)


@cache
def edges() -> list[tuple[str, str]]:
    known = modules()
    return [
        (module, target)
        for module, file in known.items()
        for target in imports(file, known)
        if target.partition(".")[0] == "petlbench"
    ]


def test_every_part_has_a_place() -> None:
    assert {part(module) for module in modules() if not is_entry(module)} <= LEVEL.keys()


def test_no_import_goes_up() -> None:
    up = [
        f"{module} -> {target}"
        for module, target in edges()
        if not is_entry(module) and LEVEL[part(module)] < LEVEL[part(target)]
    ]
    assert up == []


def test_entry_points_are_imported_by_entry_points_alone() -> None:
    assert [f"{m} -> {t}" for m, t in edges() if is_entry(t) and not is_entry(m)] == []


@pytest.mark.parametrize("level", range(len(LAYERS) - 1))
def test_parts_of_one_layer_do_not_import_each_other_in_a_circle(level: int) -> None:
    inside = {
        (part(module), part(target))
        for module, target in edges()
        if LEVEL.get(part(module)) == LEVEL.get(part(target)) == level
        and part(module) != part(target)
        and not is_entry(module)
    }
    assert circles(inside) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({(module, target) for module, target in edges() if target != module}) == set()


def circles(pairs: set[tuple[str, str]]) -> set[str]:
    """The names that lead to a circle of imports."""
    left = {name for pair in pairs for name in pair}
    while leaves := left - {name for name, target in pairs if target in left}:
        left -= leaves
    return left


def test_the_engine_knows_no_method_by_name() -> None:
    known = {"methods", "testing", ""}
    assert [
        f"{module} -> {target}"
        for module, target in edges()
        if part(target) == "methods" and part(module) not in known
    ] == []

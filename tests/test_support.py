"""docs/support.md says which pairs there are: held against the checks of a plan."""

from pathlib import Path

import pytest

from petlbench import registry
from petlbench.commands.support import YES, reason, table
from tests.test_methods import SUPPORTED

PAGE = Path(__file__).parent.parent / "docs" / "support.md"


def stated() -> dict[tuple[str, str], str]:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    _, *names = rows[0]
    return {
        (row[0], name): cell
        for row in rows[2:]
        if len(row) == len(names) + 1
        for name, cell in zip(names, row[1:], strict=True)
    }


def test_the_page_has_a_row_for_every_method() -> None:
    assert {method for method, _ in stated()} == set(registry.names())


def test_every_method_works_on_vit_b16() -> None:
    assert {stated()[method, "vit_b16"] for method in registry.names()} == {YES}


TINY = {"vit_b16": "vit", "swin_b": "swin", "dinov3_b16": "dinov3", "convnext_b": "convnext"}


@pytest.mark.parametrize("backbone", TINY)
def test_what_the_page_promises_is_what_runs(backbone: str) -> None:
    """The tests of all methods build and run these on a tiny network, and skip none of them."""
    promised = {name for name in registry.names() if stated()[name, backbone] == YES}
    assert promised == SUPPORTED[TINY[backbone]]


REFUSED = [pair for pair, cell in stated().items() if cell != YES]
ACCEPTED = [(method, "eva02_b14") for method in registry.names()]  # the one that refuses most


@pytest.mark.parametrize(("method", "backbone"), sorted({*REFUSED, *ACCEPTED}))
def test_the_page_is_what_the_checks_say(method: str, backbone: str) -> None:
    why = reason(method, backbone)
    assert (stated()[method, backbone] == YES) == (why is None), why


def test_a_refusal_is_a_note() -> None:
    lines = table(["linear", "vqt"], ["swin_b"]).splitlines()
    assert lines[2:4] == ["| linear | yes |", "| vqt | no (1) |"]
    assert lines[5].startswith("1. VQT supports plain ViTs only")

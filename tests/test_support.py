"""docs/support.md against the checks of a plan: which method works on which backbone."""

from pathlib import Path

import pytest

from petlbench import registry
from petlbench.commands.support import YES, main, reason, table
from petlbench.config.schema import Config
from petlbench.errors import UserError
from petlbench.run import build
from petlbench.testing import supported
from petlbench.testing.networks import FULL_SIZE
from tests.helpers import sampled

PAGE = Path(__file__).parent.parent / "docs" / "support.md"


def stated() -> dict[tuple[str, str], str]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    rows = [line.strip("| ").split(" | ") for line in lines]
    _, *names = rows[0]
    return {
        (row[0], name): cell
        for row in rows[2:]
        if len(row) == len(names) + 1
        for name, cell in zip(names, row[1:], strict=True)
    }


def test_the_page_has_a_row_for_every_method() -> None:
    assert {method for method, _ in stated()} == set(registry.names()), "run make docs"


def test_every_method_works_on_vit_b16() -> None:
    assert {stated()[method, "vit_b16"] for method in registry.names()} == {YES}


@pytest.mark.parametrize("family", FULL_SIZE)
def test_what_the_page_promises_is_what_the_yamls_declare(family: str) -> None:
    """The declared families are those on which test_methods.py builds and runs the methods."""
    promised = {name for name in registry.names() if stated()[name, FULL_SIZE[family]] == YES}
    assert promised == {name for name in registry.names() if supported(name, family)}


REFUSED = [pair for pair, cell in stated().items() if cell != YES]
ACCEPTED = [(method, "eva02_b14") for method in registry.names()]  # the one that refuses most


FAST = {pair for pair in [*REFUSED, *ACCEPTED] if pair[0] in ("lora", "lst", "vqt", "ssf")}


@pytest.mark.parametrize(("method", "backbone"), sampled(sorted({*REFUSED, *ACCEPTED}), FAST))
def test_the_page_is_what_the_checks_say(method: str, backbone: str) -> None:
    refusal = reason(method, backbone)
    assert (stated()[method, backbone] == YES) == (refusal is None), refusal
    assert "\n" not in (refusal or "")


def test_hst_has_values_for_twenty_four_blocks() -> None:
    assert reason("hst", "vit_l16") is None


def test_values_that_a_network_cannot_take_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost no other pair its place in the table."""

    def refuse(config: Config) -> None:
        raise UserError(f"method.rank is 9 on {config.backbone.name}")

    monkeypatch.setattr(build, "check", refuse)
    assert "1. method.rank is 9 on this network" in table(["linear"], ["vit_mini"])


def test_a_refusal_is_a_note() -> None:
    lines = table(["linear", "vqt"], ["swin_b"]).splitlines()
    assert lines[2:4] == ["| linear | yes |", "| vqt | no (1) |"]
    assert lines[5] == f"1. {reason('vqt', 'swin_b')}"
    assert "VQT" in lines[5]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("swim_b", "unknown backbone 'swim_b'; did you mean 'swin_b'"), ("", "unknown backbone ''")],
)
def test_an_unknown_backbone_is_refused_in_one_line(
    argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vit_b16", argument]) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"error: {message}")
    assert (out, error.count("\n")) == ("", 1)

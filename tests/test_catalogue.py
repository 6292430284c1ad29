"""docs/methods is up to date with docstrings and yaml, and the command reports mistakes."""

import re
from pathlib import Path

import pytest

from petlbench import registry
from petlbench.testing import declared, tiny
from tests.helpers import sampled
from tools import catalogue

FOLDER = Path(__file__).parent.parent / "docs" / "methods"
STALE = "docs/methods is not up to date; run `make docs`"


@pytest.fixture(scope="module")
def committed() -> dict[str, catalogue.Entry]:
    """The rows of the committed index: a recount of all methods would take minutes."""
    rows = re.findall(r"^\| \[`(\w+)`\]\(\w+\.md\) \| (.*) \|$", read("README.md"), flags=re.M)
    return {
        name: catalogue.Entry(cells.split(" | "), written_reason(name))
        for name, cells in rows
        if name in registry.names()
    }


def read(name: str) -> str:
    return (FOLDER / name).read_text()


def written_reason(name: str) -> str:
    """Why the page of a method says that it cannot be merged; "" if it says nothing."""
    _, _, rest = read(f"{catalogue.page_of(name)}.md").partition(f"\n`conf/method/{name}.yaml`\n")
    own = rest.partition("\n`conf/method/")[0]
    found = re.search(r"^With these .* merged into its backbone: (.*)\.$", own, flags=re.M)
    return found[1] if found else ""


# a method of this package for each reason, the first by name, and one that has none
REASONED = {written_reason(name): name for name in reversed(catalogue.own_names())} | {"": "lora"}


@pytest.mark.parametrize("name", sampled(catalogue.own_names(), REASONED.values()))
def test_a_page_says_why_a_method_cannot_be_merged(name: str) -> None:
    assert written_reason(name) == unmergeable(name), STALE


def unmergeable(name: str) -> str:
    return registry.create(name, tiny("vit"), **declared(name).get("tiny", {})).unmergeable


def test_the_index_lists_every_method(committed: dict[str, catalogue.Entry]) -> None:
    assert sorted(committed) == catalogue.own_names(), STALE


def test_every_page_has_the_present_docstrings_and_yaml(
    committed: dict[str, catalogue.Entry],
) -> None:
    pages = catalogue.pages(committed)
    assert sorted(pages) == sorted(file.name for file in FOLDER.glob("*.md")), (
        f"{STALE} and remove the pages of removed methods"
    )
    stale = [name for name, text in pages.items() if read(name) != text]
    assert not stale, f"{STALE}: {', '.join(stale)}"


@pytest.mark.parametrize("name", ["dtl_plus", "ssf", "lst"])
def test_a_row_has_the_present_counts(name: str, committed: dict[str, catalogue.Entry]) -> None:
    assert catalogue._entry(name) == committed[name], STALE


def test_a_page_shows_the_equations_of_helper_files() -> None:
    assert "## `PromptedWindows`" in read("vpt.md")
    assert "## `Factored`" in read("fact.md")


def test_the_command_checks_its_folder_before_it_builds_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> dict[str, catalogue.Entry]:
        raise AssertionError("a method was built")

    monkeypatch.setattr(catalogue, "entries", forbidden)
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        assert catalogue.main([str(folder)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: cannot create folder '{folder}': ")
        assert message.count("\n") == 1
    for arguments in ([], [""], ["--help"], ["a", "b"]):
        assert catalogue.main(arguments) == 2
        assert capsys.readouterr().err == "usage: python -m tools.catalogue FOLDER\n"


def test_the_command_writes_all_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: dict[str, catalogue.Entry]
) -> None:
    few = {name: committed[name] for name in ("dtl", "dtl_plus", "lora")}
    monkeypatch.setattr(catalogue, "entries", lambda: few)
    assert catalogue.main([str(tmp_path / "new" / "pages")]) == 0
    written = {file.name for file in (tmp_path / "new" / "pages").glob("*")}
    assert written == {"README.md", "dtl.md", "dtl_plus.md", "lora.md"}

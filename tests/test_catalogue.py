"""docs/methods against the code it is made from."""

from pathlib import Path

import pytest

from petlbench import registry
from tools import catalogue

FOLDER = Path(__file__).parent.parent / "docs" / "methods"


def test_there_is_a_page_for_every_file_of_methods_and_no_other() -> None:
    pages = {catalogue.page_of(name) for name in registry.names()}
    assert {path.stem for path in FOLDER.glob("*.md")} == pages | {"README"}


@pytest.mark.parametrize("name", registry.names())
def test_a_page_has_the_yaml_and_the_index_a_row(name: str) -> None:
    page = (FOLDER / f"{catalogue.page_of(name)}.md").read_text()
    assert catalogue.yaml_text(name) in page
    [row] = [
        line for line in (FOLDER / "README.md").read_text().splitlines() if f"[`{name}`]" in line
    ]
    assert row.partition(" | ")[2] in page


@pytest.mark.parametrize("name", ["dtl_plus", "ssf"])
def test_a_page_is_what_the_code_says(name: str) -> None:
    page = catalogue.page_of(name)
    named = [other for other in registry.names() if catalogue.page_of(other) == page]
    rows = {other: catalogue._row(other) for other in named}
    assert (FOLDER / f"{page}.md").read_text() == catalogue.page_text(named, rows)

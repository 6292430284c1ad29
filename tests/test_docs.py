"""The pages: their links, the navigation of the site, the commands and the code on them."""

import re
import runpy
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlbench import console, registry
from petlbench.config import compose, options
from petlbench.config.command_line import GROUPS
from petlbench.errors import UserError
from tests import command
from tests.trees import paint
from tools import links, readme

ROOT = links.ROOT
README_KB = 9
COMMAND = re.compile(r"(?:\w+=\S+ )*(?:python -m (petlbench\S*)|petlbench ([a-z][\w-]*))(.*)")
HYDRA = {
    "petlbench": [],
    "petlbench.probe": ["protocol=probe"],
    "petlbench.multitask": ["experiment=multitask"],
}
TRY = "petlbench.commands.own.main"  # overrides beside options
SUBCOMMANDS = ("petlbench.data", "petlbench.tracking")
# a word for the reader to replace, such as NAME, and the methods of pages that add one
PLACEHOLDER = re.compile(r"\b(?:[A-Z]{2,}|gain|mlp_affine)\b|\.\.\.")


def test_the_readme_fits_one_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_KB * 1000


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert [line for page in links.pages() for line in links.dead(page)] == []


def test_a_dead_link_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# A `b`: c_d\n")
    page = tmp_path / "a.md"
    page.write_text("[1](b.md#a-b-c_d) [2](b.md#a) ![3](c.png) [4](.) [5](#x) `[6](d.md)`\n")
    assert list(links.dead(page)) == [
        "a.md: b.md#a has no such heading",
        "a.md: c.png does not exist",
        "a.md: . is a folder",
        "a.md: #x has no such heading",
    ]


def test_a_block_within_a_list_is_indented_as_the_site_needs() -> None:
    """By four columns: GitHub also takes three, with which the site ends the list."""
    for page in links.pages():
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
        indents = [len(found) for found in re.findall(r"^\n( +)(?=\S)", text, flags=re.M)]
        assert [width for width in indents if width % 4] == [], page


def navigation(entries: Sequence[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else navigation(value)


def test_the_site_has_every_page_of_docs() -> None:
    """tools/site.py adds those of the methods."""
    listed = set(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {page.relative_to(ROOT).as_posix() for page in links.pages()}
    assert listed <= pages
    assert {page for page in pages if re.fullmatch(r"docs/\w+\.md", page)} <= listed


def test_tables_of_results_are_those_of_the_records() -> None:
    pages = [page for page in links.pages() if "<!-- results " in page.read_text()]
    made = re.search(r"tools\.readme (.*)", (ROOT / "Makefile").read_text())
    assert made is not None
    assert {page.relative_to(ROOT).as_posix() for page in pages} == set(made[1].split())
    for page in pages:
        text = page.read_text()
        assert text.count("<!-- results ") == text.count("<!-- end -->")
        assert readme.filled(text, page.parent) == text, f"{page} is old; run make results"


def texts() -> Iterator[str]:
    """What may be a command: lines of code and code in sentences, heads of yaml files."""
    for page in links.pages():
        for block in links.code(page):
            yield from block.splitlines()
        yield from links.inline_code(page)
    for file in sorted((ROOT / "conf").glob("**/*.yaml")):
        heads = [line for line in file.read_text().splitlines() if line.startswith("# ")]
        yield from (part for line in heads for part in re.split(r" {2,}|then: ", line[2:]))


@cache
def commands() -> list[tuple[str, str]]:
    """Module and arguments of each command on a page, in the head of a yaml or in a help."""
    matches = filter(None, (COMMAND.fullmatch(text.strip()) for text in texts()))
    return sorted(set(map(command_of, matches)))


def command_of(match: re.Match[str]) -> tuple[str, str]:
    """Module and arguments; a command of `petlbench` is what its table says."""
    arguments = match[3].partition("  #")[0].strip()
    if match[1]:
        return match[1], arguments
    entry = console.command(match[2], arguments.split())
    return entry.module, " ".join([*entry.preset, arguments]).strip()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [case for case in commands() if case[0] in HYDRA and not PLACEHOLDER.search(case[1])],
)
def test_a_run_on_a_page_can_be_composed(
    module: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run of a sweep."""
    for number, name in enumerate(["heron", "stork"]):
        paint(tmp_path / "photographs" / name / "a.png", number)
    monkeypatch.chdir(tmp_path)
    words = [*HYDRA[module], *(word for word in shlex.split(arguments) if word != "-m")]
    if words and not words[0].startswith("-"):
        assert compose.single(list(first_run(words)))


def first_run(words: Sequence[str]) -> Iterator[str]:
    """The overrides of the first run of a sweep, without those of the sweep itself."""
    given = dict(word.split("=", 1) for word in words)
    if "experiment" in given:
        given = params(given["experiment"]) | given
    if given.get("protocol") == "select":
        given["protocol"] = "trial"
    for key, value in given.items():
        if not key.startswith(("hydra", "select.")):
            yield f"{key}={first(key, value)}"


def params(experiment: str) -> dict[str, str]:
    """What an experiment sweeps, with what those sweep that it is based on."""
    content = options.content("experiment", experiment)
    above = [entry for entry in content.get("defaults", ()) if isinstance(entry, str)]
    found: dict[str, str] = {}
    for name in above:
        found |= params(name) if name != "_self_" else {}
    own = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    return found | {key: str(value) for key, value in own.items()}


def first(key: str, values: str) -> str:
    if found := re.match(r"range\((\d+),", values):
        return found[1]
    value = values if values.startswith(("[", "{")) else values.split(",")[0]
    listed = options.listed(key, value) if key in GROUPS else None
    return first(key, listed[0]) if listed else value


# runpy warns of a module that another test has imported
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("module", "arguments"), [case for case in commands() if case[0] not in HYDRA]
)
def test_a_command_on_a_page_has_its_options(
    module: str, arguments: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_options(module, shlex.split(arguments), tmp_path_factory.getbasetemp())


def check_options(module: str, words: Sequence[str], folder: Path) -> None:
    subcommand = words[0] if words and module in SUBCOMMANDS else ""
    text = usage(module, subcommand, folder)
    named = [word for word in words if word.startswith("--")]
    assert [option for option in named if not re.search(rf"{option}\b", text)] == []
    if module == TRY and not PLACEHOLDER.search(" ".join(words)):
        values = [word for word in words if "=" in word and not word.startswith("-")]
        assert compose.single(values)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", command.OWN_HELP)
def test_the_examples_of_a_help_have_its_options(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = usage(console.COMMANDS[name].module, "", folder)
    lines = (line.strip().removeprefix("example: ") for line in text.splitlines())
    examples = list(filter(None, map(COMMAND.fullmatch, lines)))
    for match in examples:
        module, arguments = command_of(match)
        check_options(module, shlex.split(arguments), folder)
    assert examples or "example" not in text


def test_a_command_that_does_not_exist_is_found() -> None:
    match = COMMAND.fullmatch("petlbench tyr photographs --minutes 6")
    assert match is not None
    with pytest.raises(UserError, match="unknown command 'tyr'; did you mean 'try'"):
        command_of(match)


@cache
def usage(module: str, subcommand: str, folder: Path) -> str:
    """What --help prints."""

    def main() -> None:
        runpy.run_module(module, run_name="__main__")

    code, text = command.run(folder, *filter(None, [subcommand]), "--help", main=main)
    assert code == 0, text
    return text


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Methods\n")[2].partition("\n## ")[0]
    table = "".join(line for line in section.splitlines() if line.startswith("| "))
    keys = set(re.findall(r"`([a-z0-9_]+)`", table))
    assert keys == set(registry.names())

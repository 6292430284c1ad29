"""Links between the pages of the repository: python -m tools.links prints the dead ones.

A link leads to a file, not to a folder, and an anchor to a heading of its page. Both then work in
the repository and on the site, which has the same folders.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
STARTS = ("README.md", "docs/**/*.md")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")  # https:, mailto:


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading, by the rule of GitHub; MkDocs passes the separator."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def pages() -> list[Path]:
    """The pages in `STARTS`, and those that they link to, in the order in which they are found."""
    found = dict.fromkeys(page for start in STARTS for page in sorted(ROOT.glob(start)))
    queue = list(found)
    for page in queue:
        linked = [file for file in targets(page) if file.suffix == ".md" and file.is_file()]
        queue += [file for file in dict.fromkeys(linked) if file not in found]
        found |= dict.fromkeys(linked)
    return queue


def targets(page: Path) -> list[Path]:
    """The files that a page links to or shows, whether they exist or not."""
    return [file for _, file, _ in _links(page)]


def dead(page: Path) -> Iterator[str]:
    """One line for each link of a page that leads nowhere."""
    for address, file, anchor in _links(page):
        if not file.is_file():
            fault = "is a folder" if file.is_dir() else "does not exist"
        elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
            fault = "has no such heading"
        else:
            continue
        yield f"{page.relative_to(ROOT)}: {address} {fault}"


def code(page: Path) -> Iterator[str]:
    """The blocks of code of a page."""
    for token in _tokens(page):
        if token.type in ("code_block", "fence"):
            yield token.content


def inline_code(page: Path) -> Iterator[str]:
    """The code within the sentences of a page."""
    return (token.content for token in _inline(_tokens(page)) if token.type == "code_inline")


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def _links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Address, file and anchor of each link that stays in the repository."""
    for token in _inline(_tokens(page)):
        address = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if address and not ELSEWHERE.match(address):
            path, _, anchor = unquote(address).partition("#")
            yield address, (page.parent / path).resolve() if path else page, anchor


def _inline(tokens: Iterable[Token]) -> Iterator[Token]:
    return (child for token in tokens for child in token.children or ())


@cache
def _anchors(page: Path) -> set[str]:
    tokens = _tokens(page)
    headings = [
        "".join(child.content for child in content.children or ())
        for opening, content in pairwise(tokens)
        if opening.type == "heading_open"
    ]
    return {slug(heading) for heading in headings}


def main() -> int:
    """Print the dead links. Exit status 1 if there are any."""
    lines = [line for page in pages() for line in dead(page)]
    print("\n".join(lines) or f"{len(pages())} pages without dead links")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())

"""Pages on the methods, from docstrings and yaml: python -m tools.catalogue FOLDER.

A page for each file of methods, whose paper, equations, sites and deviations are its docstrings',
and an index with trained parameters, counted on the meta device. docs/methods is made by
`make docs`.
"""

import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hydra.utils import get_class
from torch import nn

from petlbench import registry
from petlbench.config import compose, options
from petlbench.cost import section
from petlbench.errors import Unsupported
from petlbench.method import Method
from petlbench.run import build

PACKAGE = "petlbench.methods."  # other packages describe their own methods
COUNTED = ("vit_b16", "swin_b", "convnext_b")
HEAD = """\
Made by `make docs` from docstrings and yaml. Parameters are trained ones without the head, with \
the values of the yaml (and of `conf/method_on/`, where a backbone has its own). d: width, L: \
blocks, r and h: rank and hidden size, p: prompts, T: queries, k: kernel, K: channels; in a Swin \
or ConvNeXt L d is the sum of the widths of the blocks. Units: structural units as the paper of \
DTL counts them in Table 1, one per low-rank pair, bottleneck, set of prompts, pair of scale and \
shift, core of FacT or convolution (SSF: 74 pairs; the paper prints 148, which counts tensors)."""


def pages() -> dict[str, str]:
    """File name -> Markdown, `README.md` first."""
    own = [name for name in registry.names() if _class(name).__module__.startswith(PACKAGE)]
    rows = {name: _row(name) for name in own}
    by_page: dict[str, list[str]] = defaultdict(list)
    for name in rows:
        by_page[page_of(name)].append(name)
    return {"README.md": index(rows)} | {
        f"{page}.md": page_text(names, rows) for page, names in sorted(by_page.items())
    }


def page_of(name: str) -> str:
    """The name of the Python file that makes a method."""
    return _class(name).__module__.rpartition(".")[2]


def index(rows: dict[str, list[str]]) -> str:
    """All methods in one table."""
    lines = [_line(f"[`{name}`]({page_of(name)}.md)", *row) for name, row in rows.items()]
    return "\n".join(["# The methods", "", HEAD, "", *_heading("`method=`"), *lines, ""])


def page_text(names: Iterable[str], rows: dict[str, list[str]]) -> str:
    """One page: what the code says, then each yaml."""
    names = list(names)
    first = _class(names[0])
    module = inspect.getmodule(first)
    said = (inspect.getdoc(module) or "").partition("\n")
    lines = [f"# {_prose(said[0].partition(': ')[0])}", "", _prose("".join(said)), ""]
    methods = dict.fromkeys(part for name in names for part in _lineage(_class(name)))
    for part in (*methods, *_modules(first.__module__)):
        lines += [f"## `{part.__qualname__}`", "", _prose(inspect.getdoc(part) or ""), ""]
    lines += [*_heading("`method=`"), *(_line(f"`{name}`", *rows[name]) for name in names), ""]
    for name in names:
        lines += [f"`conf/method/{name}.yaml`", "", "```yaml"]
        lines += [*yaml_text(name).splitlines(), "```", ""]
        if reason := _built(name, COUNTED[0]).unmergeable:
            lines += [f"With these values it cannot be folded into its backbone: {reason}.", ""]
    return "\n".join(lines)


def yaml_text(name: str) -> str:
    """A method's yaml without its facts, which are there for the tests."""
    return options.text("method", name).partition("\nfacts:")[0].strip()


def _row(name: str) -> list[str]:
    counts, units = [], "–"
    start = merge = ""
    for backbone in COUNTED:
        try:
            method = _built(name, backbone)
        except Unsupported:
            counts.append("–")
            continue
        counts.append(f"{section.parameters(method)['method']:,}")
        if backbone == COUNTED[0]:
            units = str(section.units(method))
            start = "yes" if method.starts_as_pretrained else "no"
            merge = "no" if method.unmergeable else "yes"
    return [_prose(str(options.content("method", name)["title"])), *counts, units, start, merge]


@cache
def _built(name: str, backbone: str) -> Method:
    return build.on_meta(compose.single([f"method={name}", f"backbone={backbone}"]))


def _heading(first: str) -> list[str]:
    titles = (first, "title", *COUNTED, "units on vit_b16", "starts as pre-trained", "merges")
    return [_line(*titles), _line(*(["---"] * 2 + ["--:"] * 4 + ["---"] * 2))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _prose(docstring: str) -> str:
    """A docstring in Markdown, where a star is no emphasis and < no tag."""
    return docstring.replace("*", "\\*").replace("<", "&lt;")


def _class(name: str) -> type[Method]:
    made: type[Method] = get_class(options.content("method", name)["method"]["_target_"])
    return made


def _lineage(made: type[Method]) -> list[type]:
    """The class and those it is derived from, this side of Method, the most general first."""
    return [part for part in reversed(made.__mro__) if issubclass(part, Method)][1:]


def _modules(place: str) -> list[type[nn.Module]]:
    """What a file's methods are made of, in its order: their docstrings hold equations."""
    return [
        part
        for part in vars(sys.modules[place]).values()
        if inspect.isclass(part)
        and issubclass(part, nn.Module)
        and not issubclass(part, Method)
        and part.__module__ == place
    ]


def write(folder: Path) -> None:
    """Write all pages; those of methods that are gone stay."""
    made = pages()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.catalogue FOLDER")
    write(Path(sys.argv[1]))

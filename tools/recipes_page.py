"""The page on published values: python -m tools.recipes_page prints it.

docs/recipes.md is made by `make docs`.
"""

from petlbench.config import recipes

HEAD = """\
# Published hyper-parameters

Made by `make docs` from `results/published/recipes/`, where the values stand. With \
`recipe=paper` a run takes those of its method, backbone and task; `--cfg job` shows them, the \
command line wins, and the record names their source, what they do not reproduce, and what the \
command changed (`recipe` in its configuration). A pair that is not in the table is refused.

Random numbers are drawn in another order than in any of these code bases, so single runs differ \
from theirs even where every value is the same."""


def page() -> str:
    """Markdown: which pairs there are, and what is not reproduced of each."""
    found = recipes.covered()
    places = sorted({(suite != "vtab", backbone, suite) for _, backbone, suite in found})
    columns = [(backbone, suite) for _, backbone, suite in places]
    lines = [HEAD, "", _line("method", *(f"{suite} on {backbone}" for backbone, suite in columns))]
    lines.append(_line("---", *("--:" for _ in columns)))
    for method in dict.fromkeys(name for name, _, _ in found):
        counts = (_count(method, backbone, suite) for backbone, suite in columns)
        lines.append(_line(f"`{method}`", *counts))
    lines += ["", "Numbers are tasks. Sources, and what is not reproduced:", ""]
    for file in found:
        told = recipes.provenance(*file)
        lines.append(f"- `{file[0]}` on {file[1]}, {file[2]}: {told['source']}")
        lines += [f"    - {text}" for text in told["not_reproduced"]]
    return "\n".join([*lines, ""]).replace("<", "&lt;")


def _count(method: str, backbone: str, suite: str) -> str:
    known = (method, backbone, suite) in recipes.covered()
    return str(len(recipes.tasks(method, backbone, suite))) if known else "–"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")

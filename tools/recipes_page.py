"""The page on published values: python -m tools.recipes_page prints it.

`make docs` writes docs/recipes.md.
"""

from petlbench.config import recipes

HEAD = """\
# Published hyper-parameters

Made by `make docs` from `results/published/recipes/`, which holds the values. With \
`recipe=paper` a run takes the values of its method, backbone and task. `--cfg job` shows them, \
and the command line overrides them. The record (`recipe` in its configuration) names their \
source, what they do not reproduce, and what the command changed. A pair that is not in the table \
is refused.

Random numbers are drawn in another order than in any of these code bases, so single runs differ \
from theirs even if every value is the same."""


def page() -> str:
    """Markdown: the pairs with published values, and what these do not reproduce."""
    files = recipes.covered()
    # VTAB-1K first
    places = sorted({(suite != "vtab", backbone, suite) for _, backbone, suite in files})
    columns = [(backbone, suite) for _, backbone, suite in places]
    lines = [HEAD, "", _line("method", *(f"{suite} on {backbone}" for backbone, suite in columns))]
    lines.append(_line("---", *("--:" for _ in columns)))
    for method in dict.fromkeys(name for name, _, _ in files):
        counts = (_count(method, backbone, suite) for backbone, suite in columns)
        lines.append(_line(f"`{method}`", *counts))
    lines += ["", "Numbers are tasks. Sources, and what is not reproduced:", ""]
    for method, backbone, suite in files:
        provenance = recipes.provenance(method, backbone, suite)
        lines.append(f"- `{method}` on {backbone}, {suite}: {provenance['source']}")
        lines += [f"    - {text}" for text in provenance["not_reproduced"]]
    return "\n".join([*lines, ""]).replace("<", "&lt;")  # < opens a tag


def _count(method: str, backbone: str, suite: str) -> str:
    return str(len(recipes.tasks(method, backbone, suite)) or "–")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")

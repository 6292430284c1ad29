"""What the source text of a class or function says, without importing it: torch takes seconds."""

import ast
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path

Definition = ast.ClassDef | ast.FunctionDef


def definition(path: str) -> Definition | None:
    """The class or function of a dotted name; None if its source is not at hand."""
    module, _, name = path.rpartition(".")
    tree = _tree(module)
    nodes = tree.body if tree is not None else []
    found = (node for node in nodes if isinstance(node, Definition) and node.name == name)
    return next(found, None)


def first_sentence(path: str) -> str | None:
    """The first sentence of a docstring, in one line."""
    node = definition(path)
    text = ast.get_docstring(node) if node is not None else None
    if not text:
        return None
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    return re.split(r"\.? \(?eqs?\. |\. (?=[A-Z])|[.:]$|, eq", paragraph)[0]


def annotations(path: str) -> dict[str, str]:
    """The annotation of each argument of a function or constructor, as it is written."""
    node = definition(path)
    if isinstance(node, ast.ClassDef):
        own = (part for part in node.body if isinstance(part, ast.FunctionDef))
        node = next((part for part in own if part.name == "__init__"), None)
    arguments = [*node.args.args, *node.args.kwonlyargs] if node is not None else []
    return {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation}


@cache
def _tree(module: str) -> ast.Module | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a package that is not installed; a name that is none
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))

"""What a docstring says of arguments is what the code takes: no stale names, none left out."""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("perceiver", "pipeline") for path in (ROOT / package).rglob("*.py"))


def documented(docstring: str) -> set[str] | None:
    """Return the names under ``Args:``, or None where there is no such section."""
    match = re.search(r"^Args:\n((?: {4}.*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return set(re.findall(r"^ {4}(\w+):", match[1], re.MULTILINE)) if match else None


def taken(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the parameters of a function, the fields of a dataclass, or the parameters of ``__init__``."""
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return taken(item)
        return {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
    arguments = node.args
    names = {item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {item.arg for item in (arguments.vararg, arguments.kwarg) if item is not None}
    return names - {"self", "cls"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documented_arguments_are_the_real_ones(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = documented(ast.get_docstring(node, clean=False) or "")
            assert names is None or names == taken(node), f"{path}:{node.lineno} {node.name}"


def test_a_stale_name_would_be_found():
    source = 'def f(a, *, b):\n    """Do.\n\n    Args:\n        a: one.\n        c: gone.\n    """\n'
    (node,) = ast.parse(source).body
    assert documented(ast.get_docstring(node, clean=False)) == {"a", "c"}
    assert taken(node) == {"a", "b"}

"""Builders of tests: code for several test modules is in tests/builders, never in one of them."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}


@functools.cache
def list_imported(source: str) -> set[str]:
    """Return the modules that a source imports, each name of ``from package import name`` as a module too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_test_module(name: str) -> bool:
    return any(part == "conftest" or part.startswith("test_") for part in name.split("."))


def test_no_module_imports_a_test_module():
    for path in FILES:
        source = path.read_text()
        wrong = [name for name in list_imported(source) & MODULES if is_test_module(name)]
        # Code in a string runs in another process.
        wrong += [name for name in MODULES if is_test_module(name) and f"from {name} import" in source]
        assert not wrong or path == Path(__file__), f"{path} imports {wrong}; move it to tests/builders"


def test_helpers_are_imported_by_their_full_names():
    short = {name.split(".")[-1] for name in MODULES if not is_test_module(name)}
    for path in FILES:
        assert not list_imported(path.read_text()) & short, path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.data.test_store import build", "tests.data.test_store"),
        ("from tests.data import test_store as store", "tests.data.test_store"),
        ("def f():\n    import tests.conftest", "tests.conftest"),
    ],
)
def test_an_import_of_a_test_module_is_found_however_it_is_written(source, found):
    assert found in list_imported(source)
    assert is_test_module(found)
    assert not is_test_module("tests.builders.stores")

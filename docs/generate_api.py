"""Generator of the API pages: signatures and docstrings of a package, read without importing it.

``conf.py`` calls it at the start of a build. autodoc would import every module, with torch, MLflow and MONAI: most of a
minute, and every extra is needed. Reading the files takes half of that and needs none.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOT = Path(__file__).parents[1]
LAYOUT = Config(napoleon_numpy_docstring=False, napoleon_custom_sections=["Source"])
Function = ast.FunctionDef | ast.AsyncFunctionDef


def list_packages() -> list[str]:
    """Return the names of all packages of ``perceiver`` and ``pipeline``, outermost first."""
    folders = {path.parent for name in ("perceiver", "pipeline") for path in (ROOT / name).rglob("*.py")}
    return sorted(folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders)


def build_page(package: str) -> str:
    """Return the page of one package: its own docstring, then a heading for each of its modules."""
    folder = ROOT / package.replace(".", "/")
    lines = [f"# {package}", "", "```{eval-rst}", *describe_module(package, folder / "__init__.py"), "```"]
    for path in sorted(folder.glob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            name = f"{package}.{path.stem}"
            lines += ["", f"## {path.stem}", "", "```{eval-rst}", *describe_module(name, path), "```"]
    return "\n".join(lines) + "\n"


def describe_module(name: str, path: Path) -> list[str]:
    """Return the lines of a module: its docstring, and its public functions and classes in the order of the file.

    Args:
        name: The dotted name of the module.
        path: The file.
    """
    if not path.is_file():
        return []
    tree = ast.parse(path.read_text("utf-8"))
    lines = [f".. py:module:: {name}", "", *_read_docstring(tree), ""]
    for node in tree.body:
        if isinstance(node, Function):
            lines += _describe_function(node, "function")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            lines += _describe_class(node)
    return lines


def _describe_class(node: ast.ClassDef) -> list[str]:
    lines = [f".. py:class:: {node.name}({', '.join(_list_parameters(node))})", ""]
    lines += [*_indent(_read_docstring(node)), ""]  # a text of one line ends without a blank one
    for item in node.body:
        if isinstance(item, Function):
            decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
            lines += _indent(_describe_function(item, "property" if "property" in decorators else "method"))
    return [*lines, ""]


def _describe_function(node: Function, kind: str) -> list[str]:
    docstring = _read_docstring(node)
    if node.name.startswith("_") or not docstring:
        return []
    returned = ast.unparse(node.returns) if node.returns is not None else ""
    if kind == "property":
        return [f".. py:property:: {node.name}", f"   :type: {returned}", "", *_indent(docstring), ""]
    parameters = ast.unparse(node.args)
    if kind == "method":
        parameters = parameters.removeprefix("self").removeprefix("cls").removeprefix(", ")
    signature = f"{node.name}({parameters})" + (f" -> {returned}" if returned else "")
    return [f".. py:{kind}:: {signature}", "", *_indent(docstring), ""]


def _list_parameters(node: ast.ClassDef) -> Iterator[str]:
    """Yield the parameters of ``__init__``, or the fields of a record, as they stand in a signature."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            parameters = ast.unparse(item.args).removeprefix("self").removeprefix(", ")
            yield from [parameters] if parameters else []
            return
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            default = f" = {ast.unparse(item.value)}" if item.value is not None else ""
            yield f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}{default}"


def _read_docstring(node: ast.Module | ast.ClassDef | Function) -> list[str]:
    docstring = ast.get_docstring(node)
    if not docstring:
        return []
    return GoogleDocstring(docstring, LAYOUT).lines()  # type: ignore[arg-type]  # napoleon's own Config has all it reads


def _indent(lines: list[str]) -> list[str]:
    return [f"   {line}" if line else "" for line in lines]

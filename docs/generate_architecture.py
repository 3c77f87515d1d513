"""Generator of parts of ``docs/architecture.md``: the drawing of the packages, and one line for each module.

    python docs/generate_architecture.py

The drawing comes from the import table in ``tests/project/test_imports.py``, the lines from the first lines of the
modules' docstrings. Each part stands between two comments of the page; the rest of the page is written by hand.
``make pages`` runs it; a test fails where the page is not what it would write.
"""

import ast
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
IMPORT_TABLE = ROOT / "tests" / "project" / "test_imports.py"


def read_import_table() -> tuple[dict[str, tuple[str, ...]], list[list[str]]]:
    """Return what each package may import, and the tiers of packages from the lowest to the highest."""
    table = runpy.run_path(str(IMPORT_TABLE))
    return dict(table["ALLOWED"]), [list(tier) for tier in table["TIERS"]]


def draw_tiers(allowed: Mapping[str, Iterable[str]], tiers: Sequence[Sequence[str]]) -> str:
    """Draw the tiers, the highest on top, and below them the table of imports.

    Args:
        allowed: For each package those that it may import.
        tiers: The packages of each tier, the lowest first.

    Returns:
        A drawing in characters, and a Markdown table of the packages.
    """
    width = max(len("   ".join(tier)) for tier in tiers)
    rule = "  +" + "-" * (width + 4) + "+"
    drawing = [rule]
    for index in reversed(range(len(tiers))):
        drawing += [f"{index} |  {'   '.join(tiers[index]):{width}s}  |", rule]
    order = [name for tier in reversed(tiers) for name in tier]
    rows = [
        f"| `{name}` | {describe_package(name)} | {', '.join(allowed.get(name, ())) or '(nothing)'} |" for name in order
    ]
    return "\n".join(["```text", *drawing, "```", "", "| package | holds | may import |", "|---|---|---|", *rows])


def describe_package(name: str) -> str:
    """Return the first line of the docstring of a package or module of ``pipeline``."""
    package, module = ROOT / "pipeline" / name / "__init__.py", ROOT / "pipeline" / f"{name}.py"
    return read_first_line(package if package.is_file() else module)


def read_first_line(path: Path) -> str:
    """Return the first line of a module's docstring as Markdown, without the last full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return (docstring.splitlines() or [""])[0].replace("``", "`").removesuffix(".")


def list_modules(packages: Sequence[str]) -> str:
    """Return a heading for each package, and below it a line for each of its modules.

    Args:
        packages: The packages of ``pipeline`` in the order of the page; ``perceiver`` comes first.
    """
    lines = _list_folder(ROOT / "perceiver") + _list_folder(ROOT / "pipeline")
    for package in packages:
        folders = sorted({path.parent for path in (ROOT / "pipeline" / package).rglob("*.py")})
        for folder in folders:
            lines += _list_folder(folder)
    return "\n".join(lines).strip()


def _list_folder(folder: Path) -> list[str]:
    name = folder.relative_to(ROOT).as_posix()
    init = folder / "__init__.py"
    lines = ["", f"### {name}/", "", f"{read_first_line(init)}." if init.is_file() else ""]
    rows = [
        f"| [{path.name}](../{name}/{path.name}) | {read_first_line(path)} |"
        for path in sorted(folder.glob("*.py"))
        if path.name != "__init__.py"
    ]
    return lines + (["", "| file | holds |", "|---|---|", *rows] if rows else [])


def build_page(page: str) -> str:
    """Return the page with its generated parts written again."""
    allowed, tiers = read_import_table()
    packages = [name for tier in tiers for name in tier if (ROOT / "pipeline" / name).is_dir()]
    page = replace_part(page, "drawing", draw_tiers(allowed, tiers))
    return replace_part(page, "modules", list_modules(packages))


def replace_part(page: str, name: str, text: str) -> str:
    """Put a text between the two comments that mark a generated part.

    Raises:
        ValueError: the page has no such part.
    """
    start, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{PAGE}: no part {name}; it needs a line {start.strip()} and a line {end.strip()}")
    return pattern.sub(lambda _: f"{start}\n{text}\n{end}", page)


if __name__ == "__main__":
    PAGE.write_text(build_page(PAGE.read_text("utf-8")), "utf-8")

"""Sphinx configuration: Markdown pages, API pages from the docstrings, no network.

``make docs`` builds the pages with warnings as errors. Before it starts, this file writes two kinds of pages into
``docs/_generated``, which is not under version control: one for the API of each package, and copies of the Markdown
files that lie outside of ``docs``. Links between all of them are those that work in the repository; ``source-read``
turns them into links between pages.
"""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "_generated"
sys.path.insert(0, str(ROOT / "docs"))

import generate_api  # noqa: E402  # its folder is on the path only now

project = "Perceiver knees"
author = "the authors of Perceiver knees"
project_copyright = author
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_heading_anchors = 3
# Two classes of one name: a type in a signature then links to the first of them.
suppress_warnings = ["ref.python"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Markdown files of the repository that become pages, and their names among the pages.
COPIED = {
    "README.md": "readme",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
    "examples/README.md": "notebooks",
    "reports/README.md": "reports",
    "reports/RESULTS.md": "results",
    "reports/RELIABILITY.md": "reliability",
    "reports/LOG.md": "log",
    **{f"reports/benchmarks/{path.name}": f"benchmark_{path.stem}" for path in ROOT.glob("reports/benchmarks/*.md")},
}
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)\s]+)\)")


def rewrite_links(text: str, source: str, page: str) -> str:
    """Turn links between files of the repository into links between pages.

    Args:
        text: Markdown.
        source: the path of the file that holds it, relative to the repository.
        page: the path of the page that it becomes, relative to ``docs``, without a suffix.

    Returns:
        The text. A link to a file that is no page becomes the words of the link alone.
    """

    def rewrite(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        path, hash_mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = Path(os.path.normpath(Path(source).parent / path)).as_posix()
        found = _find_page(file, anchor)
        if image:
            found = os.path.relpath(ROOT / file, ROOT / "docs" / Path(page).parent) if (ROOT / file).is_file() else ""
            return f"![{words}]({found})" if found else words
        if not found:
            return words
        relative = os.path.relpath(found.partition("#")[0], Path(page).parent)
        anchor = found.partition("#")[2] or anchor
        return f"[{words}]({relative}{'#' if anchor else hash_mark}{anchor})"

    return LINK.sub(rewrite, text)


def _find_page(file: str, anchor: str) -> str:
    """Return the page of a file of the repository, relative to ``docs``; nothing where it has none."""
    if file in COPIED:
        return f"_generated/{COPIED[file]}.md"
    if file.startswith("docs/") and file.endswith(".md"):
        return file.removeprefix("docs/")
    if re.match(r"(perceiver|pipeline)/.*\.py$", file):
        package, _, module = file.removesuffix(".py").replace("/", ".").rpartition(".")
        return f"_generated/api/{package}.md" + ("" if module.startswith("__") else f"#{module.replace('_', '-')}")
    return ""


def write_pages(app: Sphinx) -> None:
    """Write the generated pages, each only where its text has changed, so that a second build has little to do."""
    packages = generate_api.list_packages()
    pages = {f"api/{package}.md": generate_api.build_page(package) for package in packages}
    toctree = "\n".join(packages)
    pages["api/index.md"] = f"# API\n\n```{{toctree}}\n:maxdepth: 2\n\n{toctree}\n```\n"
    for file, name in COPIED.items():
        text = (ROOT / file).read_text("utf-8")
        title = "" if text.startswith("# ") else f"# {name.replace('_', ': ', 1).replace('_', ' ').capitalize()}\n\n"
        pages[f"{name}.md"] = rewrite_links(title + text, file, f"_generated/{name}")
    for stale in set(GENERATED.rglob("*.md")) - {GENERATED / name for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        path = GENERATED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def read_source(app: Sphinx, page: str, content: list[str]) -> None:
    """Rewrite the links of a hand-written page; those of generated pages are rewritten already."""
    if not page.startswith("_generated/"):
        content[0] = rewrite_links(content[0], f"docs/{page}.md", page)


def setup(app: Sphinx) -> None:
    """Connect the two functions above to the build."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", read_source)

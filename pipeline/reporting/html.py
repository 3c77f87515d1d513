"""HTML pages in one file each, the only module that imports jinja2: no network, no script, all text escaped."""

import functools
from pathlib import Path
from typing import Any

import jinja2

from pipeline.core.files import write_bytes


@functools.cache
def open_templates() -> jinja2.Environment:
    """Return the templates, each of which is compiled once in a process."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: str, **values: Any) -> bytes:
    """Fill a template of the folder ``templates``.

    Args:
        template: The file name of the template.
        values: The values of the names in the template; a missing name is an error.

    Returns:
        The page as UTF-8.
    """
    return open_templates().get_template(template).render(**values).encode()


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a filled template atomically.

    Args:
        path: The HTML file to write.
        template: The file name of the template.
        values: The values of the names in the template; a missing name is an error.
    """
    write_bytes(path, render_page(template, **values))

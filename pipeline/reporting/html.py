"""Pages in one file each: the one door to jinja2. No network, no script, all text escaped."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from pipeline.core.files import write_bytes
from pipeline.reporting.elements import Picture

MIN_WIDE_PIXELS = 1000  # a picture that needs the width of the page


def render_page(template: str, **values: Any) -> bytes:
    """Fill a template of the folder ``templates``.

    Args:
        template: its file name.
        values: what the template names; a name that is missing is an error.

    Returns:
        The page as UTF-8.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["as_figure"] = show_picture
    return environment.get_template(template).render(**values).encode()


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a filled template, whole or not at all.

    Args:
        path: the page.
        template: as for ``render_page``.
        values: as for ``render_page``.
    """
    write_bytes(path, render_page(template, **values))


def show_picture(picture: Picture) -> dict[str, Any]:
    """Turn a picture of a section into what the macro ``show_figure`` needs."""
    return build_figure(picture.title, picture.text, picture.png, can_shrink=picture.can_shrink)


def build_figure(
    title: str, text: str, png: bytes, min_wide_pixels: int = MIN_WIDE_PIXELS, can_shrink: bool = False
) -> dict[str, Any]:
    """Turn PNG bytes into what the macro ``show_figure`` needs, the picture itself as a data URI.

    Args:
        title: of the picture; with the text also what is read out instead of it.
        text: what it shows.
        png: the picture.
        min_wide_pixels: from this width on it gets the width of the page.
        can_shrink: as for ``Picture``.
    """
    # Width and height of a PNG stand at bytes 16 to 24 (PNG specification, IHDR).
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return {
        "title": title,
        "text": text,
        "width": width,
        "height": height,
        "is_wide": width >= min_wide_pixels,
        "can_shrink": can_shrink,
        "address": f"data:image/png;base64,{base64.b64encode(png).decode()}",
    }

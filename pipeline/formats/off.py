"""OFF files: text that lists the corners and the faces of a mesh.

Read are all spellings of the header that ModelNet has, comments, blank lines, polygons and colours of faces. A
face with more than three corners becomes triangles that fan out from its first corner, which is exact for the
convex polygons that CAD programs write.

Source:
    Geomview manual, "OFF Files", http://www.geomview.org/docs/html/OFF.html; a header that runs into its counts:
    https://github.com/mikedh/trimesh/pull/753.
"""

import re
from dataclasses import dataclass

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError

# The shortest lines of a corner ("0 0 0") and of a face ("1 0"), each with its line's end.
MIN_VERTEX_BYTES = 6
MIN_FACE_BYTES = 4
MAX_DIGITS = 12


@dataclass(frozen=True)
class Mesh:
    """A surface of triangles.

    Args:
        vertices: ``(vertices, 3)`` float64, in the file's own unit.
        triangles: ``(triangles, 3)`` int64, rows of ``vertices``.
    """

    vertices: Array
    triangles: Array


@dataclass(frozen=True)
class Lines:
    """The lines of a file that hold words.

    Args:
        text: The file without its comments; line ends are single newlines.
        numbers: ``(lines,)``, the number of each line as an editor counts it, from 1.
        starts: ``(lines,)``, the position in ``text`` at which each begins.
        ends: ``(lines,)``, the position at which each ends.
        num_words: ``(lines,)``, words in each, at least 1.
    """

    text: bytes
    numbers: Array
    starts: Array
    ends: Array
    num_words: Array

    def words(self, index: int) -> list[bytes]:
        """Return the words of one line."""
        return self.text[self.starts[index] : self.ends[index]].split()

    def part(self, first: int, after: int) -> "Lines":
        """Return the lines from ``first`` up to, but not including, ``after``."""
        chosen = slice(first, after)
        return Lines(self.text, self.numbers[chosen], self.starts[chosen], self.ends[chosen], self.num_words[chosen])


def parse_off(content: bytes, name: str) -> Mesh:
    """Parse an OFF file.

    Lines after the last face are passed over, as are faces of one or two corners, which have no surface.

    Args:
        content: The bytes of the file.
        name: The name of the file, for messages.

    Returns:
        The mesh, as the file has it; triangles may be degenerate.

    Raises:
        UserError: the text is no OFF file, ends too early, holds what is no number, a coordinate that is not
            finite or the index of a corner that is not there. The message names file and line.
    """
    lines = split_lines(content)
    num_vertices, num_faces, first = _read_header(lines, len(content), name)
    num_lines = len(lines.numbers) - first
    if num_lines < num_vertices + num_faces:
        raise UserError(
            f"{name}: {num_vertices} corners and {num_faces} faces are announced, but only {num_lines} lines follow. "
            "The file is truncated; take another copy."
        )
    vertices = _read_vertices(lines.part(first, first + num_vertices), name)
    faces = lines.part(first + num_vertices, first + num_vertices + num_faces)
    return Mesh(vertices, _read_triangles(faces, num_vertices, name))


def split_lines(content: bytes) -> Lines:
    """Find the lines with words in them, without a loop over lines.

    Args:
        content: A text whose lines end in any of the three ways; ``#`` begins a comment.
    """
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    symbols = np.frombuffer(text, np.uint8)
    is_space = (symbols == 32) | ((symbols >= 9) & (symbols <= 13))
    starts_word = ~is_space
    starts_word[1:] &= is_space[:-1]
    line_ends = np.append(np.flatnonzero(symbols == 10), len(symbols))
    line_starts = np.append(0, line_ends[:-1] + 1)
    num_words = np.diff(np.searchsorted(np.flatnonzero(starts_word), line_ends), prepend=0)
    (filled,) = np.nonzero(num_words)
    return Lines(text, filled + 1, line_starts[filled], line_ends[filled], num_words[filled])


def _read_header(lines: Lines, num_bytes: int, name: str) -> tuple[int, int, int]:
    """Return the numbers of corners and faces, and the index of the first line after them."""
    if len(lines.numbers) == 0 or not lines.words(0)[0].startswith(b"OFF"):
        beginning = lines.words(0)[0][:20] if len(lines.numbers) else b""
        raise UserError(
            f"{name}: an OFF file begins with OFF, found {beginning.decode('latin-1')!r}. Only plain OFF text is read; "
            "convert the mesh."
        )
    # Most files have the counts on the next line, many of ModelNet's right after the word: OFF490 518 0.
    counts = lines.text[lines.starts[0] : lines.ends[0]].split(b"OFF", 1)[1].split()
    first = 1
    if not counts and len(lines.numbers) > 1:
        counts, first = lines.words(1), 2
    number = lines.numbers[first - 1]
    if len(counts) not in (2, 3) or not all(count.isdigit() and len(count) <= MAX_DIGITS for count in counts):
        found = b" ".join(counts)[:40].decode("latin-1")
        raise UserError(
            f"{name}, line {number}: found {found!r} where the numbers of corners, faces and edges belong. "
            "Only plain OFF text is read; convert the mesh."
        )
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    if num_vertices < 3 or num_faces < 1:
        raise UserError(
            f"{name}, line {number}: {num_vertices} corners and {num_faces} faces are no surface; "
            "3 and 1 are the least. Remove the file."
        )
    if num_vertices * MIN_VERTEX_BYTES + num_faces * MIN_FACE_BYTES > num_bytes + 1:
        raise UserError(
            f"{name}, line {number}: {num_vertices} corners and {num_faces} faces are announced, more than "
            f"{num_bytes} bytes can hold. The file is truncated; take another copy."
        )
    return num_vertices, num_faces, first


def _read_vertices(lines: Lines, name: str) -> Array:
    wrong = np.flatnonzero(lines.num_words != 3)
    if len(wrong):
        raise UserError(
            f"{name}, line {lines.numbers[wrong[0]]}: a corner has 3 coordinates, found "
            f"{lines.num_words[wrong[0]]} words. Convert the mesh to plain OFF."
        )
    vertices = _read_numbers(lines, name).reshape(-1, 3)
    # Squares of larger coordinates, from which areas are made, leave the range of float64.
    wrong = np.flatnonzero(~(np.abs(vertices) < 1e100).all(axis=1))
    if len(wrong):
        found = b" ".join(lines.words(wrong[0]))[:60].decode("latin-1")
        raise UserError(
            f"{name}, line {lines.numbers[wrong[0]]}: found the corner {found!r}, allowed are finite coordinates "
            "below 1e100. Fix or remove the file."
        )
    return vertices


def _read_triangles(lines: Lines, num_vertices: int, name: str) -> Array:
    values = _read_numbers(lines, name)
    offsets = np.concatenate([[0], np.cumsum(lines.num_words)[:-1]])
    num_corners = values[offsets]
    # After the corners a face may have a colour.
    wrong = np.flatnonzero((num_corners < 1) | (num_corners % 1 != 0) | (num_corners >= lines.num_words))
    if len(wrong):
        found = b" ".join(lines.words(wrong[0]))[:60].decode("latin-1")
        raise UserError(
            f"{name}, line {lines.numbers[wrong[0]]}: a face begins with the number of its corners and then names "
            f"each, found {found!r}. Fix or remove the file."
        )
    num_corners = num_corners.astype(np.int64)
    place_in_line = np.arange(len(values)) - np.repeat(offsets, lines.num_words)
    corners = values[(place_in_line >= 1) & (place_in_line <= np.repeat(num_corners, lines.num_words))]
    wrong = np.flatnonzero(~((corners >= 0) & (corners < num_vertices) & (corners % 1 == 0)))
    if len(wrong):
        face = np.searchsorted(np.cumsum(num_corners), wrong[0], side="right")
        raise UserError(
            f"{name}, line {lines.numbers[face]}: a face names corner {corners[wrong[0]]:g}, but there are "
            f"{num_vertices}, counted from 0. Fix or remove the file."
        )
    return _fan_out(corners.astype(np.int64), num_corners)


def _fan_out(corners: Array, num_corners: Array) -> Array:
    """Split polygons into triangles: corners 0 1 2, 0 2 3, 0 3 4 and so on.

    Args:
        corners: The corners of all polygons, one after the other.
        num_corners: The number of corners of each polygon, ``(polygons,)``.

    Returns:
        ``(triangles, 3)``.
    """
    first = np.cumsum(num_corners) - num_corners
    num_triangles = np.maximum(num_corners - 2, 0)
    origin = np.repeat(first, num_triangles)
    within = np.arange(num_triangles.sum()) - np.repeat(np.cumsum(num_triangles) - num_triangles, num_triangles)
    triangles: Array = corners[np.stack([origin, origin + within + 1, origin + within + 2], axis=1)]
    return triangles


def _read_numbers(lines: Lines, name: str) -> Array:
    """Return all words of consecutive lines as float64."""
    words = lines.text[lines.starts[0] : lines.ends[-1]].split()
    try:
        return np.array(words, dtype=np.float64)
    except ValueError:
        for index, number in enumerate(lines.numbers):
            for word in lines.words(index):
                try:
                    float(word)
                except ValueError as error:
                    raise UserError(
                        f"{name}, line {number}: found {word[:20].decode('latin-1')!r}, allowed are numbers. "
                        "Fix or remove the file."
                    ) from error
        raise

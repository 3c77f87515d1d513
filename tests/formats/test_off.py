"""OFF files in every spelling that is read, and in those that are refused."""

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.off import parse_off, split_lines

# A square in the plane and a corner above it.
VERTICES = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 2.25]]
TRIANGLES = [[0, 1, 2], [0, 2, 3], [4, 0, 1]]
BODY = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n0.5 5e-1 2.25\n"
FACES = "4 0 1 2 3\n3 4 0 1\n"

SPELLINGS = {
    "as the manual has it": f"OFF\n5 2 0\n{BODY}{FACES}",
    "header that runs into the counts": f"OFF5 2 0\n{BODY}{FACES}",
    "counts on the line of the header": f"OFF 5 2 0\n{BODY}{FACES}",
    "no number of edges": f"OFF\n5 2\n{BODY}{FACES}",
    "line ends of Windows": f"OFF\n5 2 0\n{BODY}{FACES}".replace("\n", "\r\n"),
    "line ends of old Macs": f"OFF\n5 2 0\n{BODY}{FACES}".replace("\n", "\r"),
    "blank lines": f"\n\nOFF\n\n5 2 0\n\n{BODY}\n \t \n{FACES}\n\n",
    "comments": f"# made by hand\nOFF # a word\n5 2 0 # 9 9 9\n{BODY}#3 0 0 0\n{FACES}# the end",
    "tabs and many spaces": f"OFF\n5 2 0\n{BODY}{FACES}".replace(" ", " \t  "),
    "no line end at the end": f"OFF\n5 2 0\n{BODY}{FACES}".rstrip(),
    "colours of faces": f"OFF\n5 2 0\n{BODY}4 0 1 2 3 255 0 0\n3 4 0 1 0.5 0.5 0.5 1\n",
    "edges among the faces": f"OFF\n5 4 0\n{BODY}2 0 1\n4 0 1 2 3\n1 4\n3 4 0 1\n",
    "lines after the last face": f"OFF\n5 2 0\n{BODY}{FACES}3 0 1 2\nanything\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_mesh_is_the_same_however_it_is_spelled(spelling):
    mesh = parse_off(SPELLINGS[spelling].encode(), "chair.off")
    np.testing.assert_array_equal(mesh.vertices, VERTICES)
    np.testing.assert_array_equal(mesh.triangles, TRIANGLES)


def test_a_polygon_fans_out_from_its_first_corner():
    content = "OFF\n7 3 0\n" + "0 0 0\n" * 7 + "3 6 5 4\n5 6 0 1 2 3\n4 3 2 1 0\n"
    triangles = parse_off(content.encode(), "fan.off").triangles
    np.testing.assert_array_equal(triangles, [[6, 5, 4], [6, 0, 1], [6, 1, 2], [6, 2, 3], [3, 2, 1], [3, 1, 0]])


def test_the_triangles_of_a_convex_polygon_have_its_area():
    angles = np.arange(11) * 2 * np.pi / 11
    rows = "".join(f"{np.cos(angle)} {np.sin(angle)} 0\n" for angle in angles)
    mesh = parse_off(f"OFF\n11 1 0\n{rows}11 {' '.join(map(str, range(11)))}\n".encode(), "disc.off")
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(11 / 2 * np.sin(2 * np.pi / 11))


def test_lines_keep_the_numbers_that_an_editor_shows():
    lines = split_lines(b"a b\r\n\n# nothing\n  c # d\n\ne")
    assert lines.numbers.tolist() == [1, 4, 6]
    assert lines.num_words.tolist() == [2, 1, 1]
    assert lines.words(1) == [b"c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "^bad.off: an OFF file begins with OFF, found ''"),
        ("# only a comment\n", "begins with OFF, found ''"),
        ("PLY\nformat ascii\n", "begins with OFF, found 'PLY'"),
        (f"COFF\n5 2 0\n{BODY}{FACES}", "begins with OFF, found 'COFF'"),
        ("OFF", "^bad.off, line 1: found '' where the numbers of corners"),
        ("OFF BINARY\n\x00\x01", "line 1: found 'BINARY' where"),
        (f"OFF\n\n5 two 0\n{BODY}{FACES}", "line 3: found '5 two 0' where"),
        (f"OFF\n5\n{BODY}{FACES}", "line 2: found '5' where"),
        (f"OFF\n-5 2 0\n{BODY}{FACES}", "line 2: found '-5 2 0' where"),
        (f"OFF\n{'9' * 5000} 2 0\n{BODY}{FACES}", "line 2: found '999"),
        (f"OFF\n5 0 0\n{BODY}{FACES}", "line 2: 5 corners and 0 faces are no surface"),
        (f"OFF\n99999999999 2 0\n{BODY}{FACES}", "line 2: 99999999999 corners and 2 faces are announced, more than 76"),
        (
            f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n",
            "5 corners and 2 faces are announced, but only 6 lines follow",
        ),
        (f"OFF\n5 2 0\n# a\n{BODY}{FACES}".replace("1 1 0", "1 l 0"), "line 6: found 'l', allowed are numbers"),
        (
            f"OFF\n5 2 0\n{BODY}{FACES}".replace("1 1 0", "1 nan 0"),
            "line 5: found the corner '1 nan 0', allowed are fin",
        ),
        (f"OFF\n5 2 0\n{BODY}{FACES}".replace("1 1 0", "1 -inf 0"), "line 5: found the corner '1 -inf 0'"),
        (f"OFF\n5 2 0\n{BODY}{FACES}".replace("1 1 0", "1 1e200 0"), "line 5: found the corner '1 1e200 0'"),
        (f"OFF\n5 2 0\n{BODY}{FACES}".replace("1 1 0", "1 1"), "line 5: a corner has 3 coordinates, found 2 words"),
        (f"OFF\n5 2 0\n{BODY}{FACES}".replace("1 1 0", "1 1 0 7"), "line 5: a corner has 3 coordinates, found 4 words"),
        (
            f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n\n3 4 0 5\n",
            "line 10: a face names corner 5, but there are 5, counted from 0",
        ),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n3 9 0 1\n", "line 9: a face names corner 9"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 -1\n3 4 0 1\n", "line 8: a face names corner -1"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n3 4 0 0.5\n", "line 9: a face names corner 0.5"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n3 4 0 nan\n", "line 9: a face names corner nan"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2\n3 4 0 1\n", "line 8: a face begins with the number of its corners .* '4 0 1 2'"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\nnan 4 0 1\n", "line 9: a face begins with .* found 'nan 4 0 1'"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n0 4 0 1\n", "line 9: a face begins with .* found '0 4 0 1'"),
        (f"OFF\n5 2 0\n{BODY}4 0 1 2 3\n2.5 4 0 1\n", "line 9: a face begins with .* found '2.5 4 0 1'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message):
    with pytest.raises(UserError, match=message) as refusal:
        parse_off(content.encode("latin-1"), "bad.off")
    assert "\n" not in str(refusal.value)

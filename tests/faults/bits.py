"""Single bits of a file, flipped."""

import zlib
from pathlib import Path

import numpy as np


def flip(path: Path, bit: int) -> None:
    """Flip one bit, counted over the whole file; twice is as before."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def draw_bits(path: Path, number: int) -> list[int]:
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    return [int(bit) for bit in generator.integers(0, 8 * path.stat().st_size, number)]

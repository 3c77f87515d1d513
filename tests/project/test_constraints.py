"""What constraints.txt pins can be installed by the oldest Python that the project takes."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]


def test_every_pin_is_for_the_oldest_python_that_is_allowed():
    """Debian 12 has Python 3.11.2; a pin for 3.11.5 and newer made the installation fail there."""
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{allowed.removeprefix('>=')}.0"
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    read, too_new = 0, {}
    for package in importlib.metadata.distributions():
        wanted = package.metadata.get("Requires-Python")
        if package.name in pinned and wanted is not None:
            read += 1
            if not SpecifierSet(wanted).contains(oldest):
                too_new[package.name] = wanted
    assert too_new == {}
    assert read > 50

"""Code that hides this project from a program."""

# Run with -I: no PYTHONPATH, no current folder; and the packages, should they be installed, cannot be imported.
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipeline", "perceiver"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""

"""The configs travel inside a wheel, as data of the package that reads them; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies ``configs/`` into the package; an editable installation reads the folder itself."""

    def run(self) -> None:
        """Build the packages, then add the configs."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "pipeline", "config", "presets")
        self.mkpath(str(folder))
        for path in sorted(Path("configs").glob("*.yaml")):
            self.copy_file(str(path), str(folder / path.name))


setup(cmdclass={"build_py": BuildWithConfigs})

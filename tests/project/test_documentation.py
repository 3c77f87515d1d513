"""Documentation: generated pages are fresh, and what README and docs name exists."""

import ast
import dataclasses
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pipeline.cli import main
from pipeline.config.experiment import Experiment
from pipeline.config.options import list_sections
from pipeline.stages import COMMANDS, STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    + [path for folder in ("docs", "reports", "reports/benchmarks") for path in (ROOT / folder).glob("*.md")]
)
PAGE_IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
# Words of a path that stand for another word, and paths that are there only once something has run.
PLACEHOLDER = re.compile(r"NAME|[*<>…]|\bmine\b|\bfold-N\b")
WRITTEN = re.compile(
    r"(reports|runs|data)/(phantom|akoa|labels)\b|reports/index\.html|docs/(_build|_generated)\b|configs/(inference\.json|evaluate\.yaml)"
)
# The main job on a few small synthetic knees.
TINY = {
    "name": "tiny",
    "data": {"dataset": "phantom"},
    "phantom": {"num_patients": 10, "max_visits": 1, "shape": [24, 24, 20], "spacing_mm": [6.0, 6.0, 6.0]},
    "preprocess": {"num_slices": 4, "image_size": [16, 16], "spacing_mm": 9.0, "num_workers": 1},
    "split": {"val_fraction": 0.2, "test_fraction": 0.3},
    "model": {"stem": "patches", "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1}},
    "train": {"epochs": 2, "batch_size": 16},
    "evaluate": {"num_bootstrap_resamples": 200},
    "tracking": {"enabled": False},
}
# File names such as report.html and train.py look like options; these are their last parts.
SUFFIXES = {"csv", "html", "json", "md", "npz", "onnx", "png", "pt2", "py", "safetensors", "txt", "yaml"}


def load(name: str) -> ModuleType:
    """Import a program of ``docs`` by its path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def known_options() -> set[str]:
    return {option.name for section in list_sections(Experiment) for option in section.options}


def known_sections() -> set[str]:
    names = known_options()
    return {name[: match.start()] for name in names for match in re.finditer(r"\.", name)}


@cache
def known_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z0-9-]+):.* ## ", makefile, re.MULTILINE))


def slug(heading: str) -> str:
    """Return the anchor that GitHub and MyST give a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def strip_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def list_missing_links(path: Path, text: str) -> list[str]:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", strip_fences(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            missing.append(target)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            missing += [] if anchor in map(slug, headings) else [target]
    return missing


def list_missing_paths(text: str) -> list[str]:
    """Return the paths in code that do not exist; ``file.py:function`` must be a function or class of the file."""
    missing = []
    roots = "configs|docs|examples|perceiver|pipeline|reports|tests"
    for path, name in re.findall(rf"(?<![\w./-])((?:{roots})/[\w./…*<>-]*\w/?)(?::(\w+))?", text):
        if PLACEHOLDER.search(path) or WRITTEN.match(path):
            continue
        file = ROOT / path
        if not file.exists():
            missing.append(path)
        elif name and file.suffix == ".py":
            defined = {getattr(node, "name", "") for node in ast.parse(file.read_text("utf-8")).body}
            missing += [] if name in defined else [f"{path}:{name}"]
    return missing


def list_commands(text: str, program: str) -> list[str]:
    """Return what stands after a program in code: indented lines, with their continuations, and back-quotes."""
    joined = re.sub(r"\\\n\s*", " ", text)
    indented = re.findall(rf"^    (?:\$ )?{program} (.*)$", joined, re.MULTILINE)
    return [command.split(" #")[0] for command in indented + re.findall(rf"`{program} ([^`]*)`", joined)]


def list_unknown_targets(text: str) -> list[str]:
    unknown = []
    for command in list_commands(text, "make"):
        bare = re.sub(r'\w+=("[^"]*"|\S*)', "", command)
        unknown += [word for word in bare.split() if word not in known_targets() | {"STAGE"}]
    return unknown


def list_unknown_stages(text: str) -> list[str]:
    commands = list_commands(text, "perceiver") + list_commands(text, "python -m pipeline")
    return [
        command
        for command in commands
        if command.split()[0] not in {*STAGES, *COMMANDS, "STAGE", "--help", "--version"}
    ]


def list_unknown_options(text: str) -> list[str]:
    """Return dotted names that begin with a section and name no option, and options of commands that are none."""
    options, sections = known_options(), known_sections()
    outer = {field.name for field in dataclasses.fields(Experiment)} & sections
    unknown = []
    for name in re.findall(r"(?<![\w./-])(?:--)?([a-z_]++(?:\.[a-z_0-9]++)+)(?![\w/(-])", text):
        first, last = name.split(".")[0], name.rsplit(".", maxsplit=1)[-1]
        is_option = first in outer and last not in SUFFIXES
        unknown += [name] if is_option and name not in options | sections else []
    for command in list_commands(text, "perceiver") + list_commands(text, "make"):
        found = re.findall(r"(?<!\S)\"?--([a-z_]+)(?![\w.])", command.replace('SET="', ' "'))
        unknown += [
            name for name in found if name not in options | {"config", "help", "json", "output", "quiet", "version"}
        ]
    return unknown


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_what_a_page_names_exists(path):
    text = path.read_text("utf-8")
    assert list_missing_links(path, text) == []
    assert list_missing_paths(text) == []
    assert list_unknown_targets(text) == []
    assert list_unknown_stages(text) == []
    assert list_unknown_options(text) == []


def test_what_does_not_exist_would_be_found():
    text = (
        "[here](docs/gone.md) [there](README.md#gone) `pipeline/gone.py` `pipeline/cli.py:gone`\n\n"
        '    make gone CONFIG=configs/phantom.yaml SET="--gone 1"\n'
        "    perceiver gone --config configs/gone.yaml --train.epochz 3\n"
    )
    assert list_missing_links(ROOT / "README.md", text) == ["docs/gone.md", "README.md#gone"]
    assert list_missing_paths(text) == ["docs/gone.md", "pipeline/gone.py", "pipeline/cli.py:gone", "configs/gone.yaml"]
    assert list_unknown_targets(text) == ["gone"]
    assert [command.split()[0] for command in list_unknown_stages(text)] == ["gone"]
    assert list_unknown_options(text) == ["train.epochz", "gone"]
    assert (
        list_unknown_options("`train.epochs`, `split.csv`, `train.py`, `model.perceiver`, model.forward(images)") == []
    )


def test_the_page_of_options_is_what_the_dataclasses_say():
    written = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert written == load("generate_configuration").build_page(), "stale: run make pages"


def test_the_page_of_options_has_every_option_once():
    written = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "configuration.md").read_text("utf-8"), re.MULTILINE)
    assert len(written) == len(set(written))
    assert set(written) == known_options()


def test_the_drawing_and_the_modules_are_those_of_the_code():
    written = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert written == load("generate_architecture").build_page(written), "stale: run make pages"
    for path in (*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "perceiver").glob("*.py")):
        if path.name != "__init__.py":
            assert f"[{path.name}](../{path.relative_to(ROOT).as_posix()}) | " in written, path


def test_a_drawing_has_every_package_on_its_tier():
    drawing = load("generate_architecture").draw_tiers({"stages": ("core",)}, [["core"], ["stages"]])
    lines = [line.split() for line in drawing.splitlines()]
    assert ["1", "|", "stages", "|"] in lines
    assert ["0", "|", "core", "|"] in lines
    assert lines.index(["1", "|", "stages", "|"]) < lines.index(["0", "|", "core", "|"])
    assert any(line.startswith("| `stages` |") and line.endswith("| core |") for line in drawing.splitlines())


def test_the_readme_is_short_and_shows_a_report():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 130
    assert "docs/images/report.png" in text
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 200_000


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    entries = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.split()}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= entries


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_form_for_issues_has_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert {"name", "description", "body"} <= set(form)
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in asked}) == len(asked)
    assert all(item["attributes"]["label"] for item in asked)


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert f'license = "{citation["license"]}"' in project


def mask(line: str) -> str:
    """Leave of a line of output what is the same for every experiment."""
    plain = re.sub(r"\d[\d.,]*(e-\d+)?", "#", line.replace("phantom", "tiny"))
    return " ".join(plain.split()).removesuffix(" best")


@pytest.mark.slow
def test_the_output_in_the_readme_is_what_the_stages_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY), "utf-8")
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert main([stage, "--config", "tiny.yaml"]) == 0
    printed = {mask(line) for line in capsys.readouterr().out.splitlines()}
    blocks = re.findall(r"(?:^    .*\n)+", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    (transcript,) = (block for block in blocks if "-> data/phantom/prepared" in block)
    assert [line for line in transcript.splitlines() if mask(line) not in printed] == []

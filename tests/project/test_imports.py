"""The law of the house: packages in tiers, imports that only point down, a few heavy libraries in a few rooms."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A package may import itself and the packages listed with its name. docs/architecture.md draws this table.
ALLOWED = {
    "core": (),
    "config": ("core",),
    "formats": ("core", "config"),
    "data": ("core", "config", "formats"),
    "copies": ("core", "config", "data"),
    "datasets": ("core", "config", "formats", "data"),
    "preprocessing": ("core", "config", "formats", "data", "datasets"),
    "models": ("core", "config"),
    "training": ("core", "config", "data", "models"),
    "inference": ("core", "config", "formats", "data", "datasets", "preprocessing", "models", "training"),
    "evaluation": ("core", "config", "data"),
    "attention": ("core", "config", "formats", "data", "preprocessing", "models"),
    "studies": ("core", "config", "data", "models", "training", "inference", "evaluation"),
    "reporting": ("core", "config", "data", "datasets", "models", "training", "evaluation", "attention", "studies"),
    "tracking": ("core", "config", "data", "training", "evaluation", "export"),
    "export": ("core", "config", "formats", "preprocessing", "models", "training", "inference"),
    "stages": (
        *("core", "config", "formats", "data", "copies", "datasets", "preprocessing", "models", "training"),
        *("inference", "evaluation", "attention", "studies", "reporting", "tracking", "export"),
    ),
    "cli": ("core", "config", "stages"),
    "api": ("core", "config", "data", "inference", "studies", "models", "training", "export"),
    "__main__": ("cli",),
}
TIERS = (
    ("core",),
    ("config", "formats"),
    ("data", "copies", "datasets", "preprocessing"),
    ("models", "training"),
    ("inference", "evaluation", "attention", "studies"),
    ("export", "tracking", "reporting"),
    ("stages",),
    ("cli", "api", "__main__"),
)
# These are imported in the packages, or modules, named here and nowhere else.
LIBRARIES = {
    "faiss": ("copies.candidates",),
    "nibabel": ("formats",),
    "isal": ("formats",),
    "pydicom": ("formats",),
    "h5py": ("formats",),
    "trimesh": ("formats", "datasets"),
    "mlflow": ("tracking", "export"),
    "tensorboard": ("tracking",),
    "matplotlib": ("reporting.figures", "reporting.attention"),
    "jinja2": ("reporting.html",),
    "monai": ("models",),
    "sklearn": ("evaluation", "api.classifier"),
    "lightning": ("training",),
    "pytorch_optimizer": ("training.optimization.optimizers",),
    "safetensors": ("training.checkpoint",),
    "jsonargparse": ("config.parsing",),
    "dask": ("preprocessing.dask_jobs",),
    "distributed": ("preprocessing.dask_jobs",),
    "pooch": ("datasets.downloads",),
    "requests": ("datasets.downloads",),
    "onnx": ("export.programs",),
    "onnxruntime": ("export.programs",),
    "openpyxl": ("formats.spreadsheets",),
    "optuna": ("studies.tuning",),
}
REGISTRIES = ("datasets", "stages")
MODULES = {
    path.relative_to(ROOT / "pipeline").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in (ROOT / "pipeline").rglob("*.py")
    if path != ROOT / "pipeline" / "__init__.py"
}


@functools.cache
def imported(path: Path) -> set[str]:
    """Return what a module imports, also for annotations and inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "pipeline":
                names |= {f"pipeline.{alias.name}" for alias in node.names}
    return names


def test_each_package_stands_in_one_tier_and_may_import_from_its_own_and_below():
    tier_of = {package: number for number, tier in enumerate(TIERS) for package in tier}
    assert tier_of.keys() == ALLOWED.keys()
    for package, below in ALLOWED.items():
        assert all(tier_of[name] <= tier_of[package] and name != package for name in below), package
    order = [package for tier in TIERS for package in tier]
    for package, below in ALLOWED.items():
        assert all(order.index(name) < order.index(package) for name in below), f"{package}: a circle"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    package = module.split(".")[0]
    assert package in ALLOWED, f"pipeline/{package}: a new room; a module goes into one of {', '.join(ALLOWED)}"
    for name in imported(MODULES[module]):
        if name.startswith("pipeline."):
            target = name.split(".")[1]
            assert target in (package, *ALLOWED[package]), f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_libraries_are_imported_where_their_work_is_done(module):
    for name in imported(MODULES[module]):
        rooms = LIBRARIES.get(name.split(".")[0])
        inside = rooms is None or any(f"{module}.".startswith(f"{room}.") for room in rooms)
        assert inside, f"{module} imports {name}, which belongs to {rooms}"


def imported_at_once(path: Path) -> set[str]:
    """Return what is imported with a module: neither inside functions nor for annotations alone."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def load_all_at_once(start: str) -> set[str]:
    """Return what is imported with a module and with those of this project that it imports."""
    found, waiting = set(), {start}
    while waiting:
        names = imported_at_once(MODULES[waiting.pop()])
        waiting |= {name for full in names - found if (name := full.removeprefix("pipeline.")) in MODULES}
        found |= names
    assert "pandas" in found, "modules of modules are seen"
    return {name.split(".")[0] for name in found}


def test_the_start_of_training_imports_nothing_that_reads_scans():
    assert not load_all_at_once("stages.train") & {"nibabel", "pydicom", "sklearn", "matplotlib"}


@pytest.mark.parametrize("stage", ["evaluate", "predict", "attention", "export"])
def test_stages_that_score_import_nothing_that_only_training_needs(stage):
    assert "lightning" not in load_all_at_once(f"stages.{stage}")


@pytest.mark.parametrize("package", sorted(path.parent for path in MODULES.values() if path.name == "__init__.py"))
def test_a_room_has_3_to_14_modules_and_its_init_says_what_it_is(package):
    modules = [path for path in package.iterdir() if path.suffix == ".py" and path.name != "__init__.py"]
    folders = [path for path in package.iterdir() if (path / "__init__.py").is_file()]
    assert 3 <= len(modules) + len(folders) <= 14, [path.name for path in modules + folders]
    body = ast.parse((package / "__init__.py").read_text()).body
    is_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    assert is_docstring
    assert len(body) == 1 or package.name in REGISTRIES, f"{package.name}: its __init__ holds more than its docstring"


def test_the_model_imports_torch_einops_and_the_standard_library_alone():
    allowed = set(sys.stdlib_module_names) | {"torch", "einops", "perceiver"}
    for path in (ROOT / "perceiver").glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= allowed, path


@pytest.mark.slow
def test_evaluation_and_the_workers_of_preprocessing_load_nothing_slow():
    """A worker process starts with parts.py; torch alone would cost it seconds."""
    slow = {"torch", "monai", "mlflow", "matplotlib", "trimesh", "h5py"}
    code = "import sys"
    for module, more in (("preprocessing.parts", {"sklearn"}), ("evaluation.metrics", set())):
        code += f"\nimport pipeline.{module}; print(sorted({slow | more} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n") == ["[]", "[]", ""]

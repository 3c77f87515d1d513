"""Imports run one way, and each heavy library has one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import from its own layer and from those below it.
LAYERS = [
    {
        "errors",
        "printable",
        "files",
        "provenance",
        "workspace",
        "config",
        "tables",
        "records",
        "console",
        "kinds",
        "sections",
        "wording",
        "ties",
        "row_files",
    },
    {
        "volumes",
        "slicing",
        "pictures",
        "store",
        "history",
        "augment",
        "augment_points",
        "boxes",
        "losses",
        "mixing",
        "permutation",
        "models",
        "clouds",
        "optimizers",
        "shared_norm",
        "splits",
        "audit_divisions",
        "close_hashes",
        "leakage",
        "datasets.sources",
        "experiment",
        "intensities",
    },
    {"preparation", "datasets", "examples", "dicom"},
    {"classifier"},
    {"checkpoint", "scoring", "devices", "dump", "locks", "processes", "cluster", "sharding"},
    {
        "attention",
        "programs",
        "bundle",
        "bundled",
        "scans",
        "attention_files",
        "training",
        "training_task",
        "audit_training",
        "audit_results",
        "audit_page",
        "pooled_runs",
        "folds_page",
        "figures_studies",
        "metrics",
        "bootstrap",
        "ranking",
        "curves",
        "baselines",
        "attention_pictures",
        "attention_overlays",
        "attention_page",
        "native",
        "comparison",
        "comparison_page",
        "comparison_figures",
        "run_pictures",
        "run_records",
        "figures_runs",
        "pages",
        "figures",
        "figures_attention",
        "report",
        "report_certificate",
        "report_parts",
        "flow",
        "documents",
        "claim_checklist",
        "model_card",
        "study",
        "study_data",
        "study_model",
        "event_log",
        "tracking",
        "tracker",
        "tracking_guard",
        "tracking_data",
        "tracking_database",
        "logged_model",
        "display",
        "serving",
        "runs",
        "ready_made_store",
        "evaluation_figures",
        "evaluation_notes",
        "shares",
        "pooling",
        "blind_models",
        "mirror_check",
        "probes",
        "probe_section",
        "figures_probes",
        "abstention",
        "temperature",
        "decision",
        "decision_section",
        "figures_decision",
    },
    {"stages"},
    {"cli", "__main__"},
]
DOORS = {
    "nibabel": {"volumes"},
    "isal": {"volumes"},
    "mlflow": {"tracking", "tracking_database", "logged_model", "serving"},
    "matplotlib": {
        "figures",
        "figures_attention",
        "figures_decision",
        "figures_probes",
        "figures_runs",
        "figures_studies",
    },
    "monai": {"models", "dicom"},
    "pydicom": {"dicom"},
    "jinja2": {"pages"},
    "sklearn": {"baselines"},
    "lightning": {"devices", "processes", "training", "training_task"},
    "jsonargparse": {"cli"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "pytorch_optimizer": {"optimizers"},
    "safetensors": {"checkpoint"},
    "pooch": {"datasets.downloads"},
    "requests": {"datasets.downloads"},
    "h5py": {"datasets.hdf5_points"},
    "trimesh": {"datasets.surfaces", "datasets.primitives"},
    "tensorboard": {"event_log"},
    "onnx": {"programs"},
    "onnxruntime": {"programs"},
}


def imported(path: Path) -> set[str]:
    """Return what a module imports; an import for annotations alone does not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def layer_of(module: str) -> int:
    for number, members in enumerate(LAYERS):
        if any(module == member for member in members):
            return number
    parent = module.rpartition(".")[0]
    assert parent, f"{module} has no layer: add it to LAYERS"
    return layer_of(parent)


MODULES = {
    path.relative_to(ROOT / "pipeline").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in (ROOT / "pipeline").rglob("*.py")
    if path != ROOT / "pipeline" / "__init__.py"
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    for name in imported(MODULES[module]):
        if name.startswith("pipeline."):
            assert layer_of(name.removeprefix("pipeline.")) <= layer_of(module), f"{module} imports {name} from above"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_libraries_have_one_door(module):
    for name in imported(MODULES[module]):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or module in doors, f"{module} imports {name}; its door is {doors}"


def test_the_model_imports_torch_einops_and_the_standard_library_alone():
    import sys

    allowed = set(sys.stdlib_module_names) | {"torch", "einops", "perceiver"}
    for path in (ROOT / "perceiver").glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= allowed, path


def test_workers_load_nothing_slow():
    """A preprocessing process starts with preparation.py; torch alone would cost it seconds."""
    import subprocess
    import sys

    slow = {"torch", "monai", "mlflow", "matplotlib", "sklearn", "trimesh", "h5py"}
    code = f"import sys, pipeline.preparation; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"

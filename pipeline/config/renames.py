"""Names of earlier versions: an old name is refused in one line with the new one, and an option that is gone too."""

from collections.abc import Mapping

RENAMED_OPTIONS = {
    "data.raw": "data.raw_folder",
    "data.table": "data.label_table",
    "preprocess.span": "preprocess.slice_range",
    "preprocess.size": "preprocess.image_size",
    "preprocess.percentiles": "preprocess.intensity_percentiles",
    "preprocess.scheduler": "preprocess.dask_scheduler",
    "split.table": "split.split_table",
    "model.kind": "model.architecture",
    "model.mirror_average": "model.mirror_tta",
    "model.permute_seed": "model.pixel_permutation_seed",
    "augment.zoom": "augment.zoom_fraction",
    "augment.shift": "augment.shift_fraction",
    "augment.contrast": "augment.gamma",
    "augment.brightness": "augment.brightness_fraction",
    "augment.noise": "augment.noise_std",
    "augment.mirror": "augment.horizontal_flip",
    "augment.erase_probability": "augment.random_erasing_probability",
    "augment.erase_area": "augment.random_erasing_area",
    "augment.points.scale": "augment.points.scale_fraction",
    "augment.points.stretch": "augment.points.stretch_fraction",
    "augment.points.jitter": "augment.points.jitter_std",
    "augment.points.dropout": "augment.points.dropout_fraction",
    "train.clip_norm": "train.max_grad_norm",
    "train.final_fraction": "train.final_lr_fraction",
    "train.gamma": "train.lr_gamma",
    "train.step_epochs": "train.lr_step_epochs",
    "train.milestones": "train.lr_milestones",
    "train.select_by": "train.monitor",
    "evaluate.num_resamples": "evaluate.num_bootstrap_resamples",
    "attention.native": "attention.native_resolution",
    "report.num_resamples": "compare.num_bootstrap_resamples",
    "audit.slices": "leak_study.num_slices",
    "audit.steps": "leak_study.num_steps",
    "attention.every_epochs": "train.keep_attention_every_epochs",
    "folds.keep_split": "cross_validate.vary",
    "report.runs": "compare.runs",
    "report.num_examples": "compare.num_examples",
    "report.seed": "compare.seed",
    "report.output": "compare.output",
    "audit.learning_rate": "leak_study.learning_rate",
    "audit.seeds": "leak_study.seeds",
    "folds.seeds": "cross_validate.seeds",
}
# A note for options whose values have other names too.
NEW_VALUES = {
    "augment.horizontal_flip": "keep is keep_label and swap is swap_label",
    "cross_validate.vary": "false is folds and true is seeds",
}
RENAMED_VALUES = {
    "augment.horizontal_flip": {"keep": "keep_label", "swap": "swap_label"},
    "train.compile": {"True": "default", "False": "none"},
}
# Options that are gone, with the value that had no effect: a file of an earlier version with that value is still read.
REMOVED_OPTIONS: dict[str, object] = {"model.perceiver.stochastic_depth": 0.0}
RENAMED_SECTIONS = {"report": "compare", "audit": "leak_study", "folds": "cross_validate"}
RENAMED_STAGES = {"report": "compare", "audit": "leak-study", "folds": "cross-validate"}


def explain_old_name(name: str) -> str | None:
    """Say what became of an option or a section of an earlier version; None for other names."""
    if name in RENAMED_SECTIONS:
        return f"this section is called {RENAMED_SECTIONS[name]} now."
    if name in REMOVED_OPTIONS:
        return "this option is gone; leave it out."
    new = RENAMED_OPTIONS.get(name)
    note = f"; of its values, {NEW_VALUES[new]}" if new in NEW_VALUES else ""
    return f"this option is called {new} now{note}." if new else None


def find_removed_option(settings: Mapping[str, object]) -> str | None:
    """Return the first option that is gone and had an effect.

    Args:
        settings: The settings of an earlier version, by the names of the options.
    """
    return next((name for name, unused in REMOVED_OPTIONS.items() if settings.get(name, unused) != unused), None)

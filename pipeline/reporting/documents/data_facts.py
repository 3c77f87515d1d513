"""Facts about the data: their source, preprocessing, labels and splits."""

from dataclasses import dataclass

import pandas as pd

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.core.data_kinds import VOXEL_VOLUMES, WHOLE_VOLUMES, DataKind
from pipeline.core.text import count_words, plural
from pipeline.data.leak_certificate import Certificate
from pipeline.datasets import DATASETS, find_dataset, find_raw_folder
from pipeline.models.classifier import CENTRE_PIXELS, SURROUND_PIXELS
from pipeline.reporting.evaluation.flow_diagram import Flow
from pipeline.training.checkpoint import Checkpoint

AXES = ("right", "anterior", "superior")
IMAGE_AXES = ("height", "width")


@dataclass(frozen=True)
class DataEvidence:
    """The tables about the data and their split.

    Args:
        manifest: A row for each scan, cells as text.
        flow: The counts of files, scans and patients that were found, refused and used.
        certificate: The leak certificate of the split.
        missing: What differs from the published set, in words; empty where nothing does.
    """

    manifest: pd.DataFrame
    flow: Flow
    certificate: Certificate
    missing: str = ""


def describe_data(experiment: Experiment, checkpoint: Checkpoint, data: DataEvidence) -> dict[str, str]:
    """Describe the data set, its labels and its splits.

    Args:
        experiment: All options.
        checkpoint: The preprocessing, and the statistics of the training images.
        data: The tables about the data and their split.
    """
    dataset, variant = find_dataset(experiment.data)
    kind = checkpoint.spec.kind
    facts = {
        "source": _describe_source(experiment, data.missing, kind),
        "reference": _describe_reference(experiment, data.manifest),
        "test_reference": f"Labelled as all other {plural(kind.example)}.",
        "preprocessing": _describe_preprocessing(checkpoint),
        "partition": _describe_partition(experiment.split, dataset.is_published, variant is not None, kind),
        "disjoint": _describe_disjoint(data.certificate, kind),
        "counts": " ".join(f"{box.title}: {'; '.join(box.lines)}." for box in data.flow.splits),
    }
    accepted = data.manifest[data.manifest["status"] == "accepted"]
    if kind.has_patients:
        if experiment.split.split_table is None and (accepted["published_split"] != "").any():
            facts["partition"] = _describe_published_parts(experiment.split, accepted["published_split"], kind)
        refused = [step.left_out for step in data.flow.steps if step.left_out]
        left_out = [f"{box.title} ({'; '.join(box.lines)})" for box in refused]
        facts |= {
            "refused": f"Left out by the pipeline: {'; '.join(left_out) or 'no file'}.",
            "selection": _describe_selection(experiment.data, kind),
            "missing": f"Nothing was imputed; {plural(kind.source)} that could not be read are left out, each with its "
            "reason in manifest.csv.",
            "identity": (
                "Of a file's header geometry is read, how grey levels are stored and shown, and the tags that name the "
                "side and the scanner's maker. Patients have the identifiers of the file names or of the label table, "
                "and the report shows them."
            ),
            "acquisition": _describe_acquisition(accepted, kind),
        }
    if dataset.synthetic_note:
        facts |= {"annotators": "Nobody: labels come with the geometry.", "identity": "The data are not of people."}
    return facts


def _describe_source(experiment: Experiment, missing: str, kind: DataKind) -> str:
    dataset = DATASETS[experiment.data.dataset]
    if dataset.synthetic_note:
        return dataset.synthetic_note
    if dataset.is_published:
        return f"The published set {experiment.data.variant or experiment.data.dataset}. {missing}".strip()
    word = plural(kind.source).capitalize()
    return f"{word} of the folder {find_raw_folder(experiment)}, read as {experiment.data.dataset}."


def _describe_reference(experiment: Experiment, manifest: pd.DataFrame) -> str:
    if experiment.data.label_table is not None:
        columns = f", column {experiment.data.columns.label}"
        joined = " Some were joined to one class (data.merge)." if _joins_labels(experiment.data) else ""
        return f"Labels are those of the table {experiment.data.label_table.name}{columns}.{joined}"
    dataset = DATASETS[experiment.data.dataset]
    if experiment.data.dataset == "labelled":
        return "Labels are the names of the folders that the files lie in."
    if dataset.list_sources is None:
        made = "made with the objects" if dataset.synthetic_note else "the publisher's"
        return f"Labels are {made}."
    if dataset.has_delivery and experiment.data.oai.label != "side":
        return _describe_clinical_label(experiment.data.oai.label)
    checked = manifest[
        (manifest["status"] == "accepted") & (manifest["side"] != "") & (manifest["side_by_position"] != "")
    ]
    num_other = int((checked["side"] != checked["side_by_position"]).sum())
    return (
        f"The side is that of the file's name. For {len(checked):,} scans the knee's position in the scanner gives it "
        f"too: it disagrees for {num_other:,}."
    )


def _joins_labels(options: DataConfig) -> bool:
    kept = [str(new) for new in options.merge.values() if new is not None]
    return len(set(kept)) < len(kept)


def _describe_selection(options: DataConfig, kind: DataKind) -> str:
    labels = [str(old) for old, new in options.merge.items() if new is None]
    parts = [str(old) for old, new in options.split_values.items() if new is None]
    left_out = [f"with the label {name}" for name in labels] + [f"of the published part {name}" for name in parts]
    without = f" but those {' and '.join(left_out)}" if left_out else ""
    if options.pattern == "*":
        return f"All {plural(kind.source)}{without} that could be read were used."
    return f"Files whose names match {options.pattern!r}; of those, all{without} that could be read."


def _describe_clinical_label(label: str) -> str:
    readings = "of several readings of a knee that of project 15 counts, then 37, then 42"
    if label == "akoa":
        return (
            "Labels are accelerated osteoarthritis: a Kellgren-Lawrence grade of 0 or 1 at baseline and of 3 or 4 "
            f"within 48 months (Driban 2016, PMC5037496), by the clinical tables; {readings}."
        )
    return f"Labels are {label} of the clinical tables, at the visit of each scan; {readings}."


def _describe_preprocessing(checkpoint: Checkpoint) -> str:
    height, width = checkpoint.spec.image_size
    # All slices of a whole volume have the same ones.
    means, stds = (
        ", ".join(f"{value:.4f}" for value in (values[:1] if checkpoint.spec.kind is WHOLE_VOLUMES else values))
        for values in (checkpoint.mean, checkpoint.std)
    )
    standardised = f"Values minus {means}, divided by {stds}: mean and standard deviation of the training images."
    if checkpoint.model.local_contrast:
        standardised += (
            f" Then local contrast: the mean of {CENTRE_PIXELS} x {CENTRE_PIXELS} pixels minus that of "
            f"{SURROUND_PIXELS} x {SURROUND_PIXELS}, divided by their standard deviation, which is at least "
            "the image's mean of it."
        )
    if not checkpoint.spec.kind.is_image:
        return f"{height:,} points an object, moved to their mean and scaled to the unit cube."
    if checkpoint.spec.kind is WHOLE_VOLUMES:
        slices = count_words(checkpoint.spec.num_channels, "slice")
        return (
            f"Volumes of {slices} of {height} x {width} pixels as published, the channels of one image. {standardised}"
        )
    if checkpoint.spec.kind is VOXEL_VOLUMES:
        slices = count_words(checkpoint.spec.num_slices, "slice")
        return f"Volumes of {slices} of {height} x {width} pixels as published, placed in voxels. {standardised}"
    if not checkpoint.spec.kind.reads_scans:
        if not checkpoint.spec.kind.has_patients:
            return f"Images of {height} x {width} pixels as published. {standardised}"
        return f"{_describe_fitting(checkpoint.preprocess)} {standardised}"
    return f"{_describe_slicing(checkpoint.preprocess)} {standardised}"


def _describe_slicing(options: PreprocessConfig) -> str:
    start, end = (f"{100 * fraction:g}" for fraction in options.slice_range)
    low, high = (f"{percent:g}" for percent in options.intensity_percentiles)
    fitted = _describe_frame(options, "slice")
    if options.spacing_mm is not None:
        height, width = options.image_size
        fitted = f"pixels of {options.spacing_mm:g} mm, {height} x {width} pixels"
    number = f"at most {options.num_slices}" if options.unit == "volume" else f"{options.num_slices}"
    return (
        f"Axes turned to anatomical directions; {number} {options.plane} slices a volume, evenly spaced "
        f"from {start} to {end} % of the axis, {fitted}; intensities from the {low} to the "
        f"{high} % percentile of a volume's slices become black to white."
    )


def _describe_frame(options: PreprocessConfig, what: str) -> str:
    height, width = options.image_size
    return {
        "pad": f"the whole {what} fitted into {height} x {width} pixels",
        "crop": f"the {what} made to fill {height} x {width} pixels, and what sticks out lost",
        "stretch": f"the {what} stretched to {height} x {width} pixels",
    }[options.fit]


def _describe_fitting(options: PreprocessConfig) -> str:
    low, high = (f"{percent:g}" for percent in options.intensity_percentiles)
    fitted = _describe_frame(options, "image")
    if options.spacing_mm is not None:
        fitted += f"; where the size of a pixel is known, pixels of {options.spacing_mm:g} mm"
    return (
        f"Images turned as their files say, and {fitted}. Grey levels of 8 bits are kept; of more, the {low} to the "
        f"{high} % percentile of an image become black to white."
    )


def _describe_partition(options: SplitConfig, is_published: bool, has_validation: bool, kind: DataKind) -> str:
    if options.split_table is not None:
        return f"As given in the table {options.split_table.name}."
    if has_validation:
        return "Validation and test rows are the publisher's."
    if is_published:
        return f"Test rows are the publisher's; validation was drawn from the training rows with seed {options.seed}."
    strata = ", stratified by label" if options.stratify else ""
    if options.num_folds:
        folds = f"{options.num_folds} folds: fold {options.test_fold} is the test, the next one validation"
        return f"{plural(kind.group).capitalize()} drawn with seed {options.seed}{strata}, into {folds}."
    return (
        f"{plural(kind.group).capitalize()} drawn with seed {options.seed}{strata}: {100 * options.val_fraction:g} % "
        f"validation, {100 * options.test_fraction:g} % test, the rest training."
    )


def _describe_published_parts(options: SplitConfig, published: pd.Series, kind: DataKind) -> str:
    drawn = [
        f"{100 * fraction:g} % of the published training {plural(kind.group)} for {word}"
        for part, fraction, word in (
            ("val", options.val_fraction, "validation"),
            ("test", options.test_fraction, "the test"),
        )
        if part not in set(published)
    ]
    if not drawn:
        return "The published split of the table."
    strata = ", stratified by label" if options.stratify else ""
    return f"The published split of the table; {' and '.join(drawn)}, drawn with seed {options.seed}{strata}."


def _describe_disjoint(certificate: Certificate, kind: DataKind) -> str:
    what = f"{kind.group.capitalize()}."
    if kind.has_patients:
        slices = "both knees and all slices" if kind.reads_scans else "and both knees"
        what = f"{kind.group.capitalize()}: all visits, {slices} of one are in one split."
    copies = certificate["copies"]
    across, accepted = copies["across_splits"]["count"], copies["accepted"]["count"]
    verdict = "passed" if certificate["passed"] else "did not pass"
    if copies["num_sources"] == 0:
        return f"{what} The leak certificate {verdict}; {plural(kind.example)} were compared bit for bit alone."
    return (
        f"{what} The leak certificate {verdict}; it lists {count_words(across, 'pair')} of copies across "
        f"splits, {accepted:,} accepted ones and {copies['unverified']['count']:,} that look alike."
    )


def _describe_acquisition(accepted: pd.DataFrame, kind: DataKind) -> str:
    """Describe the headers of the accepted scans or images; empty where they have none."""
    spacings = [tuple(map(float, text.split("x"))) for text in accepted["spacing_mm"] if text]
    if not spacings:
        return ""
    axes = AXES if kind.reads_scans else IMAGE_AXES
    ranges = [f"{axis} {_show_range(values)}" for axis, values in zip(axes, zip(*spacings, strict=True), strict=True)]
    num_orders = accepted.loc[accepted["stored_axes"] != "", "stored_axes"].nunique()
    num_visits = accepted.loc[accepted["visit"] != "", "visit"].nunique()
    visits = f"; {num_visits:,} visits or dates" if num_visits else ""
    if not kind.reads_scans:
        return f"Pixel size in mm, of {len(spacings)} of {len(accepted)} images: {', '.join(ranges)}{visits}."
    return f"Voxel size in mm: {', '.join(ranges)}; {num_orders} orders of the stored axes{visits}."


def _show_range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"

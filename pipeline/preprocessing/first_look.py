"""A first look at labelled files: what they are, and the options that suit them, each with its reason."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.sources import ColumnsConfig
from pipeline.core.data_kinds import DataKind, are_sides
from pipeline.core.errors import UserError, VolumeError
from pipeline.core.tables import clean_text
from pipeline.core.text import count_labels, count_words
from pipeline.data.label_tables import CLASS_FOLDER, NEEDED
from pipeline.data.sources import Source
from pipeline.datasets import DATASETS, list_sources
from pipeline.formats.image_files import read_pixels
from pipeline.formats.spreadsheets import read_cells
from pipeline.preprocessing.slicing import PLANE_AXIS, find_slice_axis, read_scan
from pipeline.preprocessing.volumes import describe_shrinking, find_kind

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
# Names of columns that are taken for what is needed, in their order, without blanks, hyphens and underscores.
GUESSES = {
    "path": ("path", "file", "filename", "image", "imagepath", "filepath", "img"),
    "patient": ("patient", "patientid", "groupid", "subject", "subjectid", "participantid"),
    "label": ("label", "class", "target", "grade", "diagnosis", "category", "y"),
}
# Files whose size is read; a volume takes a moment.
NUM_IMAGES, NUM_VOLUMES = 60, 6
# The longest side that is suggested, in pixels; time and memory grow with its square.
LARGEST_IMAGE, LARGEST_SLICE = 160, 128
# The optimizer's steps that a training is given, in batches of 64; and how many there must be for such batches.
WANTED_STEPS, LEAST_STEPS = 1500, 500


@dataclass(frozen=True)
class FirstLook:
    """The facts that are found in labelled files.

    Args:
        kind: The kind of data.
        sources: The files, or scans, that can be read.
        refusals: The reasons of those that cannot, where the list of files says so.
        notes: What was guessed, in a sentence each.
        sizes: Height and width in pixels of some images; of volumes the slices of their finest plane.
        spacings_mm: The size of a voxel (right, anterior, superior) of some volumes, or of a pixel (height, width).
        shapes: The voxels of the same volumes along the same axes.
    """

    kind: DataKind
    sources: tuple[Source, ...]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    spacings_mm: tuple[tuple[float, ...], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def labels(self) -> dict[str, int]:
        """The number of files of each label, sorted."""
        return dict(sorted(Counter(source.label for source in self.sources).items()))

    @property
    def num_patients(self) -> int:
        return len({source.group_id for source in self.sources})


@dataclass(frozen=True)
class Suggestion:
    """An option that suits the data.

    Args:
        name: The option, such as ``preprocess.image_size``.
        value: Its value.
        reason: Why, in words for the config.
        warning: What a reader should know before training; empty where there is nothing.
    """

    name: str
    value: Any
    reason: str
    warning: str = ""


def name_data(given: Path, experiment: Experiment) -> Experiment:
    """Return the experiment with the data that a table or a folder names.

    Columns that the options do not name are guessed by their names.

    Args:
        given: A table with paths and labels, a folder that holds exactly one, or a folder of classes or of scans with
            AKOA's names.
        experiment: The options that were given.

    Raises:
        UserError: There is no such file, or a column is not found.
    """
    if given.is_dir():
        tables = sorted(path for path in given.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
        if len(tables) != 1:
            return _choose_reader(given, experiment)
        given = tables[0]
    if not given.is_file():
        raise UserError(f"{given}: no such file or folder. Name a table of labels, or a folder of labelled files.")
    columns = _guess_columns(given, experiment.data.columns)
    raw = experiment.data.raw_folder or given.parent
    data = replace(experiment.data, dataset="labelled", raw_folder=raw, label_table=Path(given.name), columns=columns)
    return replace(experiment, data=data)


def _choose_reader(folder: Path, experiment: Experiment) -> Experiment:
    """Return the experiment with the reader of a folder: the one that can use more of its files."""

    def count(dataset: str) -> int:
        reader = DATASETS[dataset].list_sources
        assert reader is not None
        return sum(not source.refusal for source in reader(folder, experiment.data).sources)

    dataset = max(("labelled", "akoa"), key=count)
    return replace(experiment, data=replace(experiment.data, dataset=dataset, raw_folder=folder))


def _guess_columns(table: Path, columns: ColumnsConfig) -> ColumnsConfig:
    """Return the columns of a table, where those that are needed have names that are guessed.

    Raises:
        UserError: A column is not found.
    """
    header = [
        clean_text(name) for name in read_cells(table, {name for names in GUESSES.values() for name in names}).header
    ]
    names = {name.casefold() for name in header}
    plain = {re.sub(r"[\s_-]", "", name).casefold(): name for name in header}
    for role in NEEDED:
        if clean_text(getattr(columns, role)).casefold() in names:
            continue
        found = next((plain[name] for name in GUESSES[role] if name in plain), None)
        if found is None or getattr(columns, role) != role:
            advice = (
                "Where every file is of another patient, name the column of the files."
                if role == "patient"
                else "Name it."
            )
            raise UserError(
                f"{table}: no column is called {getattr(columns, role)}; found {', '.join(header)}. {advice} "
                f"--data.columns.{role} NAME"
            )
        columns = replace(columns, **{role: found})
    return columns


def look(experiment: Experiment) -> FirstLook:
    """List the files of an experiment, and read some of them.

    Args:
        experiment: The experiment, with the data that ``name_data`` found.

    Raises:
        UserError: There is nothing to read.
    """
    raw = experiment.data.raw_folder
    assert raw is not None
    listing = list_sources(experiment)
    kind = find_kind(listing.sources, experiment.preprocess.unit)
    used = [source for source in listing.sources if not source.ignored]
    good = tuple(source for source in used if not source.refusal)
    refusals = tuple(source.refusal for source in used if source.refusal)
    if not good:
        first = f" The first: {refusals[0]}" if refusals else ""
        raise UserError(f"{raw}: no labelled image or scan that can be read.{first}")
    sizes: list[tuple[int, int]] = []
    spacings: list[tuple[float, ...]] = []
    shapes: list[tuple[int, ...]] = []
    faults: list[str] = []
    for source in _spread(good, NUM_VOLUMES if kind.reads_scans else NUM_IMAGES):
        paths = tuple(raw / path for path in source.paths)
        try:
            if source.is_image or len(paths) > 1:
                pixels = read_pixels(paths[0])
                sizes.append((pixels.values.shape[1], pixels.values.shape[2]))
                spacings += [pixels.pixel_mm] if pixels.pixel_mm is not None else []
            else:
                volume = read_scan(paths, experiment.preprocess.max_volume_bytes)
                shapes.append(volume.voxels.shape)
                spacings.append(volume.spacing_mm)
        except VolumeError as error:
            faults.append(str(error))
    if not sizes and not shapes:
        raise UserError(
            f"{raw}: none of {count_words(len(faults), 'file')} that were tried can be read. The first: {faults[0]}"
        )
    return FirstLook(kind, good, (*refusals, *faults), listing.notes, tuple(sizes), tuple(spacings), tuple(shapes))


def _spread(sources: Sequence[Source], number: int) -> list[Source]:
    places = np.unique(np.linspace(0, len(sources) - 1, number).round().astype(int))
    return [sources[place] for place in places]


def describe_look(found: FirstLook) -> list[str]:
    """Describe the data in lines.

    Args:
        found: What the files are.
    """
    lines = [
        f"{count_words(len(found.sources), found.kind.source)} of "
        f"{count_words(found.num_patients, found.kind.group)}: {count_labels(found.labels)}"
    ]
    if found.sizes:
        lines.append(f"pixels (height x width) of {len(found.sizes)} files: {_describe_range(found.sizes)}")
    if found.shapes:
        lines.append(f"voxels (right, anterior, superior) of {len(found.shapes)}: {_describe_range(found.shapes)}")
    if found.spacings_mm:
        lines.append(f"spacing in mm of {len(found.spacings_mm)}: {_describe_range(found.spacings_mm)}")
    return lines


def _describe_range(rows: Sequence[tuple[float, ...]]) -> str:
    """Return "64 to 80 x 64", or "64 x 64" where all are the same."""
    parts = []
    for values in zip(*rows, strict=True):
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        if isinstance(values[0], int):
            low, high = str(min(values)), str(max(values))
        parts.append(low if low == high else f"{low} to {high}")
    return " x ".join(parts)


def suggest(found: FirstLook) -> list[Suggestion]:
    """Suggest options that suit the data, in the order of a config.

    A rule of thumb each, stated in its reason; none was tuned on the data.

    Args:
        found: What the files are.
    """
    labels = found.labels
    sides = are_sides(tuple(labels))
    numbers = sorted(int(label) for label in labels if label.isdecimal())
    is_graded = len(labels) >= 3 and numbers == list(range(numbers[0], numbers[0] + len(labels))) if numbers else False
    suggestions = []
    if is_graded:
        reason = f"{numbers[0]} to {numbers[-1]} look like grades; nominal where they are names without an order"
        suggestions.append(Suggestion("data.label_type", "ordinal", reason))
    shaping = _suggest_slices(found, sides) if found.shapes else _suggest_size(found)
    suggestions += shaping
    side = max(next(item.value for item in shaping if item.name == "preprocess.image_size"))
    num_layers = max(1, min(5, round(math.log2(side / 7))))
    places = math.ceil(side / 2**num_layers)
    suggestions += [
        Suggestion("model.stem", "conv", "a small convolutional network makes the Perceiver's inputs"),
        Suggestion("model.num_conv_layers", num_layers, f"each halves the image: {places} x {places} inputs"),
        Suggestion("model.conv_channels", 96, "as in configs/xray_side.yaml"),
    ]
    if sides and all(item.value != "sagittal" for item in shaping):
        suggestions += [
            Suggestion("model.mirror_tta", True, "the mirror image of a left one is a right one, and is asked too"),
            Suggestion("augment.horizontal_flip", "swap_label", "a flip swaps left and right, and so the label"),
        ]
    else:
        same_label = "keep_label where a mirrored image has the same label, which doubles the data"
        reason = "a flip of a sagittal slice exchanges front and back" if sides else same_label
        suggestions.append(Suggestion("augment.horizontal_flip", "none", reason))
    rarest, most = min(labels, key=labels.__getitem__), max(labels, key=labels.__getitem__)
    num_examples = len(found.sources) * (_count_slices(found, shaping) if found.kind.has_slices else 1)
    epochs = max(10, min(60, round(WANTED_STEPS * 64 / max(1, num_examples * 0.6))))
    suggestions.append(
        Suggestion("train.epochs", epochs, f"about {WANTED_STEPS:,} steps of 64, and between 10 and 60 epochs")
    )
    num_steps = round(epochs * num_examples * 0.6 / 64)
    if num_steps < LEAST_STEPS:
        reason = f"few images make few steps: about {4 * num_steps:,} of 16, and only {num_steps:,} of 64"
        suggestions.append(Suggestion("train.batch_size", 16, reason))
    if labels[most] > 3 * labels[rarest]:
        reason = f"{labels[most]:,} {most} and {labels[rarest]:,} {rarest}: rare labels count as much as frequent ones"
        suggestions.append(Suggestion("train.class_weights", "balanced", reason))
    return suggestions


def _suggest_size(found: FirstLook) -> list[Suggestion]:
    """Suggest the size of images: their own, rounded up, unless it is large."""
    longest = float(np.median([max(size) for size in found.sizes]))
    side = min(LARGEST_IMAGE, 16 * math.ceil(longest / 16))
    reason = f"the longer side is {longest:.0f} pixels in the median"
    return [Suggestion("preprocess.image_size", [side, side], reason, describe_shrinking(longest / side))]


def _suggest_slices(found: FirstLook, sides: bool) -> list[Suggestion]:
    """Suggest plane, number and size of the slices of volumes."""
    spacing, shape = (np.median(rows, axis=0) for rows in (found.spacings_mm, found.shapes))
    planes = {axis: plane for plane, axis in PLANE_AXIS.items()}
    if 1 in shape:
        plane, reason = planes[find_slice_axis(shape.tolist(), "axial")], "that of the only slice of a scan"
    elif sides:
        plane, reason = "axial", "left and right differ by a flip here; in sagittal slices they look alike"
    else:
        plane, reason = planes[int(spacing.argmax())], "the plane in which the voxels are smallest"
    axis = PLANE_AXIS[plane]
    number = int(min(PreprocessConfig.num_slices, shape[axis]))
    others = [other for other in range(3) if other != axis]
    extent_mm = max(float(shape[other] * spacing[other]) for other in others)
    finest_mm = min(float(spacing[other]) for other in others)
    side = min(LARGEST_SLICE, 16 * math.ceil(extent_mm / finest_mm / 16))
    pixel_mm = float(f"{extent_mm / side:.2g}")
    return [
        Suggestion("preprocess.plane", plane, reason),
        Suggestion("preprocess.num_slices", number, f"of {shape[axis]:.0f} along this axis"),
        Suggestion(
            "preprocess.image_size",
            [side, side],
            f"{extent_mm:.0f} mm at the smallest voxel of {finest_mm:.2g} mm, at most {LARGEST_SLICE}",
            describe_shrinking(pixel_mm / finest_mm),
        ),
        Suggestion("preprocess.spacing_mm", pixel_mm, "so that a millimetre is as long in every scan"),
    ]


def _count_slices(found: FirstLook, shaping: Sequence[Suggestion]) -> int:
    return next((item.value for item in shaping if item.name == "preprocess.num_slices"), len(found.sources[0].paths))


def list_doubts(found: FirstLook) -> list[str]:
    """List what limits any result on these data, in a sentence each.

    Args:
        found: What the files are.
    """
    doubts = list(found.notes)
    if found.refusals:
        doubts.append(f"{count_words(len(found.refusals), 'file')} cannot be read, such as: {found.refusals[0]}")
    if len(found.labels) < 2:
        doubts.append(f"all labels are {next(iter(found.labels))}; a classifier needs two or more.")
    if found.num_patients < 30 and found.sources[0].spelling != CLASS_FOLDER:
        doubts.append(f"{found.num_patients} patients give a wide interval; cross-validate tests every patient once.")
    return doubts


def list_changes(experiment: Experiment) -> dict[str, Any]:
    """Return the options of the data that differ from their defaults, ``section.field`` -> value.

    Args:
        experiment: The experiment, with the data that ``name_data`` found.
    """
    data = experiment.data
    changes: dict[str, Any] = {"data.dataset": data.dataset, "data.raw_folder": str(data.raw_folder)}
    if data.label_table is not None:
        changes["data.label_table"] = str(data.label_table)
    for field in fields(ColumnsConfig):
        name = getattr(data.columns, field.name)
        if name != field.default:
            changes[f"data.columns.{field.name}"] = name
    return changes

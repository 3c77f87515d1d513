"""A first look: what labelled files are, and options whose reasons hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.cli import main, parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.preprocessing.first_look import describe_look, list_doubts, look, name_data, suggest


def write_images(folder, labels, size=(24, 20), header="Image,Subject ID,Grade"):
    """Write an image a label, two of each patient, and their table."""
    rows = [header]
    for number, label in enumerate(labels):
        values = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
        rows.append(f"images/{number}.png,p{number // 2},{label}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def look_at(path, **options):
    experiment = name_data(path, Experiment(**options))
    return experiment, look(experiment)


def values_of(found):
    return {item.name: item.value for item in suggest(found)}


def test_columns_are_guessed_and_what_was_found_is_said(tmp_path):
    table = write_images(tmp_path, ["left", "right"] * 5, header="File_Name,PatientID,Class")
    experiment, found = look_at(table)
    columns = experiment.data.columns
    assert (columns.path, columns.patient, columns.label) == ("File_Name", "PatientID", "Class")
    first, second = describe_look(found)
    assert first == "10 images of 5 patients: 5 left, 5 right"
    assert second == "pixels (height x width) of 10 files: 24 x 20"
    assert look_at(tmp_path)[1].labels == found.labels, "a folder that holds one table is that table"


@pytest.mark.parametrize("header", ["path,who,label", "path,patient,what"])
def test_a_column_that_is_not_found_is_asked_for(header, tmp_path):
    table = write_images(tmp_path, ["a", "b"] * 2, header=header)
    with pytest.raises(UserError, match=r"found .*--data\.columns\.(patient|label) NAME"):
        look_at(table)


def test_sides_are_flipped_with_their_label_and_grades_get_their_order(tmp_path):
    (tmp_path / "sides").mkdir()
    (tmp_path / "grades").mkdir()
    sides = values_of(look_at(write_images(tmp_path / "sides", ["left", "right"] * 3))[1])
    grades = values_of(look_at(write_images(tmp_path / "grades", [0, 1, 2] * 4))[1])
    assert sides["augment.horizontal_flip"] == "swap_label"
    assert "data.label_type" not in sides
    assert grades["data.label_type"] == "ordinal"
    assert grades["augment.horizontal_flip"] == "none"


def test_few_images_get_small_batches_for_more_steps(tmp_path):
    found = look_at(write_images(tmp_path, ["a", "b"] * 2))[1]
    few, many = (values_of(replace(found, sources=found.sources * number)) for number in (50, 300))
    assert (few["train.epochs"], few["train.batch_size"]) == (60, 16), "112 steps of 64"
    assert "train.batch_size" not in many, "675 steps of 64"


def test_rare_labels_are_weighted(tmp_path):
    assert values_of(look_at(write_images(tmp_path, ["a"] * 7 + ["b"] * 2))[1])["train.class_weights"] == "balanced"
    write_images(tmp_path, ["a"] * 6 + ["b"] * 2)
    assert "train.class_weights" not in values_of(look_at(tmp_path)[1])


def test_images_keep_their_size_until_they_are_large_and_shrinking_is_said(tmp_path):
    found = look_at(write_images(tmp_path, ["a", "b"] * 2))[1]
    sizes = {(33, 20): (48, ""), (160, 90): (160, ""), (480, 400): (160, "3.0 times")}
    for size, (side, warning) in sizes.items():
        (shape,) = (item for item in suggest(replace(found, sizes=(size,))) if item.name == "preprocess.image_size")
        assert shape.value == [side, side]
        assert (warning in shape.warning) == (bool(warning) or not shape.warning)


def test_volumes_are_cut_where_their_voxels_are_fine_and_sides_axially(write_knee, tmp_path):
    rows = ["path,patient,label"]
    for number, label in enumerate(("ill", "well", "ill", "well")):
        write_knee(tmp_path / f"{number}.nii.gz", seed=number, shape=(10, 30, 40), spacing_mm=(3.0, 0.5, 0.5))
        rows.append(f"{number}.nii.gz,{number},{label}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    found = look_at(tmp_path / "scans.csv")[1]
    assert describe_look(found)[1] == "voxels (right, anterior, superior) of 4: 10 x 30 x 40"
    values = values_of(found)
    assert (values["preprocess.plane"], values["preprocess.num_slices"]) == ("sagittal", 10)
    assert values["preprocess.image_size"] == [48, 48], "20 mm at 0.5 mm, to the next 16"
    assert values["preprocess.spacing_mm"] == pytest.approx(20 / 48, rel=0.05)
    sides = replace(found, sources=tuple(item._replace(label="left") for item in found.sources[:2]) + found.sources[2:])
    sides = replace(
        sides,
        sources=tuple(
            item._replace(label=item.label.replace("ill", "right").replace("well", "right")) for item in sides.sources
        ),
    )
    assert values_of(sides)["preprocess.plane"] == "axial"
    for shape, plane, flip in (((1, 30, 40), "sagittal", "none"), ((10, 1, 40), "coronal", "swap_label")):
        values = values_of(replace(sides, shapes=(shape,)))
        assert (values["preprocess.plane"], values["preprocess.num_slices"]) == (plane, 1)
        assert values["augment.horizontal_flip"] == flip


def test_few_patients_and_files_that_are_not_there_are_doubts(tmp_path):
    table = write_images(tmp_path, ["a", "b"] * 3)
    (tmp_path / "images" / "2.png").unlink()
    found = look_at(table)[1]
    assert len(found.sources) == 5
    doubts = " ".join(list_doubts(found))
    assert "1 file cannot be read" in doubts
    assert "cross-validate" in doubts


def test_init_writes_a_config_that_the_stages_read_and_keeps_one_that_is_there(tmp_path, monkeypatch, capsys):
    write_images(tmp_path, [0, 1, 2, 2] * 3, header="path,patient,what is it")
    monkeypatch.chdir(tmp_path)
    words = ["init", "labels.csv", "--output", "mine.yaml", "--data.columns.label", "what is it"]
    assert main(words) == 0
    text = Path("mine.yaml").read_text()
    assert text.splitlines()[1] == "# 12 images of 6 patients: 0: 3, 1: 3, 2: 6"
    experiment = parse_experiment("preprocess", ["--config", "mine.yaml"])
    assert experiment.name == "labels"
    assert experiment.data.columns.label == "what is it"
    assert main(["preprocess", "--config", "mine.yaml"]) == 0
    comments = [line for line in text.splitlines() if line.strip().startswith("#")]
    options = [name for section in yaml.safe_load(text).values() if isinstance(section, dict) for name in section]
    assert len(comments) > len(options) - 4, "every option but those of the data has a reason"
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["init"]) == main(["init", "gone.csv"]) == 2


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_files_of_which_none_can_be_read_are_one_line(suffix, tmp_path):
    rows = ["path,patient,label"]
    for number in range(6):
        (tmp_path / f"{number}{suffix}").write_bytes(b"\x89PNG\r\n\x1a\nxx" if suffix == ".png" else b"abc")
        rows.append(f"{number}{suffix},p{number},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"none of 6 files that were tried can be read\. The first: "):
        look(name_data(tmp_path / "labels.csv", Experiment("x")))

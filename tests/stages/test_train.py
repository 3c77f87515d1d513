import dataclasses
import io
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from pipeline.attention.storage import list_kept_epochs, read_maps
from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.outputs import AttentionConfig
from pipeline.config.sources import DataConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.config.training import AugmentConfig
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.store import read_store, write_store
from pipeline.inference.probabilities import compute_probabilities
from pipeline.stages.split import split
from pipeline.training.augmentation.images import check_mirror_tta
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint
from pipeline.training.run_state import load_trained_run
from tests.builders.training_runs import AUGMENT, PREPROCESS, TINY, Cut, make_experiment, read_weights, run, with_train


def numbers(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns=["images_per_second", "seconds"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Experiment:
    experiment = make_experiment(tmp_path_factory.mktemp("undisturbed"))
    run(experiment)
    return experiment


def test_a_finished_run_has_its_curves_its_best_epoch_and_its_record(undisturbed):
    paths = undisturbed.paths
    history = numbers(paths.history)
    assert list(history["epoch"]) == [1, 2, 3, 4]
    best, last = read_checkpoint(paths.best_checkpoint), read_checkpoint(paths.last_checkpoint)
    assert best.epoch == history["val_loss"].idxmin() + 1
    assert last.epoch == 4
    assert best.optimizer is None
    assert last.optimizer is not None
    record = read_json(paths.training_record)
    assert record["best"]["epoch"] == best.epoch
    assert record["store_fingerprint"] == best.store_fingerprint == read_store(paths.prepared).fingerprint
    assert best.preprocess == PREPROCESS
    store, roles = read_store(paths.prepared), pd.read_csv(paths.splits, dtype=str).set_index("group_id")["split"]
    trained_on = store.examples[(store.index["group_id"].map(roles) == "train").to_numpy()] / 255
    assert best.mean == pytest.approx([trained_on.mean()], rel=1e-12)
    assert best.std == pytest.approx([trained_on.std()], rel=1e-9)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bytes_as_an_undisturbed_one(undisturbed, tmp_path, epoch):
    experiment = make_experiment(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut(f"epoch {epoch}/4"))
    assert not experiment.paths.training_record.is_file()
    assert f"resuming after epoch {epoch}" in run(experiment)
    for name in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(experiment.paths, name)) == read_weights(getattr(undisturbed.paths, name))
    first, second = (read_checkpoint(e.paths.last_checkpoint).optimizer.tensors for e in (experiment, undisturbed))
    assert all((first[name] == second[name]).all() for name in second)
    pd.testing.assert_frame_equal(numbers(experiment.paths.history), numbers(undisturbed.paths.history))


OPTIONS = {
    "optimizer": "muon",
    "average_decay": 0.9,
    "accumulate_batches": 2,
    "batch_size": 8,
    "input_fraction": 0.5,
}


def make_varied(workspace: Path) -> Experiment:
    """An experiment with all that draws or keeps more than a plain training does."""
    perceiver = dataclasses.replace(TINY, num_cross_attends=2, weight_sharing="all", dropout=0.3)
    model = ModelConfig(num_conv_layers=1, conv_channels=4, slice_position=True, perceiver=perceiver)
    return with_train(make_experiment(workspace, model=model), **OPTIONS)


def interrupt_and_compare(whole: Experiment, cut: Experiment) -> None:
    """Train both, one of them with an interruption after two of four epochs: weights and curves are the same."""
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Cut("epoch 2/4"))
    assert "resuming after epoch 2" in run(cut)
    for name in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(cut.paths, name)) == read_weights(getattr(whole.paths, name))
    pd.testing.assert_frame_equal(numbers(cut.paths.history), numbers(whole.paths.history))


@pytest.mark.slow
def test_an_interrupted_run_of_every_method_ends_with_the_same_bytes(tmp_path):
    whole, cut = make_varied(tmp_path / "whole"), make_varied(tmp_path / "cut")
    interrupt_and_compare(whole, cut)
    first, second = (read_checkpoint(experiment.paths.last_checkpoint) for experiment in (cut, whole))
    assert all(torch.equal(first.step_weights[name], value) for name, value in second.step_weights.items())
    assert all(torch.equal(first.optimizer.tensors[name], value) for name, value in second.optimizer.tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["default", "graphs"])
def test_an_interrupted_compiled_run_ends_with_the_same_bytes(tmp_path, how):
    whole, cut = (with_train(make_experiment(tmp_path / name), compile=how) for name in ("whole", "cut"))
    torch.compiler.reset()  # it refuses to compile a method for more than eight models
    interrupt_and_compare(whole, cut)


def test_the_averaged_weights_are_those_that_are_validated_and_kept(tmp_path):
    experiment = with_train(make_experiment(tmp_path), average_decay=0.9)
    run(experiment)
    best, last = (read_checkpoint(experiment.paths.best_checkpoint), read_checkpoint(experiment.paths.last_checkpoint))
    assert best.step_weights is None
    assert any(not torch.equal(last.weights[name], value) for name, value in last.step_weights.items())
    loaded = load_trained_run(experiment, experiment.paths.best_checkpoint)
    store, rows = loaded.data.store, loaded.data.rows["val"]
    index = store.index.iloc[rows]
    scores = compute_probabilities(
        loaded.classifier, store.examples[rows], index["slice_position"].to_numpy(), torch.device("cpu"), 16
    )
    codes = index["label"].map({name: code for code, name in enumerate(store.class_names)}).to_numpy()
    # Float32 on both sides, in batches of another size.
    loss = -np.log(scores[np.arange(len(codes)), codes]).mean()
    assert loss == pytest.approx(best.history[best.epoch - 1].val_loss, rel=1e-5)


def test_subsets_of_inputs_are_refused_for_a_network_without_inputs(tmp_path):
    cnn = ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(4,)))
    experiment = make_experiment(tmp_path, model=cnn)
    with pytest.raises(UserError, match=r"train\.input_fraction: .*cnn"):
        run(with_train(experiment, input_fraction=0.5))


def test_a_second_run_does_nothing_and_reports_it(undisturbed):
    before = undisturbed.paths.last_checkpoint.stat().st_mtime_ns
    assert "already trained; nothing to do" in run(undisturbed)
    assert undisturbed.paths.last_checkpoint.stat().st_mtime_ns == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_options_are_refused_and_named_unless_training_starts_from_scratch(tmp_path, finished):
    experiment = make_experiment(tmp_path)
    if finished:
        run(experiment)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(experiment, Cut("epoch 2/4"))
    changed = with_train(experiment, learning_rate=0.01)
    with pytest.raises(UserError, match=r"train\.learning_rate was 0\.02, is 0\.01\..*train\.resume: false"):
        run(changed)
    assert "resuming" not in run(with_train(changed, resume=False))
    assert read_checkpoint(experiment.paths.last_checkpoint).settings["train.learning_rate"] == 0.01


def test_how_a_run_is_executed_may_change(undisturbed):
    assert "already trained" in run(with_train(undisturbed, accelerator="auto", compile="default"))


def test_test_slices_leave_no_trace_in_the_weights(undisturbed, tmp_path):
    """Other pixels in the test patients' slices: the same weights."""
    experiment = make_experiment(tmp_path)
    paths = experiment.paths
    store = read_store(paths.prepared)
    roles = pd.read_csv(paths.splits, dtype=str).set_index("group_id")["split"]
    images = np.array(store.examples)
    is_test = (store.index["group_id"].map(roles) == "test").to_numpy()
    assert is_test.any()
    images[is_test] = 255 - images[is_test]
    write_store(paths.prepared, [images], store.index, store.settings)
    split(experiment, Console(file=io.StringIO()))
    run(experiment)
    assert read_weights(paths.last_checkpoint) == read_weights(undisturbed.paths.last_checkpoint)


def test_a_store_without_a_certificate_for_it_is_refused(tmp_path):
    experiment = make_experiment(tmp_path)
    experiment.paths.certificate.unlink()
    with pytest.raises(UserError, match="no leak certificate"):
        run(experiment)


def test_options_of_another_store_are_refused(tmp_path):
    experiment = make_experiment(tmp_path, preprocess=dataclasses.replace(PREPROCESS, slice_range=(0.2, 0.8)))
    with pytest.raises(UserError, match=r"preprocess\.slice_range: .* \[0\.1, 0\.9\]"):
        run(experiment)


def test_a_flip_that_keeps_left_left_is_refused(tmp_path):
    experiment = make_experiment(tmp_path, augment=AugmentConfig(horizontal_flip="keep_label"))
    with pytest.raises(UserError, match=r"augment\.horizontal_flip"):
        run(experiment)


def test_tta_is_refused_in_sagittal_slices(tmp_path):
    experiment = make_experiment(
        tmp_path,
        preprocess=dataclasses.replace(PREPROCESS, plane="sagittal"),
        model=ModelConfig(stem="patches", patch_size=2, perceiver=TINY, mirror_tta=True),
        augment=AugmentConfig(),
    )
    with pytest.raises(UserError, match=r"model\.mirror_tta .*from left to right"):
        run(experiment)


@pytest.mark.parametrize(("flip", "is_good"), [("keep_label", True), ("none", False), ("swap_label", False)])
def test_tta_of_other_classes_needs_training_on_mirror_images(flip, is_good):
    classes = ("healthy", "ill")
    with nullcontext() if is_good else pytest.raises(UserError, match=r"model\.mirror_tta: .*'keep_label'"):
        check_mirror_tta(AugmentConfig(horizontal_flip=flip), classes, "sagittal")


def test_early_stopping_keeps_the_best_epoch_and_is_recorded(tmp_path):
    model = ModelConfig(stem="patches", patch_size=2, perceiver=TINY)  # no batch norm, so that nothing moves at all
    experiment = make_experiment(tmp_path, model=model)
    experiment = with_train(experiment, learning_rate=1e-30, early_stopping_epochs=1, warmup_epochs=0.0)
    run(experiment)
    record = read_json(experiment.paths.training_record)
    assert record["stopped_early"]
    assert record["epochs"] == 2
    assert record["best"]["epoch"] == read_checkpoint(experiment.paths.best_checkpoint).epoch == 1
    assert read_checkpoint(experiment.paths.last_checkpoint).epoch == 2


def test_a_run_with_squared_error_keeps_what_its_outputs_mean(tmp_path):
    """The best checkpoint alone gives the validation loss that the run reports."""
    experiment = with_train(make_experiment(tmp_path), loss="mse", epochs=2)
    run(experiment)
    checkpoint = read_checkpoint(experiment.paths.best_checkpoint)
    store, roles = read_store(experiment.paths.prepared), pd.read_csv(experiment.paths.splits, dtype=str)
    rows = store.index["group_id"].map(roles.set_index("group_id")["split"]) == "val"
    images, index = store.examples[rows.to_numpy()], store.index[rows]
    places = index["slice_position"].to_numpy()
    answers = compute_probabilities(build_from_checkpoint(checkpoint), images, places, torch.device("cpu"), 16)
    wanted = index["label"].to_numpy()[:, None] == np.array(store.class_names)
    assert checkpoint.history[-1].val_loss == pytest.approx(np.square(answers - wanted).mean(), rel=1e-5)


@pytest.mark.slow
def test_an_interrupted_run_resumes_in_the_same_tracking_run(tmp_path, tracking_uri, monkeypatch):
    """What takes seconds is named."""
    monkeypatch.setattr("pipeline.core.console.FIRST_LINE_S", 0.0)
    experiment = with_train(make_experiment(tmp_path, tracking=TrackingConfig(uri=tracking_uri)), epochs=2)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("epoch 1/2"))
    first = read_checkpoint(experiment.paths.last_checkpoint).tracking_run
    printed = run(experiment)
    assert "training: epoch 2 of 2 ..." in printed
    assert "sending the records ..." in printed
    record = read_json(experiment.paths.training_record)
    assert record["tracking_run"] == first != ""

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    found = client.get_run(first)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "16"
    assert found.data.tags["split_fingerprint"] == record["split_fingerprint"]
    assert [metric.step for metric in client.get_metric_history(first, "val_loss")] == [1, 2]
    assert len(client.search_runs([found.info.experiment_id])) == 1
    assert len(found.outputs.model_outputs) == 1
    assert {item.path for item in client.list_artifacts(first)} >= {"config.yaml", "history.csv", "splits.csv"}


@pytest.mark.slow
def test_two_processes_come_to_the_losses_of_one(undisturbed, tmp_path):
    """The same global batches; dropout and mixing are drawn by each process, so they are off in both."""
    unmixed = dataclasses.replace(AUGMENT, mixup_alpha=0.0, cutmix_alpha=0.0)
    perceiver = dataclasses.replace(TINY, dropout=0.0)
    model = ModelConfig(stem="patches", patch_size=2, perceiver=perceiver)
    one = make_experiment(tmp_path / "one", model=model, augment=unmixed)
    two = make_experiment(tmp_path / "two", model=model, augment=unmixed)
    run(one)
    root = Path(__file__).parents[2]
    code = f"""
import dataclasses, sys
sys.path[:0] = [{str(root)!r}]
from pathlib import Path
from rich.console import Console
from tests.builders.training_runs import make_experiment, with_train, AUGMENT, TINY
from pipeline.config.model import ModelConfig
from pipeline.stages.train import train
import tests.builders.training_runs as stage
import os
if __name__ == "__main__":
    model = ModelConfig(stem="patches", patch_size=2, perceiver=dataclasses.replace(TINY, dropout=0.0))
    unmixed = dataclasses.replace(AUGMENT, mixup_alpha=0.0, cutmix_alpha=0.0)
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    stage.split = stage.split if first else (lambda *arguments: None)
    stage.write_store = stage.write_store if first else (lambda *arguments: None)
    experiment = make_experiment(Path({str(tmp_path / "two")!r}), model=model, augment=unmixed)
    train(with_train(experiment, devices=2), Console())
"""
    script = tmp_path / "two.py"
    script.write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    assert read_json(two.paths.training_record)["world_size"] == 2
    # Sums in another order: float32 keeps 7 digits, and four epochs of steps grow the last one.
    columns = ["train_loss", "val_loss", "train_accuracy", "val_accuracy"]
    pd.testing.assert_frame_equal(numbers(two.paths.history)[columns], numbers(one.paths.history)[columns], rtol=1e-3)
    assert build_from_checkpoint(read_checkpoint(two.paths.best_checkpoint)) is not None


def with_maps(experiment: Experiment) -> Experiment:
    return dataclasses.replace(
        experiment,
        attention=AttentionConfig(num_examples=4),
        train=dataclasses.replace(experiment.train, keep_attention_every_epochs=2),
    )


def test_maps_are_kept_at_their_epochs_and_change_nothing_else(undisturbed, tmp_path):
    experiment = with_maps(make_experiment(tmp_path))
    run(experiment)
    kept = list_kept_epochs(experiment.paths.attention_maps)
    assert sorted(kept) == [2, 4]
    maps = [read_maps(path) for path in kept.values()]
    assert [item.epoch for item in maps] == [2, 4]
    assert maps[0].example_ids == maps[1].example_ids
    assert not np.array_equal(maps[0].weights, maps[1].weights)
    roles = pd.read_csv(experiment.paths.splits, dtype=str).set_index("group_id")["split"]
    index = read_store(experiment.paths.prepared).index.set_index("example_id")
    assert set(index.loc[list(maps[0].example_ids), "group_id"].map(roles)) == {"val"}
    for name in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(experiment.paths, name)) == read_weights(getattr(undisturbed.paths, name))
    assert list_kept_epochs(undisturbed.paths.attention_maps) == {}


def test_a_resumed_run_keeps_its_maps_and_ends_with_those_of_an_undisturbed_one(tmp_path):
    whole = with_maps(make_experiment(tmp_path / "whole"))
    run(whole)
    experiment = with_maps(make_experiment(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("epoch 3/4"))
    first = list_kept_epochs(experiment.paths.attention_maps)[2]
    before = first.stat().st_mtime_ns
    run(experiment)
    assert first.stat().st_mtime_ns == before
    for epoch, path in list_kept_epochs(whole.paths.attention_maps).items():
        found, expected = read_maps(list_kept_epochs(experiment.paths.attention_maps)[epoch]), read_maps(path)
        assert found.weights.tobytes() == expected.weights.tobytes(), epoch
    run(with_train(experiment, resume=False, epochs=1))
    assert list_kept_epochs(experiment.paths.attention_maps) == {}, "the maps of the abandoned run"


def test_maps_of_a_network_without_attention_are_refused_before_training(tmp_path):
    experiment = with_maps(
        make_experiment(tmp_path, model=ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2, 2))))
    )
    with pytest.raises(UserError, match="attention: this network has none"):
        run(experiment)
    assert not experiment.paths.last_checkpoint.is_file()


def test_a_loss_of_grades_is_refused_for_classes_without_an_order(undisturbed):
    with pytest.raises(UserError, match=r"train\.loss.*corn.*data\.label_type: ordinal"):
        run(with_train(undisturbed, loss="corn", resume=False))


def test_grades_are_learned_in_their_order_and_not_scored_in_another(tmp_path):
    """Right before left, against the order of the names."""
    grades = DataConfig(label_type="ordinal", label_order=("right", "left"))
    augment = AugmentConfig(horizontal_flip="swap_label")
    experiment = with_train(make_experiment(tmp_path, data=grades, augment=augment), loss="corn", epochs=12)
    run(experiment)
    checkpoint = read_checkpoint(experiment.paths.best_checkpoint)
    assert checkpoint.spec.class_names == ("right", "left")
    assert checkpoint.settings["data.label_order"] == ["right", "left"]
    assert checkpoint.history[-1].val_accuracy > 0.9
    turned = dataclasses.replace(experiment, data=DataConfig(label_type="ordinal", label_order=("left", "right")))
    with pytest.raises(UserError, match=r"in the order right, left; data\.label_type .* now give left, right"):
        load_trained_run(turned, None)
    with pytest.raises(UserError, match=r"data\.label_order was \['right', 'left'\], is \['left', 'right'\]"):
        run(turned)

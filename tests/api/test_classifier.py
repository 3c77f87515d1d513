"""The classifier of scikit-learn: its checks, labels of any type, whole patients in validation, pickles, refusals."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from pipeline import PerceiverClassifier, load_model
from pipeline.api.array_training import ImageForm, build_data, find_form
from pipeline.core.errors import UserError

TINY = {
    "model.stem": "pixels",
    "model.perceiver.num_latents": 4,
    "model.perceiver.latent_dim": 16,
    "model.perceiver.num_cross_attends": 1,
    "model.perceiver.self_attends_per_cross": 1,
    "model.perceiver.cross_head_dim": 16,
    "model.perceiver.latent_heads": 2,
    "model.perceiver.latent_head_dim": 8,
    "model.perceiver.num_bands": 2,
    "model.perceiver.latent_init_std": 1.0,
    "augment.rotation_degrees": 0.0,
    "augment.zoom_fraction": 0.0,
    "augment.shift_fraction": 0.0,
    "augment.gamma": 0.0,
    "augment.brightness_fraction": 0.0,
    "augment.noise_std": 0.0,
    "train.precision": "32-true",
    "train.schedule": "constant",
    "train.warmup_epochs": 0.0,
}
# What scikit-learn's checks ask that the classifier cannot do, by the name of the check, with the reason. There is
# nothing: rows of numbers are images one pixel high, and checks of what it does not have, such as weights of examples,
# are not made.
EXPECTED_FAILED_CHECKS: dict[str, str] = {}
# Those that train no model, or refuse to.
QUICK_CHECKS = {
    "check_estimator_cloneable",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_repr",
    "check_estimators_unfitted",
    "check_estimator_sparse_array",
    "check_complex_data",
    "check_estimators_empty_data_messages",
    "check_fit2d_1sample",
    "check_fit1d",
}


def build(**changes) -> PerceiverClassifier:
    arguments = {"epochs": 20, "batch_size": 32, "learning_rate": 0.01, "accelerator": "cpu", "random_state": 0}
    return PerceiverClassifier(**(arguments | {"options": TINY} | changes))


def draw(num_patients=12, seed=0):
    """Two images of 8 x 8 of each patient, whose label is the bright half."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), 2)
    labels = np.array(["top", "bottom"])[np.arange(2 * num_patients) % 2]
    images = generator.integers(0, 100, (2 * num_patients, 8, 8)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[slice(0, 4) if label == "top" else slice(4, 8)] += 150
    return images, labels, patients


@pytest.fixture(scope="module")
def fitted():
    images, labels, patients = draw()
    return build(verbose=0).fit(images, labels, groups=patients)


def test_it_keeps_the_rules_of_estimators_that_need_no_training():
    done = set()
    for estimator, check in estimator_checks_generator(build()):
        name = check.func.__name__
        if name in QUICK_CHECKS:
            check(estimator)
            done.add(name)
    assert done == QUICK_CHECKS


@pytest.mark.slow
@parametrize_with_checks([build()], expected_failed_checks=lambda _: EXPECTED_FAILED_CHECKS)
def test_it_keeps_all_rules_of_scikit_learn(estimator, check):
    check(estimator)


def test_new_images_of_other_patients_are_classified(fitted):
    images, labels, _ = draw(seed=1)
    assert fitted.classes_.tolist() == ["bottom", "top"]
    assert fitted.score(images, labels) == 1
    scores = fitted.predict_proba(images)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fitted.classes_[scores.argmax(axis=1)], fitted.predict(images))


def test_a_pickle_and_a_saved_checkpoint_answer_the_same(fitted, tmp_path):
    images, _, _ = draw(seed=1)
    expected = fitted.predict_proba(images)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(images), expected)
    fitted.save(tmp_path / "own.safetensors")
    model = load_model(tmp_path / "own.safetensors", accelerator="cpu")
    assert model.class_names == ("bottom", "top")
    np.testing.assert_allclose(model.predict_proba(images), expected, rtol=1e-6)


def test_the_same_seed_gives_the_same_model_in_rows_and_with_an_axis_of_channels(fitted):
    images, labels, patients = draw()
    expected = fitted.predict_proba(images)
    rows = build(image_size=(8, 8), epochs=20).fit(images.reshape(len(images), -1), labels, groups=patients)
    np.testing.assert_array_equal(rows.predict_proba(images.reshape(len(images), -1)), expected)
    np.testing.assert_array_equal(rows.predict_proba(images[:, None].reshape(len(images), -1)), expected)


def test_another_seed_gives_another_model_and_another_validation():
    images, labels, patients = draw(6)
    models = [build(epochs=1, random_state=seed).fit(images, labels, groups=patients) for seed in (0, 1, None)]
    assert models[0].checkpoint_.settings["train.seed"] == 0
    assert len({model.predict_proba(images).tobytes() for model in models}) == 3
    assert len({model.checkpoint_.split_fingerprint for model in models}) > 1


@pytest.mark.parametrize("labels", [[True, False], [np.int8(-1), np.int8(1)]])
def test_labels_of_any_type_come_back(labels):
    images, _, _ = draw(3)
    given = np.array(labels)[np.arange(6) % 2]
    model = build(epochs=1).fit(images, given)
    assert model.classes_.tolist() == sorted(labels)
    assert model.classes_.dtype == given.dtype
    assert set(model.predict(images)) <= set(labels)


def test_grouped_cross_validation_tests_other_patients():
    images, labels, patients = draw(6)
    scores = cross_val_score(
        build(epochs=2), images, labels, groups=patients, cv=GroupKFold(2), params={"groups": patients}
    )
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_training_stops_early_and_says_how_far_it_came(capsys):
    images, _, _ = draw()
    labels = np.random.default_rng(0).permutation(np.arange(len(images)) % 2)  # nothing can be learned
    model = build(epochs=20, early_stopping_epochs=1, verbose=1).fit(images, labels)
    num_epochs = len(model.checkpoint_.history)
    assert num_epochs < 20
    assert model.checkpoint_.epoch == num_epochs - 1
    assert capsys.readouterr().out.count("val loss") == num_epochs


def test_parameters_are_cloned_and_reach_the_training():
    model = clone(build(epochs=1, options=TINY | {"model.perceiver.num_latents": 5}))
    images, labels, _ = draw(3)
    assert model.fit(images, labels).checkpoint_.model.perceiver.num_latents == 5
    assert model.checkpoint_.settings["train.learning_rate"] == 0.01
    config = PerceiverClassifier("medmnist", epochs=1, options={"train.teacher": "cnn"}).get_params()
    assert (config["config"], config["epochs"]) == ("medmnist", 1)


@pytest.mark.slow
def test_a_cnn_teaches_where_the_config_says_so():
    images, labels, _ = draw(3)
    options = TINY | {"train.teacher": "cnn", "train.guidance_weight": 0.0, "model.cnn.channels": [4]}
    alone = build(epochs=1).fit(images, labels).predict_proba(images)
    taught = build(epochs=1, options=options).fit(images, labels)
    assert taught.checkpoint_.model.architecture == "perceiver"
    assert not np.array_equal(taught.predict_proba(images), alone)


def test_grades_are_learned_by_their_order_as_numbers_alone():
    images, _, _ = draw(6)
    options = TINY | {"train.loss": "corn"}
    model = build(epochs=1, options=options).fit(images, np.arange(12) % 3)
    assert model.checkpoint_.settings["data.label_order"] == ["0", "1", "2"]
    with pytest.raises(UserError, match="grades are numbers"):
        build(epochs=1, options=options).fit(images, np.array(["low", "high"])[np.arange(12) % 2])


def test_the_lowest_number_is_black_and_the_highest_white():
    arrays = np.array([[[-1.0, 0.0], [0.5, 1.0]]])
    form = find_form(arrays, None)
    assert form == ImageForm((2, 2), -1.0, 1.0)
    assert form.to_levels(arrays).tolist() == [[[0, 128], [191, 255]]]  # 127.5 is rounded to even
    assert form.to_levels(arrays * 9).tolist() == [[[0, 128], [255, 255]]]
    bytes_ = np.array([[[3, 7]]], dtype=np.uint8)
    assert find_form(bytes_, None).to_levels(bytes_).tolist() == [[[3, 7]]]
    assert find_form(np.zeros((4, 6)), None).shape == (1, 6)
    assert find_form(np.zeros((4, 6)), (1, 2)).shape == (3, 1, 2)
    assert find_form(np.zeros((4, 3, 5, 2)), None).shape == (3, 5, 2)
    assert find_form(np.zeros((4, 1, 5, 2)), None).shape == (5, 2)


def test_images_of_a_patient_are_one_group():
    images, _, patients = draw(3)
    store = build_data(images, np.arange(6) % 2, ("bottom", "top"), [f"p{number}" for number in patients])
    assert store.index.groupby("group_id").indices.keys() == {"0", "1", "2"}
    assert [rows.tolist() for rows in store.index.groupby("group_id").indices.values()] == [[0, 1], [2, 3], [4, 5]]
    assert store.fingerprint != build_data(images, np.arange(6) % 2, ("bottom", "top"), None).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"train.epoch": 3}}, r"train\.epoch: no option .* nearest is train\.epochs"),
        ({"options": {"split.seed": 3}}, r"split\.seed: no option"),
        ({"options": {"train.seed": 3}}, r"train\.seed: not read here; it is for random_state"),
        ({"options": {"train.teacher": "a.safetensors"}}, "cnn or null"),
        ({"options": {"train.optimizer": "sgd"}}, r"train\.optimizer"),
        ({"options": {"augment.horizontal_flip": "swap_label"}}, "left"),
        ({"config": "medmist"}, "medmnist"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"image_size": (3, 3), "rows": True}, "image_size"),
        ({"groups": [1, 2]}, "groups"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, message):
    images, labels, _ = draw(3)
    images = images.reshape(len(images), -1) if changes.pop("rows", False) else images
    groups = changes.pop("groups", None)
    with pytest.raises(UserError, match=message):
        build(**({"epochs": 1} | changes)).fit(images, labels, groups=groups)


def test_images_of_another_shape_are_refused(fitted):
    with pytest.raises(UserError, match=r"found shape \(8, 4\), allowed is \(8, 8\)"):
        fitted.predict(np.zeros((2, 8, 4)))
    with pytest.raises(UserError, match="5 axes"):
        fitted.predict(np.zeros((2, 8, 2, 2, 2)))

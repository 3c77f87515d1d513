"""Weights whose patients are known, weights whose are not, and patients in another spelling."""

import dataclasses
import io

import pytest
from rich.console import Console

from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.data.store import read_store, write_store
from pipeline.stages.split import split
from pipeline.training.seen_patients import (
    KNOWN,
    SAME,
    START_PATIENTS,
    TEACHER_PATIENTS,
    UNKNOWN,
    UNLABELLED,
    check_seen_patients,
    find_leaked,
)
from tests.builders.checkpoints import make_checkpoint
from tests.builders.training_runs import make_experiment


def name_patients(experiment, name, rename, seed=0):
    """The same slices as another experiment of the workspace, with other names of patients."""
    drawn = dataclasses.replace(experiment.split, seed=seed)
    other = dataclasses.replace(experiment, name=name, split=drawn)
    store = read_store(experiment.paths.prepared)
    other.paths.prepared.mkdir(parents=True)
    index = store.index.assign(group_id=store.index["group_id"].map(rename))
    write_store(other.paths.prepared, [store.examples], index, store.settings)
    split(other, Console(file=io.StringIO()))
    return other


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """One experiment, and in its workspace: other people, its people split otherwise, and these spelled otherwise."""
    one = make_experiment(tmp_path_factory.mktemp("seen"))
    return {
        "same": one,
        "others": name_patients(one, "others", lambda patient: f"other-{patient}"),
        "again": name_patients(one, "again", str, seed=5),
        "respelled": name_patients(one, "respelled", lambda patient: str(int(patient)), seed=5),
    }


def check(experiment, of, **settings):
    """Start a training of an experiment from weights that were trained on another one."""
    data = load_certified_data(of)
    checkpoint = make_checkpoint(
        store_fingerprint=data.store.fingerprint,
        split_fingerprint=data.certificate["splits_fingerprint"],
        settings={"split.num_folds": 0, "split.test_fold": 0} | settings,
    )
    path = of.paths.best_checkpoint
    return check_seen_patients("train.start_from", path, checkpoint, load_certified_data(experiment), experiment)


MORE = [
    {UNLABELLED: "of a further table"},
    {START_PATIENTS: KNOWN},
    {TEACHER_PATIENTS: KNOWN},
    {START_PATIENTS: KNOWN, TEACHER_PATIENTS: KNOWN, UNLABELLED: "of a further table"},
]


def test_weights_of_one_table_of_splits_are_known_by_it(experiments):
    assert check(experiments["same"], experiments["same"]) == SAME
    assert check(experiments["same"], experiments["others"]) == KNOWN


@pytest.mark.parametrize("name", [START_PATIENTS, TEACHER_PATIENTS])
def test_weights_before_of_the_same_splits_add_nobody(experiments, name):
    assert check(experiments["same"], experiments["same"], **{name: SAME}) == SAME
    assert check(experiments["same"], experiments["others"], **{name: SAME}) == UNKNOWN


@pytest.mark.parametrize("more", MORE)
def test_weights_that_learned_from_more_than_their_splits_say_are_known_by_the_same_splits_alone(experiments, more):
    assert check(experiments["same"], experiments["same"], **more) == KNOWN
    assert check(experiments["same"], experiments["others"], **more) == UNKNOWN


@pytest.mark.parametrize("name", [START_PATIENTS, TEACHER_PATIENTS])
def test_what_was_unknown_of_the_weights_before_stays_unknown(experiments, name):
    for of in ("same", "others"):
        facts = {START_PATIENTS: KNOWN, TEACHER_PATIENTS: KNOWN, name: UNKNOWN}
        assert check(experiments["same"], experiments[of], **facts) == UNKNOWN


@pytest.mark.parametrize("more", [{}, *MORE, {START_PATIENTS: UNKNOWN}])
def test_patients_that_were_seen_are_refused_whatever_else_was(experiments, more):
    with pytest.raises(UserError, match=r"train\.start_from: .* saw \d of those who validate or are tested here"):
        check(experiments["same"], experiments["again"], **more)


def test_a_patient_who_is_spelled_otherwise_is_refused_with_both_spellings(experiments):
    words = r"patient 00(\d), who may be \1, which differs only in leading zeros \((train|val) there, (val|test) here\)"
    with pytest.raises(UserError, match=words):
        check(experiments["respelled"], experiments["same"])


@pytest.mark.parametrize(
    ("there", "here"), [("001", "001"), ("1", "001"), ("0001", "001"), ("OAI-7", "7"), ("p1", "P1"), ("7.0", "7")]
)
def test_a_patient_must_not_get_nearer_to_the_test_in_any_spelling(there, here):
    order = ("train", "val", "test")
    for before in order:
        for now in order:
            leaked = find_leaked({there: before, "else": "train"}, {here: now})
            assert leaked == ({there: here} if order.index(before) < order.index(now) else {})


def test_a_patient_who_is_here_in_the_same_spelling_is_no_other_one():
    assert find_leaked({"7": "train"}, {"7": "train", "007": "test"}) == {}

"""Grades are in their order, and classes that are none in that of their names."""

import numpy as np
import pandas as pd
import pytest

from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.data.certified_data import order_classes
from pipeline.data.store import Store


def order(names, **options):
    store = Store(np.zeros(0), pd.DataFrame(), tuple(sorted(names)), {}, "")
    return order_classes(store, DataConfig(**options))


def test_numbers_are_ordered_as_numbers_where_they_are_grades():
    names = ("10", "9", "-1", "2.5")
    assert order(names).class_names == ("-1", "10", "2.5", "9")
    assert not order(names).is_ordinal
    ordered = order(names, label_type="ordinal")
    assert ordered.class_names == ("-1", "2.5", "9", "10")
    assert ordered.is_ordinal


def test_words_are_ordered_as_the_option_says_and_so_are_numbers():
    assert order(["mild", "none"], label_type="ordinal", label_order=("none", "mild")).class_names == ("none", "mild")
    assert order(["0", "1"], label_type="ordinal", label_order=(1, 0)).class_names == ("1", "0")
    bins = {"label_type": "ordinal", "bins": (50.0,)}
    assert order(["1: below 50", "2: 50 and above"], **bins).class_names == ("1: below 50", "2: 50 and above")


@pytest.mark.parametrize("names", [("mild", "none"), ("1", "1.0"), ("nan", "1"), ("inf", "1")])
def test_labels_without_a_known_order_are_refused(names):
    with pytest.raises(UserError, match=r"data\.label_order: \[LOWEST"):
        order(names, label_type="ordinal")


@pytest.mark.parametrize("given", [("none",), ("none", "mild", "severe"), ("none", "mild ")])
def test_an_order_of_other_labels_is_refused(given):
    with pytest.raises(UserError, match=r"the labels are mild, none\."):
        order(["none", "mild"], label_type="ordinal", label_order=given)


def test_an_order_of_classes_that_are_no_grades_or_with_one_twice_is_refused():
    with pytest.raises(UserError, match=r"nothing where data\.label_type is nominal"):
        DataConfig(label_order=("a", "b"))
    with pytest.raises(UserError, match="each label once"):
        DataConfig(label_type="ordinal", label_order=("1", 1))

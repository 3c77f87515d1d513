"""Tables of predictions, by hand or drawn at random."""

import numpy as np
import pandas

CLASSES = {2: ("left", "right"), 3: ("cyst", "normal", "tear"), 6: tuple("abcdef")}


def build_table(
    probabilities, labels, class_names, group_ids=None, source_ids=None, predicted=None
) -> pandas.DataFrame:
    """A predictions table; each row its own volume and patient unless given otherwise."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    names = np.array(class_names)
    ids = [str(index) for index in range(len(labels))]
    table = pandas.DataFrame(
        {
            "example_id": ids,
            "source_id": ids if source_ids is None else source_ids,
            "group_id": ids if group_ids is None else group_ids,
            "split": "test",
            "label": labels,
            "predicted": names[probabilities.argmax(axis=1)] if predicted is None else predicted,
            "slice_index": 0,
        }
    )
    for column, name in enumerate(class_names):
        table[f"probability_{name}"] = probabilities[:, column]
    return table


def build_random_table(num_classes, num_patients=12, slices=15, seed=0, decimals=2, patient_std=0.0):
    """Noisy scores with ties (rounded), several slices a patient, imbalanced classes."""
    generator = np.random.default_rng(seed)
    num_rows = num_patients * slices
    fractions = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    labels = generator.choice(num_classes, size=num_rows, p=fractions)
    groups = np.arange(num_patients).repeat(slices)
    scores = generator.normal(size=(num_rows, num_classes))
    skill = 1 + patient_std * generator.normal(size=num_patients)
    scores[np.arange(num_rows), labels] += skill[groups]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    probabilities = probabilities.round(decimals)
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)
    probabilities = np.clip(probabilities, 0, 1)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = CLASSES[num_classes]
    label_names, group_ids = np.array(names)[labels], groups.astype(str)
    source_ids = [f"{group} {label}" for group, label in zip(group_ids, label_names, strict=True)]
    return build_table(probabilities, label_names, names, group_ids, source_ids)

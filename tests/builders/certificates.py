"""A certificate that passed and found nothing."""

from pipeline.data.leak_certificate import FORMAT, Certificate


def build_certificate(**changes) -> Certificate:
    """Return the content of leak_certificate.json; the keys of ``copies`` may be given next to the others."""
    none = {"count": 0, "pairs": []}
    names = ("across_splits", "accepted", "within_split", "within_patient", "unverified", "labels_disagree")
    numbers = {
        "threshold": 9.0,
        "num_sources": 6,
        "num_candidates": 4,
        "num_compared": 4,
        "num_limited": 0,
        "accept": [],
    }
    copies = {name: changes.pop(name, value) for name, value in {**numbers, **dict.fromkeys(names, none)}.items()}
    content = {
        "format": FORMAT,
        "passed": True,
        "kind": "volumes",
        "store_fingerprint": "",
        "splits_fingerprint": "",
        "splits": {},
        "patients_in_two_splits": [],
        "patients_without_split": [],
        "identical_images": none,
        "published_doubles": none,
        "copies": copies,
        "page": "",
    }
    return content | changes


def build_copy(first="a", second="b", alteration="mirrored", similarity=0.97) -> dict:
    """Return a pair of scans of patients p and q, of train and test."""
    return {
        "first": {"source_id": first, "group_id": "p", "split": "train", "label": "left", "row": 0},
        "second": {"source_id": second, "group_id": "q", "split": "test", "label": "right", "row": 1},
        "similarity": similarity,
        "significance": 40.0,
        "alteration": alteration,
    }

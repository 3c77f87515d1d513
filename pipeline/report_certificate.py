"""The leak certificate as a report tells it."""

from collections.abc import Mapping
from typing import Any

from pipeline.kinds import WORDS, plural


def summarise_certificate(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the leak certificate of the split stage into what ``write_report`` shows.

    Returns:
        ``passed``, ``counts`` of what was looked for across splits, and ``findings`` in words.
    """
    words = WORDS[certificate.get("kind", "volumes")]
    identical, near = certificate["identical_images"], certificate["near_identical_images"]
    doubles = certificate.get("published_doubles", {"count": 0, "pairs": []})
    what = "objects" if words.example == "object" else "images"
    pairs = [("identical", pair) for pair in (*identical["pairs"], *doubles["pairs"])]
    pairs += [(f"near-identical, {pair['bits']} bits apart", pair) for pair in near["pairs"]]
    return {
        "passed": certificate["passed"],
        "counts": {
            f"{plural(words.group)}_in_two_splits": len(certificate["patients_in_two_splits"]),
            f"{plural(words.group)}_without_a_split": len(certificate["patients_without_split"]),
            f"identical_{what}_across_splits": identical["count"],
            **({f"identical_{what}_across_the_published_test_split": doubles["count"]} if words.is_single else {}),
            **({f"near_identical_{what}_across_splits": near["count"]} if what == "images" else {}),
        },
        "findings": [
            *(f"{words.group.capitalize()} {name} is in two splits." for name in certificate["patients_in_two_splits"]),
            *(f"{words.group.capitalize()} {name} has no split." for name in certificate["patients_without_split"]),
            *(f"{pair['first']} and {pair['second']} are {kind}." for kind, pair in pairs),
        ],
    }

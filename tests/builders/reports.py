"""Invented metrics, tiny PNG files, and a reader of tags for the tests of report pages."""

import io
from html.parser import HTMLParser

from PIL import Image


class Tags(HTMLParser):
    """Collect the tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def build_metric(value, low=None, high=None):
    method, reason = (None, "rows of one group only") if low is None else ("beta-binomial", "")
    return {"value": value, "low": low, "high": high, "method": method, "reason": reason}


def build_scores(accuracy):
    names = ["balanced_accuracy", "auroc", "sensitivity", "specificity", "mcc", "f1", "nll", "brier", "ece"]
    return {"accuracy": accuracy, **{name: build_metric(0.5, 0.25, 0.75) for name in names}}


def build_class():
    names = ("precision", "recall", "specificity", "npv", "f1", "average_precision")
    return {"n": 480, "groups": 20, **{name: build_metric(0.9, 0.8, 0.95) for name in names}}


def build_metrics(levels=("slice", "volume")):
    sizes = {"slice": 960, "volume": 40, "patient": 20}
    return {
        "split": "test",
        "synthetic_note": "",
        "class_names": ["left", "right"],
        "levels": {
            level: {
                "n": sizes[level],
                "groups": 20,
                "groups_with_errors": 6,
                "mean_over_groups": build_metric(0.965, 0.94, 0.98),
                "sample_size": {"correlation": 0.2, "five_points": 16, "two_points": 75},
                "metrics": build_scores(build_metric(0.9714, 0.95, 0.9861)),
                "confusion": [[1, 0], [0, 1]],
                "support": {"left": 1, "right": 1},
                "notes": [],
            }
            for level in levels
        },
        "classes": {
            level: {"kappa": build_metric(0.94), "classes": {name: build_class() for name in ("left", "right")}}
            for level in levels
        },
        "probes": {},
        "not_evaluated": [{"question": "Differences by age", "reason": "no age is known"}],
        "baselines": {
            "majority": build_scores(build_metric(0.5)),
            "logistic_regression": build_scores(build_metric(0.86, 0.8, 0.9)),
        },
    }


def build_png(width=20, height=10) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def build_svg(width=9, height=4.5) -> bytes:
    """Build an SVG file; width and height are points, of which 9 have 20 pixels."""
    size = f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><path d="M 0 0 L 9 4"/></svg>'.encode()

import re
import shutil
import subprocess

import numpy as np
import pandas
import pytest

from pipeline.copies.certificate import certify
from pipeline.core.data_kinds import IMAGES, POINTS, VOLUMES, WHOLE_VOLUMES
from pipeline.data.store import Store
from pipeline.reporting.elements import Figure, Section, Table, find_suffix
from pipeline.reporting.evaluation.page import Report, summarise_certificate, write_report
from pipeline.reporting.evaluation.scores import describe_question, describe_visits, summarise_in_words
from pipeline.reporting.formatting import show_number, show_percent
from tests.builders.certificates import build_certificate, build_copy
from tests.builders.reports import Tags, build_metric, build_metrics, build_png, build_scores, build_svg

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def build_page(tmp_path, **changes) -> str:
    arguments = {
        "title": "phantom",
        "metrics": build_metrics(),
        "figures": {"roc": build_svg(), "worst_mistakes": build_png(1200)},
        "split_counts": pandas.DataFrame({"split": ["train", "test"], "patients": [1234, 20]}),
        "certificate": {"passed": True, "counts": {"patients_in_two_splits": 0}, "findings": []},
        "provenance": {"seed": 20260101, "versions": {"torch": "2.13.0"}},
        "config_text": "train:\n  epochs: 3\n",
        "warnings": (),
    }
    path = tmp_path / "report.html"
    write_report(path, Report(**(arguments | changes)))
    return path.read_text(encoding="utf-8")


def test_the_summary_has_accuracy_interval_patients_and_baselines():
    slices, mean, volumes, size, baselines = (
        text.replace("\u00a0", " ") for text in summarise_in_words(build_metrics())
    )
    assert "960 slices of 20 independent patients in the test split" in slices
    assert "97.1 % (95 % interval 95.0 to 98.6 %)" in slices
    assert slices.endswith("; 6 patients with errors.")
    assert mean == "Where each patient counts once, it is right for 96.5 % (95 % interval 94.0 to 98.0 %)."
    assert "per volume (40)" in volumes
    assert size.startswith("A 95 % interval of ±5 points would need 16 patients, one of ±2 points 75,")
    assert "intraclass correlation of the slices' errors 0.200" in size
    assert "97.1 % (95 % interval 95.0 to 98.6 %)" in volumes
    assert "most frequent class 50.0 %" in baselines
    assert "logistic regression on pixels 86.0 % (95 % interval 80.0 to 90.0 %)" in baselines


@pytest.mark.parametrize(
    ("value", "percent", "number"),
    [
        (0.97149, "97.1", "0.971"),
        (1.0, "100.0", "1.000"),
        (1 - 2**-52, "100.0", "1.000"),  # as sums of floats are
        (0.99964, "99.96", "0.9996"),
        (0.99999, "99.999", "0.99999"),
        (1 - 1 / 8_000_000, "99.99999", "0.9999999"),
    ],
)
def test_one_mistake_in_thousands_does_not_look_like_none(value, percent, number):
    assert show_percent({"value": value, "low": None, "high": None}) == f"{percent}\u00a0%"
    assert show_number(value) == number


def test_an_undefined_fraction_is_shown_as_such():
    assert show_percent(build_metric(None)) == "not defined"


def test_a_missing_interval_is_explained():
    metrics = build_metrics(("slice",))
    metrics["levels"]["slice"]["groups"] = 1
    metrics["levels"]["slice"]["metrics"]["accuracy"] = build_metric(0.5)
    sentences = summarise_in_words(metrics)
    assert "1 independent patient in" in sentences[0]
    assert any("no interval" in sentence for sentence in sentences)


def test_a_level_with_nothing_to_average_is_shown_once(tmp_path):
    metrics = build_metrics(("slice", "volume"))
    metrics["levels"]["volume"]["n"] = 960
    page = build_page(tmp_path, metrics=metrics)
    assert "<h3>Slices</h3>" in page
    assert "<h3>Volumes</h3>" not in page


def test_everything_that_a_user_can_name_is_escaped(tmp_path):
    levels = build_metrics()
    levels["levels"]["slice"]["notes"] = [HOSTILE]
    levels["levels"]["slice"]["support"] = {HOSTILE: 1}
    levels["baselines"][HOSTILE] = build_scores(build_metric(0.5))
    levels["split"] = HOSTILE
    page = build_page(
        tmp_path,
        title=HOSTILE,
        metrics=levels | {"synthetic_note": HOSTILE, "class_names": ["a", HOSTILE]},
        figures={HOSTILE: build_png()},
        split_counts=pandas.DataFrame({HOSTILE: [HOSTILE], "file": [HOSTILE]}),
        certificate={"passed": False, "counts": {HOSTILE: HOSTILE}, "findings": [HOSTILE, {"a": HOSTILE}]},
        provenance={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
        config_text=HOSTILE,
        warnings=[HOSTILE],
    )
    assert "<script" not in page.lower()
    tags = Tags(page)
    assert tags.text.count("alert(1)") >= 15
    assert not [attributes for _, attributes in tags.tags if "onerror" in attributes]
    assert all(attributes["src"].startswith("data:") for tag, attributes in tags.tags if tag == "img")


def test_the_page_loads_nothing_from_the_network(tmp_path):
    tags = Tags(build_page(tmp_path)).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object"})
    images = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert len(images) == 2
    assert sorted(address.split(",")[0] for address in images) == [
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    ]
    assert all(attributes["href"].startswith("#") for _, attributes in tags if "href" in attributes)
    assert "default-src 'none'" in next(a["content"] for _, a in tags if a.get("http-equiv"))


def test_each_figure_has_a_text_and_known_ones_come_first(tmp_path):
    names = ("extra_view", "attention_1", "attention_2", "training_curves", "roc", "confusion_slice", "answer")
    figures = {name: build_png() for name in names}
    images = [a for tag, a in Tags(build_page(tmp_path, figures=figures)).tags if tag == "img"]
    assert [image["alt"].split(".")[0] for image in images] == [
        "The answer",
        "Confusion matrix of the slices",
        "ROC curve",
        "Example 1",
        "Example 2",
        "Training curves",
        "Extra view",
    ]
    assert {(image["width"], image["height"]) for image in images} == {("20", "10")}


def test_the_contents_lead_to_every_heading_in_its_order(tmp_path):
    page = build_page(tmp_path, sections=[Section("By visit", part="whom")], asked=("Asked: which?",), made=("Now.",))
    tags = Tags(page).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "h2"]
    assert "#by-visit" in links
    order = ["Asked: which?", 'class="summary"', "Now.", "<nav", ">Scores</h2>"]
    assert [page.index(words) for words in order] == sorted(page.index(words) for words in order)


def test_attention_is_a_strip_of_images_that_open(tmp_path):
    page = build_page(tmp_path, figures={f"attention_{number}": build_png() for number in (1, 2)})
    strip = page[page.index('<div class="strip">') :]
    assert strip.count("<details><summary><img") == 2
    assert "spread over" in page[: page.index('<div class="strip">')]


def test_what_was_asked_names_classes_patients_and_source():
    (text,) = describe_question(build_metrics(), VOLUMES, "the data set phantom", 64)
    assert text == (
        "Asked: which of “left” or “right” does a slice show? Of whom: 20 patients that the model was not trained on, "
        "of 64 in the data set phantom."
    )


@pytest.mark.parametrize(
    ("visits", "sentence"),
    [
        (["20040113", "20080115", "20051123"], "When: 2004 to 2008."),
        (["20040113", "20041115", "3", "100", "4"], "When: 2004; visits 3, 4, 100."),
        (["V00", "", "V00", " "], "When: visit V00; not known of 2 scans."),
        (["", None], "Neither dates nor visits are known."),
    ],
)
def test_when_the_scans_were_made_is_said_by_years_and_visits_and_never_by_days(visits, sentence):
    assert describe_visits(pandas.Series(visits), VOLUMES) == [sentence]
    assert describe_visits(pandas.Series(visits), IMAGES) == []


def test_every_table_scrolls_inside_its_own_box(tmp_path):
    page = build_page(tmp_path)
    num_tables = page.count("<table>")
    assert num_tables >= 6
    assert len(re.findall(r'<div class="scroll"[^>]*>\s*<table>', page)) == num_tables


def test_a_synthetic_set_is_called_so_and_a_real_one_is_not(tmp_path):
    assert "Synthetic data." not in build_page(tmp_path)
    assert "Synthetic data.</strong> Drawn." in build_page(
        tmp_path, metrics=build_metrics() | {"synthetic_note": "Drawn."}
    )


def test_a_failed_certificate_is_shown_with_its_findings(tmp_path):
    assert "Passed." in build_page(tmp_path)
    page = build_page(tmp_path, certificate={"passed": False, "counts": {}, "findings": ["Patient P is shared."]})
    assert "Failed." in page
    assert "Passed." not in page
    assert "<li>Patient P is shared.</li>" in page


def test_of_a_thousand_findings_50_are_listed_and_the_rest_counted(tmp_path):
    findings = [f"finding {number}" for number in range(1000)]
    page = build_page(tmp_path, certificate={"passed": False, "counts": {}, "findings": findings})
    assert page.count("<li>finding") == 50
    assert "And 950 more" in page


def test_a_certificate_of_a_leak_is_summarised_in_words():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    images[1] = images[0]
    index = pandas.DataFrame(
        {
            "example_id": ["a_0", "b_0", "c_0"],
            "source_id": ["a", "b", "c"],
            "group_id": ["p", "q", "r"],
            "label": ["left", "right", "left"],
            "slice_index": [0, 0, 0],
            "slice_position": [0.0, 0.0, 0.0],
        }
    )
    store = Store(examples=images, index=index, class_names=("left", "right"), settings={}, fingerprint="f")
    splits = pandas.DataFrame({"group_id": ["p", "q"], "split": ["train", "test"]})
    summary = summarise_certificate(certify(store, splits))
    assert summary["passed"] is False
    assert summary["counts"]["identical_images_across_splits"] == 1
    copy = "Scan a of patient p (train) shows the same as scan b of patient q (test), upright, similarity 1.00."
    assert summary["findings"] == [
        "Patient r has no split.",
        "a_0 (train) and b_0 (test) are identical.",
        copy,
        f"Different labels, left and right: {copy}",
    ]


def test_of_data_in_which_copies_are_not_searched_for_none_are_counted():
    for kind, name in ((WHOLE_VOLUMES, "volume"), (POINTS, "object")):
        summary = summarise_certificate(build_certificate(kind=kind.name, num_sources=0))
        assert set(summary["counts"]) == {
            f"{name}s_in_two_splits",
            f"{name}s_without_a_split",
            f"identical_{'images' if kind is WHOLE_VOLUMES else 'objects'}_across_the_published_splits",
        }


def test_numbers_are_rounded_and_counts_have_separators(tmp_path):
    tags = Tags(build_page(tmp_path))
    estimates = ("97.1\u00a0% (95.0 to 98.6)", "0.500 (0.250 to 0.750)")
    for text in (*estimates, "1,234", "20260101", "versions.torch", "epochs: 3"):
        assert text in tags.text
    assert "20,260,101" not in tags.text
    assert "Research, no diagnosis" in tags.text
    assert "take “right” as the positive class" in tags.text


def test_several_classes_have_no_positive_one(tmp_path):
    page = build_page(tmp_path, metrics=build_metrics() | {"class_names": ["a", "b", "c"]})
    assert "as the positive class" not in page
    assert "one class against the rest" in page


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium browser")
def test_the_page_is_never_wider_than_a_phone(tmp_path):
    page = build_page(tmp_path, title="a" * 200, provenance={"fingerprint": "f" * 300, "b" * 80: "c"})
    # The page is shown in a frame as wide as a phone; a script next to the frame measures how far it reaches.
    (tmp_path / "inner.html").write_text(page, encoding="utf-8")
    (tmp_path / "outer.html").write_text(
        "<iframe id=f src=inner.html width=390 height=800 style='border:0'></iframe><p id=p></p><script>"
        "onload = () => { const d = document.getElementById('f').contentDocument.documentElement;"
        "document.getElementById('p').textContent = `reach ${d.scrollWidth} of ${d.clientWidth}` }</script>"
    )
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    address = (tmp_path / "outer.html").as_uri()
    shown = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"reach (\d+) of (\d+)", shown)
    assert found is not None
    reach, width = map(int, found.groups())
    assert reach == width


def test_a_page_on_images_does_not_mention_patients(tmp_path):
    metrics = build_metrics(("slice",))
    metrics["levels"] = {"image": metrics["levels"]["slice"] | {"n": 20}}
    metrics["classes"] = {"image": metrics["classes"]["slice"]}
    metrics["levels"]["image"]["support"] = {f"class {index}": 5 + index for index in range(13)}
    double = {"first": "a (train)", "second": "b (test)"}
    certificate = build_certificate(
        kind="images",
        published_doubles={"count": 1, "pairs": [double]},
        across_splits={"count": 1, "pairs": [build_copy()]},
        unverified={"count": 1, "pairs": [build_copy("c", "d")]},
        labels_disagree={"count": 1, "pairs": [build_copy()]},
    )
    page = build_page(
        tmp_path,
        metrics=metrics,
        kind=IMAGES,
        split_counts=pandas.DataFrame({"split": ["train"], "images": [7]}),
        certificate=summarise_certificate(certificate),
        provenance={},
        baseline_notes=["Fitted on 5 of 7."],
    )
    text = Tags(page).text.replace("\u00a0", " ")
    assert "patient" not in text
    assert "diagnosis" not in text
    assert "On 20 images in the test split, the model is right for 97.1 %" in text
    assert "20 images; 13 classes, 5 to 17 a class." in text
    assert "In brackets: 95 % intervals over images;" in " ".join(text.split())
    assert "a (train) and b (test) are identical." in text
    assert "Identical images across the published splits" in text
    assert "Fitted on 5 of 7." in text


def test_a_figure_has_the_same_pixels_on_a_page_as_svg_and_as_png():
    svg, png = Figure("a", "A", "", build_svg(324, 234)), Figure("a", "A", "", build_png(720, 520))
    assert (svg.width, svg.height) == (png.width, png.height) == (720, 520), "9 points are 20 pixels"
    assert [figure.address.split(",")[0] for figure in (svg, png)] == [
        "data:image/svg+xml;base64",
        "data:image/png;base64",
    ]
    assert [find_suffix(figure.content) for figure in (svg, png)] == ["svg", "png"]


def test_further_sections_are_shown_in_their_order(tmp_path):
    table = Table("By visit", ("Visit", "Slices", "Class"), (("1", "1,200", "left"), ("2", "30", "right")), "Few.")
    figure = Figure("probe", "Probe", "Nothing below one half.", build_png())
    sections = [Section("Its part", part="looks"), Section("First part", ("A finding.",), (table,), (figure,))]
    page = build_page(tmp_path, sections=sections)
    order = [">Scores<", ">First part<", "A finding.", "By visit", "Few.", "Probe", ">Errors<", ">Its part<", ">Split<"]
    places = [page.rindex(words) for words in order]
    assert places == sorted(places)
    assert '<td class="number">1,200</td><td class="text">left</td>' in page
    assert "Visit\tSlices\tClass\n1\t1,200\tleft\n2\t30\tright</pre>" in page
    assert 'alt="Probe. Nothing below one half."' in page


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("0.971", "–"), "number"),
        (("0.950 to 0.986", "1,234"), "number"),
        (("97.1 % (95 to 98)", "4 of 7"), "number"),
        (("-0.01", "2.0e-05"), "number"),
        (("12", "left"), "text"),
        (("–",), "text"),
        (("e",), "text"),
        (("0123456789abcdef" * 3,), "long"),
    ],
)
def test_columns_of_numbers_and_of_words_are_distinguished(cells, kind):
    assert Table("t", ("a", "b"), tuple(("row", cell) for cell in cells)).kinds == ("short", kind)


@pytest.mark.parametrize(("longest", "kind"), [("Calibration", "short"), ("Logistic regression", "text")])
def test_short_names_of_rows_need_no_width_of_their_own(longest, kind):
    assert Table("t", ("a", "b"), (("Image", "1"), (longest, "2"))).kinds == (kind, "number")

"""Words: one word a concept, the field's own; the replaced ones do not come back.

Identifiers count as words: ``num_pictures`` and ``readPicture`` hold "picture". Each rule has the contexts in which its
word is right; these are regular expressions, taken out of a text before it is searched.
"""

import ast
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".cff", ".css", ".html", ".ipynb", ".md", ".py", ".toml", ".yaml", ".yml", ""}
FOLDERS = (".github", "configs", "docs", "examples", "perceiver", "pipeline", "reports/benchmarks", "tests")
SINGLE_FILES = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "README.md", "SECURITY.md")
REPORTS = ("LOG.md", "README.md", "RELIABILITY.md", "RESULTS.md")
OWN_NAME = "tests/project/test_words.py"
# The glossary of CONTRIBUTING.md holds the words that it replaces.
GLOSSARY = re.compile(r"^## Words\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One replaced word.

    Args:
        pattern: The word as a regular expression on text in small letters, in which "_" and the border of a camel's
            hump are spaces.
        instead: What to write.
        allowed: Contexts in which the word is right, as regular expressions on the text itself, in any case.
    """

    pattern: str
    instead: str
    allowed: tuple[str, ...] = ()


RULES = (
    Rule("pictur(e|es|ed)", "volume, slice, image, point cloud, figure", (r"</?picture\b",)),
    Rule("anew", "again, from scratch"),
    Rule("afresh", "from scratch"),
    Rule("lest", "to avoid, so that ... not"),
    Rule("mend(s|ed|ing)?", "fix, repair"),
    Rule("commonest", "most frequent"),
    Rule("surest", "most confident"),
    Rule("sure of itself|too sure|as sure as", "overconfident, calibrated"),
    Rule("doubtful", "underconfident, uncertain"),
    Rule("judg(e|es|ed|ing|ement|ements)", "evaluate"),
    Rule("deal(s|t|ing)?", "assign, split", (r"deal(s|t|ing)? with\b", r"(great|good) deal\b")),
    # In quotes it is a key of leak_study.json.
    Rule(
        "divisions?",
        "split",
        (r"\bZeroDivision\w*", r"division(s)? by\b", r"(integer|floor) division\b", r"[\"`]division[\"`]"),
    ),
    Rule("optimisers?", "optimizer"),
    # The option's old name.
    Rule(r"near[-\s]identical", "near-duplicate", (r"\bnear_identical_bits\b",)),
    Rule(r"ready[-\s]made", "published set"),
    Rule("(go|goes|going|went|gone) on", "resume, continue", (r"\bgo(es)? on (top|the page)\b",)),
    Rule("cut off", "interrupted, truncated", (r"\bcut off at\b",)),
    Rule(
        "deviations?",
        "standard deviation, std",
        (
            r"standard[\s#_|]+deviations?",
            r"(mean|median)[\s_]+absolute[\s_]+deviations?",
            r"[\"']deviation[\"']",  # a key of cross_validation.json
        ),
    ),
    Rule(
        "shares?",
        "fraction; shard for the part of a device",
        (
            r"\bshares? (a|an|the|one|its|their|this|that|it|all|every|no|nothing|memory|weights|keys|patients)\b",
            r"\b(to|not|can|may|must|they|both|all|who|latents|heads|devices|processes) share\b",
            r"\b(it|which|that) shares\b",
            r"\b(all|both)( of)? [\w -]{1,40} share\b",
            r"\bshare_batch_norms\b",
            r"\btest_mirror_flip_share\b",  # a metric in MLflow
        ),
    ),
    Rule("doors?", "the only module that imports X"),
    Rule("besides?", "next to, with, as well as"),
    Rule("told", "printed, reported, listed"),
)
QUESTION = re.compile(r"(what|which|how|where|why|when|who|whose|whether)\b", re.IGNORECASE)


def list_files() -> list[Path]:
    files = [ROOT / name for name in SINGLE_FILES] + [ROOT / "reports" / name for name in REPORTS]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in SUFFIXES]
    hidden = {"__pycache__", "_build", "_generated"}
    return sorted(
        path
        for path in files
        if path.relative_to(ROOT).as_posix() != OWN_NAME and not hidden & set(path.relative_to(ROOT).parts)
    )


def name_group(path: Path) -> str:
    """Return the package or folder that a file is listed under."""
    parts = path.relative_to(ROOT).parts
    depth = 2 if parts[0] in ("pipeline", "tests") and len(parts) > 2 else 1
    return "/".join(parts[:depth]) if len(parts) > 1 else "."


@cache
def read_words(path: Path) -> str:
    """Return a file's text; of a notebook its sources, of CONTRIBUTING all but the glossary."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return GLOSSARY.sub("", text) if path.name == "CONTRIBUTING.md" else text


@cache
def simplify(text: str) -> str:
    """Return a text in small letters, in which "_" and the border of a camel's hump are spaces."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).replace("_", " ").lower()


def find_words(text: str, rule: Rule) -> list[int]:
    """Return the lines, counted from 1, in which a replaced word stands outside of its allowed contexts."""
    separated = rule.pattern.replace(" ", r"[\s#]+")  # two words may stand on two lines of a comment
    pattern = re.compile(rf"\b(?:{separated})\b")
    if not pattern.search(simplify(text)):
        return []
    for context in rule.allowed:
        text = re.sub(context, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.IGNORECASE)
    plain = simplify(text)
    return [plain.count("\n", 0, match.start()) + 1 for match in pattern.finditer(plain)]


def list_docstrings(text: str) -> list[tuple[int, str]]:
    """Return line and text of the docstrings of a module, its classes and its functions."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return [(getattr(node, "lineno", 1), docstring) for node in nodes if (docstring := ast.get_docstring(node))]


GROUPS = defaultdict(list)
for _path in list_files():
    GROUPS[name_group(_path)].append(_path)


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_no_replaced_word_is_left(group):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {rule.pattern}; write {rule.instead}"
        for path in GROUPS[group]
        for rule in RULES
        for line in find_words(read_words(path), rule)
    ]
    assert found == [], f"{len(found)} words in {group}"


@pytest.mark.parametrize(
    "group", sorted(group for group in GROUPS if group.split("/")[0] in ("perceiver", "pipeline", "docs"))
)
def test_a_docstring_names_the_thing_and_asks_no_question(group):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {docstring.splitlines()[0]}"
        for path in GROUPS[group]
        if path.suffix == ".py"
        for line, docstring in list_docstrings(read_words(path))
        if QUESTION.match(docstring)
    ]
    assert found == [], f"{len(found)} docstrings in {group}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the\nstandard\n# deviation\nof", []),
        ("mean and deviation", [1]),
        ("num_deviations = 3\nreadDeviation()", [1, 2]),
    ],
)
def test_a_word_is_found_in_identifiers_and_passed_over_in_its_contexts(text, lines):
    (rule,) = (rule for rule in RULES if rule.pattern == "deviations?")
    assert find_words(text, rule) == lines


def test_each_rule_finds_its_word_and_passes_over_its_contexts():
    samples = {
        "pictur(e|es|ed)": ("two pictures", "<picture>"),
        "deal(s|t|ing)?": ("dealt to folds", "deals with it"),
        "divisions?": ("four divisions", 'ZeroDivisionError, division by zero, the key "division"'),
        "(go|goes|going|went|gone) on": ("the run goes\n    # on", "goes on top"),
        "cut off": ("was cut off", "cut off at 2"),
        "shares?": ("a share of the rows", "experiments that share a folder, weight_sharing"),
    }
    for rule in RULES:
        if rule.pattern in samples:
            wrong, right = samples[rule.pattern]
            assert find_words(wrong, rule) == [1], rule
            assert find_words(right, rule) == [], rule

"""README's numbers are those of the records that are committed."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_script():
    path = ROOT / "reports" / "benchmarks" / "readme_numbers.py"
    spec = importlib.util.spec_from_file_location("readme_numbers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme_numbers"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


def test_readme_has_the_numbers_of_the_records():
    numbers = script.list_numbers(script.README.read_text("utf-8"))
    assert [number.found for number in numbers] == [number.expected for number in numbers]
    assert [number.name for number in numbers] == list(script.COMMANDS)


def test_a_number_that_differs_is_noticed_and_written_again():
    readme = script.README.read_text("utf-8")
    changed = readme.replace("2.1 times as fast", "9.9 times as fast").replace("(95.5 to 99.9)", "(98.0 to 99.9)")
    wrong = [number for number in script.list_numbers(changed) if number.expected != number.found]
    assert [number.name for number in wrong] == ["table, cartilage masks", "times as fast as perceiver-pytorch"]
    assert script.replace_numbers(changed, wrong) == readme


def test_what_is_kept_of_a_run_is_what_readme_prints():
    accuracy = {"value": 0.9, "low": 0.8, "high": 0.95, "method": "beta-binomial", "reason": ""}
    level = {"n": 5, "groups": 2, "groups_with_errors": 1, "metrics": {"accuracy": accuracy, "auroc": accuracy}}
    metrics = {"levels": {"slice": level}, "baselines": {"majority": {"accuracy": accuracy, "auroc": accuracy}}}
    kept = script.extract_accuracies(metrics)
    assert kept["levels"]["slice"] == level | {"metrics": {"accuracy": accuracy}}
    assert kept["baselines"] == {"majority": {"accuracy": accuracy}}

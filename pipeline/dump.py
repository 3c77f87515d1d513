"""An experiment as the YAML file that would run it again."""

import yaml

from pipeline.experiment import Experiment
from pipeline.records import flatten


def dump_experiment(experiment: Experiment) -> str:
    """Return all options as YAML, in the order of their sections; ``--config`` reads it back."""
    nested: dict[str, object] = {}
    for name, value in flatten(experiment).items():
        place = nested
        *sections, field = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})  # type: ignore[assignment]  # sections are dicts
        place[field] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)

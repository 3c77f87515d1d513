"""Synthetic knees as stacks of slices, and a store in memory of such scans."""

import numpy as np
import pandas as pd

from pipeline.config.phantom import PhantomConfig
from pipeline.data.resampling import resample
from pipeline.data.store import Store
from pipeline.datasets.phantom.painting import paint_knee

CONFIG = PhantomConfig(shape=(36, 36, 24), spacing_mm=(4.0, 4.0, 5.0))
NUM_SLICES = 16


def paint_stack(patient: int, side: str):
    generators = np.random.default_rng((0, patient)), np.random.default_rng((0, patient, 1, side == "left"))
    volume = paint_knee(CONFIG, *generators, side).astype(np.float32)
    slices = np.moveaxis(volume, 2, 0)[4 : 4 + NUM_SLICES]
    return resample(slices, (0.0, float(np.percentile(slices, 99))), (4.0, 4.0), None, (48, 48))


def build_store(stacks, groups):
    index = pd.DataFrame(
        {
            "source_id": [f"s{number}" for number, stack in enumerate(stacks) for _ in stack],
            "group_id": [groups[number] for number, stack in enumerate(stacks) for _ in stack],
        }
    )
    return Store(np.concatenate(stacks), index.assign(example_id=range(len(index)), label="left"), ("left",), {}, "")

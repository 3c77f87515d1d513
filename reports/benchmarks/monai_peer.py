"""Train a config and MONAI's classification recipe on the same slices: seconds to 97 and 99 % on validation.

    make preprocess split CONFIG=configs/phantom.yaml
    python reports/benchmarks/monai_peer.py [--minutes 15] [--rates 1e-5 1e-3] [--output FILE]

The recipe is that of MONAI's tutorial on 2-D images: DenseNet121, Adam, cached images scaled to [0, 1], turned by up to
15 degrees and zoomed by up to a tenth, each of them every second time. Its flip is left out, since it makes a left knee
of a right one. Its learning rate is the tutorial's, 1e-5, and any other that is asked for; batches are the config's.
Both read the same images of the same patients, on the same threads. Seconds are those of training, without validation:
this pipeline validates after an epoch, the recipe several times in one. The config is trained by the stage itself.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import DenseNet121
from monai.transforms import Compose, RandRotated, RandZoomd, ScaleIntensityRanged
from monai.utils import set_determinism

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.certified_data import CertifiedData, load_certified_data
from pipeline.models.networks import count_parameters
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint

WANTED = (0.97, 0.99)
CHECKS_AN_EPOCH = 4


@dataclass
class Pace:
    """Validation accuracies of one training, and the seconds of training before each.

    Args:
        name: The recipe.
        num_parameters: Those of its network.
        seconds: The seconds of training before each validation.
        accuracies: The accuracies on validation.
        images_per_second: The pace of training.
    """

    name: str
    num_parameters: int
    seconds: list[float]
    accuracies: list[float]
    images_per_second: float

    def reach(self, wanted: float) -> float | None:
        """Return the seconds until an accuracy was reached first; None where it never was."""
        reached = [at for at, accuracy in zip(self.seconds, self.accuracies, strict=True) if accuracy >= wanted]
        return reached[0] if reached else None

    def read(self, seconds: float) -> float:
        """Return the best accuracy within so many seconds; 0 before the first validation."""
        found = [accuracy for at, accuracy in zip(self.seconds, self.accuracies, strict=True) if at <= seconds]
        return max(found, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/phantom.yaml")
    parser.add_argument("--workspace", default=".")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, the most for each rate of the recipe")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-3], help="learning rates of the recipe")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    words = ["--config", arguments.config, "--workspace", arguments.workspace, "--run", "monai-peer"]
    experiment = parse_experiment("train", [*words, "--tracking.enabled", "false"])
    data = load_certified_data(experiment)
    paces = [train_config(experiment, data, words)]
    for rate in arguments.rates:
        paces.append(train_recipe(experiment, data, rate, arguments.minutes * 60))
    text = describe(experiment, data, paces, arguments.minutes)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def train_config(experiment: Experiment, data: CertifiedData, words: list[str]) -> Pace:
    """Train the config by its stage, and read the pace from its history."""
    command = [sys.executable, "-m", "pipeline", "train", *words, "--tracking.enabled", "false"]
    subprocess.run(command, check=True)
    history = pd.read_csv(experiment.paths.history)
    seconds = len(data.rows["train"]) / history["images_per_second"]
    model = build_from_checkpoint(read_checkpoint(experiment.paths.best_checkpoint)).model
    return Pace(
        f"this pipeline, `{experiment.name}`",
        count_parameters(model),
        seconds.cumsum().tolist(),
        history["val_accuracy"].tolist(),
        len(history) * len(data.rows["train"]) / float(seconds.sum()),
    )


def train_recipe(experiment: Experiment, data: CertifiedData, rate: float, limit_s: float) -> Pace:
    """Train MONAI's recipe until the highest wanted accuracy, or until its time is over."""
    store = data.store
    code_of = {name: code for code, name in enumerate(store.class_names)}
    labels = torch.from_numpy(store.index["label"].map(code_of).to_numpy(dtype=np.int64))
    scale = ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0.0, b_max=1.0)
    change = [
        RandRotated("image", range_x=np.pi / 12, prob=0.5, keep_size=True),
        RandZoomd("image", min_zoom=0.9, max_zoom=1.1, prob=0.5),
    ]
    sets = {}
    for split, transforms in (("train", [scale, *change]), ("val", [scale])):
        items = [
            {"image": torch.from_numpy(np.array(store.examples[row]))[None], "label": labels[row]}
            for row in data.rows[split]
        ]
        sets[split] = CacheDataset(items, Compose(transforms), progress=False)
    size = experiment.train.batch_size
    set_determinism(experiment.train.seed)
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=len(store.class_names))
    optimizer = torch.optim.Adam(network.parameters(), rate)
    check_every = max(1, len(sets["train"]) // size // CHECKS_AN_EPOCH)
    pace = Pace(f"MONAI's recipe, learning rate {rate:g}", count_parameters(network), [], [], 0.0)
    trained_s, num_steps, num_images = 0.0, 0, 0
    while True:
        started = time.perf_counter()
        for batch in DataLoader(sets["train"], batch_size=size, shuffle=True, num_workers=0):
            network.train()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(batch["image"]), batch["label"])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            num_steps, num_images = num_steps + 1, num_images + len(batch["label"])
            if num_steps % check_every == 0:
                trained_s += time.perf_counter() - started
                pace.seconds.append(trained_s)
                pace.accuracies.append(score(network, sets["val"]))
                pace.images_per_second = num_images / trained_s
                print(f"{pace.name}: {trained_s:.0f} s, validation {pace.accuracies[-1]:.2%}", flush=True)
                if pace.accuracies[-1] >= max(WANTED) or trained_s >= limit_s:
                    return pace
                started = time.perf_counter()
        trained_s += time.perf_counter() - started


@torch.inference_mode()
def score(network: torch.nn.Module, examples: CacheDataset) -> float:
    """Return the fraction of the examples that a network answers rightly."""
    network.eval()
    batches = DataLoader(examples, batch_size=256, num_workers=0)
    num_right = sum(int((network(batch["image"]).argmax(dim=1) == batch["label"]).sum()) for batch in batches)
    return num_right / len(examples)


def describe(experiment: Experiment, data: CertifiedData, paces: list[Pace], minutes: float) -> str:
    """Return the page: a row for each training, and how many times sooner the config was there."""
    whole = paces[0].seconds[-1]
    lines = [
        f"`python reports/benchmarks/monai_peer.py --config configs/{experiment.name}.yaml --minutes {minutes:g}`, "
        f"seed {experiment.train.seed}: {len(data.rows['train']):,} images to train, {len(data.rows['val']):,} of "
        f"other patients to validate, {' x '.join(map(str, data.store.examples.shape[1:]))} pixels, batches of "
        f"{experiment.train.batch_size}.",
        f"{read_hardware()}; {torch.get_num_threads()} threads; torch {read_versions()['torch']}, MONAI "
        f"{read_versions()['monai']}; commit {read_commit()}.",
        "",
        "| recipe | parameters | images a second | "
        + "".join(f"seconds to {wanted:.0%} | " for wanted in WANTED)
        + f"best accuracy in {whole:.0f} s |",
        "|---|---|---|" + "---|" * (len(WANTED) + 1),
    ]
    for pace in paces:
        cells = []
        for wanted in WANTED:
            own, found = paces[0].reach(wanted), pace.reach(wanted)
            text = f"not in {pace.seconds[-1]:.0f}" if found is None else f"{found:.0f}"
            is_peer = pace is not paces[0] and own is not None
            times = (found or pace.seconds[-1]) / own if is_peer and own else 0.0
            cells.append(f"{text} ({'more than ' if found is None else ''}{times:.1f} times)" if is_peer else text)
        row = [pace.name, f"{pace.num_parameters:,}", f"{pace.images_per_second:,.0f}", *cells]
        lines.append(f"| {' | '.join(row)} | {pace.read(whole):.2%} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()

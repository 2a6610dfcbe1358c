"""Noise2Void on real microscopy: alone, and as a candidate of the ensemble without a ground truth.

    python benchmarks/noise2void.py FOLDER [--set w2s] [--steps 1500] [--save FILE] [--reuse FILE] [--alone]
    python benchmarks/noise2void.py FOLDER --set confocal --recipe noise2noise

FOLDER is that of `microscopy.py`. One network is trained on all fields together; for Noise2Noise, on the
first two exposures of each, the second of which is brought to the brightness of the first. Each field is then
combined by weights learned from the field alone, with and without the network. PSNR in dB with peak 255.
"""

from __future__ import annotations

import argparse
import runpy
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from microscopy import RESTORERS, mean_row, psnr, table
from scipy.ndimage import gaussian_filter

from napari_ensir.restorers import CLASSICAL, begin_training, load_restorer, restore_and_combine


def train(images: list, arguments: argparse.Namespace) -> object:
    """Train on all images, and print loss and processor seconds."""
    names = ("steps", "width", "depth", "hidden", "batch", "patch", "learning_rate", "average", "seed")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    trainer = begin_training(arguments.recipe, images, device="cpu", **given)
    began = time.process_time()
    for event in trainer.run():
        if event.step % 100 == 0:
            loss, seconds = np.mean(trainer.losses[-100:]), time.process_time() - began
            print(f"  step {event.step}, loss {loss:.5f}, {seconds:.0f} processor seconds", flush=True)
    if arguments.save:
        trainer.save(arguments.save)
    return trainer.restorer()


def matched(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Bring an exposure to gain and offset of another, by a regression of both blurred by 6 pixels."""
    x, y = (gaussian_filter(each.astype(float), 6).ravel() for each in (second, first))
    gain, offset = np.polyfit(x, y, 1)
    return (gain * second + offset).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="w2s")
    parser.add_argument("--recipe", choices=["noise2void", "noise2noise"], default="noise2void")
    for name in ("steps", "width", "depth", "batch", "patch"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("hidden", "learning-rate", "average"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="file for the network")
    parser.add_argument("--reuse", type=Path, help="file of a trained network")
    parser.add_argument("--alone", action="store_true", help="do not combine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    fields = runpy.run_path(str(arguments.folder / "loading.py"))["load"](arguments.set)
    noisy = [field["noisy"] for field in fields.values()]
    images = noisy
    if arguments.recipe == "noise2noise":
        images = [
            (field["noisy"].astype(np.float32), matched(field["second"], field["noisy"]))
            for field in fields.values()
        ]
    network = load_restorer(arguments.reuse, device="cpu") if arguments.reuse else train(images, arguments)
    classical = [CLASSICAL[key]() for key in RESTORERS]
    rows = []
    for (name, field), image in zip(fields.items(), noisy, strict=True):
        row = [name, psnr(image, field["truth"]), psnr(network(image), field["truth"])]
        sets = () if arguments.alone else (classical, [*classical, network])
        row += [psnr(restore_and_combine(image, each).ensemble, field["truth"]) for each in sets]
        rows.append(row)
        print(" ".join(f"{each:.2f}" if isinstance(each, float) else each for each in row), flush=True)
    rows.append(mean_row("mean", rows))
    titles = ["field", "noisy", network.name, "ensemble without it", "ensemble with it"]
    print("\n".join(table(titles[: len(rows[0])], rows)))


if __name__ == "__main__":
    main()

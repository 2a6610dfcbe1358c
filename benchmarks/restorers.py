"""Train the restorers on a folder of image pairs and measure them on the rest.

    python benchmarks/restorers.py FOLDER [--train regression denoiser ir-cm dp-ir] [--minutes 10]

FOLDER has lq/ and gt/ with images of the same stems. The last `--held-out` of them, by name, are measured.
The time is shared among what is trained; prints a Markdown table of PSNR (RGB, data range 255, clipped
and not rounded) and of seconds per image, and writes checkpoints where `--save` says.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from skimage.io import imread

from napari_ensir.restorers.denoiser import Denoiser, DenoiserModel, DenoiserSettings
from napari_ensir.restorers.dp_ir import DPIR, FusionModel
from napari_ensir.restorers.ir_cm import IRCM, ConsistencyModel, ConsistencySettings
from napari_ensir.restorers.regression import Regression, RegressionModel, RegressionSettings
from napari_ensir.restorers.training import Trainer, TrainingPairs, TrainingSettings

# Of the time for everything.
SHARES = {"regression": 0.25, "denoiser": 0.2, "ir-cm": 0.3, "dp-ir": 0.25}


def read_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    truths = {path.stem: path for path in sorted((folder / "gt").iterdir())}
    inputs = {path.stem: path for path in sorted((folder / "lq").iterdir())}
    return [(imread(inputs[stem]), imread(truths[stem])) for stem in sorted(truths.keys() & inputs.keys())]


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = np.clip(np.asarray(image, float), 0, 255) - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def train(trainer: Trainer, seconds: float, label: str) -> Trainer:
    """Train for about so long: the steps that fit are estimated from the first few."""
    probe = time.perf_counter()
    first = trainer.settings
    for event in trainer.run():
        if event.step == 8:
            probe = time.perf_counter()
        if event.step == 24:
            break
    steps = max(int(seconds / ((time.perf_counter() - probe) / 16)), 30)
    trainer.settings = replace(first, steps=steps)
    started = time.perf_counter()
    for event in trainer.run():
        if event.step % max(steps // 10, 1) == 0:
            mean = np.mean(trainer.losses[-max(steps // 10, 1) :])
            print(f"  {label}: step {event.step} of {steps}, loss {mean:.5f}", flush=True)
    count = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    print(f"  {label}: {count} parameters, {time.perf_counter() - started:.0f} s", flush=True)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, in all")
    parser.add_argument("--held-out", type=int, default=2)
    parser.add_argument("--width", type=int, default=32, help="of the U-Nets")
    parser.add_argument("--fusion-width", type=int, default=64)
    parser.add_argument("--tau", type=int, nargs="+", default=[5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for checkpoints")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_pairs(arguments.folder)
    training, held_out = pairs[: -arguments.held_out], pairs[-arguments.held_out :]
    restorers = trained(training, arguments)

    rows = [("input", *scores(None, held_out))]
    rows += [(label, *scores(restorer, held_out)) for label, restorer in restorers.items()]
    names = " | ".join(f"image {number + 1}" for number in range(len(held_out)))
    print(f"\n| restorer | PSNR in dB, mean of {len(held_out)} | {names} | s per image |")
    print("|---|---|" + "---|" * (len(held_out) + 1))
    for label, values, seconds in rows:
        each = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {label} | {np.mean(values):.2f} | {each} | {seconds:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({label: values for label, values, _ in rows}, indent=1))


def trained(training: list, arguments: argparse.Namespace) -> dict:
    seconds = {kind: 60 * arguments.minutes * SHARES[kind] for kind in arguments.train}
    data = TrainingPairs.from_arrays(training, channel_axis=-1)
    channels, width = data.channels, arguments.width
    unet = TrainingSettings(steps=10**6, batch=8, patch=96, learning_rate=2e-3, seed=arguments.seed)
    start = partial(Trainer, device=arguments.device)
    restorers, denoiser = {}, None

    def finish(trainer: Trainer, kind: str) -> object:
        train(trainer, seconds[kind], kind)
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            trainer.save(arguments.save / f"{kind}.safetensors")
        return replace(trainer.restorer(), channel_axis=-1)

    ir = None
    if "regression" in seconds:
        model = RegressionModel(RegressionSettings(channels=channels, width=width))
        ir = restorers["regression"] = finish(start(model, data, unet, make=Regression), "regression")
    if "ir-cm" in seconds:
        model = ConsistencyModel(ConsistencySettings(channels=channels, width=width))
        restorer = finish(start(model, data, unet, make=IRCM), "ir-cm")
        for steps in (1, 2):
            restorers[f"IR-CM, {steps} step{'s' * (steps > 1)}"] = replace(restorer, steps=steps)
    if "denoiser" in seconds:
        denoiser = DenoiserModel(DenoiserSettings(channels=channels, width=width))
        finish(start(denoiser, data, unet, make=Denoiser), "denoiser")
    if "dp-ir" in seconds and ir is not None:
        # F is trained on what IR makes of the training images, which it knows better than others.
        restored = [(ir(degraded), clean) for degraded, clean in training]
        fusion_data = TrainingPairs.from_arrays(restored, channel_axis=-1, data_range=data.data_range)
        model = FusionModel.around(denoiser, channels=channels, width=arguments.fusion_width)
        small = replace(unet, batch=4, patch=32, learning_rate=5e-4)
        restorer = finish(start(model, fusion_data, small, make=partial(DPIR, ir=ir)), "dp-ir")
        for tau in arguments.tau:
            restorers[f"DP-IR, tau = {tau}"] = replace(restorer, tau=tau)
    return restorers


def scores(restorer: object, held_out: list) -> tuple[list[float], float]:
    started = time.perf_counter()
    restored = [(image if restorer is None else restorer(image), truth) for image, truth in held_out]
    seconds = (time.perf_counter() - started) / len(held_out)
    return [psnr(image, truth) for image, truth in restored], seconds


if __name__ == "__main__":
    main()

"""Train the restorers on a folder of image pairs and measure them on the rest.

    python benchmarks/restorers.py FOLDER [--train regression denoiser ir-cm dp-ir] [--effort 1]

FOLDER has lq/ and gt/ with images of the same stems. The last `--held-out` of them, by name, are measured.
Prints a Markdown table of PSNR (RGB, data range 255, clipped
and not rounded) and of seconds per image, and writes checkpoints where `--save` says.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage.io import imread

from napari_ensir.restorers.denoiser import Denoiser, DenoiserModel, DenoiserSettings
from napari_ensir.restorers.dp_ir import DPIR, FusionModel
from napari_ensir.restorers.ir_cm import IRCM, ConsistencyModel, ConsistencySettings
from napari_ensir.restorers.regression import Regression, RegressionModel, RegressionSettings
from napari_ensir.restorers.trained import load_restorer
from napari_ensir.restorers.training import Trainer, TrainingPairs, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

# Steps of training: together less than ten minutes on two otherwise idle cores.
STEPS = {"regression": 800, "ir-cm": 600, "denoiser": 400, "dp-ir": 1200}


def read_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    truths = {path.stem: path for path in sorted((folder / "gt").iterdir())}
    inputs = {path.stem: path for path in sorted((folder / "lq").iterdir())}
    return [(imread(inputs[stem]), imread(truths[stem])) for stem in sorted(truths.keys() & inputs.keys())]


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = np.clip(np.asarray(image, float), 0, 255) - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def train(trainer: Trainer, label: str) -> None:
    """Train to the end, and say how it goes: the processor's seconds count, a machine may be shared."""
    started, used = time.perf_counter(), time.process_time()
    every = max(trainer.settings.steps // 8, 1)
    for event in trainer.run():
        if event.step % every == 0:
            print(f"  {label}: step {event.step}, loss {np.mean(trainer.losses[-every:]):.5f}", flush=True)
    count = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    wall, used = time.perf_counter() - started, time.process_time() - used
    print(f"  {label}: {count} parameters, {wall:.0f} s, {used:.0f} processor seconds", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the steps of training")
    parser.add_argument("--held-out", type=int, default=2)
    parser.add_argument("--width", type=int, default=32, help="of the U-Nets")
    parser.add_argument("--fusion-width", type=int, default=64)
    parser.add_argument("--linear-share", type=float, default=ConsistencySettings().linear_share)
    parser.add_argument("--tau", type=int, nargs="+", default=[5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for checkpoints")
    parser.add_argument("--reuse", type=Path, help="folder with checkpoints of regression and denoiser")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_pairs(arguments.folder)
    training, held_out = pairs[: -arguments.held_out], pairs[-arguments.held_out :]
    figures = {"input": scores(None, held_out)}
    show("input", *figures["input"])
    for label, restorer in trained(training, arguments):
        figures[label] = scores(restorer, held_out)
        show(label, *figures[label])  # at once: the rest takes minutes

    names = " | ".join(f"image {number + 1}" for number in range(len(held_out)))
    print(f"\n| restorer | PSNR in dB, mean of {len(held_out)} | {names} | s per image |")
    print("|---|---|" + "---|" * (len(held_out) + 1))
    for label, each in figures.items():
        show(label, *each)
    if arguments.json:
        arguments.json.write_text(json.dumps({label: each[0] for label, each in figures.items()}, indent=1))


def show(label: str, values: list[float], seconds: float) -> None:
    each = " | ".join(f"{value:.2f}" for value in values)
    print(f"| {label} | {np.mean(values):.2f} | {each} | {seconds:.2f} |", flush=True)


def trained(training: list, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    torch.manual_seed(arguments.seed)
    steps = {kind: max(int(arguments.effort * STEPS[kind]), 1) for kind in arguments.train}
    data = TrainingPairs.from_arrays(training, channel_axis=-1)
    channels, width = data.channels, arguments.width
    unet = TrainingSettings(batch=8, patch=96, learning_rate=2e-3, seed=arguments.seed)
    start = partial(Trainer, device=arguments.device)
    ir = denoiser = None

    def finish(trainer: Trainer, kind: str) -> object:
        trainer.settings = replace(trainer.settings, steps=steps[kind])
        train(trainer, kind)
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            trainer.save(arguments.save / f"{kind}.safetensors")
        return replace(trainer.restorer(), channel_axis=-1)

    def kept(kind: str) -> object | None:
        path = (arguments.reuse or Path()) / f"{kind}.safetensors"
        if arguments.reuse is None or not path.exists():
            return None
        return load_restorer(path, channel_axis=-1, device=arguments.device)

    if "regression" in steps:
        model = RegressionModel(RegressionSettings(channels=channels, width=width))
        ir = kept("regression") or finish(start(model, data, unet, make=Regression), "regression")
        yield "regression", ir
    if "ir-cm" in steps:
        model = ConsistencyModel(
            ConsistencySettings(channels=channels, width=width, linear_share=arguments.linear_share)
        )
        restorer = finish(start(model, data, unet, make=IRCM), "ir-cm")
        for count in (1, 2):
            yield f"IR-CM, {count} step{'s' * (count > 1)}", replace(restorer, steps=count)
    if "denoiser" in steps:
        model = DenoiserModel(DenoiserSettings(channels=channels, width=width))
        denoiser = (kept("denoiser") or finish(start(model, data, unet, make=Denoiser), "denoiser")).model
    if "dp-ir" in steps and ir is not None:
        # F is trained on what IR makes of the training images, which it knows better than others.
        restored = [(ir(degraded), clean) for degraded, clean in training]
        fusion_data = TrainingPairs.from_arrays(restored, channel_axis=-1, data_range=data.data_range)
        model = FusionModel.around(denoiser, channels=channels, width=arguments.fusion_width)
        small = replace(unet, batch=4, patch=32, learning_rate=2e-4)
        restorer = finish(start(model, fusion_data, small, make=partial(DPIR, ir=ir)), "dp-ir")
        for tau in arguments.tau:
            yield f"DP-IR, tau = {tau}", replace(restorer, tau=tau)


def scores(restorer: object, held_out: list) -> tuple[list[float], float]:
    started = time.perf_counter()
    restored = [(image if restorer is None else restorer(image), truth) for image, truth in held_out]
    seconds = (time.perf_counter() - started) / len(held_out)
    return [psnr(image, truth) for image, truth in restored], seconds


if __name__ == "__main__":
    main()

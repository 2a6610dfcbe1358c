"""Train restorers on some image pairs of a folder, and measure them on the others.

    python benchmarks/restorers.py FOLDER [--train regression denoiser ir-cm dp-ir] [--effort 1]

FOLDER has lq/ and gt/ with images of the same stems. The last `--held-out` of them, by name, are measured.
The recipes are those of the Train widget. Prints a Markdown table of PSNR (RGB, data range 255, clipped and
not rounded), of processor seconds and of floating-point operations per image; `--save` writes checkpoints.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage.io import imread
from torch.utils.flop_counter import FlopCounterMode

from napari_ensir.restorers.training.dp_ir import DPIR
from napari_ensir.restorers.training.ir_cm import IRCM
from napari_ensir.restorers.training.load import load_restorer
from napari_ensir.restorers.training.recipes import RECIPES, begin_training

if TYPE_CHECKING:
    from collections.abc import Iterator


KINDS = ["regression", "ir-cm", "denoiser", "dp-ir"]


def read_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    truths = {path.stem: path for path in sorted((folder / "gt").iterdir())}
    inputs = {path.stem: path for path in sorted((folder / "lq").iterdir())}
    return [(imread(inputs[stem]), imread(truths[stem])) for stem in sorted(truths.keys() & inputs.keys())]


def middle(image: np.ndarray, side: int) -> np.ndarray:
    rows, columns = ((n - side) // 2 for n in image.shape[:2])
    return image[rows : rows + side, columns : columns + side]


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = np.clip(np.asarray(image, float), 0, 255) - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def train(recipe: str, pairs: list, parts: dict, arguments: argparse.Namespace) -> object:
    """Train a restorer, and print loss and processor seconds, which other load hardly changes."""
    around = {"ir": parts["regression"], "denoiser": parts.get("denoiser")} if recipe == "dp-ir" else {}
    steps = max(int(arguments.effort * RECIPES[recipe].steps), 1)
    given = {name: getattr(arguments, name) for name in ("seed", "device", "sampled_share")}
    trainer = begin_training(recipe, pairs, channel_axis=-1, steps=steps, **given, **around)
    started, used = time.perf_counter(), time.process_time()
    every = max(steps // 8, 1)
    for event in trainer.run():
        if event.step % every == 0:
            print(f"  {recipe}: step {event.step}, loss {np.mean(trainer.losses[-every:]):.5f}", flush=True)
    count = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    wall, used = time.perf_counter() - started, time.process_time() - used
    print(f"  {recipe}: {count} parameters, {wall:.0f} s, {used:.0f} processor seconds", flush=True)
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        trainer.save(arguments.save / f"{recipe}.safetensors")
    return trainer.restorer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+", choices=list(RECIPES), default=KINDS)
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the steps of the recipes")
    parser.add_argument("--held-out", type=int, default=2)
    parser.add_argument("--sampled-share", type=float, help="of DP-IR; see FusionSettings")
    parser.add_argument("--tau", type=int, nargs="+", default=[5])
    parser.add_argument("--crop", type=int, help="side of the middle part of the images to measure")
    parser.add_argument("--evaluations", type=int, nargs="+", help="of DP-IR; default: one for each of tau")
    parser.add_argument("--sampler", nargs="+", choices=["ancestral", "ddim"], default=["ancestral"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for checkpoints")
    parser.add_argument("--reuse", type=Path, help="folder with checkpoints that need no training")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_pairs(arguments.folder)
    training, held_out = pairs[: -arguments.held_out], pairs[-arguments.held_out :]
    if arguments.crop:
        held_out = [tuple(middle(image, arguments.crop) for image in pair) for pair in held_out]
    figures = {"input": scores(None, held_out)}
    show("input", *figures["input"])
    for label, restorer in trained(training, arguments):
        figures[label] = scores(restorer, held_out)
        show(label, *figures[label])  # now, because the others take minutes

    names = " | ".join(f"image {number + 1}" for number in range(len(held_out)))
    print(f"\n| restorer | PSNR in dB, mean of {len(held_out)} | {names} | processor s per image | GFLOP |")
    print("|---|---|" + "---|" * (len(held_out) + 2))
    for label, each in figures.items():
        show(label, *each)
    if arguments.json:
        arguments.json.write_text(json.dumps({label: each[0] for label, each in figures.items()}, indent=1))


def show(label: str, values: list[float], seconds: float, work: float) -> None:
    each = " | ".join(f"{value:.2f}" for value in values)
    print(f"| {label} | {np.mean(values):.3f} | {each} | {seconds:.2f} | {work:.0f} |", flush=True)


def trained(training: list, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Yield the restorers in the order of their recipes; DP-IR uses the regression and the denoiser."""
    parts: dict[str, object] = {}
    for recipe in (name for name in RECIPES if name in arguments.train):
        path = (arguments.reuse or Path()) / f"{recipe}.safetensors"
        if arguments.reuse and path.exists():
            restorer = load_restorer(path, device=arguments.device)
        else:
            restorer = train(recipe, training, parts, arguments)
        restorer = parts[recipe] = replace(restorer, channel_axis=-1)
        if isinstance(restorer, IRCM):
            for count in (1, 2):
                yield f"{recipe}, {count} step{'s' * (count > 1)}", replace(restorer, steps=count)
        elif isinstance(restorer, DPIR):
            for tau, sampler in product(arguments.tau, arguments.sampler):
                for count in arguments.evaluations or [tau]:
                    label = f"{recipe}, tau = {tau}, {sampler}, {count} evaluations"
                    yield label, replace(restorer, tau=tau, sampler=sampler, evaluations=count)
        elif recipe != "denoiser":  # it removes noise, not rain
            yield recipe, restorer


def scores(restorer: object, held_out: list) -> tuple[list[float], float, float]:
    """Return the PSNR of each image, and the processor seconds and GFLOP for an image."""
    started = time.process_time()
    restored = [(image if restorer is None else restorer(image), truth) for image, truth in held_out]
    seconds = (time.process_time() - started) / len(held_out)
    with FlopCounterMode(display=False) as counter:
        if restorer is not None:
            restorer(held_out[0][0])
    return [psnr(image, truth) for image, truth in restored], seconds, counter.get_total_flops() / 1e9


if __name__ == "__main__":
    main()

"""Effect of steps, restart time and skip on sampling from IR-CM: PSNR, SSIM and power by spatial frequency.

    python benchmarks/ir_cm_steps.py FOLDER CHECKPOINT [--held-out 2] [--plot FILE] [--images FILE]
    python benchmarks/ir_cm_steps.py FOLDER CHECKPOINT --seconds

FOLDER is that of `restorers.py`, which also makes the checkpoint (`--train ir-cm --save`). The last
`--held-out` pairs, by name, are measured. `skip: paper` changes only the sampler; the checkpoint is trained
by the recipe. Power is that of the grey image with a Hann window, averaged over rings of frequency (cycles
per pixel); the table has it relative to the clean image, in dB, in five rings from 0 to 0.5.

`--images` only draws two pictures of scikit-image after 1 to 4 steps, for a checkpoint of `--task noise`.
`--seconds` only times one and two steps on RGB images of three sizes, with all threads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from restorers import degrade, middle, psnr, read_pairs
from skimage import data
from skimage.metrics import structural_similarity

from napari_ensir.restorers import load_restorer

RINGS = 5
PLOTTED = ("input", "1 step", "2 steps, restart 0.5, skip: mean", "2 steps, restart 0.5, skip: paper")
VARIANTS = {
    "1 step": {"steps": 1},
    **{
        f"2 steps, restart {restart:g}, skip: {skip}": {"steps": 2, "restart": restart, "skip": skip}
        for restart in (0.5, 0.25, 0.1)
        for skip in ("mean", "paper")
    },
    "4 steps, restart 0.5, skip: mean": {"steps": 4},
}


def power(image: np.ndarray, rings: int) -> np.ndarray:
    """Mean power in rings of equal width from 0 to 0.5 cycles per pixel."""
    grey = np.asarray(image, float).mean(axis=-1)
    window = np.outer(*(np.hanning(n) for n in grey.shape))
    spectrum = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in grey.shape), indexing="ij"))
    ring = np.floor(frequency / 0.5 * rings).astype(int)
    return np.array([spectrum[ring == each].mean() for each in range(rings)])


def similarity(image: np.ndarray, truth: np.ndarray) -> float:
    unit = (np.clip(np.asarray(each, float), 0, 255) / 255 for each in (image, truth))
    return float(structural_similarity(*unit, channel_axis=-1, data_range=1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--held-out", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="file for a picture of the spectra")
    parser.add_argument("--images", type=Path, help="file for a picture of the restorations")
    parser.add_argument("--seconds", action="store_true", help="time the restorer")
    arguments = parser.parse_args()
    if arguments.seconds:
        time_steps(load_restorer(arguments.checkpoint, device="cpu"))
        return
    torch.set_num_threads(1)
    restorer = replace(load_restorer(arguments.checkpoint, device="cpu"), channel_axis=-1)
    if arguments.images:
        show_steps(restorer, arguments.images)
        return
    held_out = read_pairs(arguments.folder)[-arguments.held_out :]
    print("| | PSNR, mean | each | SSIM | power against the clean image's, dB |\n|---|---|---|---|---|")
    results = {"input": [image for image, _ in held_out]}
    for label, settings in VARIANTS.items():
        results[label] = [replace(restorer, **settings)(image) for image, _ in held_out]
    truths = [truth for _, truth in held_out]
    for label, images in results.items():
        pairs = [(np.clip(image, 0, 255), truth) for image, truth in zip(images, truths, strict=True)]
        scores = [psnr(*pair) for pair in pairs]
        rings = np.mean([10 * np.log10(power(a, RINGS) / power(b, RINGS)) for a, b in pairs], axis=0)
        each = " / ".join(f"{score:.2f}" for score in scores)
        shown = " ".join(f"{ring:+.2f}" for ring in rings)
        ssim = np.mean([similarity(*pair) for pair in pairs])
        print(f"| {label} | {np.mean(scores):.2f} | {each} | {ssim:.4f} | {shown} |", flush=True)
    if arguments.plot:
        plot(results, truths, arguments.plot)


def time_steps(restorer: object) -> None:
    """Print the least of three times for each size and number of steps."""
    print(f"{torch.get_num_threads()} threads\n\n| RGB image | 1 step, s | 2 steps, s |\n|---|---|---|")
    for rows, columns in ((256, 256), (400, 600), (720, 1280)):
        image = np.random.default_rng(0).integers(0, 256, (rows, columns, 3)).astype(np.uint8)
        seconds = []
        for steps in (1, 2):
            model, taken = replace(restorer, channel_axis=-1, steps=steps), []
            for _ in range(3):
                start = time.perf_counter()
                model(image)
                taken.append(time.perf_counter() - start)
            seconds.append(f"{min(taken):.2f}")
        print(f"| {rows} x {columns} | {' | '.join(seconds)} |", flush=True)


def show_steps(restorer: object, path: Path) -> None:
    """Draw parts of two images: degraded, after 1 to 4 steps, and clean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for row, whole in zip(
        figure.subplots(2, 6), (data.astronaut()[:300, 100:400], data.coffee()), strict=True
    ):
        clean = middle(whole, 128)
        degraded = degrade(clean, "noise", 0)
        shown = {"degraded": degraded}
        shown |= {f"{n} step{'s' * (n > 1)}": replace(restorer, steps=n)(degraded) for n in (1, 2, 3, 4)}
        for axes, (label, image) in zip(row, [*shown.items(), ("clean", clean)], strict=True):
            axes.imshow(np.clip(image, 0, 255).astype(np.uint8))
            score = "" if label == "clean" else f", {psnr(image, clean):.2f} dB"
            axes.set_title(f"{label}{score}", fontsize=8)
            axes.axis("off")
    figure.savefig(path, dpi=100)


def plot(results: dict, truths: list, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    middle = (np.arange(64) + 0.5) / 128
    for label in PLOTTED:
        pairs = zip(results[label], truths, strict=True)
        ratio = [
            10 * np.log10(power(np.clip(image, 0, 255), 64) / power(truth, 64)) for image, truth in pairs
        ]
        axes.plot(middle, np.mean(ratio, axis=0), label=label)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel("spatial frequency, cycles per pixel")
    axes.set_ylabel("power against the clean image's, dB")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()

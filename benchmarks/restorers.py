"""Train restorers on some image pairs of a folder, and measure them on the others.

    python benchmarks/restorers.py FOLDER [--train regression denoiser ir-cm dp-ir] [--effort 1]
    python benchmarks/restorers.py FOLDER --ablation [NAME ...]

FOLDER has lq/ and gt/ with images of the same stems. The last `--held-out` of them, by name, are measured.
`--task noise` replaces the images of lq/ by those of gt/ with Gaussian noise of standard deviation 25,
`--task x2` by those of gt/ at half the size. The recipes are those of the Train widget; `--ablation` trains
the variants of IR-CM in ABLATION instead. Prints a Markdown table of PSNR (RGB, data range 255, clipped and
not rounded), of the metrics of pyiqa that `--metric` names, of processor seconds and of floating-point
operations per image; `--save` writes checkpoints.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch
from skimage.io import imread
from skimage.transform import resize
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from napari_ensir.ensemble.scoring.metrics import open_metrics
from napari_ensir.restorers.training.dp_ir import DPIR
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel
from napari_ensir.restorers.training.recipes import RECIPES, begin_training, load_restorer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_ensir.restorers.networks.learned import Draw, Tiled


KINDS = ["regression", "ir-cm", "denoiser", "dp-ir"]


class DirectModel(ConsistencyModel):
    """IR-CM without the origin estimate: the network returns the image, instead of the residual r."""

    def origin(self, x: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """See the base class."""
        return super().origin(x, mu, t) - mu


class Direct(IRCM):
    """Restorer that applies a :class:`DirectModel`."""

    model_type = DirectModel


class ReverseSDEModel(ConsistencyModel):
    """Baseline of IR-CM: the same SDE, sampled backwards in T steps, as in IR-SDE (Luo et al. 2023).

    The network has the head of IR-CM, x0hat = mu + r, and learns it by the mean absolute error. Each step
    draws from the distribution of x at n - 1, given x at n and x0hat.
    """

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """See the base class."""
        t = torch.randint(1, self.settings.times + 1, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        estimate = self.origin(self.sde.sample(clean, degraded, t, noise), degraded, t)
        return functional.l1_loss(estimate, clean)


class ReverseSDE(IRCM):
    """Restorer that samples a :class:`ReverseSDEModel`; `steps` is not used."""

    model_type = ReverseSDEModel

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See the base class."""
        model, sde, mu = self.model, self.model.sde, plane
        x = mu + sde.noise * draw()
        for n in range(model.settings.times, 0, -1):
            t = torch.tensor([n])
            x0 = tiled(lambda x, mu, t=t: model.origin(x, mu, t.expand(len(x))), x, mu)
            step = sde.integral[n] - sde.integral[n - 1]
            now, before, added = (
                -np.expm1(-2 * each) for each in (sde.integral[n], sde.integral[n - 1], step)
            )
            from_x = before / now * np.exp(-step)
            from_x0 = added / now * np.exp(-sde.integral[n - 1])
            x = mu + from_x * (x - mu) + from_x0 * (x0 - mu)
            x = x + sde.noise * (before * added / now) ** 0.5 * draw()
        return x


ABLATION: dict[str, tuple[str, type[IRCM], dict[str, float]]] = {
    "IR-CM": ("ir-cm", IRCM, {}),
    "no-origin-estimate": ("ir-cm", Direct, {}),
    "no-origin-loss": ("ir-cm", IRCM, {"origin_weight": 0.0}),
    "origin-weight-0.2": ("ir-cm", IRCM, {"origin_weight": 0.2}),
    "origin-weight-3.2": ("ir-cm", IRCM, {"origin_weight": 3.2}),
    "stage-1": ("ir-cm-1", IRCM, {}),
    "stage-2": ("ir-cm-2", IRCM, {}),
    "paper": ("ir-cm-paper", IRCM, {}),
    "reverse-SDE": ("ir-cm", ReverseSDE, {}),
}
"""Variants of IR-CM: recipe, restorer, and settings that differ from the recipe."""


@dataclass(frozen=True)
class Enlarging:
    """Bicubic enlargement by 2, then a network."""

    network: object = None
    name: str = "enlarging"
    scale: int = 2

    def __call__(self, image: np.ndarray, *, progress: object = None) -> np.ndarray:
        """Enlarge, and restore."""
        enlarged = resize(image, (2 * image.shape[0], 2 * image.shape[1]), order=3, preserve_range=True)
        enlarged = np.clip(enlarged, 0, 255).astype(np.float32)
        return enlarged if self.network is None else self.network(enlarged)


def degrade(image: np.ndarray, task: str, seed: int) -> np.ndarray:
    """Degrade a clean image; the result has its dtype."""
    if task == "noise":
        degraded = image + np.random.default_rng(seed).normal(0, 25, image.shape)
    else:
        half = (image.shape[0] // 2, image.shape[1] // 2)
        degraded = resize(image, half, order=3, anti_aliasing=True, preserve_range=True)
    return np.clip(degraded, 0, 255).round().astype(image.dtype)


def read_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    truths = {path.stem: path for path in sorted((folder / "gt").iterdir())}
    inputs = {path.stem: path for path in sorted((folder / "lq").iterdir())}
    return [(imread(inputs[stem]), imread(truths[stem])) for stem in sorted(truths.keys() & inputs.keys())]


def read_task(folder: Path, task: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read the pairs of a folder, with the degraded images of the task."""
    pairs = read_pairs(folder)
    if task == "files":
        return pairs
    return [(degrade(truth, task, number), truth) for number, (_, truth) in enumerate(pairs)]


def middle(image: np.ndarray, side: int) -> np.ndarray:
    rows, columns = ((n - side) // 2 for n in image.shape[:2])
    return image[rows : rows + side, columns : columns + side]


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = np.clip(np.asarray(image, float), 0, 255) - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def train(label: str, pairs: list, parts: dict, arguments: argparse.Namespace) -> object:
    """Train a restorer, and print loss and processor seconds, which other load hardly changes."""
    recipe, restorer, settings = ABLATION.get(label) or (label, RECIPES[label].restorer, {})
    around: dict[str, object] = {}
    if recipe == "dp-ir":
        around = {"ir": parts["regression"], "denoiser": parts.get("denoiser")}
    elif arguments.task == "x2":  # the other networks keep the size
        pairs = [(Enlarging()(degraded), clean) for degraded, clean in pairs]
    steps = max(int(arguments.effort * RECIPES[recipe].steps), 1)
    given = {name: getattr(arguments, name) for name in ("seed", "device", "sampled_share", "learning_rate")}
    with patch.dict(RECIPES, {recipe: replace(RECIPES[recipe], restorer=restorer)}):
        trainer = begin_training(
            recipe, pairs, channel_axis=-1, data_range=(0, 255), steps=steps, **given | settings, **around
        )
    started, used = time.perf_counter(), time.process_time()
    every = max(steps // 8, 1)
    absolute = recipe == "dp-ir" and arguments.absolute_error
    with patch.object(functional, "mse_loss", functional.l1_loss if absolute else functional.mse_loss):
        for event in trainer.run():
            if event.step % every == 0:
                loss = np.mean(trainer.losses[-every:])
                print(f"  {label}: step {event.step}, loss {loss:.5f}", flush=True)
    count = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    wall, used = time.perf_counter() - started, time.process_time() - used
    print(f"  {label}: {count} parameters, {wall:.0f} s, {used:.0f} processor seconds", flush=True)
    if arguments.save:
        arguments.save.mkdir(parents=True, exist_ok=True)
        trainer.save(arguments.save / f"{label}.safetensors")
    return trainer.restorer()


def load(label: str, path: Path, parts: dict, arguments: argparse.Namespace) -> object:
    """Load a checkpoint that `train` has saved."""
    restorer = load_restorer(path, device=arguments.device, ir=parts.get("regression"))
    if label not in ABLATION:
        return restorer
    kind = ABLATION[label][1]
    model = kind.model_type(restorer.model.settings)
    model.load_state_dict(restorer.model.state_dict())
    return kind(**{each.name: getattr(restorer, each.name) for each in fields(restorer)} | {"model": model})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=["files", "noise", "x2"], default="files")
    parser.add_argument("--train", nargs="+", choices=list(RECIPES), default=KINDS)
    parser.add_argument("--ablation", nargs="*", choices=list(ABLATION), help="default: all variants")
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the steps of the recipes")
    parser.add_argument("--held-out", type=int, default=2)
    parser.add_argument("--sampled-share", type=float, help="of DP-IR; see FusionSettings")
    parser.add_argument("--learning-rate", type=float, help="default: that of the recipe")
    parser.add_argument("--absolute-error", action="store_true", help="as the loss of DP-IR")
    parser.add_argument("--tau", type=int, nargs="+", default=[5])
    parser.add_argument("--crop", type=int, help="side of the middle part of the images to measure")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2], help="of IR-CM")
    parser.add_argument("--evaluations", type=int, nargs="+", help="of DP-IR; default: one for each of tau")
    parser.add_argument("--sampler", nargs="+", choices=["ancestral", "ddim"], default=["ancestral"])
    parser.add_argument("--metric", nargs="+", default=[], help="of pyiqa, such as lpips")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for checkpoints")
    parser.add_argument("--reuse", type=Path, help="folder with checkpoints that need no training")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = read_task(arguments.folder, arguments.task)
    training, held_out = pairs[: -arguments.held_out], pairs[-arguments.held_out :]
    if arguments.crop:
        sides = (arguments.crop // (2 if arguments.task == "x2" else 1), arguments.crop)
        held_out = [tuple(map(middle, pair, sides)) for pair in held_out]
    measured = partial(scores, held_out=held_out, metrics=open_metrics(arguments.metric, arguments.device))
    figures = {"input": measured(Enlarging() if arguments.task == "x2" else None)}
    show("input", *figures["input"])
    for label, restorer in trained(training, arguments):
        figures[label] = measured(restorer)
        show(label, *figures[label])  # now, because the others take minutes

    titles = [f"image {number + 1}" for number in range(len(held_out))]
    titles = [
        f"PSNR in dB, mean of {len(held_out)}",
        "of their mean squared error",
        *titles,
        *arguments.metric,
        "processor s per image",
        "GFLOP",
    ]
    print(f"\n| restorer | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    for label, each in figures.items():
        show(label, *each)
    if arguments.json:
        arguments.json.write_text(json.dumps({label: each[0] for label, each in figures.items()}, indent=1))


def show(label: str, values: list[float], perceptual: list[float], seconds: float, work: float) -> None:
    pooled = -10 * np.log10(np.mean(10 ** (-np.array(values) / 10)))  # of the mean squared error of all
    each = [f"{value:.2f}" for value in (pooled, *values)] + [f"{value:.4f}" for value in perceptual]
    print(
        f"| {label} | {np.mean(values):.3f} | {' | '.join(each)} | {seconds:.2f} | {work:.0f} |", flush=True
    )


def trained(training: list, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """Yield the restorers in the order of their recipes; DP-IR uses the regression and the denoiser."""
    parts: dict[str, object] = {}
    recipes = [name for name in RECIPES if name in arguments.train]
    for label in recipes if arguments.ablation is None else arguments.ablation or ABLATION:
        path = (arguments.reuse or Path()) / f"{label}.safetensors"
        if arguments.reuse and path.exists():
            restorer = load(label, path, parts, arguments)
        else:
            restorer = train(label, training, parts, arguments)
        restorer = replace(restorer, channel_axis=-1)
        if isinstance(restorer, DPIR):
            for tau, sampler in product(arguments.tau, arguments.sampler):
                for count in arguments.evaluations or [tau]:
                    row = f"{label}, tau = {tau}, {sampler}, {count} evaluations"
                    yield row, replace(restorer, tau=tau, sampler=sampler, evaluations=count)
            continue
        if arguments.task == "x2" and label != "denoiser":
            restorer = Enlarging(restorer)
        parts[label] = restorer
        if label == "reverse-SDE":
            yield f"{label}, {restorer.model.settings.times} steps", restorer
        elif isinstance(restorer, IRCM):
            for count in arguments.steps:
                yield f"{label}, {count} step{'s' * (count > 1)}", replace(restorer, steps=count)
        elif label != "denoiser":  # it removes noise of another kind
            yield label, restorer


def scores(restorer: object, held_out: list, metrics: tuple) -> tuple[list[float], list[float], float, float]:
    """Return each image's PSNR, the means of the metrics, and processor seconds and GFLOP for an image."""
    started = time.process_time()
    with FlopCounterMode(display=False) as counter:
        restored = [(image if restorer is None else restorer(image), truth) for image, truth in held_out]
    seconds = (time.process_time() - started) / len(held_out)
    work = counter.get_total_flops() / 1e9 / len(held_out)
    perceptual = [
        float(np.mean([metric.function(truth, image, (0, 255), -1) for image, truth in restored]))
        for metric in metrics
    ]
    return [psnr(image, truth) for image, truth in restored], perceptual, seconds, work


if __name__ == "__main__":
    main()

"""Least squares without a clean ground truth, compared with a clean one.

    python benchmarks/no_truth.py [--set NAME] [--deraining FOLDER]

Pictures of scikit-image, 256 x 256, grey, 0..1, with noise, restored by the classical restorers. A case is
one picture with one noise. Its tables are learned from the clean picture, from a second exposure, and from
the noisy picture alone, and applied to the same candidates. FOLDER has the deraining set (gt, MPRNet, MAXIM,
Restormer); noise is added to its ground truths, images are held out in two folds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage import color, data
from skimage.io import imread

from napari_ensir import fit_lut, learn_blind
from napari_ensir.ensemble.checks.noise import check_own_input
from napari_ensir.restorers import CLASSICAL

if TYPE_CHECKING:
    from napari_ensir.restorers.classical import ClassicalRestorer

NLM, TV, WAVELET, BILATERAL, GAUSSIAN, MEDIAN = (
    CLASSICAL[key]
    for key in ("non-local-means", "total-variation", "wavelet", "bilateral", "gaussian", "median")
)


@dataclass(frozen=True)
class Cases:
    """Pictures, noises as (sigma, Poisson peak or 0), and restorers."""

    pictures: tuple[str, ...]
    noises: dict[str, tuple[float, float]]
    restorers: tuple[ClassicalRestorer, ...]


CORNERS = (
    *("hubble_deep_field 300 400", "hubble_deep_field 0 0", "retina 600 500", "coffee 0 0", "brick 0 0"),
    *("immunohistochemistry 0 256", "grass 256 0", "camera 0 256", "astronaut 256 256"),
)
"""Pictures, each with the first row and column of the part; no other set has these parts."""

SETS = {
    "named": Cases(
        ("camera", "coins", "moon", "cell", "brick", "page", "grass"),
        {
            "Gaussian .05": (0.05, 0),
            "Gaussian .1": (0.1, 0),
            "Gaussian .2": (0.2, 0),
            "Poisson 30": (0.01, 30),
            "Poisson 100": (0.01, 100),
        },
        (TV(), WAVELET(), NLM(), GAUSSIAN(), MEDIAN()),
    ),
    "further": Cases(
        ("text", "clock", "astronaut", "chelsea", "coffee", "rocket", "gravel", "immunohistochemistry"),
        {"Gaussian .08": (0.08, 0), "Gaussian .15": (0.15, 0), "Poisson 50": (0.02, 50)},
        (TV(strength=1.0), NLM(strength=1.0), BILATERAL(), GAUSSIAN(sigma=1.5), WAVELET(wavelet="sym4")),
    ),
    "held out": Cases(
        CORNERS,
        {"Gaussian .06": (0.06, 0), "Poisson 40": (0.01, 40)},
        (TV(strength=0.7), MEDIAN(size=5), GAUSSIAN(sigma=0.8), NLM(strength=0.6)),
    ),
}


def picture(name: str) -> np.ndarray:
    """Return at most 256 x 256 pixels of a picture: the middle, or the part in the name."""
    name, *corner = name.split()
    image = getattr(data, name)()
    grey = color.rgb2gray(image) if image.ndim == 3 else image / 255
    rows, columns = map(int, corner) if corner else (max(0, size // 2 - 128) for size in grey.shape)
    return np.asarray(grey, float)[rows : rows + 256, columns : columns + 256]


def exposed(clean: np.ndarray, noise: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Add Poisson noise of this peak, if any, and Gaussian noise."""
    sigma, peak = noise
    return (rng.poisson(clean * peak) / peak if peak else clean) + rng.normal(0, sigma, clean.shape)


def psnr(image: np.ndarray, truth: np.ndarray, peak: float = 1.0) -> float:
    return float(10 * np.log10(peak**2 / np.mean((np.asarray(image, float) - truth) ** 2)))


def one_case(clean: np.ndarray, noise: tuple[float, float], restorers: tuple[ClassicalRestorer, ...]) -> dict:
    """Return the PSNR of all images against the clean picture."""
    rng = np.random.default_rng(20)
    first, second = exposed(clean, noise, rng), exposed(clean, noise, rng)
    candidates = [restorer(first) for restorer in restorers]
    options = {"data_range": (0.0, 1.0), "device": "cpu"}

    def applied(lut: object) -> float:
        return psnr(lut.apply(candidates, "cpu"), clean)

    known = float(np.std(second - clean)) if noise[1] else noise[0]
    seen = fit_lut([(candidates, second)], truth_noise=known, **options)
    scored = seen.report["scores"]["rows"][: len(candidates)]
    apart = [
        (row["psnr"] - psnr(candidate, clean), row["psnr_error"])
        for row, candidate in zip(scored, candidates, strict=True)
        if row["psnr"] is not None
    ]
    truly = fit_lut([(candidates, clean)], method="least-squares", **options)
    return {
        "best": max(psnr(candidate, clean) for candidate in candidates),
        "average": psnr(np.mean(candidates, axis=0), clean),
        "clean": applied(truly),
        "second": applied(seen),
        "EM, second": applied(fit_lut([(candidates, second)], method="em", **options)),
        "blind": applied(learn_blind(first, restorers, **options)),
        "blind 6/3": applied(learn_blind(first, restorers, offsets=3, **options)),
        "blind 4/16": applied(learn_blind(first, restorers, stride=4, offsets=16, **options)),
        "apart": apart,
        "hidden scores": sum(row["psnr"] is None for row in scored),
        "caught": check_own_input(candidates, first) != [],
        "false alarm": check_own_input(candidates, second) != [],
    }


COLUMNS = ("average", "clean", "second", "EM, second", "blind", "blind 6/3", "blind 4/16")


def pictures(cases: Cases) -> None:
    """Print the cases, then their summary."""
    print("| picture | noise | best candidate | " + " | ".join(COLUMNS) + " |")
    print("|---|---|---|" + "---|" * len(COLUMNS))
    found = []
    for name in cases.pictures:
        clean = picture(name)
        for title, noise in cases.noises.items():
            case = one_case(clean, noise, cases.restorers)
            found.append(case)
            shown = " | ".join(f"{case[column]:.2f}" for column in ("best", *COLUMNS))
            print(f"| {name} | {title} | {shown} |", flush=True)
    print(f"\n{len(found)} cases, dB:\n")
    print(
        "| learned from | mean gain over the best candidate | above it in | over the average: least, mean |"
    )
    print("|---|---|---|---|")
    for column in COLUMNS:
        best = np.array([case[column] - case["best"] for case in found])
        average = np.array([case[column] - case["average"] for case in found])
        print(
            f"| {column} | {best.mean():+.2f} | {(best > 0).sum()} "
            f"| {average.min():+.2f}, {average.mean():+.2f} |"
        )
    below = np.array([case["clean"] - case["second"] for case in found])
    apart = np.array([pair for case in found for pair in case["apart"]])
    print(
        f"\nSecond exposure below the clean reference: {below.mean():.3f} on average, {below.max():.3f} at "
        "most."
    )
    print(
        f"Scores of candidates with known noise and the true ones: {np.abs(apart[:, 0]).mean():.3f} apart on "
        f"average, {np.abs(apart[:, 0]).max():.3f} at most, of {len(apart)}; within two of the "
        f"standard errors shown: {(np.abs(apart[:, 0]) < 2 * apart[:, 1]).sum()}; below the noise: "
        f"{sum(case['hidden scores'] for case in found)}."
    )
    caught, false = (sum(case[key] for case in found) for key in ("caught", "false alarm"))
    print(f"Own inputs caught: {caught} of {len(found)}; second exposures taken for one: {false}.")


def deraining(folder: Path) -> None:
    """Print held-out PSNR against the clean truths, by the noise of the truths used for learning."""
    stems = sorted(path.stem for path in (folder / "gt").iterdir())
    names = ("MPRNet", "MAXIM", "Restormer")
    images = {
        part: [imread(next((folder / part).glob(f"{stem}.*"))) for stem in stems] for part in ("gt", *names)
    }
    print("| noise on the truth, sd of 255 | least squares | EM |\n|---|---|---|")
    for sigma in (0, 10, 25, 50):
        rng = np.random.default_rng(1)
        noisy = [truth + rng.normal(0, sigma, truth.shape) for truth in images["gt"]]
        scores: dict[str, list[float]] = {"least-squares": [], "em": []}
        for method, scored in scores.items():
            for fold in (0, 1):
                learned = [
                    ([images[name][i].astype(float) for name in names], noisy[i])
                    for i in range(len(stems))
                    if i % 2 != fold
                ]
                lut = fit_lut(
                    learned,
                    names,
                    method=method,
                    data_range=(0, 255),
                    bin_width=32,
                    channel_axis=-1,
                    device="cpu",
                )
                for i in range(fold, len(stems), 2):
                    result = lut.apply([images[name][i] for name in names], "cpu")
                    scored.append(psnr(result, images["gt"][i].astype(float), 255))
        print(
            f"| {sigma} | {np.mean(scores['least-squares']):.3f} | {np.mean(scores['em']):.3f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", choices=SETS, help="which cases; all if left out")
    parser.add_argument("--deraining", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # warnings are counted, not shown
    started = time.process_time()
    for name, cases in SETS.items():
        if arguments.set in (None, name):
            print(f"## {name}\n")
            pictures(cases)
            print()
    if arguments.deraining:
        deraining(arguments.deraining)
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()

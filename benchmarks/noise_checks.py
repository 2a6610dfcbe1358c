"""Error rates of the checks of noisy references.

    python benchmarks/noise_checks.py

Twenty pictures of scikit-image. The thresholds of ``napari_ensir.ensemble.checks.noise`` were chosen on other
parts of them, with other noise and restorers. Prints Markdown tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import color, data

from napari_ensir.ensemble.checks.noise import (
    CORRELATED,
    OWN_INPUT,
    noise_correlation,
    own_input_evidence,
)
from napari_ensir.restorers import CLASSICAL

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = [
    *("camera", "coins", "moon", "cell", "brick", "page", "grass", "gravel", "text", "clock"),
    *("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina"),
    *("immunohistochemistry", "microaneurysms", "colorwheel", "horse"),
]
NOISES = {"Gaussian .04": (0.04, 0), "Gaussian .12": (0.12, 0), "Poisson 70, read .015": (0.015, 70)}
RESTORERS = {
    "smoothing": [
        CLASSICAL["gaussian"](sigma=1.2),
        CLASSICAL["median"](size=5),
        CLASSICAL["bilateral"](strength=1.8),
    ],
    "sparse": [
        CLASSICAL["total-variation"](strength=0.9),
        CLASSICAL["wavelet"](wavelet="coif1"),
        CLASSICAL["non-local-means"](patch_size=7),
    ],
}


def picture(name: str) -> np.ndarray:
    """Return the lower right 224 x 224 pixels, grey, 0..1."""
    image = getattr(data, name)()
    grey = color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / (255 if image.max() > 1 else 1)
    return np.asarray(grey, float)[-224:, -224:]


def exposed(clean: np.ndarray, noise: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Add Poisson noise of this peak, if any, and Gaussian noise."""
    sigma, peak = noise
    counted = rng.poisson(clean * peak) / peak if peak else clean
    return counted + rng.normal(0, sigma, clean.shape)


def own_inputs() -> None:
    """Compare scores of own inputs, second exposures and clean truths."""
    found: dict[str, list[float]] = {"own input": [], "second exposure": [], "clean truth": []}
    missed: list[str] = []
    for name in NAMES:
        clean = picture(name)
        for title, noise in NOISES.items():
            rng = np.random.default_rng(11)
            first, second = exposed(clean, noise, rng), exposed(clean, noise, rng)
            for kind, restorers in RESTORERS.items():
                candidates = [restorer(first) for restorer in restorers]
                for what, reference in zip(found, (first, second, clean), strict=True):
                    evidence = own_input_evidence(candidates, reference)
                    assert evidence is not None
                    found[what].append(evidence)
                    if (evidence > OWN_INPUT) != (what == "own input"):
                        missed.append(f"{what}: {name}, {title}, {kind}, {evidence:.2f}")
    print(f"| reference | cases | score: minimum, median, maximum | above {OWN_INPUT:g} |\n|---|---|---|---|")
    for what, scores in found.items():
        low, mid, high = np.percentile(scores, [0, 50, 100])
        above = sum(score > OWN_INPUT for score in scores)
        print(f"| {what} | {len(scores)} | {low:.2f}, {mid:.2f}, {high:.2f} | {above} |")
    print("\nErred:", "; ".join(missed) or "none", "\n")


def correlated() -> None:
    """Compare independent noise with correlated noise."""

    def blurred(width: float) -> Callable[[np.random.Generator, tuple[int, int]], np.ndarray]:
        return lambda rng, shape: gaussian_filter(rng.normal(0, 1, shape), width)

    kinds = {
        "blurred by 0.4 pixels": blurred(0.4),
        "blurred by 0.6 pixels": blurred(0.6),
        "blurred by 1 pixel": blurred(1.0),
        "a third of its variance in rows": lambda rng, shape: (
            rng.normal(0, 1, shape) + rng.normal(0, 0.7, (shape[0], 1))
        ),
        "enlarged two-fold": lambda rng, shape: np.kron(
            rng.normal(0, 1, (shape[0] // 2 + 1, shape[1] // 2 + 1)), np.ones((2, 2))
        )[: shape[0], : shape[1]],
    }
    found: dict[str, list[float]] = {"independent": [], **{kind: [] for kind in kinds}}
    erred = []
    for name in NAMES:
        clean, rng = picture(name), np.random.default_rng(12)
        for title, noise in NOISES.items():
            value = noise_correlation(exposed(clean, noise, rng)) or 0.0
            found["independent"].append(value)
            if value > CORRELATED:
                erred.append(f"{name}, {title}, {value:.2f}")
        for kind, make in kinds.items():
            for sigma in (0.05, 0.15):
                noise = make(rng, clean.shape)
                found[kind].append(noise_correlation(clean + sigma * noise / noise.std()) or 0.0)
    print(f"| noise | cases | minimum, median, maximum | above {CORRELATED:g} |\n|---|---|---|---|")
    for kind, values in found.items():
        low, mid, high = np.percentile(values, [0, 50, 100])
        above = sum(value > CORRELATED for value in values)
        print(f"| {kind} | {len(values)} | {low:.2f}, {mid:.2f}, {high:.2f} | {above} |")
    print("\nFalse alarms:", "; ".join(erred) or "none")


if __name__ == "__main__":
    own_inputs()
    correlated()

"""Expected error compared with the actual error, on held-out images, by tenths of their pixels.

    python benchmarks/expected_error.py [FOLDER]

FOLDER has the deraining reference set of the EnsIR authors, as ``{gt,MPRNet,MAXIM,Restormer}/<id>.*``. Two
more sets are made from pictures of scikit-image with noise: parts of the same pictures, and unlike ones.
Prints the tables of ``expected_error.md`` and draws ``expected_error.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import color, data, restoration

from napari_ensir import fit_lut
from napari_ensir.files import Part, References, open_set

MODELS = ("MPRNet", "MAXIM", "Restormer")
PICTURES = ("camera", "coins", "moon", "cell", "brick", "page", "grass", "gravel")
MORE = ("astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket", "text")
NOISES = {
    "Gaussian, sd 0.05": lambda truth, rng: truth + rng.normal(0, 0.05, truth.shape),
    "Gaussian, sd 0.1": lambda truth, rng: truth + rng.normal(0, 0.1, truth.shape),
    "Poisson, peak 30": lambda truth, rng: rng.poisson(truth * 30) / 30,
    "Poisson, peak 100": lambda truth, rng: rng.poisson(truth * 100) / 100,
}


def deraining(folder: Path):
    """Yield (candidates, truth) of each of the ten images."""
    images = open_set({name: folder / name for name in MODELS}, {Part.TRUTH: folder / "gt"})
    return [([np.asarray(x) for x in xs], np.asarray(y)) for xs, y in References(images)]


def denoised(truth, noisy):
    """Return (candidates, truth): the noisy image denoised in three ways, intensities of 0 to 255."""
    sigma = restoration.estimate_sigma(noisy)
    candidates = [
        restoration.denoise_tv_chambolle(noisy, weight=sigma),
        restoration.denoise_nl_means(noisy, h=0.8 * sigma, sigma=sigma, fast_mode=True),
        restoration.denoise_wavelet(noisy, rescale_sigma=True),
    ]
    return [np.float32(one * 255) for one in candidates], np.float32(truth * 255)


def unlike():
    """Return eight pictures with Gaussian noise of 0.1 of the range; four calibrate the others."""
    rng = np.random.default_rng(0)
    truths = [getattr(data, name)()[:256, :256] / 255.0 for name in PICTURES]
    return [denoised(truth, NOISES["Gaussian, sd 0.1"](truth, rng)) for truth in truths]


def alike():
    """Return halves of sixteen pictures with four kinds of noise; left halves calibrate right ones."""
    rng = np.random.default_rng(0)
    pairs = []
    for name in PICTURES + MORE:
        whole = getattr(data, name)()
        whole = color.rgb2gray(whole) if whole.ndim == 3 else whole / 255.0
        top, left = (max(0, (size - 256) // 2) for size in whole.shape)
        truth = whole[top : top + 256, left : left + 256]
        for noise in NOISES.values():
            images, clean = denoised(truth, noise(truth, rng))
            middle = truth.shape[1] // 2
            halves = (slice(middle), slice(middle, None))
            pairs += [([x[:, part].copy() for x in images], clean[:, part].copy()) for part in halves]
    return pairs


def held_out(pairs, channel_axis):
    """Return predicted error, squared error and spread of the candidates, by tables of the other half."""
    found = []
    for start in (0, 1):
        learned, other = pairs[start::2], pairs[1 - start :: 2]
        lut = fit_lut(learned, method="least-squares", channel_axis=channel_axis).calibrated(learned)
        for candidates, truth in other:
            spread = np.std(np.stack(candidates).astype(np.float32), axis=0)
            error = lut.apply(candidates) - truth
            found.append([part.ravel() for part in (lut.expected_error(candidates), error**2, spread)])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def sparsification(score, squared, shares):
    """RMSE after removing the given fraction of pixels with the highest score."""
    order = np.argsort(-score, kind="stable")
    left = np.cumsum(squared[order][::-1])[::-1]
    starts = [int(share * len(squared)) for share in shares]
    return np.array([np.sqrt(left[start] / (len(squared) - start)) for start in starts])


def report(name, predicted, squared, spread, axes):
    """Print the tables of a set and return its curves."""
    tenths = np.array_split(np.argsort(predicted, kind="stable"), 10)
    pairs = [(np.sqrt((predicted[some] ** 2).mean()), np.sqrt(squared[some].mean())) for some in tenths]
    print(f"\n### {name}\n")
    print("| tenth of the pixels | " + " | ".join(str(n + 1) for n in range(10)) + " | all |")
    print("|---|" + "---|" * 11)
    whole = (np.sqrt((predicted**2).mean()), np.sqrt(squared.mean()))
    for title, place in (("predicted RMSE", 0), ("actual RMSE", 1)):
        print(f"| {title} | " + " | ".join(f"{pair[place]:.2f}" for pair in [*pairs, whole]) + " |")
    print("| ratio | " + " | ".join(f"{pair[0] / pair[1]:.2f}" for pair in [*pairs, whole]) + " |")
    error = np.sqrt(squared)
    inside = [float((error <= times * predicted).mean()) for times in (1.0, 1.96)]
    shares = np.linspace(0, 0.99, 100)
    curves = {
        "expected error": sparsification(predicted, squared, shares),
        "spread of the candidates": sparsification(spread, squared, shares),
        "the error itself (oracle)": sparsification(squared, squared, shares),
    }
    print(f"\nWithin one predicted RMSE {inside[0]:.3f} of the pixels, within 1.96 of it {inside[1]:.3f}.")
    areas = ", ".join(f"{title} {curve.mean():.2f}" for title, curve in curves.items())
    print(f"Area under the sparsification curve (less is better): {areas}.")
    axes[0].plot(*zip(*pairs, strict=True), "o-", label=name)
    for title, curve in curves.items():
        axes[1].plot(shares, curve, label=f"{name}: {title}")


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    sets = {"parts of the same pictures": (alike(), None), "unlike pictures": (unlike(), None)}
    if len(sys.argv) > 1:
        sets = {"deraining": (deraining(Path(sys.argv[1])), -1), **sets}
    for name, (pairs, channel_axis) in sets.items():
        report(name, *held_out(pairs, channel_axis), axes)
    most = axes[0].get_xlim()[1]
    axes[0].plot([0, most], [0, most], "k:", linewidth=1)
    axes[0].set(xlabel="predicted RMSE", ylabel="actual RMSE", title="by tenths of the pixels")
    axes[1].set(xlabel="share of pixels taken out", ylabel="RMSE of the rest", title="sparsification")
    for one in axes:
        one.legend(fontsize=7)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()

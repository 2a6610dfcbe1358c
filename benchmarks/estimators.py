"""Search for estimators that are better than least squares and as fast to apply, on held-out images.

    python benchmarks/estimators.py REFERENCE_FOLDER

The deraining set of the reference folder in two folds of five images; one table per channel, b = 32 unless
stated, output clipped to 0..255. Prints a Markdown table of mean PSNR.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_ensir import WeightLUT
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex
from napari_ensir.ensemble.fit import collect_reference, estimate_lut
from napari_ensir.ensemble.scoring.metrics import psnr
from napari_ensir.ensemble.statistics.binning import choose_binning

MODELS = ("MPRNet", "MAXIM", "Restormer")


def read_images(folder):
    from skimage.io import imread

    def read(kind, stem):
        return imread(next((folder / "deraining" / kind).glob(f"{stem}.*")))

    stems = sorted(path.stem for path in (folder / "deraining" / "gt").iterdir())
    return [([read(model, stem) for model in MODELS], read("gt", stem)) for stem in stems]


def dense(statistics):
    """Return Gram matrices, mean-error sums and counts as dense (8, 8, 8, 3, ...) arrays."""
    n, m = statistics.binning.n_bins, statistics.n_candidates
    place = tuple(statistics.rows.T.astype(int))
    gram = np.zeros((n,) * m + (3, m, m))
    gram[place] = statistics.error_gram
    counts = np.zeros((n,) * m + (3,))
    counts[place] = statistics.counts
    errors = np.zeros((n,) * m + (3, m))
    total = np.add.reduceat(statistics.truth * statistics.level_counts, statistics.starts[:-1])
    errors[place] = statistics.means * statistics.counts[:, None] - total[:, None]
    return gram, counts, errors


def to_lut(reference, statistics, gram, counts):
    """Make a table from the Gram matrices of occupied bin sets; other bin sets get the global solution."""
    m = len(MODELS)
    mean = gram.sum(axis=(0, 1, 2)) / counts.sum(axis=(0, 1, 2))[:, None, None]
    fallback, _ = minimise_on_simplex(mean)
    place = tuple(statistics.rows.T.astype(int))
    weights, _ = minimise_on_simplex(gram[place].reshape(-1, m, m))
    return WeightLUT(
        MODELS,
        "trial",
        statistics.binning,
        statistics.rows,
        weights,
        statistics.counts,
        fallback,
        "fallback",
        -1,
    )


def signed_lut(reference, statistics, gram, counts):
    """As :func:`to_lut` with weights of either sign that sum to one, which a table does not allow."""
    m = len(MODELS)
    lut = to_lut(reference, statistics, gram, counts)
    inverse = np.linalg.solve(gram[tuple(statistics.rows.T.astype(int))].reshape(-1, m, m), np.ones((m, 1)))
    weights = inverse[..., 0] / inverse.sum(axis=(1, 2))[:, None]
    return replace(lut, weights=weights)


def smoothed(array, amount):
    """Add a fraction of the sums of the six nearest neighbours."""
    result = array.copy()
    for axis in range(3):
        for step in (1, -1):
            moved = np.zeros_like(array)
            ahead = [slice(None)] * array.ndim
            behind = [slice(None)] * array.ndim
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            target, source = (ahead, behind) if step == 1 else (behind, ahead)
            moved[tuple(target)] = array[tuple(source)]
            result += amount * moved
    return result


def shrunk(gram, counts, pixels, toward=None):
    """Add the channel's mean Gram matrix, or another one, with the weight of ``pixels`` pixels."""
    mean = gram.sum(axis=(0, 1, 2)) / counts.sum(axis=(0, 1, 2))[:, None, None]
    return gram + pixels * (mean if toward is None else toward)


def normalised(gram, counts):
    return gram / np.maximum(counts, 1)[..., None, None]


def with_bias(lut, errors, counts, shrinkage):
    """Return the bias of each bin set: the mean error of the ensemble, shrunk toward zero."""
    place = tuple(lut.rows.T.astype(int))
    mean = (errors[place] * lut.weights).sum(axis=1) / (counts[place] + shrinkage)
    return np.append(mean, np.zeros(len(lut.fallback)))


def trials():
    """Return name and function of each trial; the function takes a reference to (table, bias or None)."""

    def learn(pixels=1000.0, smooth=0.0, channels=0.0, marginal=0.0, bias=None):
        def work(reference):
            statistics = reference.statistics
            gram, counts, errors = dense(statistics)
            out = shrunk(gram, counts, pixels)
            if channels:
                pooled = normalised(gram.sum(axis=3, keepdims=True), counts.sum(axis=3, keepdims=True))
                out = out + channels * pooled
            if marginal:
                for axes in ((1, 2), (0, 2), (0, 1)):
                    part = normalised(
                        gram.sum(axis=axes, keepdims=True), counts.sum(axis=axes, keepdims=True)
                    )
                    out = out + marginal / 3 * part
            if smooth:
                out = shrunk(smoothed(gram, smooth), counts, pixels)
            lut = to_lut(reference, statistics, out, counts)
            return lut, None if bias is None else with_bias(lut, errors, counts, bias)

        return work

    yield "em (paper)", lambda reference: (estimate_lut(reference, "em"), None)
    yield "em-released", lambda reference: (estimate_lut(reference, "em-released"), None)
    yield "least-squares, as shipped (shrinkage 1000)", lambda r: (estimate_lut(r, "least-squares"), None)
    for pixels in (100.0, 300.0, 3000.0, 10000.0, 100000.0):
        yield f"shrinkage {pixels:.0f}", learn(pixels)
    for amount in (0.03, 0.1, 0.3, 1.0):
        yield f"neighbouring bins' sums added, times {amount:g}", learn(smooth=amount)
    for amount in (300.0, 1000.0, 10000.0):
        yield f"shrunk by {amount:.0f} more toward the bin set of all channels", learn(channels=amount)
    for amount in (300.0, 1000.0, 10000.0):
        yield f"shrunk by {amount:.0f} more toward the tables of single candidates", learn(marginal=amount)
    for amount in (100.0, 1000.0, 10000.0):
        yield f"mean error subtracted per bin set, shrunk by {amount:.0f}", learn(bias=amount)

    def signed(reference):
        statistics = reference.statistics
        gram, counts, _ = dense(statistics)
        return signed_lut(reference, statistics, shrunk(gram, counts, 1000.0), counts), None

    yield "weights of either sign, shrinkage 1000", signed


def score(lut, bias, candidates, truth):
    image = lut.apply(candidates, device="cpu").astype(np.float64)
    if bias is not None:
        bins = [lut.binning.bins(candidate) for candidate in candidates]
        channel = np.broadcast_to(np.arange(3), truth.shape)
        key = np.ravel_multi_index((*bins, channel), (lut.binning.n_bins,) * 3 + (3,))
        image -= bias[lut.lookup.dense_rows][key]
    return psnr(truth, image.clip(0, 255), 255)


def main():
    images = read_images(Path(sys.argv[1]))
    halves = [
        collect_reference(images[1 - half :: 2], MODELS, bin_width=8, channel_axis=-1, device="cpu")
        for half in (0, 1)
    ]
    print("| estimator | b | PSNR, dB |\n|---|---|---|")
    for width in (64, 32, 16):
        binning = choose_binning(np.uint8, (0, 255), width)
        for name, work in trials():
            if width != 32 and not name.startswith("least-squares"):
                continue
            scores = []
            for half, reference in enumerate(halves):
                coarse = type(reference)(
                    reference.statistics.in_bins(binning),
                    reference.names,
                    reference.channel_axis,
                    reference.range_from,
                    reference.n_images,
                )
                lut, bias = work(coarse)
                scores += [score(lut, bias, *image) for image in images[half::2]]
            print(f"| {name} | {width} | {np.mean(scores):.3f} |", flush=True)
    same = collect_reference(images, MODELS, bin_width=32, channel_axis=-1, device="cpu")
    lut = estimate_lut(same, "least-squares", Settings(shrinkage=0.0))
    best = np.mean([score(lut, None, *image) for image in images])
    print(f"| least-squares learned on the very images it is applied to, no shrinkage | 32 | {best:.3f} |")


if __name__ == "__main__":
    main()

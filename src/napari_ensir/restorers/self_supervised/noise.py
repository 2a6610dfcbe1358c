"""Denoised reference pixels: noisy pixels minus an estimate of their noise.

A prediction of a hidden pixel differs from the ordinary result at that pixel. It has none of the noise that
the restorer leaves, and none of the structure that only the pixel itself shows. Ordinary results are
therefore scored as well, against pixels from which an estimate of their noise was subtracted.

Let g be the combination of hidden-pixel predictions of least error and z = y + n a noisy pixel. The
residual r = z - g is n + (y - g), where n is independent of y - g, so the best linear estimate of n is r
var(n) / E r^2, a Wiener filter. The noise model gives var(n); E r^2 is averaged over pixels with similar
disagreement of the predictions, which is large where there is structure. The squared error of an ordinary
result that keeps a share d of the noise is too small by 2 d var(n) when measured against z; against z minus
the estimate it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.restorers.noise_model import NoiseModel

CLASSES = 8
"""Number of classes of disagreement."""

MIN_PIXELS = 100
"""Least number of pixels in a class; with fewer pixels there are fewer classes."""


class DenoisedPixels(NamedTuple):
    """Noisy pixels minus an estimate of their noise.

    Attributes
    ----------
    pixels : float32 array
    noise_power : float
        Mean variance of the noise of the noisy pixels, squared intensity units.
    offset : float
        Mean squared error of an image against ``pixels``, less that against the truth.
    """

    pixels: NDArray[np.float32]
    noise_power: float
    offset: float


def subtract_noise(
    noisy: NDArray[Any],
    predictions: Sequence[NDArray[Any]],
    models: Sequence[NoiseModel],
    *,
    channels: bool = False,
) -> DenoisedPixels:
    """Subtract an estimate of their noise from noisy pixels.

    Parameters
    ----------
    noisy : array
    predictions : M arrays of its shape
        Predictions by restorers that did not see these pixels.
    models : sequence of NoiseModel
        Noise of the image, one model for each channel.
    channels : bool
        Whether the last axis is that of channels, which are processed separately.

    Returns
    -------
    DenoisedPixels

    Examples
    --------
    >>> from napari_ensir.restorers.noise_model import estimate_noise_model
    >>> noisy = 100 + np.random.default_rng(0).normal(0, 10, (100, 100))
    >>> predictions = [np.full(noisy.shape, 99.0), np.full(noisy.shape, 101.0)]
    >>> found = subtract_noise(noisy, predictions, [estimate_noise_model(noisy)])
    >>> bool(np.abs(found.pixels - 100).mean() < 2)
    True
    """
    if channels:
        parts = [
            subtract_noise(noisy[..., c], [each[..., c] for each in predictions], [model])
            for c, model in enumerate(models)
        ]
        pixels, powers, offsets = zip(*parts, strict=True)
        return DenoisedPixels(np.stack(pixels, axis=-1), float(np.mean(powers)), float(np.mean(offsets)))
    z = noisy.reshape(-1).astype(np.float64)
    candidates = np.stack([each.reshape(-1) for each in predictions]).astype(np.float64)
    errors = candidates - z
    (weights,), _ = minimise_on_simplex((errors @ errors.T)[np.newaxis])
    combined = weights @ candidates
    residual, disagreement = z - combined, candidates.std(axis=0)
    (model,) = models
    power = model.variance(combined)
    ratio = np.where(power > 0, disagreement / np.sqrt(np.where(power > 0, power, 1)), np.inf)
    noise = np.zeros_like(residual)
    for each in _classes(ratio):
        total = float(np.mean(residual[each] ** 2))
        noise[each] = residual[each] * (min(1.0, float(power[each].mean()) / total) if total > 0 else 1.0)
    noise_power = float(power.mean())
    # The error of the combined predictions against the truth is E r^2 - var(n).
    offset = float(np.mean((residual - noise) ** 2) - np.mean(residual**2)) + noise_power
    return DenoisedPixels(np.asarray((z - noise).reshape(noisy.shape), np.float32), noise_power, offset)


def _classes(values: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Indices of the pixels in each of several classes of increasing values, equal in size."""
    n = min(CLASSES, max(1, len(values) // MIN_PIXELS))
    edges = np.quantile(values, np.arange(1, n) / n, method="lower")
    number = np.searchsorted(edges, values)
    return [found for each in range(n) if len(found := np.flatnonzero(number == each))]

"""How much of a noisy pixel is its noise, told by predictions that did not see it. Restores nothing.

A prediction of a hidden pixel is not quite what the restorer makes of a pixel that it sees: it has none of
the noise that the restorer would have left, and none of the structure that only the pixel itself shows. So
ordinary results are judged as well, against the pixels with as much of their noise taken off as can be
told.

Let g be the best blend of predictions that did not see z = y + n. The residual r = z - g is n + (y - g), and
n is independent of y - g. The best linear guess of n is r var n / E r^2, a Wiener filter, made among pixels
that are alike: var n is measured by brightness, E r^2 by how much the predictions disagree, which is large
where there is structure. An ordinary result that keeps a share d of what is odd about a pixel, its noise
included, is closer to z than it ought to be by 2 d var n; taking the guess off z takes off just that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[np.float64]

__all__ = ["curvature", "without_noise"]

CLASSES = 8
"""Classes of brightness, and of disagreement."""

FEWEST = 100
"""Pixels of a class; with fewer there are fewer classes."""

CALM = 0.3
"""The share of a class where predictions disagree least: there the residual is all but noise."""

HEAVY = 3.0
"""Of noise whose power is so many times what its median says, the median says nothing; Laplace's has 1.9."""

_MAD = 0.6744897501960817
"""Median of the absolute value of a standard normal."""


def curvature(planes: NDArray[Any]) -> NDArray[np.float32]:
    """Second differences along rows of those along columns, of the power of one pixel's noise.

    Structure hardly passes them (Immerkaer, Fast noise variance estimation, CVIU 64, 1996).

    Parameters
    ----------
    planes : (rows, columns, ...) array

    Returns
    -------
    float32 array of that shape
        The outermost rows and columns repeat those beside them; zero where there are fewer than three.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 5, (200, 200))
    >>> slope = np.add.outer(np.arange(200.0), np.arange(200.0))
    >>> bool(4.8 < curvature(slope + noise).std() < 5.2)
    True
    """
    if min(planes.shape[:2]) < 3:
        return np.zeros(planes.shape, np.float32)
    inner = np.diff(np.diff(planes.astype(np.float64), 2, axis=0), 2, axis=1) / 6
    around = [(1, 1), (1, 1)] + [(0, 0)] * (planes.ndim - 2)
    return np.pad(inner, around, mode="edge").astype(np.float32)


def without_noise(
    noisy: NDArray[Any],
    blind: Sequence[NDArray[Any]],
    curved: NDArray[Any] | None,
    *,
    channels: bool = False,
) -> NDArray[np.float32]:
    """Noisy pixels less what of their noise can be told.

    Parameters
    ----------
    noisy : array
    blind : M arrays of its shape
        Predictions by restorers that did not see these pixels.
    curved : array of its shape, or None
        :func:`curvature` at these pixels; None: the noise of neighbours is alike, which it mistakes.
    channels : bool
        Whether the last axis is that of channels, which are told apart.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noisy = 100 + rng.normal(0, 10, (100, 100))
    >>> blind = [np.full(noisy.shape, 99.0), np.full(noisy.shape, 101.0)]
    >>> bool(np.abs(without_noise(noisy, blind, curvature(noisy)) - 100).mean() < 2)
    True
    """
    if channels:
        parts = []
        for c in range(noisy.shape[-1]):
            rest = None if curved is None else curved[..., c]
            parts.append(without_noise(noisy[..., c], [each[..., c] for each in blind], rest))
        return np.stack(parts, axis=-1)
    z = noisy.reshape(-1).astype(np.float64)
    candidates = np.stack([each.reshape(-1) for each in blind]).astype(np.float64)
    errors = candidates - z
    (blend,), _ = minimise_on_simplex((errors @ errors.T)[np.newaxis])
    guess = blend @ candidates
    residual, apart = z - guess, candidates.std(axis=0)
    power = _noise_power(guess, residual, apart, None if curved is None else np.abs(curved.reshape(-1)))
    spread = np.where(power > 0, apart / np.sqrt(np.where(power > 0, power, 1)), np.inf)
    for here in _alike(spread):
        total = float(np.mean(residual[here] ** 2))
        residual[here] *= min(1.0, float(power[here].mean()) / total) if total > 0 else 1.0
    return np.asarray((z - residual).reshape(noisy.shape), np.float32)


def _noise_power(guess: Pixels, residual: Pixels, apart: Pixels, curved: Pixels | None) -> Pixels:
    """Variance of the noise at each pixel, by its brightness.

    The residual's where the predictions are at one, which holds what they all miss; the curvature's where
    that is less. The latter is a median, so it is raised by as much as the noise has heavier tails than
    a Gaussian, and left where these are very heavy: a guess that is too small would praise what keeps noise.
    """
    power = np.empty_like(residual)
    for here in _alike(guess):
        calm = here[apart[here] <= np.quantile(apart[here], CALM)]
        size = np.abs(residual[calm])
        mean, middle = float(np.mean(size**2)), (float(np.median(size)) / _MAD) ** 2
        if curved is not None and mean < HEAVY * middle:
            tails = max(1.0, mean / middle)
            mean = min(mean, tails * (float(np.median(curved[here])) / _MAD) ** 2)
        power[here] = mean
    return power


def _alike(values: Pixels) -> list[NDArray[np.int64]]:
    """Places of pixels in classes of rising values, about as many in each."""
    n = min(CLASSES, max(1, len(values) // FEWEST))
    edges = np.quantile(values, np.arange(1, n) / n, method="lower")
    number = np.searchsorted(edges, values)
    return [found for each in range(n) if len(found := np.flatnonzero(number == each))]

"""Sum of SSIM over an image's windows, tile by tile over the CPU's threads. Chooses no peak, no pixels."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.threads import for_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays import Slices

__all__ = ["TAPS", "sum_of_similarity"]

TAPS = 11
"""Side of the window: sigma 1.5, cut off at 3.5 sigma."""

_TILE = 2**16
"""Windows worked on at once: few enough for a core's cache."""


def sum_of_similarity(
    truth: NDArray[Any], image: NDArray[Any], peak: float, axes: tuple[int, ...], valid: NDArray[np.bool_]
) -> tuple[float, int]:
    """SSIM (Wang et al. 2004) summed over the windows that lie in the image and hold only valid pixels.

    Parameters
    ----------
    truth, image, valid : arrays of one shape
        What is not valid may hold anything finite.
    peak : float
        Intensity units.
    axes
        The window's axes, each of at least :data:`TAPS` pixels.

    Returns
    -------
    total : float
    windows : int
        How many were summed.

    Examples
    --------
    >>> image = np.add.outer(np.arange(16.0), np.arange(16.0))
    >>> sum_of_similarity(image, image, 30.0, (0, 1), np.ones((16, 16), bool))
    (36.0, 36)
    """
    found: dict[int, tuple[float, int]] = {}

    def work(tile: tuple[int, Slices]) -> None:
        number, slices = tile
        here = valid[slices]
        similarity = _similarity(truth[slices], image[slices], peak, axes)
        if not here.all():
            similarity = similarity[_windowed((~here).astype(np.float64), axes) == 0]
        found[number] = float(similarity.sum()), similarity.size

    for_each(enumerate(_tiles(truth.shape, axes)), work)
    # In one order, whichever thread was first.
    parts = [found[number] for number in sorted(found)]
    return float(sum(total for total, _ in parts)), sum(windows for _, windows in parts)


def _tiles(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[Slices]:
    """Parts of an image that hold each window once: they overlap by a window less one pixel."""
    # Memory is read in runs along the last axis: it is cut last.
    *others, run = sorted(axes)
    side = max(TAPS, round((_TILE / min(_TILE, shape[run])) ** (1 / max(1, len(others)))))
    ranges = []
    for axis, size in enumerate(shape):
        if axis in axes:
            step = _TILE if axis == run else side
            starts = range(0, size - TAPS + 1, step)
            ranges.append([slice(start, min(start + step + TAPS - 1, size)) for start in starts])
        else:
            ranges.append([slice(place, place + 1) for place in range(size)])
    yield from product(*ranges)


def _similarity(
    truth: NDArray[Any], image: NDArray[Any], peak: float, axes: tuple[int, ...]
) -> NDArray[np.float64]:
    """SSIM of every window within two small images."""
    x, y = np.asarray(truth, np.float64), np.asarray(image, np.float64)
    mean_x, mean_y = _windowed(x, axes), _windowed(y, axes)
    cross, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _windowed(x * y, axes) - cross
    variances = _windowed(x * x + y * y, axes) - squares
    steady_mean, steady_variance = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    above = (2 * cross + steady_mean) * (2 * covariance + steady_variance)
    below = (squares + steady_mean) * (variances + steady_variance)
    return np.asarray(above / below, np.float64)


def _windowed(x: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean over each window that lies within the array, by the window's Gaussian weights."""
    middle = TAPS // 2
    weights = np.exp(-0.5 * (np.arange(middle + 1) / 1.5) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    for axis in axes:
        size = x.shape[axis] - TAPS + 1

        def at(place: int, x: NDArray[np.float64] = x, axis: int = axis, size: int = size) -> Any:
            return x[(slice(None),) * axis + (slice(place, place + size),)]

        total = at(middle) * weights[0]
        pair = np.empty_like(total)
        for away in range(1, middle + 1):
            np.add(at(middle - away), at(middle + away), out=pair)
            total += np.multiply(pair, weights[away], out=pair)
        x = total
    return x

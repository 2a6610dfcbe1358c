"""Resolution of images without a ground truth, by Fourier ring correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from numpy.typing import NDArray


THRESHOLD = 1 / 7
"""Correlation at the resolution limit (Nieuwenhuizen et al. 2013)."""

FEW_RINGS = 3
"""Rings of the lowest frequencies, whose few pixels correlate by chance."""

LEAST_SIDE = 32
"""Minimum number of rows and columns."""


def fourier_ring_correlation(
    one: NDArray[Any], other: NDArray[Any], channel_axis: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate the Fourier transforms of two images over rings of equal spatial frequency.

    Source: Saxton and Baumeister (1982); Nieuwenhuizen et al., Nature Methods 10, 557 (2013). Images are
    multiplied by a Hann window. The sums over a ring are taken over all planes and channels.

    Parameters
    ----------
    one, other : (..., Y, X) arrays of one shape
        Images of one field with independent noise, such as two exposures. Pixels that are not finite in both
        count as the mean.
    channel_axis : int, optional

    Returns
    -------
    frequencies : (K,) float64
        Cycles per pixel, from 0 to 0.5, in steps of one cycle per shorter side.
    correlations : (K,) float64
        -1 to 1; 0 in rings without signal.

    Raises
    ------
    EnsembleError
        If the shapes differ, or a plane has fewer than 32 rows or columns.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(64, 64))
    >>> frequencies, correlations = fourier_ring_correlation(image, 2 * image)
    >>> frequencies[[1, -1]].tolist(), bool((correlations > 0.999).all())
    ([0.015625, 0.5], True)
    """
    images = [np.asarray(image) for image in (one, other)]
    if channel_axis is not None:
        images = [np.moveaxis(image, channel_axis, 0) for image in images]
    shape, size = images[0].shape, min(images[0].shape[-2:], default=0)
    if shape != images[1].shape or len(shape) < 2 or size < LEAST_SIDE:
        raise EnsembleError(
            f"Fourier ring correlation needs two images of one shape with at least {LEAST_SIDE} rows and "
            f"columns; these have the shapes {np.shape(one)} and {np.shape(other)}."
        )
    rows, columns = shape[-2:]
    window = np.hanning(rows)[:, None] * np.hanning(columns)
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    ring = np.rint(frequency * size).astype(int).ravel()
    # The transform holds half of the plane: the columns between the first and the last stand for two.
    weight = np.full(frequency.shape, 2.0)
    weight[:, 0] = 1
    if columns % 2 == 0:
        weight[:, -1] = 1
    sums = np.zeros((3, size // 2 + 1))
    for place in np.ndindex(shape[:-2]):
        planes = [image[place].astype(np.float64) for image in images]
        finite = np.isfinite(planes[0]) & np.isfinite(planes[1])
        if not finite.any():
            continue
        first, second = (
            np.fft.rfft2(np.where(finite, plane - plane[finite].mean(), 0.0) * window) for plane in planes
        )
        products = ((first * second.conj()).real, np.abs(first) ** 2, np.abs(second) ** 2)
        for total, product in zip(sums, products, strict=True):
            total += np.bincount(ring, (weight * product).ravel())[: len(total)]
    cross, *powers = sums
    scale = np.sqrt(powers[0] * powers[1])
    correlations = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    return np.arange(size // 2 + 1) / size, correlations


def resolution(one: NDArray[Any], other: NDArray[Any], channel_axis: int | None = None) -> float:
    """Return the resolution of two images: the period at which their ring correlation falls below 1/7.

    The correlations are averaged over three neighbouring rings, because those of single rings are noisy.

    Parameters
    ----------
    one, other, channel_axis
        As for :func:`fourier_ring_correlation`.

    Returns
    -------
    float
        Pixels; 2 if all frequencies correlate, NaN if at most the lowest three do.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> rng = np.random.default_rng(0)
    >>> image = 100 * gaussian_filter(rng.normal(size=(128, 128)), 3)
    >>> first, second = (image + rng.normal(size=image.shape) for _ in range(2))
    >>> resolution(first, second) > resolution(first, first)
    True
    """
    from scipy.ndimage import uniform_filter1d

    frequencies, correlations = fourier_ring_correlation(one, other, channel_axis)
    # The mean of the image, which was subtracted, would be ring 0.
    frequencies, smooth = frequencies[1:], uniform_filter1d(correlations[1:], 3, mode="nearest")
    below = np.flatnonzero(smooth < THRESHOLD)
    if not below.size:
        return 2.0
    first = int(below[0])
    if first < FEW_RINGS:
        return float("nan")
    pair = slice(first - 1, first + 1)
    return float(1 / np.interp(THRESHOLD, smooth[pair][::-1], frequencies[pair][::-1]))

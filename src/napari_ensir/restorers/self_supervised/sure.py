"""Stein's unbiased risk estimate (SURE) by Monte Carlo, for noise that is correlated between pixels.

Let y = x + n with noise n of covariance C, and b a draw of noise with the same covariance. For a small
number a the results f(y + a b) and f(y - a b) are paired with the references y - b / a and y + b / a. The
noise of y + a b and that of y - b / a are uncorrelated, so that the squared error against the reference is
that against the truth plus a constant (recorrupted-to-recorrupted; Pang et al. 2021). Averaged over both
signs, the term that depends on f is

    |f(y) - y|^2 + b (f(y + a b) - f(y - a b)) / a,

up to terms of order a^2. This is SURE with its divergence by Monte Carlo (Ramani, Blu and Unser 2008) and
central differences. The pairs serve wherever hidden pixels do: for weights, scores and standard errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers.base import channels_first
from napari_ensir.restorers.self_supervised.j_invariant import restore_checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress, Restorer
    from napari_ensir.restorers.noise_model import NoiseModel

STEP = 0.5
"""The number a: standard deviation of the perturbation, in those of the noise."""

RUNS = 2
"""How often each restorer runs."""

SHRINKAGE_FACTOR = 20.0
"""How much more to shrink than with hidden pixels, since the divergence of few pixels is uncertain."""

SMOOTHING = 1.5
"""Standard deviation, in pixels, of the Gaussian filter whose result stands for the true intensity."""


def sure_pair(
    image: NDArray[Any],
    restorers: Sequence[Restorer],
    models: Sequence[NoiseModel],
    *,
    channel_axis: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]]:
    """Restore an image with noise added and subtracted, for Stein's unbiased risk estimate.

    Parameters
    ----------
    image : array
        An integer or float dtype; the restorers get the same dtype.
    restorers : M restorers
        Each is called twice.
    models : sequence of NoiseModel
        Noise of the image, one model for each channel.
    channel_axis : int, optional
    seed : int
        Seed of the noise added.
    progress
        See :data:`napari_ensir.restorers.base.Progress`.

    Returns
    -------
    candidates : M float32 arrays of shape (..., 2, rows, columns[, channels])
    reference : float32 array of that shape

    Raises
    ------
    EnsembleError
        If a restorer changes the shape, or gives values that are not finite.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> from napari_ensir.restorers.noise_model import estimate_noise_model
    >>> noisy = np.random.default_rng(0).normal(100, 9, (64, 64))
    >>> (candidate,), reference = sure_pair(noisy, [Gaussian()], [estimate_noise_model(noisy)])
    >>> candidate.shape, reference.shape
    ((2, 64, 64), (2, 64, 64))
    """
    added = STEP * draw_noise(image, models, channel_axis, np.random.default_rng(seed))
    perturbed = [as_dtype(image + sign * added, image.dtype) for sign in (1, -1)]
    total = RUNS * len(restorers)

    def restored(number: int, run: int) -> NDArray[np.float32]:
        suffix = f", noise added {run + 1} of {RUNS}"
        part = scaled_progress(progress, RUNS * number + run, total, suffix=suffix)
        return restore_checked(perturbed[run], restorers[number], part)

    candidates = [
        stack_runs([restored(number, run) for run in range(RUNS)], channel_axis)
        for number in range(len(restorers))
    ]
    exact = image.astype(np.float64)
    references = [exact - (given - exact) / STEP**2 for given in perturbed]  # rounding is part of the noise
    return tuple(candidates), np.asarray(stack_runs(references, channel_axis), np.float32)


def draw_noise(
    image: NDArray[Any], models: Sequence[NoiseModel], channel_axis: int | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw noise with the variance and the autocorrelation of noise models, one for each channel."""
    channels = zip(channels_first(image, channel_axis), models, strict=True)
    drawn = [_draw(channel, model, rng) for channel, model in channels]
    return drawn[0] if channel_axis is None else np.stack(drawn, axis=channel_axis)


def _draw(image: NDArray[Any], model: NoiseModel, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw noise for all planes of one channel."""
    from scipy.ndimage import gaussian_filter

    sigma = (0,) * (image.ndim - 2) + (SMOOTHING,) * 2
    intensity = gaussian_filter(image.astype(np.float64), sigma)
    noise = rng.standard_normal(image.shape)
    if model.correlation is not None:
        rows, columns = image.shape[-2:]
        reach = len(model.correlation) // 2
        wrapped = np.zeros((rows, columns))
        for (i, j), value in np.ndenumerate(model.correlation):
            wrapped[(i - reach) % rows, (j - reach) % columns] += value
        spectrum = np.maximum(np.fft.fft2(wrapped).real, 0)
        spectrum /= spectrum.mean()  # keeps the variance
        noise = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(spectrum)).real
    return np.asarray(noise * np.sqrt(model.variance(intensity)))


def stack_runs(images: Sequence[NDArray[Any]], channel_axis: int | None) -> NDArray[Any]:
    """Stack images of (..., rows, columns) along a new axis before the rows, with the channels last."""
    if channel_axis is None:
        return np.stack(images, axis=-3)
    return np.stack([np.moveaxis(each, channel_axis, -1) for each in images], axis=-4)

"""Poisson-Gaussian noise: its model, estimated from one image, and the transform that stabilises it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.checks.noise import CORRELATED, noise_correlation
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Pixels = NDArray[np.float64]

BLOCK = 8
"""Rows and columns of the blocks over which means and variances are taken, pixels."""

MIN_BLOCKS = 32
"""Fewest blocks from which a gain is estimated; with fewer the noise is taken as constant."""

SIGNIFICANT = 4.0
"""Standard errors by which a significant gain exceeds 0."""

MIN_RATIO = 1.5
"""Least ratio of the variances in bright and in dark places for the noise to count as signal-dependent."""

LAGS = 2
"""Largest distance of the autocorrelation, pixels."""

HOT = 6.0
"""Standard deviations of the noise by which a hot pixel exceeds the brightest of its neighbours."""

MAX_HOT_SHARE = 1e-3
"""Largest share of hot pixels; where there are more, isolated points are taken as part of the image."""

_MAX_PIXELS = 2**21
_BAND = 8 * BLOCK + 2  # rows read at once; the Laplacian takes one off either side
_CLIPPED = 0.02  # share of a block's pixels at the image's limits, above which the block is not used
_CLASSES = 16
_CALM = 0.3  # share of each class of brightness that is used in any case
_SMOOTHING = 1.5  # pixels, of the image whose gradient measures structure
_DETRENDING = 3.0  # pixels, of the blur that is subtracted to measure the autocorrelation
_GRADIENT_POWER = 0.01269  # of white noise of variance 1 in that gradient
_LINE = np.correlate([1, -2, 1], [1, -2, 1], "full") / 6  # autocorrelation of the Laplacian, along one axis
_RING = np.maximum(*np.abs(np.mgrid[-2:3, -2:3]))  # distance from the centre of a window of 5 x 5 pixels
# Effective number of independent values: variance of a block's mean square times its pixels over variance^2.
_MEAN_SQUARE_VARIANCE = 2 * (1 + 2 * ((4 / 6) ** 2 + (1 / 6) ** 2)) ** 2


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Noise whose variance is linear in the intensity: variance = gain * intensity + offset.

    Photon (Poisson) noise has a gain; read-out (Gaussian) noise has an offset. A camera's pedestal makes the
    offset negative.

    Attributes
    ----------
    gain : float
        Intensity units per photo-electron; 0 for noise of one level.
    offset : float
        Squared intensity units.
    gain_error, offset_error : float
        Their standard errors; infinite where the image is too small to tell the two apart.
    level : float
        Root mean variance over the image's pixels, intensity units: the standard deviation of the noise.
    is_signal_dependent : bool
        Whether the gain is significant: four standard errors above 0, and the variance of the bright parts
        1.5 times that of the dark parts or more.
    correlation : (5, 5) array or None
        Autocorrelation of the noise at distances of -2 to 2 pixels along rows and columns; None: white noise.

    Examples
    --------
    >>> model = NoiseModel(gain=2.0, offset=9.0, level=13.0, is_signal_dependent=True)
    >>> model.variance(np.array([0.0, 50.0])).tolist()
    [9.0, 109.0]
    """

    gain: float
    offset: float
    gain_error: float = 0.0
    offset_error: float = 0.0
    level: float = 0.0
    is_signal_dependent: bool = False
    correlation: NDArray[np.float64] | None = None

    def variance(self, intensity: ArrayLike) -> NDArray[np.float64]:
        """Return the variance of the noise, at least (level / 100) squared.

        Parameters
        ----------
        intensity : array
            True intensities.

        Returns
        -------
        float64 array of that shape
            Squared intensity units.
        """
        line = self.gain * np.asarray(intensity, np.float64) + self.offset
        return np.maximum(line, (self.level / 100) ** 2)

    def stabilise(self, image: ArrayLike) -> NDArray[np.float64]:
        """Transform an image so that its noise has a standard deviation of about 1 everywhere.

        The generalised Anscombe transform (Starck, Murtagh and Bijaoui 1998), or a division by the level
        where the noise does not depend on the signal.

        Parameters
        ----------
        image : array

        Returns
        -------
        float64 array of its shape
        """
        values = np.asarray(image, np.float64)
        if not self.is_signal_dependent:
            return values / (self.level or 1.0)
        return 2 / self.gain * np.sqrt(np.maximum(self.gain * values + 0.375 * self.gain**2 + self.offset, 0))

    def unstabilise(self, stabilised: ArrayLike) -> NDArray[np.float64]:
        """Transform a denoised image back to intensities, without bias.

        The exact unbiased inverse of the generalised Anscombe transform in closed form (Mäkitalo and Foi,
        IEEE TIP 22, 2013). It maps the mean of transformed pixels to the mean of the pixels, which the
        algebraic inverse does not.

        Parameters
        ----------
        stabilised : array
            A denoised result of :meth:`stabilise`.

        Returns
        -------
        float64 array of its shape
            Intensities.

        Examples
        --------
        >>> model = NoiseModel(gain=2.0, offset=9.0, level=13.0, is_signal_dependent=True)
        >>> noisy = 2.0 * np.random.default_rng(0).poisson(5.0, 100000)
        >>> noisy += np.random.default_rng(1).normal(0, 3, 100000)
        >>> round(float(model.unstabilise(model.stabilise(noisy).mean())), 1)
        10.0
        """
        values = np.asarray(stabilised, np.float64)
        if not self.is_signal_dependent:
            return values * (self.level or 1.0)
        d = np.maximum(values, 2 * np.sqrt(3 / 8))  # the transform of a pixel without any light
        root = np.sqrt(3 / 2)
        photons = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
        return np.asarray(self.gain * photons - self.offset / self.gain)

    def __str__(self) -> str:
        gain, offset = f"({self.gain:.3g} ± {self.gain_error:.2g})", f"{abs(self.offset):.3g}"
        sign = "-" if self.offset < 0 else "+"
        line = f"variance = {gain} x intensity {sign} ({offset} ± {self.offset_error:.2g})"
        text = f"noise {self.level:.3g}"
        text += f" on average: {line}" if self.is_signal_dependent else ", the same at all intensities"
        if self.correlation is not None:
            neighbours = (self.correlation[LAGS, LAGS + 1] + self.correlation[LAGS + 1, LAGS]) / 2
            text += f"; correlation of neighbouring pixels {neighbours:.2f}"
        return text


def estimate_noise_model(image: ArrayLike, channel_axis: int | None = None) -> NoiseModel:
    """Estimate Poisson-Gaussian noise from one image.

    The variance in blocks of 8 x 8 pixels, from the image's Laplacian (Immerkaer 1996), is regressed on
    their mean (as in Foi, Trimeche, Katkovnik and Egiazarian 2008, and Pyatykh and Hesser 2014). Blocks with
    structure, which shows in the gradient of the smoothed image, have less weight. Outliers and blocks with
    clipped pixels have none. Large images are sampled.

    Parameters
    ----------
    image : array
        At least two dimensions beside the channel axis, rows and columns last, any real dtype. Pixels that
        are NaN or infinite are not used.
    channel_axis : int or None
        Axis of the colour channels. One model is fitted to all channels; where they have different detectors,
        estimate one for each.

    Returns
    -------
    NoiseModel

    Raises
    ------
    EnsembleError
        If the image has fewer than two dimensions, or too few finite pixels.

    Examples
    --------
    >>> clean = np.tile(np.linspace(10, 200, 256), (256, 1))
    >>> model = estimate_noise_model(2.0 * np.random.default_rng(0).poisson(clean / 2))
    >>> model.is_signal_dependent, round(model.gain), round(model.level, 1)
    (True, 2, 14.2)
    """
    array = np.asarray(image)
    if channel_axis is not None:
        array = np.moveaxis(array, channel_axis, 0)
    if array.ndim < 2 + (channel_axis is not None) or array.size == 0 or array.dtype.kind not in "biuf":
        raise EnsembleError(
            f"cannot estimate the noise of an image of shape {array.shape} and dtype {array.dtype}; "
            "rows and columns of real numbers are needed."
        )
    planes = array.reshape(-1, *array.shape[-2:])
    bands = [band for band in _bands(planes) if not np.isnan(band).all()]
    if not bands:
        raise EnsembleError("cannot estimate the noise: no pixel of the image is finite.")
    low, high = min(map(np.nanmin, bands)), max(map(np.nanmax, bands))
    blocks = np.concatenate([_block_statistics(band, low, high) for band in bands], axis=1)
    if blocks.shape[1] < MIN_BLOCKS:
        return _constant(bands)
    model = _regression(*blocks)
    if model.level == 0:
        return model
    found = noise_correlation(array, None if channel_axis is None else 0)
    if found is None or found <= CORRELATED:
        return model
    correlation = np.mean([_autocorrelation(band) for band in bands if np.nanstd(band) > 0], axis=0)
    # Share of the power of correlated noise that passes the Laplacian, whose power for white noise is 1.
    share = max(float((correlation * np.outer(_LINE, _LINE)).sum()), 0.01)
    scaled = {each: getattr(model, each) / share for each in ("gain", "offset", "gain_error", "offset_error")}
    return replace(model, level=float(model.level / np.sqrt(share)), correlation=correlation, **scaled)


def find_hot_pixels(image: ArrayLike, model: NoiseModel) -> NDArray[np.bool_]:
    """Find isolated pixels that are far brighter than the noise allows.

    A hot pixel exceeds each of its 8 neighbours by 6 standard deviations of the noise and by twice the range
    of the 24 pixels around it, while its neighbours are no brighter than those around them. A star or a bead,
    whose light the optics spread over several pixels, is not a hot pixel.

    Parameters
    ----------
    image : (..., rows, columns) array
    model : NoiseModel
        Of this image; see :func:`estimate_noise_model`.

    Returns
    -------
    bool array of the image's shape
        All False where more than one pixel in a thousand would be True: then points belong to the image.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(100, 5, (64, 64))
    >>> image[20, 30] = 4000
    >>> np.argwhere(find_hot_pixels(image, estimate_noise_model(image))).tolist()
    [[20, 30]]
    """
    array = np.asarray(image)
    found = np.zeros(array.shape, bool)
    if model.level == 0 or min(array.shape[-2:]) < 3:
        return found
    for index in np.ndindex(array.shape[:-2]):
        plane = np.pad(model.stabilise(array[index]), 2, mode="reflect")
        at = np.argwhere(plane[2:-2, 2:-2] > plane[2:-2, 1:-3] + HOT)  # few: the rest looks at these only
        windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5))[at[:, 0], at[:, 1]]
        centre, neighbours, around = windows[:, 2, 2], windows[:, _RING == 1], windows[:, _RING > 0]
        above = centre - neighbours.max(axis=1)
        excess = centre - np.median(around, axis=1)
        spread = neighbours.mean(axis=1) - np.median(windows[:, _RING == 2], axis=1)
        isolated = (above > HOT) & (above > 2 * np.ptp(around, axis=1))
        hot = at[isolated & (spread < np.maximum(1.0, 0.03 * excess))]
        found[(*index, *hot.T)] = True
    return found if found.mean() <= max(MAX_HOT_SHARE, 1 / found.size) else np.zeros_like(found)


def replace_hot_pixels(image: NDArray[Any], hot: NDArray[np.bool_]) -> NDArray[Any]:
    """Replace hot pixels by the median of their neighbours.

    Parameters
    ----------
    image : (..., rows, columns) array
    hot : bool array of its shape
        See :func:`find_hot_pixels`.

    Returns
    -------
    array
        A copy; the image itself where there is no hot pixel.

    Examples
    --------
    >>> image = np.ones((3, 3))
    >>> image[1, 1] = 9
    >>> float(replace_hot_pixels(image, image > 5).max())
    1.0
    """
    if not hot.any():
        return image
    replaced = image.copy()
    around = [(0, 0)] * (image.ndim - 2) + [(1, 1)] * 2
    padded = np.pad(image, around, mode="reflect")
    for *index, row, column in np.argwhere(hot):
        window = padded[(*index, slice(row, row + 3), slice(column, column + 3))].ravel()
        replaced[(*index, row, column)] = np.median(np.delete(window, 4))
    return replaced


def _bands(planes: NDArray[Any]) -> Iterator[Pixels]:
    """Bands of rows that together have at most about two million pixels, evenly spread."""
    count, rows, _ = planes.shape
    step = max(1, int(np.ceil(planes.size / _MAX_PIXELS)))
    if step == 1:
        yield from (_finite_or_nan(plane) for plane in planes)
        return
    height = min(rows, _BAND)
    starts = [(plane, row) for plane in range(count) for row in range(0, rows - height + 1, height)]
    for plane, row in starts[min(step // 2, len(starts) - 1) :: step]:
        yield _finite_or_nan(planes[plane, row : row + height])


def _finite_or_nan(plane: NDArray[Any]) -> Pixels:
    values = plane.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _laplacian(plane: Pixels) -> Pixels:
    """Second differences along rows of those along columns, scaled to keep the power of white noise."""
    return np.diff(np.diff(plane, 2, axis=0), 2, axis=1) / 6


def _block_statistics(plane: Pixels, low: float, high: float) -> Pixels:
    """Mean, variance, structure and share of clipped pixels of the blocks of a plane, shape (4, n).

    Structure is the power of the smoothed image's gradient, on the scale of the variance. Blocks with
    non-finite pixels are left out.
    """
    from scipy.ndimage import gaussian_filter

    if min(plane.shape) < BLOCK + 2:
        return np.empty((4, 0))
    smooth = gaussian_filter(plane, _SMOOTHING)
    gradient = ((smooth[1:-1, 2:] - smooth[1:-1, :-2]) ** 2 + (smooth[2:, 1:-1] - smooth[:-2, 1:-1]) ** 2) / 4
    inner = plane[1:-1, 1:-1]
    found = np.stack(
        [
            _block_means(inner),
            _block_means(_laplacian(plane) ** 2),
            _block_means(gradient) / _GRADIENT_POWER,
            _block_means((inner <= low) | (inner >= high)),
        ]
    )
    return found[:, np.isfinite(found).all(axis=0)]


def _block_means(plane: NDArray[Any]) -> Pixels:
    rows, columns = (size // BLOCK for size in plane.shape)
    cut = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64).ravel())


def _constant(bands: list[Pixels]) -> NoiseModel:
    """A model of one level, for images too small for a regression."""
    squares = [(_laplacian(band) ** 2).ravel() for band in bands if min(band.shape) >= 3]
    finite = np.concatenate([np.empty(0), *squares])
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        raise EnsembleError("cannot estimate the noise: 3 x 3 finite pixels in one place are needed.")
    power = float(finite.mean())
    error = power * np.sqrt(_MEAN_SQUARE_VARIANCE / finite.size)
    return NoiseModel(0.0, power, np.inf, float(error), float(np.sqrt(power)))


def _regression(means: Pixels, variances: Pixels, structures: Pixels, clipped: Pixels) -> NoiseModel:
    """Regress the blocks' variance on their mean, robustly."""
    unclipped = clipped <= _CLIPPED
    if unclipped.sum() < max(MIN_BLOCKS, 0.1 * unclipped.size):
        unclipped[:] = True
    mean, variance, structure = (each[unclipped] for each in (means, variances, structures))
    if not variance.any():
        return NoiseModel(0.0, 0.0)
    # Intensities from the middle, in units of their spread, keep the equations well-conditioned.
    centre, width = float(mean.mean()), float(mean.std()) or 1.0
    design = np.stack([(mean - centre) / width, np.ones_like(mean)], axis=1)
    order = np.argsort(mean, kind="stable")
    classes = np.array_split(order, max(1, min(_CLASSES, len(order) // BLOCK)))
    line: NDArray[np.floating[Any]] = _first_line(design, variance, structure, classes)
    least = max(0.2 * float(np.quantile(variance, 0.05)), 1e-6 * float(variance.mean()))
    for _ in range(30):
        before, fitted = line, np.maximum(design @ line, least)
        weights = _weights(fitted, variance, structure, classes, max(line[0] / width, 0.0))
        line = np.linalg.solve(design.T @ (weights[:, np.newaxis] * design), design.T @ (weights * variance))
        if line[0] < 0:
            line[:] = 0.0, np.average(variance, weights=weights)
        if np.allclose(line, before, rtol=1e-4, atol=1e-6 * float(variance.mean())):
            break
    # Errors that also hold where the blocks scatter more than the model says (White 1980).
    inverse = np.linalg.inv(design.T @ (weights[:, np.newaxis] * design))
    scores = design * (weights * (variance - design @ line))[:, np.newaxis]
    covariance = inverse @ (scores.T @ scores) @ inverse
    to_offset = np.array([-centre / width, 1.0])
    gain, gain_error = float(line[0]) / width, float(np.sqrt(covariance[0, 0])) / width
    offset, offset_error = float(line @ to_offset), float(np.sqrt(to_offset @ covariance @ to_offset))
    # The line does not hold where pixels are clipped; what is measured there does.
    everywhere = np.where(unclipped, np.maximum(gain * means + offset, 0), variances)
    dark, bright = np.maximum(gain * np.quantile(mean, (0.05, 0.95)) + offset, least)
    return NoiseModel(
        gain,
        offset,
        gain_error,
        offset_error,
        float(np.sqrt(everywhere.mean())),
        bool(gain > SIGNIFICANT * gain_error and bright > MIN_RATIO * dark),
    )


def _first_line(
    design: Pixels, variance: Pixels, structure: Pixels, classes: list[NDArray[np.int64]]
) -> Pixels:
    """Slope and intercept by least absolute deviations from the medians of the calm half of each class."""
    calm = [each[np.argsort(structure[each])[: max(4, len(each) // 2)]] for each in classes]
    levels = np.stack([design[each].mean(axis=0) for each in calm])
    medians = np.array([np.median(variance[each]) for each in calm])
    scale = np.maximum(medians, max(0.05 * float(medians.max()), 1e-12 * float(variance.max())))
    deviation = np.ones_like(medians)
    for _ in range(20):
        weights = 1 / (scale * np.sqrt(deviation))
        line = np.linalg.lstsq(levels * weights[:, np.newaxis], medians * weights, rcond=None)[0]
        deviation = np.abs(medians - levels @ line) / scale + 1e-3
    return np.asarray(line)


def _weights(
    fitted: Pixels, variance: Pixels, structure: Pixels, classes: list[NDArray[np.int64]], gain: float
) -> Pixels:
    """Inverse variances of the blocks' variances, less for blocks with structure, 0 for outliers."""
    ratio = structure / fitted  # about 1 in flat places
    calmest = np.ones_like(ratio)
    for each in classes:
        calmest[each] = max(float(np.quantile(ratio[each], _CALM)), 1.0)
    flat = 1 / (1 + (ratio / (2.5 * calmest)) ** 4) / (1 + ((calmest - 1) / 10) ** 2)
    # The fourth cumulant of photon noise, gain^2 times its variance, adds to the scatter.
    scatter = (_MEAN_SQUARE_VARIANCE + gain**2 / fitted) / BLOCK**2
    inlying = variance < fitted * (1 + 6 * np.sqrt(scatter))
    return flat * np.where(inlying, 1, 1e-9) / (fitted**2 * scatter)


def _autocorrelation(plane: Pixels) -> Pixels:
    """Autocorrelation of a plane's noise in the 40 % with the least structure, shape (5, 5)."""
    from scipy.ndimage import gaussian_filter

    filled = np.where(np.isnan(plane), np.nanmean(plane), plane)
    residual = filled - gaussian_filter(filled, _DETRENDING)
    activity = np.hypot(*np.gradient(gaussian_filter(filled, 4)))
    calm = (activity <= np.quantile(activity, 0.4)) & ~np.isnan(plane)
    lags = range(-LAGS, LAGS + 1)
    products = [[np.mean((residual * np.roll(residual, (i, j), (0, 1)))[calm]) for j in lags] for i in lags]
    found = np.array(products)
    # The blur G takes 2 G - G * G times the noise's sum of covariances off each.
    squares = np.add.outer(np.square(lags), np.square(lags)) / (2 * _DETRENDING**2)
    removed = (2 * np.exp(-squares) - np.exp(-squares / 2) / 2) / (2 * np.pi * _DETRENDING**2)
    found += found.sum() / (1 - removed.sum()) * removed
    return np.asarray(found / found[LAGS, LAGS])

"""PSNR, SSIM and other metrics of images against a clean ground truth, and resolution without one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.parallel import for_each
from napari_ensir.ensemble.scoring.score_table import Column
from napari_ensir.errors import EnsembleError, extra_needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.scoring.score_table import ScoreRow

    Image = NDArray[Any]


TAPS = 11
"""Side of the window in pixels: a Gaussian with sigma 1.5, truncated at 3.5 sigma."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM, from fine to coarse (Wang et al. 2003)."""

_TILE = 2**16
"""Windows per tile, so that a tile fits into the cache of a core."""


def sum_of_similarity(
    truth: NDArray[Any],
    image: NDArray[Any],
    peak: float,
    axes: tuple[int, ...],
    valid: NDArray[np.bool_],
    *,
    luminance: bool = True,
) -> tuple[float, int]:
    """Sum SSIM (Wang et al. 2004) over the windows inside the image that contain only valid pixels.

    Parameters
    ----------
    truth, image, valid : arrays of one shape
        Pixels that are not valid must be finite.
    peak : float
        Intensity units.
    axes
        Axes of the window, each of at least :data:`TAPS` pixels.
    luminance
        Whether to include the factor that compares the means; else contrast and structure alone.

    Returns
    -------
    total : float
    windows : int
        Number of windows.

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
        similarity = _similarity(truth[slices], image[slices], peak, axes, luminance)
        if not here.all():
            similarity = similarity[_windowed((~here).astype(np.float64), axes) == 0]
        found[number] = float(similarity.sum()), similarity.size

    for_each(enumerate(_tiles(truth.shape, axes)), work)
    # The order of the sum must not depend on the threads.
    parts = [found[number] for number in sorted(found)]
    return float(sum(total for total, _ in parts)), sum(windows for _, windows in parts)


def _tiles(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[Slices]:
    """Yield overlapping tiles that contain each window once."""
    # Tiles are long along the last axis, which is contiguous in memory.
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
    truth: NDArray[Any], image: NDArray[Any], peak: float, axes: tuple[int, ...], luminance: bool
) -> NDArray[np.float64]:
    """Return SSIM of each window of two small images, with or without its luminance factor."""
    x, y = np.asarray(truth, np.float64), np.asarray(image, np.float64)
    mean_x, mean_y = _windowed(x, axes), _windowed(y, axes)
    cross, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance = _windowed(x * y, axes) - cross
    variances = _windowed(x * x + y * y, axes) - squares
    steady_mean, steady_variance = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    above, below = 2 * covariance + steady_variance, variances + steady_variance
    if luminance:
        above, below = (2 * cross + steady_mean) * above, (squares + steady_mean) * below
    return np.asarray(above / below, np.float64)


def _windowed(x: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the Gaussian-weighted mean of each window inside an array."""
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


def psnr_of_error(error: float, peak: float) -> float:
    """Convert a mean squared error to PSNR in dB.

    Parameters
    ----------
    error : float
        Squared intensity units.
    peak : float
        Intensity units: 255 for 8 bit.

    Examples
    --------
    >>> psnr_of_error(25.5**2, 255.0)
    20.0
    """
    return float("inf") if error <= 0 else float(10 * np.log10(peak**2 / error))


def psnr(
    truth: NDArray[Any], image: NDArray[Any], peak: float, valid: NDArray[np.bool_] | None = None
) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images, NaN if no pixel is valid.

    Parameters
    ----------
    truth, image : arrays of one shape
    peak : float
        Intensity units.
    valid : bool array of that shape, optional
        Pixels to score; default: those that are finite in both.

    Examples
    --------
    >>> psnr(np.zeros((2, 2)), np.full((2, 2), 25.5), 255.0)
    20.0
    """
    with np.errstate(invalid="ignore", over="ignore"):  # such pixels are excluded below
        difference = np.subtract(truth, image, dtype=np.float64)
        if valid is None:
            valid = np.isfinite(difference)
        squares = np.square(difference, out=difference)
    if valid.all():
        return psnr_of_error(float(squares.mean()), peak)
    return psnr_of_error(float(squares[valid].mean()), peak) if valid.any() else float("nan")


def _filled(
    truth: Image, image: Image, valid: NDArray[np.bool_] | None = None
) -> tuple[Image, Image, NDArray[np.bool_]]:
    """Set pixels that are not scored to 0; return the mask of the others as well."""
    if valid is None:
        valid = np.isfinite(truth) & np.isfinite(image)
    if not valid.all():
        truth, image = (np.where(valid, x, 0) for x in (truth, image))
    return truth, image, valid


def ssim(
    truth: NDArray[Any],
    image: NDArray[Any],
    peak: float,
    channel_axis: int | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Return the structural similarity with a Gaussian window (sigma 1.5, 11 taps), Wang et al. 2004.

    Only windows that contain only valid pixels are averaged. NaN if there is no such window, or an axis is
    shorter than the window.

    Parameters
    ----------
    truth, image : arrays of one shape
    peak : float
        Intensity units.
    channel_axis : int, optional
        Channels are scored separately and averaged.
    valid : bool array of that shape, optional
        Pixels to score; default: those that are finite in both.

    Examples
    --------
    >>> image = np.add.outer(np.arange(16.0), np.arange(16.0))
    >>> ssim(image, image, 30.0)
    1.0
    """
    axis = None if channel_axis is None else channel_axis % truth.ndim
    if min(size for i, size in enumerate(truth.shape) if i != axis) < TAPS:
        return float("nan")
    truth, image, valid = _filled(truth, image, valid)
    axes = tuple(i for i in range(truth.ndim) if i != axis)
    total, windows = sum_of_similarity(truth, image, peak, axes, valid)
    return total / windows if windows else float("nan")


def ms_ssim(
    truth: NDArray[Any],
    image: NDArray[Any],
    peak: float,
    channel_axis: int | None = None,
) -> float:
    """Return the multi-scale structural similarity, the mean over planes and channels.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003: five scales, each half as fine as the one before.
    Pixels that are not finite in both images are excluded. Negative means of contrast and structure count as
    0. NaN if a plane has fewer than 176 rows or columns, or a scale has no window of finite pixels.

    Parameters
    ----------
    truth, image : (..., Y, X) arrays of one shape
    peak : float
        Intensity units.
    channel_axis : int, optional

    Examples
    --------
    >>> image = np.add.outer(np.arange(176.0), np.arange(176.0))
    >>> ms_ssim(image, image, 350.0)
    1.0
    """
    arrays = list(_filled(truth, image))
    if channel_axis is not None:
        arrays = [np.moveaxis(array, channel_axis, 0) for array in arrays]
    shape = arrays[0].shape[-2:]
    if min(shape) < TAPS << (len(SCALE_WEIGHTS) - 1):
        return float("nan")
    planes = zip(*(array.reshape(-1, *shape) for array in arrays), strict=True)
    return float(np.mean([_ms_ssim_of_plane(x, y, whole, peak) for x, y, whole in planes]))


def _ms_ssim_of_plane(
    truth: NDArray[np.float64], image: NDArray[np.float64], valid: NDArray[np.bool_], peak: float
) -> float:
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, start=1):
        total, windows = sum_of_similarity(
            truth, image, peak, (0, 1), valid, luminance=scale == len(SCALE_WEIGHTS)
        )
        if not windows:
            return float("nan")
        product *= max(total / windows, 0.0) ** weight
        truth, image, whole = (_halved(each) for each in (truth, image, valid))
        valid = whole == 1
    return product


def _halved(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Average blocks of 2 x 2 pixels; an odd last row or column is left out."""
    rows, columns = (size // 2 for size in plane.shape)
    blocks = plane[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))


def nrmse(truth: NDArray[Any], image: NDArray[Any]) -> float:
    """Return the root mean square error divided by the root mean square of the ground truth.

    Parameters
    ----------
    truth, image : arrays of one shape

    Returns
    -------
    float
        NaN if no pixel is finite in both or the ground truth is 0 everywhere.

    Examples
    --------
    >>> nrmse(np.full((2, 2), 10.0), np.full((2, 2), 11.0))
    0.1
    """
    from skimage.metrics import normalized_root_mse

    valid = np.isfinite(truth) & np.isfinite(image)
    pixels = np.asarray(truth)[valid]
    return float(normalized_root_mse(pixels, np.asarray(image)[valid])) if pixels.any() else float("nan")


def evenly_spaced_planes(
    shape: tuple[int, ...], plane_axes: int = 2, most: int = 32, most_pixels: int = 2**24
) -> list[tuple[int, ...]]:
    """Choose evenly spaced planes of a stack, if scoring all of them takes too long.

    Parameters
    ----------
    shape
        Shape of the stack; its last ``plane_axes`` axes are those of a plane.
    most
        Maximum number of planes.
    most_pixels
        Maximum number of pixels in all planes; at least one plane is chosen.

    Examples
    --------
    >>> evenly_spaced_planes((100, 1024, 1024), most_pixels=2**22)
    [(0,), (33,), (66,), (99,)]
    >>> evenly_spaced_planes((64, 64))
    [()]
    """
    leading = shape[: len(shape) - plane_axes]
    n = prod(leading)
    wanted = max(1, min(n, most, most_pixels // max(1, prod(shape[len(leading) :]))))
    places = np.unique(np.linspace(0, n - 1, wanted).astype(int))
    return [tuple(int(i) for i in np.unravel_index(place, leading)) if leading else () for place in places]


def luma(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return Y of BT.601 YCbCr, 16 to 235, of an RGB image on 0..255 with the channels last.

    Raises
    ------
    EnsembleError
        If the last axis does not have length 3.
    """
    if image.shape[-1] != 3:
        raise EnsembleError(
            f"the image has shape {image.shape}; luma needs red, green and blue on the last axis."
        )
    return np.asarray(16 + image @ np.array([65.481, 128.553, 24.966]) / 255, np.float64)


def mean_of_metrics(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over images of each metric.

    Examples
    --------
    >>> mean_of_metrics([{"lpips": 0.25}, {"lpips": 0.75}])
    {'lpips': 0.5}
    """
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def finite_everywhere(arrays: Sequence[Image]) -> NDArray[np.bool_]:
    """Return a mask of the pixels that are finite in all arrays, which have one shape.

    Raises
    ------
    EnsembleError
        If there is no such pixel.
    """
    finite: NDArray[np.bool_] = np.ones(arrays[0].shape, bool)
    for array in arrays:
        if array.dtype.kind not in "iu":
            finite &= np.isfinite(array)
    if not finite.any():
        raise EnsembleError(
            "no pixel is finite in every candidate and in the ground truth, so nothing can be scored."
        )
    return finite


def score_notes(scale: object, not_finite: int = 0, rows: Iterable[ScoreRow] = ()) -> list[str]:
    """Return sentences on the peak of PSNR, on pixels that are not scored and on an unknown MS-SSIM.

    Parameters
    ----------
    scale : ScoreRange
    not_finite : int
        Number of pixels that are not scored.
    rows : iterable of ScoreRow

    Examples
    --------
    >>> score_notes("255")
    ['The peak of PSNR is 255.']
    >>> score_notes("255", 1)[1]
    '1 pixel is NaN or infinite in a candidate or the ground truth and is not scored.'
    """
    notes = [f"The peak of PSNR is {scale}."]
    if not_finite:
        subject, verb = ("pixel is", "is") if not_finite == 1 else ("pixels are", "are")
        where = "NaN or infinite in a candidate or the ground truth"
        notes.append(f"{not_finite:,} {subject} {where} and {verb} not scored.")
    if any(np.isnan(row.metrics.get("ms-ssim", 0.0)) for row in rows):
        notes.append(
            f"MS-SSIM is not shown, because it needs at least {TAPS << (len(SCALE_WEIGHTS) - 1)} rows and "
            "columns of finite pixels in each image."
        )
    return notes


class Metric(NamedTuple):
    """A score of an image against a ground truth, and its column in a score table.

    Attributes
    ----------
    column : Column
        Its key is the name on the command line.
    function : callable
        Called with ground truth, image, data range and channel axis; pixels that are not scored are NaN.
    """

    column: Column
    function: Callable[[Image, Image, tuple[float, float], int | None], float]


OWN_METRICS = {
    "ms-ssim": Metric(
        Column("ms-ssim", "MS-SSIM", decimals=4),
        lambda truth, image, ends, axis: ms_ssim(truth, image, ends[1] - ends[0], axis),
    ),
    "nrmse": Metric(
        Column("nrmse", "NRMSE", decimals=4, largest_is_best=False),
        lambda truth, image, *_: nrmse(truth, image),
    ),
}
"""Metrics that need no other package."""


def open_metrics(names: Sequence[str], device: Any = "auto") -> tuple[Metric, ...]:
    """Open metrics by their names.

    Parameters
    ----------
    names : sequence of str
        ``"ms-ssim"``, ``"nrmse"``, or metrics of pyiqa such as ``"lpips"``, ``"dists"`` or ``"topiq_fr"``.
    device : str or torch.device

    Returns
    -------
    tuple of Metric

    Raises
    ------
    EnsembleError
        If pyiqa is not installed, has no such full-reference metric, or cannot load the weights.

    Examples
    --------
    >>> open_metrics(())
    ()
    """
    return tuple(
        OWN_METRICS.get(name.lower()) or _open_perceptual(name, device) for name in dict.fromkeys(names)
    )


def _open_perceptual(name: str, device: Any) -> Metric:
    """Open a full-reference metric of pyiqa, whose weights pyiqa downloads at the first use."""
    others = f"{name} is not one of {', '.join(OWN_METRICS)}; other metrics need pyiqa"
    with extra_needed("perceptual", others):
        import pyiqa
    known = pyiqa.list_models(metric_mode="FR")
    if name not in known:
        known = ", ".join([*OWN_METRICS, *known])
        raise EnsembleError(f"there is no full-reference metric {name!r}; choose from {known}.")
    try:
        opened = pyiqa.create_metric(name, device=resolve_device(device))
    except Exception as error:  # pyiqa and what it downloads with raise exceptions of many types
        raise EnsembleError(
            f"the weights of the metric {name} could not be loaded ({type(error).__name__}: {error}); "
            "pyiqa downloads them at the first use, so check the network connection."
        ) from error
    column = Column(name, name, decimals=4, largest_is_best=not opened.lower_better)
    return Metric(column, partial(_perceptual_score, opened))


def _perceptual_score(
    opened: Any,
    truth: NDArray[Any],
    image: NDArray[Any],
    data_range: tuple[float, float],
    channel_axis: int | None,
) -> float:
    """Score an image: the mean over planes, and over channels unless RGB; NaN and infinity count as 0.

    Intensities are scaled from the data range to 0 and 1, and clipped.
    """
    import torch

    low, high = data_range
    batches = []
    for array in (truth, image):
        finite = np.nan_to_num(np.asarray(array, np.float32), posinf=0, neginf=0)
        scaled = np.clip((finite - low) / (high - low), 0, 1)
        if channel_axis is None:
            planes = scaled.reshape(-1, 1, *scaled.shape[-2:])
        else:
            planes = np.moveaxis(scaled, channel_axis, -3)
            channels = 3 if planes.shape[-3] == 3 else 1
            planes = planes.reshape(-1, channels, *planes.shape[-2:])
        batches.append(np.repeat(planes, 3 // planes.shape[1], axis=1))  # the networks take RGB
    with torch.inference_mode():
        scores = [
            float(opened(*(torch.from_numpy(plane[None]) for plane in (restored, reference))))
            for reference, restored in zip(*batches, strict=True)
        ]
    return float(np.mean(scores))


@dataclass(frozen=True)
class Scoring:
    """Computes scores of images without clipping them.

    Attributes
    ----------
    data_range : (low, high)
        Its width is the peak. For the Y channel, intensities are scaled from this range to 0 to 255.
    y_channel : bool
        Whether to score the Y channel (BT.601, 0 to 255) instead of RGB.
    crop_border : int
        Width of the border that is excluded along the last two spatial axes.
    channel_axis : int or None
        None: the last axis, if it has length 3 and there are at least 3 axes.
    metrics : tuple of Metric
        Further metrics.

    Examples
    --------
    >>> truth = np.zeros((2, 3))
    >>> near, far = truth + 25.5, np.where(np.arange(3) == 1, np.nan, 255.0) + truth
    >>> [round(Scoring((0, 255))(truth, image)["psnr"]) for image in (near, far)]
    [20, 0]
    """

    data_range: tuple[float, float]
    y_channel: bool = False
    crop_border: int = 0
    channel_axis: int | None = None
    metrics: tuple[Metric, ...] = ()

    def __call__(
        self, truth: Image, image: Image, valid: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """Score one image.

        Parameters
        ----------
        truth, image : arrays of one shape
        valid : bool array of that shape, optional
            Pixels to score; default: all that are finite in both.

        Returns
        -------
        dict
            ``"psnr"`` in dB; ``"ssim"``, NaN if the image is smaller than its window or every window contains
            an excluded pixel; then the metrics, of all channels, by name.
        """
        low, high = self.data_range
        axis = self.channels_of(truth.shape)
        peak = high - low
        first, second, valid = _filled(np.asarray(truth), np.asarray(image), valid)
        further = {}
        if self.metrics:
            inside = self.inside(truth.shape)
            one, two = (np.where(valid, x, np.nan)[inside] for x in (first, second))
            further = {
                each.column.key: each.function(one, two, self.data_range, axis) for each in self.metrics
            }
        if self.y_channel:
            if axis is None:
                raise EnsembleError(
                    f"the image has shape {truth.shape}; the Y channel needs red, green and blue along a "
                    "channel axis."
                )
            first, second = (
                luma((np.moveaxis(x, axis, -1).astype(np.float64) - low) * (255 / (high - low)))
                for x in (first, second)
            )
            valid = np.asarray(valid.all(axis=axis))
            axis, peak = None, 255.0
        cut = self._cut(first.shape, axis)
        first, second, valid = first[cut], second[cut], valid[cut]
        found = {"psnr": psnr(first, second, peak, valid), "ssim": ssim(first, second, peak, axis, valid)}
        return found | further

    def channels_of(self, shape: tuple[int, ...]) -> int | None:
        """Return the channel axis of an image of this shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(shape)
        return len(shape) - 1 if len(shape) > 2 and shape[-1] == 3 else None

    def inside(self, shape: tuple[int, ...]) -> Slices:
        """Return the slices that exclude the border of an image of this shape.

        Raises
        ------
        EnsembleError
            If no pixel is left.
        """
        return self._cut(shape, self.channels_of(shape))

    def _cut(self, shape: tuple[int, ...], channel_axis: int | None) -> Slices:
        spatial = [i for i in range(len(shape)) if i != channel_axis][-2:]
        border = self.crop_border
        if border < 0 or any(shape[i] <= 2 * border for i in spatial):
            raise EnsembleError(
                f"a border of {border} pixels leaves nothing of an image of shape {shape}; crop less."
            )
        return tuple(slice(border, n - border) if i in spatial else slice(None) for i, n in enumerate(shape))


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
        for total, values in zip(sums, products, strict=True):
            total += np.bincount(ring, (weight * values).ravel())[: len(total)]
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

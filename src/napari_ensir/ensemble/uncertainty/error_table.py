"""Errors of an ensemble on held-out pixels, and the expected error at each pixel.

The expected error follows from the ensemble's intensity and the spread of the candidates (their standard
deviation at a pixel), which says how much they disagree. How large an error goes with a given spread depends
on the intensity, the channel and the restorers, and is measured on images held out from a reference set.
Where all candidates agree on a wrong value, the error is not visible to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from math import ceil, prod
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import Channels, is_dask, is_torch, read_block
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each, running_progress
from napari_ensir.ensemble.combine.combine import combine_field, map_chunks
from napari_ensir.ensemble.engines import choose_engine
from napari_ensir.ensemble.statistics.count import is_lazy, reduce_chunks
from napari_ensir.ensemble.statistics.student_t import student_t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.arrays.parallel import Report
    from napari_ensir.ensemble.combine.lookup import Lookup

STEPS = 16 * 255
"""Steps per data range; errors are counted in whole steps."""

MAX_STEPS = 4 * STEPS
"""Larger errors are clipped at four data ranges, so that sums of squares stay within 53 bits."""

INTENSITIES = 16
"""Classes of the ensemble's intensity, over the data range."""

SPREADS = 20
"""Classes of the candidates' standard deviation, two for each doubling."""

BIAS_CLASSES = 32
"""Classes of intensity for mean errors, over the data range."""

BLOCK_PIXELS = {"cpu": 2**18, "gpu": 2**20}
"""Pixels worked on at once."""

NUMPY_PIXELS = 2**14
"""Pixels that numpy works on at once."""

_NO_MASK = np.zeros(0, bool)

TRUSTS = (50.0, 1e3, 1e4, 1e5, 1e6, 1e12)
"""Values of :attr:`ErrorTable.trust` to choose from; the last ignores the intensity."""

GLOBAL_TRUST = 1000
"""Pixels' worth of trust in the error over all pixels, for spreads that few pixels have."""

MIN_NOISE_PIXELS, NOISE_SHARE = 1000, 0.8
"""The truth's noise is reported as lower than given where at least this many pixels have a mean squared error
below this share of its variance: of 1000 Gaussian squares, the mean has a standard error of 4.5 %."""

COVERAGE = 0.9
"""Share of new images whose errors shall lie within the error factor."""


@dataclass(frozen=True, eq=False)
class ErrorClasses:
    """Squared errors of an ensemble, by channel, intensity and spread.

    Attributes
    ----------
    low, high : float
        Data range in intensity units.
    squares : (C, INTENSITIES, SPREADS) int64
        Sums of squared errors, in squared steps, by the ensemble's intensity and the candidates' spread.
    counts : (C, INTENSITIES, SPREADS) int64
        Pixels in each of these classes.
    """

    low: float
    high: float
    squares: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def step(self) -> float:
        """Intensity units per step."""
        return (self.high - self.low) / STEPS


@dataclass(frozen=True, eq=False)
class ErrorSums(ErrorClasses):
    """Errors of an ensemble and its candidates, summed over pixels by class; sums of parts add up.

    Attributes
    ----------
    bias_errors : (2, C, M + 1, BIAS_CLASSES) int64
        Image minus truth, in steps, of the candidates and, last, the ensemble: by the truth's intensity, then
        by the image's own.
    bias_counts : (2, C, M + 1, BIAS_CLASSES) int64
        Pixels in each of these classes.
    """

    bias_errors: NDArray[np.int64]
    bias_counts: NDArray[np.int64]

    @classmethod
    def zeros(cls, low: float, high: float, n_channels: int, n_candidates: int) -> ErrorSums:
        """The sums over no pixels."""
        classes, biases = (
            np.zeros((2, n_channels, INTENSITIES, SPREADS), np.int64),
            np.zeros((2, 2, n_channels, n_candidates + 1, BIAS_CLASSES), np.int64),
        )
        return cls(low, high, *classes, *biases)

    def __add__(self, other: ErrorSums) -> ErrorSums:
        names = ("squares", "counts", "bias_errors", "bias_counts")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def measure_block(
        self, ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None
    ) -> ErrorSums:
        """Sums of one block in the same classes.

        Parameters
        ----------
        ensemble : array of the block's shape
        field
            The block with its ground truth, as numpy arrays.
        keep : bool array of the block's shape, or None
            Pixels to count; None: all. Pixels that are not finite are left out.
        """
        found = ErrorSums.zeros(self.low, self.high, len(self.counts), self.bias_counts.shape[2] - 1)
        block = flatten(ensemble, field, keep)
        if choose_engine("count_errors", block.candidates.dtype, block.candidates.size) != "compiled":
            _count_in_numpy(block, found)
            return found
        from napari_ensir.ensemble import kernels

        grid = [self.low, BIAS_CLASSES / (self.high - self.low), BIAS_CLASSES, self.step, MAX_STEPS]
        sums = (found.squares, found.counts, found.bias_errors, found.bias_counts)
        kernels.count_errors(
            *block,
            class_grid(self.low, self.high),
            SPREADS,
            np.array(grid, np.float64),
            *(each.reshape(-1) for each in sums),
        )
        return found


def class_grid(low: float, high: float) -> NDArray[np.float32]:
    """Classes of intensity and unit of spread for a data range, as the kernels take them."""
    return np.array([low, INTENSITIES / (high - low), INTENSITIES, (high - low) / 255], np.float32)


class FlatBlock(NamedTuple):
    """A block as the kernels take it: flat arrays, then the channels."""

    candidates: NDArray[np.floating[Any]]
    truth: NDArray[np.floating[Any]]
    ensemble: NDArray[np.float32]
    keep: NDArray[np.bool_]
    channels: tuple[int, int, int]


def flatten(ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None) -> FlatBlock:
    """Flatten a block of numpy arrays, without loss, to float32 or float64.

    The kernels are compiled for these two dtypes only. Without a ground truth, ``truth`` is empty.
    """
    arrays = [np.asarray(array) for array in field.arrays]
    exact = np.stack(arrays, dtype=np.result_type(*arrays, np.float32)).reshape(len(arrays), -1)
    n = len(field.candidates)
    run = Channels.of_block(field.shape, (slice(None),) * len(field.shape), field.channel_axis)
    return FlatBlock(
        exact[:n],
        exact[n:].reshape(-1),
        np.ascontiguousarray(ensemble, np.float32).reshape(-1),
        _NO_MASK if keep is None else np.ascontiguousarray(np.broadcast_to(keep, field.shape)).reshape(-1),
        (run.first, run.count, run.inner),
    )


def _count_in_numpy(block: FlatBlock, found: ErrorSums) -> None:
    """Add a block's errors as :func:`~napari_ensir.ensemble.kernels.count_errors` does."""
    good = np.isfinite(block.ensemble.astype(np.float64) - block.truth)
    good &= block.keep if block.keep.size else True
    chosen, channels = np.flatnonzero(good), find_channels(block)
    per_unit = BIAS_CLASSES / (found.high - found.low)

    def add(sums: NDArray[np.int64], places: NDArray[np.int64], weights: Any = None) -> None:
        sums += np.bincount(places, weights, minlength=sums.size).astype(np.int64).reshape(sums.shape)

    for begin in range(0, len(chosen), NUMPY_PIXELS):
        part = chosen[begin : begin + NUMPY_PIXELS]
        truth, channel, ensemble = block.truth[part], channels[part], block.ensemble[part]
        candidates = block.candidates.take(part, axis=1)
        images = np.array([truth, *candidates, ensemble], np.float64)
        classes = _clamp((images - found.low) * per_unit, 0.0, BIAS_CLASSES - 1.0).astype(np.int64)
        classes += channel * BIAS_CLASSES
        levels = np.rint(_clamp((images[1:] - images[0]) / found.step, -MAX_STEPS, MAX_STEPS))
        for m, errors in enumerate(levels):
            for way, places in enumerate((classes[0], classes[m + 1])):
                add(found.bias_errors[way, :, m], places, errors)
                add(found.bias_counts[way, :, m], places)
        places = channel * INTENSITIES * SPREADS + find_classes(candidates, ensemble, found.low, found.high)
        add(found.squares, places, errors * errors)  # of the ensemble, the last image
        add(found.counts, places)


def find_channels(block: FlatBlock) -> NDArray[np.int64]:
    """Return the channel of each pixel."""
    first, count, inner = block.channels
    n = block.ensemble.size
    return np.full(n, first) if count == 1 else first + np.arange(n) // inner % count


def find_classes(
    candidates: NDArray[Any], ensemble: NDArray[np.float32], low: float, high: float
) -> NDArray[np.int64]:
    """Return the class of intensity and spread of each pixel, in float32 as in the compiled kernels."""
    low, per_unit, n_classes, unit = class_grid(low, high)
    zero, n = np.float32(0), np.float32(len(candidates))
    singles = candidates.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        total, squares = np.zeros_like(ensemble), np.zeros_like(ensemble)
        for image in singles[1:]:
            above = image - singles[0]  # relative to the first candidate, to avoid cancellation
            total += above
            squares += above * above
        mean = total / n
        variance = squares / n - mean * mean
        spread = np.sqrt(np.where(variance > zero, variance, zero)) / unit + np.float32(0.25)
        place = _clamp((ensemble - low) * per_unit, zero, n_classes - np.float32(1))
    bits = spread.view(np.int32)
    # The exponent of a float, and whether its fraction is at least the square root of two.
    half = (bits & 0x7FFFFF) >= (np.float32(2**0.5).view(np.int32) & 0x7FFFFF)
    step = 2 * ((bits >> 23) - 127) + half + 4
    return np.asarray(place.astype(np.int64) * SPREADS + np.clip(step, 0, SPREADS - 1))


def _clamp(values: NDArray[Any], least: Any, most: Any) -> NDArray[Any]:
    """Clamp values to two bounds; NaN becomes the lower one."""
    return np.asarray(np.minimum(np.where(values > least, values, least), most))


def measure(
    field: Field,
    lookup: Lookup,
    zeros: ErrorSums,
    device: str | torch.device = "auto",
    report: Report = lambda pixels: None,
) -> ErrorSums:
    """Sum the errors of a lookup's ensemble over a field with ground truth.

    Parameters
    ----------
    field
        The lookup must not have been learned from it, or its errors come out too small.
    lookup
    zeros
        Sums over no pixels, which set the classes.
    device
        Where to combine.
    report
        Called with the number of pixels just finished.

    Returns
    -------
    ErrorSums
        The same for any blocks of the pixels.
    """
    if is_lazy(field):
        chunk = partial(_measure_chunk, lookup, zeros, field.channel_axis)
        found: ErrorSums = reduce_chunks(_with_whole_channels(field), chunk, add_sums, report)
        return found
    total = zeros

    def done(band: Field, found: ErrorSums) -> None:
        nonlocal total
        total = total + found
        report(prod(band.shape))

    for_each_band(field, device, lambda band: _measure_band(band, lookup, zeros, device), done)
    return total


def add_sums(parts: Sequence[ErrorSums]) -> ErrorSums:
    """Sum of one or more parts."""
    return reduce(add, parts)


def for_each_band(
    field: Field,
    device: str | torch.device,
    work: Callable[[Field], Any],
    done: Callable[[Field, Any], object],
) -> None:
    """Call ``work`` on bands of a field, in several threads on the CPU, and ``done`` with each result."""
    on_cpu = resolve_device(device).type == "cpu"
    for_each(_bands(field, on_cpu=on_cpu), work, done, threads=None if on_cpu else 1)


def _bands(field: Field, *, on_cpu: bool) -> list[Field]:
    """Pieces of a field to work on in memory, each with all channels."""
    return field.bands(max(1, ceil(prod(field.shape) / BLOCK_PIXELS["cpu" if on_cpu else "gpu"])))


def read_field(field: Field) -> Field:
    """The field without its mask, as numpy arrays of its working dtype."""
    whole = (slice(None),) * len(field.shape)
    arrays = [read_block(array, whole, field.dtype).reshape(field.shape) for array in field.arrays]
    truth = None if field.truth is None else arrays.pop()
    return Field(tuple(arrays), truth, None, field.channel_axis)


def _measure_band(band: Field, lookup: Lookup, zeros: ErrorSums, device: str | torch.device) -> ErrorSums:
    part = read_field(band)
    mask = band.read_mask((slice(None),) * len(band.shape))
    keep = None if mask is None else mask.reshape(band.shape)
    ensemble = np.asarray(combine_field(lookup, part, device, as_maps=False))
    return zeros.measure_block(ensemble, part, keep)


def _with_whole_channels(field: Field) -> Field:
    """The same field of dask arrays with the channel axis in one chunk."""
    axis = field.channel_axis
    if axis is None:
        return field
    arrays = [one.rechunk({axis: -1}) if is_dask(one) else one for one in field.arrays]
    return Field(tuple(arrays[:-1]), arrays[-1], field.mask, axis)


def _measure_chunk(
    lookup: Lookup,
    zeros: ErrorSums,
    axis: int | None,
    arrays: Sequence[NDArray[Any]],
    mask: Any,
    first_channel: int,
) -> ErrorSums:
    bands = _bands(Field(tuple(arrays[:-1]), arrays[-1], mask, axis), on_cpu=True)
    return add_sums([_measure_band(band, lookup, zeros, "cpu") for band in bands])


@dataclass(frozen=True, eq=False)
class ErrorTable(ErrorClasses):
    """Errors of an ensemble on held-out pixels, from which the expected error at each pixel follows.

    Attributes
    ----------
    noise : float
        Standard deviation of the ground truth's noise, in intensity units; its variance is subtracted.
    trust : float
        Shrinkage, in pixels, of each class toward the mean squared error of its spread at any intensity.
    """

    noise: float = 0.0
    trust: float = TRUSTS[1]

    @cached_property
    def rmse(self) -> NDArray[np.float32]:
        """Expected root mean square error by class, (C, INTENSITIES, SPREADS), in intensity units."""
        mean = _shrink(self.squares, self.counts, self.trust)
        # Noise of the truth adds the same everywhere; nothing is smaller than the rounding to whole steps.
        clean = np.maximum(mean * self.step**2 - self.noise**2, self.step**2 / 12)
        found: NDArray[np.float32] = np.sqrt(clean).astype(np.float32)
        return found

    @property
    def overall(self) -> float:
        """Root mean square error over all pixels counted, in intensity units."""
        mean = self.squares.sum() / max(1, self.counts.sum()) * self.step**2
        return float(np.sqrt(max(mean - self.noise**2, 0.0)))

    @property
    def low_noise_range(self) -> tuple[float, float] | None:
        """Range of intensities at which the truth is clearly less noisy than given, or None."""
        counts = self.counts.sum((0, 2))
        mean = self.squares.sum((0, 2)) / np.maximum(counts, 1) * self.step**2
        places = np.flatnonzero((counts >= MIN_NOISE_PIXELS) & (mean < NOISE_SHARE * self.noise**2))
        if not places.size:
            return None
        width = (self.high - self.low) / INTENSITIES
        return self.low + width * float(places[0]), self.low + width * float(places[-1] + 1)

    def predict(
        self, ensemble: NDArray[np.float32], candidates: Sequence[NDArray[Any]], axis: int | None
    ) -> NDArray[np.float32]:
        """Expected root mean square error at each pixel; NaN where the ensemble is not finite.

        Parameters
        ----------
        ensemble : float32 array
        candidates : M arrays of its shape
        axis : int or None
            Channel axis; None where channels are pooled.
        """
        block = flatten(ensemble, Field(tuple(candidates), None, None, axis), None)
        if choose_engine("look_up_errors", block.candidates.dtype, block.candidates.size) != "compiled":
            place = find_channels(block) * INTENSITIES * SPREADS
            place += find_classes(block.candidates, block.ensemble, self.low, self.high)
            error = self.rmse.reshape(-1)[place]
            return np.where(np.isfinite(block.ensemble), error, np.float32(np.nan)).reshape(ensemble.shape)
        from napari_ensir.ensemble import kernels

        out = np.empty(ensemble.shape, np.float32)
        grid = class_grid(self.low, self.high)
        table = self.rmse.reshape(-1)
        kernels.look_up_errors(
            block.ensemble, block.candidates, block.channels, grid, SPREADS, table, out.reshape(-1)
        )
        return out

    def at(self, ensemble: float, intensities: Sequence[float], channel: int = 0) -> float:
        """Expected root mean square error at one pixel, in intensity units.

        Parameters
        ----------
        ensemble
            Intensity of the ensemble.
        intensities : M numbers
            Intensities of the candidates.
        channel
            0 where channels are pooled.
        """
        # Channels along the second axis; each gets the same intensities.
        shape = (1, len(self.counts))
        candidates = [np.full(shape, one, np.float32) for one in intensities]
        return float(self.predict(np.full(shape, ensemble, np.float32), candidates, 1)[0, channel])


def _shrink(
    squares: NDArray[np.number[Any]], counts: NDArray[np.number[Any]], trust: float
) -> NDArray[np.float64]:
    """Mean squared error by class, shrunk toward that of its spread at any intensity."""
    overall = squares.sum() / max(1, counts.sum())
    by_spread = (squares.sum((0, 1)) + GLOBAL_TRUST * overall) / (counts.sum((0, 1)) + GLOBAL_TRUST)
    found: NDArray[np.float64] = (squares + trust * by_spread) / (counts + trust)
    return found


def fit_error_table(parts: Sequence[ErrorSums], noise: float = 0.0) -> ErrorTable:
    """Make the table of all parts, with the trust that predicts each part best from the others.

    The criterion is the likelihood of Gaussian errors: the mean over pixels of ``log m + e^2 / m`` for the
    predicted mean squared error ``m``.

    Parameters
    ----------
    parts
        Sums over the parts of a reference set, each measured with weights learned from the others.
    noise
        Standard deviation of the ground truth's noise, in intensity units.
    """
    total = add_sums(parts)
    held_out = [(total.squares - part.squares, total.counts - part.counts, part) for part in parts]
    losses = []
    for trust in TRUSTS:
        loss = 0.0
        for squares, counts, part in held_out:
            mean = np.maximum(_shrink(squares, counts, trust), 1 / 12)
            loss += float((part.counts * np.log(mean) + part.squares / mean).sum())
        losses.append(loss)
    trust = TRUSTS[int(np.argmin(losses))]
    return ErrorTable(total.low, total.high, total.squares, total.counts, noise, trust)


def estimate_error_factor(table: ErrorTable, images: Sequence[ErrorSums]) -> float | None:
    """Estimate how far expected errors may be off on new images like those of the reference set.

    Each image is left out in turn, and its root mean square error is compared with the one that a table of
    the other images predicts for it. The logarithms of these ratios are taken as Gaussian.

    Parameters
    ----------
    table
        Table of all images.
    images
        Sums over each image.

    Returns
    -------
    float or None
        On about 90 % of new images, the ratio of actual to expected overall error lies between ``1 / factor``
        and ``factor``: the prediction interval of Student's t distribution. None for fewer than two images.
    """
    found = [image for image in images if image.counts.any()]
    n = len(found)
    if n < 2:
        return None
    total = add_sums(found)
    logs = np.empty(n)
    for place, image in enumerate(found):
        others = replace(table, squares=total.squares - image.squares, counts=total.counts - image.counts)
        pixels = image.counts.sum()
        expected = (image.counts * others.rmse.astype(np.float64) ** 2).sum() / pixels
        actual = image.squares.sum() / pixels * table.step**2 - table.noise**2
        logs[place] = 0.5 * np.log(max(actual, table.step**2 / 12) / expected)
    # A ratio to the other n - 1 images varies by n / (n - 1) more than an image about the mean of all n.
    deviation = np.sqrt((logs**2).sum() * (n - 1)) / n
    return float(np.exp(student_t_quantile(n - 1, (1 + COVERAGE) / 2) * deviation * np.sqrt(1 + 1 / n)))


def map_expected_error(
    table: ErrorTable,
    lookup: Lookup,
    field: Field,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> Any:
    """Expected root mean square error at each pixel of an ensemble.

    Returns
    -------
    float32 array of the field's shape
        In intensity units; NaN where a candidate is NaN. Dask arrays give a lazy dask array, torch tensors a
        tensor.
    """
    if any(is_dask(candidate) for candidate in field.candidates):

        def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
            part = Field(parts, None, None, field.channel_axis)
            return np.asarray(map_expected_error(table, lookup, part, device))

        return map_chunks(field, block)
    result = np.empty(field.shape, np.float32)
    report = running_progress(progress, prod(field.shape), "expected error")

    def work(band: Field) -> None:
        part = read_field(replace(band, truth=None))
        ensemble = np.asarray(combine_field(lookup, part, device, as_maps=False))
        band.truth[...] = table.predict(ensemble, part.candidates, field.channel_axis)

    # As the field's truth, the result is cut into the same bands as the candidates.
    for_each_band(
        Field(field.candidates, result, None, field.channel_axis),
        device,
        work,
        lambda band, _: report(prod(band.shape)),
    )
    if all(is_torch(candidate) for candidate in field.candidates):
        import torch

        return torch.from_numpy(result).to(field.candidates[0].device)
    return result

"""Sums of the errors of an ensemble and its candidates over images with ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, reduce
from math import ceil, prod
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import Channels, is_dask, read_block
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.engines import choose_engine
from napari_ensir.ensemble.statistics.count import is_lazy, reduce_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from numpy.typing import NDArray

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


@dataclass(frozen=True, eq=False)
class ErrorSums:
    """Errors of an ensemble and its candidates, summed over pixels by class; sums of parts add up.

    Attributes
    ----------
    low, high : float
        Data range in intensity units.
    squares : (C, INTENSITIES, SPREADS) int64
        Squared errors of the ensemble, in squared steps, by its intensity and the candidates' spread.
    counts : (C, INTENSITIES, SPREADS) int64
        Pixels in each of these classes.
    bias_errors : (2, C, M + 1, BIAS_CLASSES) int64
        Image minus truth, in steps, of the candidates and, last, the ensemble: by the truth's intensity, then
        by the image's own.
    bias_counts : (2, C, M + 1, BIAS_CLASSES) int64
        Pixels in each of these classes.
    """

    low: float
    high: float
    squares: NDArray[np.int64]
    counts: NDArray[np.int64]
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

    @property
    def step(self) -> float:
        """Intensity units per step."""
        return (self.high - self.low) / STEPS

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
    fields: Iterable[Field],
    lookup: Lookup,
    zeros: ErrorSums,
    device: str | torch.device = "auto",
    report: Report = lambda pixels: None,
) -> ErrorSums:
    """Sum the errors of a lookup's ensemble over fields with ground truth.

    Parameters
    ----------
    fields
        The lookup must not have been learned from them, or its errors come out too small.
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
        The same for any order and any blocks of the pixels.
    """
    total = zeros

    def done(band: Field, found: ErrorSums) -> None:
        nonlocal total
        total = total + found
        report(prod(band.shape))

    for field in fields:
        if is_lazy(field):
            chunk = partial(_measure_chunk, lookup, zeros, field.channel_axis)
            total = total + reduce_chunks(_with_whole_channels(field), chunk, add_sums, report)
        else:
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

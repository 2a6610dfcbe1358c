"""The CPU's hot loops over pixels whose truth is known: errors by class, compiled by numba. Chooses no class.

What they count is said, and done without numba, in ``expected_error.py`` and ``fidelity.py``; the tests hold
the two to the same numbers. Work is done in tiles that stay in a core's first cache: loops without a branch,
which become vector instructions, then one that goes to the class's place in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Channels = tuple[int, int]
    """Number of channels, pixels per channel run; a block begins with the first channel."""

__all__ = ["count_biases", "count_errors", "look_up_errors"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_TILE = 512

_ROOT = np.int32(np.float32(2**0.5).view(np.int32) & 0x7FFFFF)
"""The fraction's bits of the square root of two."""


@_jit
def _firsts(begin: int, channels: Channels, per_channel: int, out: NDArray[np.int64]) -> None:
    """Where the classes of each pixel's channel begin."""
    n_channels, inner = channels
    if n_channels == 1:
        out[:] = 0
        return
    channel, left = begin // inner % n_channels, inner - begin % inner
    for j in range(out.size):
        out[j] = channel * per_channel
        left -= 1
        if left == 0:
            channel = channel + 1 if channel + 1 < n_channels else 0
            left = inner


@_jit
def _spreads(candidates: NDArray[Any], begin: int, unit: np.float32, spread: NDArray[np.float32]) -> None:
    """Standard deviation over the candidates, in units, and a quarter more."""
    size, zero, n = spread.size, np.float32(0), np.float32(candidates.shape[0])
    total = np.zeros(size, np.float32)
    first = candidates[0, begin : begin + size]
    for j in range(size):
        spread[j] = zero
    for m in range(1, candidates.shape[0]):
        block = candidates[m, begin : begin + size]
        for j in range(size):
            # About the first candidate, so that large intensities of small spread lose nothing.
            above = np.float32(block[j]) - np.float32(first[j])
            total[j] += above
            spread[j] += above * above
    for j in range(size):
        mean = total[j] / n
        variance = spread[j] / n - mean * mean
        variance = variance if variance > zero else zero
        spread[j] = np.sqrt(variance) / unit + np.float32(0.25)


@_jit
def _held(value: Any, least: Any, most: Any) -> Any:
    """Between two bounds; what is not a number becomes the lower one: min and max let it through."""
    value = value if value > least else least
    return value if value < most else most


@_jit
def _classes(
    ensemble: NDArray[np.float32],
    spread: NDArray[np.float32],
    grid: NDArray[np.float32],
    n_spreads: int,
    keys: NDArray[np.int32],
) -> None:
    """Classes of intensity, and within each of the spread: two for each doubling, from a quarter on."""
    low, per_unit, n_classes = grid[0], grid[1], grid[2]
    zero, last, highest = np.float32(0), n_classes - np.float32(1), np.int32(n_spreads - 1)
    bits = spread.view(np.int32)
    for j in range(ensemble.size):
        place = _held((ensemble[j] - low) * per_unit, zero, last)
        # The exponent of a float, and whether its fraction is at the square root of two or above.
        half = np.int32(1) if (bits[j] & np.int32(0x7FFFFF)) >= _ROOT else np.int32(0)
        step = np.int32(2) * ((bits[j] >> np.int32(23)) - np.int32(127)) + half + np.int32(4)
        keys[j] = np.int32(place) * np.int32(n_spreads) + _held(step, np.int32(0), highest)


@_jit
def _levels(
    values: NDArray[Any], truth: NDArray[Any], step: float, most: float, levels: NDArray[np.float64]
) -> None:
    """Errors in whole steps, at most so many; what is not a number is as far below as can be."""
    for j in range(levels.size):
        levels[j] = np.rint(_held((np.float64(values[j]) - np.float64(truth[j])) / step, -most, most))


@_jit
def _which(
    ensemble: NDArray[np.float32], truth: NDArray[Any], keep: NDArray[np.bool_], begin: int, good: Any
) -> None:
    """Where a tile is to be counted."""
    for j in range(good.size):
        off = np.float64(ensemble[begin + j]) - np.float64(truth[begin + j])
        good[j] = off - off == 0
    if keep.size > 0:
        for j in range(good.size):
            good[j] &= keep[begin + j]


@_jit
def count_errors(
    candidates: NDArray[Any],
    truth: NDArray[Any],
    ensemble: NDArray[np.float32],
    keep: NDArray[np.bool_],
    channels: Channels,
    grid: NDArray[np.float32],
    n_spreads: int,
    step: float,
    most: float,
    squares: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Add a block's squared errors to the classes of intensity and spread that its pixels fall in.

    Parameters
    ----------
    candidates : (M, pixels) float32 or float64
    truth : (pixels,) of that dtype
    ensemble : (pixels,)
    keep
        Where to look; empty: everywhere.
    channels
    grid : (4,) float32
        Lower end of the first class of intensity, classes per unit, number of classes; the unit of spread.
    n_spreads
        Classes of spread: of s units the floor of ``2 log2(s + 1/4) + 4``.
    step, most
        What errors are counted in, and how many steps an error may have.
    squares, counts : (channels * classes,)
        Added to.
    """
    per_channel = squares.size // channels[0]
    spreads, keys = np.empty(_TILE, np.float32), np.empty(_TILE, np.int32)
    levels, good = np.empty(_TILE, np.float64), np.empty(_TILE, np.bool_)
    first = np.empty(_TILE, np.int64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _spreads(candidates, begin, grid[3], spreads[:size])
        _classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _levels(part, truth[begin : begin + size], step, most, levels[:size])
        _which(ensemble, truth, keep, begin, good[:size])
        _firsts(begin, channels, per_channel, first[:size])
        for j in range(size):
            if good[j]:
                place = first[j] + np.int64(keys[j])
                squares[place] += np.int64(levels[j] * levels[j])
                counts[place] += 1


@_jit
def look_up_errors(
    candidates: NDArray[Any],
    ensemble: NDArray[np.float32],
    channels: Channels,
    grid: NDArray[np.float32],
    n_spreads: int,
    errors: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the error to expect at each pixel of a block; NaN where the ensemble is not finite.

    Parameters
    ----------
    candidates, ensemble, channels, grid, n_spreads
        As for :func:`count_errors`.
    errors : (channels * classes,)
    out : (pixels,)
    """
    per_channel = errors.size // channels[0]
    spreads, keys = np.empty(_TILE, np.float32), np.empty(_TILE, np.int32)
    first = np.empty(_TILE, np.int64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _spreads(candidates, begin, grid[3], spreads[:size])
        _classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _firsts(begin, channels, per_channel, first[:size])
        for j in range(size):
            error = errors[first[j] + np.int64(keys[j])]
            out[begin + j] = error if part[j] - part[j] == 0 else np.float32(np.nan)


@_jit
def _bias_classes(values: NDArray[Any], grid: NDArray[np.float64], classes: NDArray[np.int32]) -> None:
    low, per_unit, last = grid[0], grid[1], grid[2] - 1.0
    for j in range(classes.size):
        classes[j] = np.int32(_held((np.float64(values[j]) - low) * per_unit, 0.0, last))


@_jit
def count_biases(
    candidates: NDArray[Any],
    truth: NDArray[Any],
    ensemble: NDArray[np.float32],
    keep: NDArray[np.bool_],
    channels: Channels,
    grid: NDArray[np.float64],
    counts: NDArray[np.int64],
    errors: NDArray[np.int64],
) -> None:
    """Add a block's errors to classes of intensity, by the truth and by each image's own.

    Parameters
    ----------
    candidates, truth, ensemble, keep, channels
        As for :func:`count_errors`.
    grid : (5,) float64
        Lower end of the first class, classes per unit, number of classes; the step that errors are counted
        in, and how many an error may have.
    counts, errors : (2 * channels * (M + 1) * classes,)
        Added to.
    """
    n_images, n_classes = len(candidates) + 1, int(grid[2])
    per_way = counts.size // 2
    by_truth, by_value = np.empty(_TILE, np.int32), np.empty(_TILE, np.int32)
    levels, good = np.empty(_TILE, np.float64), np.empty(_TILE, np.bool_)
    first, values = np.empty(_TILE, np.int64), np.empty(_TILE, np.float64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        true = truth[begin : begin + size]
        _bias_classes(true, grid, by_truth[:size])
        _which(ensemble, truth, keep, begin, good[:size])
        _firsts(begin, channels, n_images * n_classes, first[:size])
        for m in range(n_images):
            # One by one: for a slice numba compiles what would name unlike shapes, in seconds.
            if m < n_images - 1:
                block = candidates[m, begin : begin + size]
                for j in range(size):
                    values[j] = block[j]
            else:
                for j in range(size):
                    values[j] = ensemble[begin + j]
            _bias_classes(values[:size], grid, by_value[:size])
            _levels(values[:size], true, grid[3], grid[4], levels[:size])
            for j in range(size):
                if good[j]:
                    one = first[j] + m * n_classes + by_truth[j]
                    other = first[j] + m * n_classes + per_way + by_value[j]
                    error = np.int64(levels[j])
                    counts[one] += 1
                    errors[one] += error
                    counts[other] += 1
                    errors[other] += error

"""The CPU's hot loops over pixels, compiled by numba: counting here, the others by name. Decides nothing.

One pass, in tiles that stay in a core's first cache. Within a tile short loops without a branch come first,
which the compiler turns into vector instructions: intensities to bins, bins to the number of the bin set.
Only what no vector instruction does, going to the bin set's place in memory, is left to the last loop. Where
numba is absent, ``collect.py`` and ``apply.py`` do the same in torch; the tests hold the two to the same
numbers.

Unsigned subscripts are not a matter of taste here: numba then leaves out Python's counting from the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from napari_ensir.ensemble.bin_loop import TILE, append_bins, append_channels, fill_channels, tile_of
from napari_ensir.ensemble.combine_loop import combine
from napari_ensir.ensemble.em_loop import iterate_em
from napari_ensir.ensemble.measuring_loop import count_biases, count_errors, look_up_errors
from napari_ensir.ensemble.product_loop import SHARES as SHARES  # who makes room for the sums asks here
from napari_ensir.ensemble.product_loop import add_products, quads_for
from napari_ensir.ensemble.spread_loop import count_cells, count_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bin_loop import Blocks, Channels

__all__ = [
    "combine",
    "count_biases",
    "count_cells",
    "count_errors",
    "count_floats",
    "count_integers",
    "count_values",
    "iterate_em",
    "look_up_errors",
]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U, _I = np.uint64, np.int64
_ALL = np.uint32(2**32 - 1)

_INLINED = "e73fafc2cb62"
"""Hash of the files of loops imported here: they end up in the code that numba keeps of this file, and to see
whether that still holds, it looks at no other. ``tests/ensemble/test_warm_up.py`` says what it must be."""

# Both kernels turn a tile into whole numbers from zero upward, its *heights*: those of the candidates, then
# of the truth. All sums that are kept are sums of products of two of them.


@_jit
def count_integers(
    candidates: Blocks,
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    smallest: int,
    limits: tuple[int, int],
    grid: NDArray[np.float32],
    n_channels: int,
    channels: Channels,
    sums: NDArray[np.int64],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> int:
    """Add a block of integers of up to 16 bits to its bin sets' sums; return the number of pairs written.

    Parameters
    ----------
    candidates, truth
    keep
        Where to count; empty: everywhere.
    smallest
        The dtype's first integer, the one of height 0.
    limits
        Lowest and highest height within the data range; (0, 2**32 - 1) where none lies outside.
    grid
        As for :func:`combine`, of heights.
    n_channels, channels
        As for :func:`combine`.
    sums : (bin sets * SHARES * K,)
        Added to; see :func:`~napari_ensir.ensemble.product_loop.add_products`.
    paging, pages, histogram, owners, pairs
        The histogram of the truth; see :func:`_count_truth`.
    outside : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    n_candidates = len(candidates)
    # Modulo 2 ** 32, as the differences are: the smallest may be negative, and so may the limits.
    first = np.uint32(smallest & 0xFFFFFFFF)
    low, within = np.uint32(limits[0] & 0xFFFFFFFF), np.uint32(limits[1] - limits[0])
    heights = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
    quads = np.empty((quads_for(n_candidates), 4 * TILE), np.uint32)
    values = np.empty(TILE, grid.dtype)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    written = 0
    for begin in range(0, truth.size, tile):
        size = min(tile, truth.size - begin)
        if begin == 0 or not repeats or keep.size > 0:
            fill_channels(begin, channels, channel)
        for m in range(n_candidates + 1):
            block, height = candidates[m] if m < n_candidates else truth, heights[m]
            for j in range(size):
                height[j] = np.uint32(block[_U(begin) + _U(j)]) - first
        if keep.size > 0:
            size = _compress(keep[begin : begin + size], channel, heights)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n_candidates + 1):
            height, beyond = heights[m], 0
            if within < _ALL:
                for j in range(size):
                    beyond += int(np.uint32(height[j] - low) > within)
                outside[m] += beyond
            if m < n_candidates:
                for j in range(size):
                    values[j] = np.int32(height[j])  # which most processors turn into floats faster
                append_bins(values, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, heights[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, heights, quads, sums)
    return written


@_jit
def count_floats(
    candidates: Blocks,
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    limits: tuple[float, float],
    grid: NDArray[np.float64],
    levels: tuple[float, int],
    n_channels: int,
    channels: Channels,
    sums: NDArray[np.int64],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> int:
    """The same for blocks of floating-point numbers, on the binning's grid of levels.

    Parameters
    ----------
    limits
        Lowest and highest intensity of the data range.
    levels
        Distance of two levels, levels per bin.
    candidates, truth, keep, grid, n_channels, channels
        As for :func:`count_integers`.
    sums, paging, pages, histogram, owners, pairs, outside
        As for :func:`count_integers`.
    """
    n_candidates = len(candidates)
    low, high = limits
    heights = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
    quads = np.empty((quads_for(n_candidates), 4 * TILE), np.uint32)
    values = np.empty((n_candidates + 1, TILE), grid.dtype)
    finite = np.empty(TILE, np.bool_)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    changed, written = True, 0
    for begin in range(0, truth.size, tile):
        size = min(tile, truth.size - begin)
        if changed or not repeats:
            fill_channels(begin, channels, channel)
        for m in range(n_candidates + 1):
            block, value = candidates[m] if m < n_candidates else truth, values[m]
            for j in range(size):
                value[j] = block[_U(begin) + _U(j)]
        changed = keep.size > 0
        if changed:
            size = _compress(keep[begin : begin + size], channel, values)
        n_finite = _find_finite(values, finite[:size])
        if n_finite < size:
            outside[n_candidates + 1] += size - n_finite
            changed, size = True, _compress(finite[:size], channel, values)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n_candidates + 1):
            value, beyond = values[m], 0
            for j in range(size):
                beyond += (value[j] < low) | (value[j] > high)
            outside[m] += beyond
            _find_levels(value, grid, levels, heights[m, :size])
            if m < n_candidates:
                append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, heights[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, heights, quads, sums)
    return written


@_jit
def _compress(keep: NDArray[np.bool_], channel: NDArray[np.uint32], columns: NDArray[Any]) -> int:
    """Move the pixels to keep to the front; return their number."""
    size = 0
    for j in range(keep.size):
        if keep[j]:
            channel[size] = channel[j]
            for m in range(len(columns)):
                columns[m, size] = columns[m, j]
            size += 1
    return size


@_jit
def _find_finite(values: NDArray[np.float64], finite: NDArray[np.bool_]) -> int:
    found = 0
    for j in range(finite.size):
        finite[j] = True
    for m in range(len(values)):
        for j in range(finite.size):
            finite[j] &= values[m, j] - values[m, j] == 0.0
    for j in range(finite.size):
        found += finite[j]
    return found


@_jit
def _find_levels(
    values: NDArray[np.float64],
    grid: NDArray[np.float64],
    levels: tuple[float, int],
    heights: NDArray[np.uint32],
) -> None:
    """Levels of finite values, at most one range beyond the range: first the bin, then the place in it."""
    low, width, n_bins = grid[0], grid[1], grid[2]
    step, sublevels = levels
    most = sublevels - 1.0
    for j in range(heights.size):
        above = values[j] - low
        whole = np.floor(above / width)
        part = np.floor((above - whole * width) / step)
        part = min(max(part, 0.0), most)
        whole = min(max(whole, -n_bins), 2.0 * n_bins)
        heights[j] = np.uint32(np.int32((whole + n_bins) * sublevels + part))


@_jit
def _count_truth(
    keys: NDArray[np.uint32],
    truth: NDArray[np.uint32],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    written: int,
) -> int:
    """Count each bin set's heights of the truth, on pages that are taken into use when first written to.

    Parameters
    ----------
    keys, truth
        Bin set and height of each pixel.
    paging
        Heights per page as a power of two, pages per bin set, pages of the histogram.
    pages : (bin sets * pages per bin set,)
        Page of the histogram for a run of heights; negative: none yet. Empty where there are no pages.
    histogram : (pages * heights per page,)
        Added to.
    owners : (pages + 1,)
        Which of all pages there can be stands here; last, how many are in use.
    pairs
        Where no page is left, ``bin set * heights + height`` is written here, from ``written`` on.
    """
    shift, per_set, n_pages = _U(paging[0]), _U(paging[1]), paging[2]
    inside = (_U(1) << shift) - _U(1)
    for j in range(keys.size):
        height = _U(truth[j])
        wanted = _U(keys[j]) * per_set + (height >> shift)
        page = pages[wanted] if n_pages > 0 else np.int32(-1)
        if page < 0 and owners[n_pages] < n_pages:
            page = np.int32(owners[n_pages])
            pages[wanted], owners[page] = page, _I(wanted)
            owners[n_pages] += 1
        if page >= 0:
            histogram[(_U(page) << shift) + (height & inside)] += np.uint32(1)
        else:
            pairs[written] = _I((wanted << shift) + (height & inside))
            written += 1
    return written

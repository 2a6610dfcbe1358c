"""The hot loop that weighs candidates, compiled by numba; see ``kernels.py``. Learns nothing.

What no vector instruction does well, going to a bin set's place in memory, is done alone and in pieces of 16
bytes: a *quad* of four single-precision weights, which numba moves in one go where it is called a complex
number. All the rest runs over whole tiles, whose length the compiler knows: only then does it read every
fourth number by wide loads and permutations, and not one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from napari_ensir.ensemble.bin_loop import TILE, append_bins, append_channels, fill_channels, tile_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bin_loop import Blocks, Channels

__all__ = ["combine"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U, _S = np.uint64, np.float32

_INLINED = "6a184c86ff70"
"""Hash of the files of loops imported here: they end up in the code that numba keeps of this file, and to see
whether that still holds, it looks at no other. ``tests/ensemble/test_warm_up.py`` says what it must be."""


@_jit
def combine(
    candidates: Blocks,
    grid: NDArray[Any],
    n_channels: int,
    channels: Channels,
    rows: NDArray[np.int32],
    quads: NDArray[np.complex128],
    start: int,
    image: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> None:
    """Combine a block by its bin sets' weights, into image or maps.

    Parameters
    ----------
    candidates
    grid : (4,) float32 or float64
        See :meth:`~napari_ensir.ensemble.bins.Binning.grid`.
    n_channels
        Channels of the whole field.
    channels
    rows : (bins ** M * channels,) or empty
        Row of the weights for each bin set; empty: the number of the bin set itself.
    quads : (M / 4 rounded up, rows)
        Weights, four float32 to a number; see :attr:`~napari_ensir.ensemble.lookup.Lookup.quads`.
    start
        Where the block begins in the flattened field.
    image : (pixels of the field,) or empty
    maps : (M, pixels of the field) or empty
    """
    n = len(candidates)
    # Not empty: what lies behind a block's end is worked on too, and odd numbers there take time.
    values, chosen = np.zeros((4 * len(quads), TILE), grid.dtype), np.zeros(TILE, np.complex128)
    weights, room = chosen.view(np.float32), np.zeros((3, TILE), np.float32)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    for begin in range(0, candidates[0].size, tile):
        size = min(tile, candidates[0].size - begin)
        if begin == 0 or not repeats:
            fill_channels(begin, channels, channel)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n):
            block, value = candidates[m][begin : begin + size], values[m]
            for j in range(size):
                value[j] = block[j]
            append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        if rows.size > 0:
            for j in range(size):
                key[j] = rows[_U(key[j])]
        for q in range(len(quads)):
            _choose(quads[q], key, chosen)
            if image.size == 0:
                for m in range(4 * q, min(4 * q + 4, n)):
                    _take(weights, m - 4 * q, room[0], maps[m, start + begin : start + begin + size])
            elif n > 4:
                _add_quad(weights, values, 4 * q, room[0])
        if image.size > 0:
            out = image[start + begin : start + begin + size]
            if n > 4:
                _hold(candidates, values, room, out)
            elif size == TILE:  # past a tile in between, the result would come out in a rush
                _weigh(candidates, weights, values, out)
            else:
                _weigh(candidates, weights, values, room[0])
                _copy(room[0], out)


@_jit
def _choose(quads: NDArray[np.complex128], keys: NDArray[np.uint32], out: NDArray[np.complex128]) -> None:
    for j in range(keys.size):
        out[j] = quads[_U(keys[j])]


@_jit
def _copy(tile: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for j in range(out.size):
        out[j] = tile[j]


@_jit
def _take(
    weights: NDArray[np.float32], place: int, room: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """One of the four weights of each pixel."""
    if out.size == TILE:
        _take_tile(weights, place, out)
    else:
        _take_tile(weights, place, room)
        _copy(room, out)


@_jit
def _take_tile(weights: NDArray[np.float32], place: int, out: NDArray[np.float32]) -> None:
    if place == 0:
        for j in range(TILE):
            out[j] = weights[_U(4 * j)]
    elif place == 1:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 1)]
    elif place == 2:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 2)]
    else:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 3)]


@_jit
def _weigh(
    candidates: Blocks, weights: NDArray[np.float32], values: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """Weighted sum of up to four candidates, held between the least and the greatest of them."""
    n = len(candidates)  # of a tuple: known when compiled
    first, second, third, fourth = values[0], values[1], values[2], values[3]
    for j in range(TILE):
        value = _S(first[j])
        low = high = value
        total = weights[_U(4 * j)] * value
        if n > 1:
            value = _S(second[j])
            total += weights[_U(4 * j + 1)] * value
            low = value if value < low else low
            high = value if value > high else high
        if n > 2:
            value = _S(third[j])
            total += weights[_U(4 * j + 2)] * value
            low = value if value < low else low
            high = value if value > high else high
        if n > 3:
            value = _S(fourth[j])
            total += weights[_U(4 * j + 3)] * value
            low = value if value < low else low
            high = value if value > high else high
        total = low if total < low else total  # a sum that is not a number stays so
        out[j] = high if total > high else total


@_jit
def _add_quad(weights: NDArray[np.float32], values: NDArray[Any], m: int, total: NDArray[np.float32]) -> None:
    """Add four candidates' share, in their order; where there are fewer, the rest is zero."""
    first, second, third, fourth = values[m], values[m + 1], values[m + 2], values[m + 3]
    for j in range(TILE):
        before = total[j] if m > 0 else _S(0)
        added = before + weights[_U(4 * j)] * _S(first[j])
        added += weights[_U(4 * j + 1)] * _S(second[j])
        added += weights[_U(4 * j + 2)] * _S(third[j])
        total[j] = added + weights[_U(4 * j + 3)] * _S(fourth[j])


@_jit
def _hold(
    candidates: Blocks, values: NDArray[Any], room: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Hold weighted sums, the first row of three, between the least and the greatest candidate."""
    total, low, high = room[0], room[1], room[2]
    for j in range(TILE):
        low[j] = _S(values[0, _U(j)])
    for m in range(1, len(candidates)):
        value = values[m]
        for j in range(TILE):
            low[j] = _S(value[j]) if _S(value[j]) < low[j] else low[j]
    for j in range(TILE):
        high[j] = _S(values[0, _U(j)])
    for m in range(1, len(candidates)):
        value = values[m]
        for j in range(TILE):
            high[j] = _S(value[j]) if _S(value[j]) > high[j] else high[j]
    for j in range(out.size):
        held = low[j] if total[j] < low[j] else total[j]
        out[j] = high[j] if held > high[j] else held

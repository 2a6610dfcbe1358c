"""The hot loops from intensities to numbers of bin sets, compiled by numba; see ``kernels.py``.

They work on one *tile* of pixels, which stays in a core's first cache, and know neither weights nor sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Blocks = tuple[NDArray[Any], ...]
    """M flat, contiguous, read-only arrays of one dtype and size."""

    Channels = tuple[int, int, int]
    """First channel, number of channels, pixels per channel run, in this block."""

__all__ = ["TILE", "append_bins", "append_channels", "fill_channels", "tile_of"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

TILE = 384
"""Pixels worked on at once: three, four and six channels divide it, and all buffers fit 32 KiB."""


@_jit
def tile_of(channels: Channels) -> tuple[int, bool]:
    """Pixels of a tile, and whether all tiles have the same channels in the same order."""
    _, count, inner = channels
    if count == 1:
        return TILE, True
    period = count * inner
    if period <= TILE:
        return TILE // period * period, True
    return TILE, False


@_jit
def fill_channels(start: int, channels: Channels, out: NDArray[np.uint32]) -> None:
    """Channel of each pixel from ``start`` on."""
    first, count, inner = channels
    channel, left = first + start // inner % count, inner - start % inner
    for j in range(out.size):
        out[j] = channel
        left -= 1
        if left == 0:
            channel = channel + 1 if channel + 1 < first + count else first
            left = inner


@_jit
def append_bins(values: NDArray[Any], grid: NDArray[Any], keys: NDArray[np.uint32]) -> None:
    """Append each value's bin to the number of its bin set; not a number falls into the first bin.

    Parameters
    ----------
    values : (>= keys,)
    grid : (4,)
        See :meth:`~napari_ensir.ensemble.bins.Binning.grid`.
    keys : (pixels,)
        Changed in place.
    """
    low, width, n_bins, inverse = grid[0], grid[1], grid[2], grid[3]
    zero, last, radix = low - low, n_bins - (n_bins / n_bins), np.uint32(n_bins)
    # Comparisons, as min and max let what is not a number through.
    if inverse > zero:
        for j in range(keys.size):
            place = (values[j] - low) * inverse
            place = place if place > zero else zero
            place = place if place < last else last
            keys[j] = keys[j] * radix + np.uint32(np.int32(place))
    else:
        for j in range(keys.size):
            place = (values[j] - low) / width
            place = place if place > zero else zero
            place = place if place < last else last
            keys[j] = keys[j] * radix + np.uint32(np.int32(place))


@_jit
def append_channels(channel: NDArray[np.uint32], n_channels: int, keys: NDArray[np.uint32]) -> None:
    """Append each pixel's channel to the number of its bin set."""
    radix = np.uint32(n_channels)
    for j in range(keys.size):
        keys[j] = keys[j] * radix + channel[j]

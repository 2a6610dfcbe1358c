"""The hot loops that add a tile's products to its bin sets' sums, compiled by numba; see ``kernels.py``.

They end up inside the compiled code of ``kernels.py``, which numba keeps on disk and makes anew when that file
is newer: after a change here, touch it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Blocks = tuple[NDArray[Any], ...]
    """M flat, contiguous, read-only arrays of one dtype and size."""

__all__ = ["TILE", "add_packed", "add_products", "n_sums_of", "unpack"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U, _I = np.uint64, np.int64

TILE = 384
"""Pixels worked on at once: three, four and six channels divide it, and all buffers fit 32 KiB."""


@_jit
def n_sums_of(n_candidates: int) -> int:
    """Sums per bin set, K: of heights, of products of two candidates, of products with the truth."""
    return 2 * n_candidates + n_candidates * (n_candidates + 1) // 2


@_jit
def add_products(
    candidates: Blocks,
    keys: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    products: NDArray[Any],
    sums: NDArray[np.int64],
) -> None:
    """Add each pixel's products to the sums of its bin set.


    Parameters
    ----------
    candidates
        Only for their number, which is known when compiled.
    keys : (pixels,)
    heights : (M + 2, TILE)
        Of the candidates, of the truth, then ones.
    products : (K, TILE)
        Room to work in, of a dtype that holds a product.
    sums : (bin sets * K,)
    """
    n = len(candidates)  # of a tuple: known when compiled, so that the last loop unrolls
    truth, one = n, n + 1
    place = 0
    for m in range(n):
        _multiply(heights[m], heights[one], products[place])
        place += 1
    for m in range(n):
        for k in range(m + 1):
            _multiply(heights[m], heights[k], products[place])
            place += 1
    for m in range(n):
        _multiply(heights[m], heights[truth], products[place])
        place += 1
    n_sums = 2 * n + n * (n + 1) // 2
    for j in range(keys.size):
        base = _U(keys[j]) * _U(n_sums)
        for f in range(n_sums):
            sums[base + _U(f)] += _I(products[_U(f), _U(j)])


_FIELD = 21
"""Bits of a sum where three share a number: 32 products of 8-bit numbers fit."""
_PIXEL, _FULL = np.uint64(1 << 15), np.uint64(1 << 20)
"""One pixel counted, and 32 of them, above the first sum: one of heights alone, which needs 13 bits."""


@_jit
def add_packed(
    candidates: Blocks,
    keys: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    words: NDArray[np.uint64],
    packed: NDArray[np.uint64],
    sums: NDArray[np.int64],
) -> None:
    """The same for heights below 256, with a third of the places in memory to add to."""
    n = len(candidates)
    n_sums = 2 * n + n * (n + 1) // 2
    n_words = (n_sums + 2) // 3
    place = 0
    for m in range(n):
        _pack(heights[m], heights[n + 1], place, words)
        place += 1
    for m in range(n):
        for k in range(m + 1):
            _pack(heights[m], heights[k], place, words)
            place += 1
    for m in range(n):
        _pack(heights[m], heights[n], place, words)
        place += 1
    for j in range(keys.size):
        base = _U(keys[j]) * _U(n_words)
        for w in range(n_words):
            packed[base + _U(w)] += words[_U(w), _U(j)]
        if packed[base] & _FULL:
            _unpack(_U(keys[j]), n_sums, packed, sums)


@_jit
def _pack(one: NDArray[np.uint32], other: NDArray[np.uint32], place: int, words: NDArray[np.uint64]) -> None:
    word, part = words[place // 3], place % 3
    if part == 0:
        begin = _PIXEL if place == 0 else _U(0)
        for j in range(TILE):
            word[j] = _U(one[j] * other[j]) + begin
    else:
        shift = _U(_FIELD * part)
        for j in range(TILE):
            word[j] += _U(one[j] * other[j]) << shift


@_jit
def _unpack(key: np.uint64, n_sums: int, packed: NDArray[np.uint64], sums: NDArray[np.int64]) -> None:
    """Empty one bin set's packed sums into its sums."""
    base = key * _U((n_sums + 2) // 3)
    for f in range(n_sums):
        word = packed[base + _U(f // 3)] >> _U(_FIELD * (f % 3))
        inside = _PIXEL - _U(1) if f == 0 else _U((1 << _FIELD) - 1)
        sums[key * _U(n_sums) + _U(f)] += _I(word & inside)
    for w in range((n_sums + 2) // 3):
        packed[base + _U(w)] = _U(0)


@_jit
def unpack(packed: NDArray[np.uint64], n_sums: int, sums: NDArray[np.int64]) -> None:
    """Empty all packed sums into the sums.

    Parameters
    ----------
    packed, sums
        As for :func:`count_integers`.
    n_sums
        Sums per bin set, K.
    """
    n_words = _U((n_sums + 2) // 3)
    for key in range(packed.size // n_words):
        if packed[_U(key) * n_words] != 0:
            _unpack(_U(key), n_sums, packed, sums)


@_jit
def _multiply(one: NDArray[np.uint32], other: NDArray[np.uint32], out: NDArray[Any]) -> None:
    for j in range(TILE):
        out[j] = _U(one[j]) * _U(other[j])

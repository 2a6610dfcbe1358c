"""The hot loops that add a tile's products to its bin sets' sums, compiled by numba; see ``kernels.py``.

They end up inside the compiled code of ``kernels.py``, which numba keeps on disk and makes anew when that
file changes: after a change here, touch it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from napari_ensir.ensemble.bin_loop import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bin_loop import Blocks

__all__ = ["add_packed", "add_products", "n_sums_of", "unpack"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U, _I = np.uint64, np.int64


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
    one, other = np.zeros(3 * n_words, np.int64), np.zeros(3 * n_words, np.int64)
    place = 0
    for m in range(n):
        one[place], other[place] = m, n + 1
        place += 1
    for m in range(n):
        for k in range(m + 1):
            one[place], other[place] = m, k
            place += 1
    for m in range(n):
        one[place], other[place] = m, n
        place += 1
    for w in range(n_words):
        # What fills up the last word is read by nobody.
        _pack(
            heights[one[3 * w]],
            heights[other[3 * w]],
            heights[one[3 * w + 1]],
            heights[other[3 * w + 1]],
            heights[one[3 * w + 2]],
            heights[other[3 * w + 2]],
            _PIXEL if w == 0 else _U(0),
            words[w],
        )
    for j in range(keys.size):
        base = _U(keys[j]) * _U(n_words)
        for w in range(n_words):
            packed[base + _U(w)] += words[_U(w), _U(j)]
        if packed[base] & _FULL:
            _unpack(_U(keys[j]), n_sums, packed, sums)


@_jit
def _pack(
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    c: NDArray[np.uint32],
    d: NDArray[np.uint32],
    e: NDArray[np.uint32],
    f: NDArray[np.uint32],
    begin: np.uint64,
    word: NDArray[np.uint64],
) -> None:
    """Three products to a number."""
    for j in range(TILE):
        low, middle, high = _U(a[j] * b[j]), _U(c[j] * d[j]), _U(e[j] * f[j])
        word[j] = begin + low + (middle << _U(_FIELD)) + (high << _U(2 * _FIELD))


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

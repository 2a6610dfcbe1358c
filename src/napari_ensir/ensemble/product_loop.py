"""The hot loop that adds pixels' products to their bin sets' sums, compiled by numba; see ``kernels.py``.

What it takes is one addition in memory per sum and pixel. All sums of a bin set stand side by side, so that
these are a few additions of whole vectors; the compiler does not find them by itself, for it cannot know that
the sums written are none of the heights read next. Hence the few instructions written by hand, in the
compiler's own, machine-independent language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import create_struct_proxy
from numba.extending import intrinsic

from napari_ensir.ensemble.bin_loop import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bin_loop import Blocks

__all__ = ["SHARES", "add_products", "quads_for"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U = np.uint64

_INLINED = "6a184c86ff70"
"""Hash of the files of loops imported here: they end up in the code that numba keeps of this file, and to see
whether that still holds, it looks at no other. ``tests/ensemble/test_warm_up.py`` says what it must be."""

SHARES = 2
"""Tables of sums that pixels are added to in turn: neighbours often fall into one bin set, and what was just
written is long in coming back from memory."""

_WHOLE, _HEIGHT = ir.IntType(64), ir.IntType(32)


@_jit
def quads_for(n_candidates: int) -> int:
    """Groups of four that hold the heights of all candidates and the truth."""
    return (n_candidates + 4) // 4


@_jit
def add_products(
    candidates: Blocks,
    keys: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    quads: NDArray[np.uint32],
    sums: NDArray[np.int64],
) -> None:
    """Add each pixel's products to the sums of its bin set.

    Parameters
    ----------
    candidates
        Only for their number, which is known when compiled.
    keys : (pixels,)
    heights : (>= M + 1, TILE), a multiple of four rows
        Of the candidates, then of the truth.
    quads : (rows of heights / 4, 4 * TILE)
        Room to work in.
    sums : (bin sets * SHARES * K,)
        Added to: for each bin set the sums of x_1..x_M, of x_m * x_k for k <= m, and of x_m * y.
    """
    n = len(candidates)
    n_sums = 2 * n + n * (n + 1) // 2
    for q in range(len(quads)):
        _interleave(heights[4 * q], heights[4 * q + 1], heights[4 * q + 2], heights[4 * q + 3], quads[q])
    for j in range(keys.size):
        row = _U(keys[j]) * _U(SHARES) + (_U(j) & _U(SHARES - 1))
        _add_pixel(candidates, quads, j, sums, row * _U(n_sums))  # type: ignore[call-arg]


@_jit
def _interleave(
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    third: NDArray[np.uint32],
    fourth: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:
    """Four heights of each pixel side by side."""
    for j in range(TILE):
        out[_U(4 * j)] = first[j]
        out[_U(4 * j + 1)] = second[j]
        out[_U(4 * j + 2)] = third[j]
        out[_U(4 * j + 3)] = fourth[j]


def _factors(n_candidates: int) -> tuple[list[int], list[int]]:
    """Which two heights make each product: candidates, the truth behind them, -1 for one."""
    m = range(n_candidates)
    pairs = [(one, -1) for one in m]
    pairs += [(one, other) for one in m for other in range(one + 1)]
    pairs += [(one, n_candidates) for one in m]
    return [one for one, _ in pairs], [other for _, other in pairs]


@intrinsic
def _add_pixel(typing: Any, candidates: Any, quads: Any, j: Any, sums: Any, begin: Any) -> Any:
    """Add the products of pixel ``j`` to the sums from ``begin`` on."""
    n_quads = quads_for.py_func(candidates.count)
    one, other = _factors(candidates.count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        proxies = [create_struct_proxy(kinds[i])(context, builder, args[i]) for i in (1, 3)]  # type: ignore[no-untyped-call]
        heights, table = (proxy.data for proxy in proxies)
        place = builder.mul(args[2], _WHOLE(4))
        starts = [builder.add(place, _WHOLE(4 * TILE * q)) for q in range(n_quads)]
        read = [_load(builder, heights, start, _HEIGHT, 4) for start in starts]
        pixel = builder.zext(_joined(builder, read), ir.VectorType(_WHOLE, 4 * n_quads))
        ones = ir.Constant(pixel.type, [1] * (4 * n_quads))
        left = _picked(builder, pixel, ones, one)
        right = _picked(builder, pixel, ones, [4 * n_quads if k < 0 else k for k in other])
        before = _load(builder, table, args[4], _WHOLE, len(one))
        where = builder.bitcast(builder.gep(table, [args[4]]), before.type.as_pointer())
        builder.store(builder.add(before, builder.mul(left, right)), where, align=8)
        return context.get_dummy_value()

    return types.void(candidates, quads, j, sums, begin), generate


def _load(builder: Any, data: Any, place: Any, kind: Any, n: int) -> Any:
    """So many numbers of a kind from a place of an array on."""
    start = builder.bitcast(builder.gep(data, [place]), ir.VectorType(kind, n).as_pointer())
    return builder.load(start, align=kind.width // 8)


def _picked(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    """Numbers of two vectors of one length, which are counted on."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_HEIGHT, len(places)), places))


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of vectors of four."""
    whole = parts[0]
    for part in parts[1:]:
        n = whole.type.count
        # Both must be of one length: the rest of the shorter is read by nobody.
        wide = _picked(builder, part, part, [i % 4 for i in range(n)])
        whole = _picked(builder, whole, wide, [*range(n), *range(n, n + 4)])
    return whole

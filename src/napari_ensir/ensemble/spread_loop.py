"""The CPU's hot loops that count how often intensities occur, compiled by numba; see ``data_range.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["count_cells", "count_values"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_TILE = 512


@_jit
def count_values(values: NDArray[Any], first: int, table: NDArray[np.uint32]) -> None:
    """Add integers to a table that begins with ``first``."""
    for j in range(values.size):
        table[np.uint64(np.int64(values[j]) - first)] += np.uint32(1)


@_jit
def count_cells(
    values: NDArray[Any], shift: int, first: int, table: NDArray[np.uint32]
) -> tuple[float, float]:
    """Add the cells of finite floats to a table that begins with cell ``first``; return their ends.

    Parameters
    ----------
    values : float32 or float64
    shift
        Bits of a float32 that a cell does not tell apart.
    """
    low, high = np.inf, -np.inf
    single = np.empty(_TILE, np.float32)
    bits = single.view(np.int32)
    cells = np.empty(_TILE, np.uint32)
    for begin in range(0, values.size, _TILE):
        part = values[begin : begin + _TILE]
        for j in range(part.size):
            single[j] = np.float32(part[j]) + np.float32(0)  # -0 becomes 0
        for j in range(part.size):
            # Below zero the bits of a float fall as it rises: turned round, all but the sign's.
            turned = np.int32(bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            cells[j] = np.uint32((turned >> shift) - first)
        for j in range(part.size):
            value = part[j]
            if value - value == 0:
                table[np.uint64(cells[j])] += np.uint32(1)
                low, high = min(low, value), max(high, value)
    return low, high

"""Find the intensity range of images, unaffected by single outliers.

The range is the shortest interval that leaves out at most one pixel in ten thousand, of all arrays together.
It is computed from a histogram. Histograms add: over arrays, images, chunks and workers, in any order, to the
same range.

Integers of up to 16 bits are counted exactly. Other numbers are counted in *cells*: a cell holds the numbers
from one float32 to the next that agree in sign, exponent and the first eleven bits of the fraction, so it is
at most 1/2048 of its own value wide. An end of the range that leaves pixels out then lies on the border of a
cell; an end that leaves none out is exact. If the range spans so few cells that their borders are too coarse,
a second pass finds the lowest and highest intensity within.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

STRAYS = 10_000
"""At most one pixel in this many lies outside the range."""

FEW_CELLS = 64
"""A range of fewer cells takes a second pass: the borders of its cells are off by up to 1/64 of it."""

_SHIFT = 12
"""Number of low bits of a float32 that do not distinguish cells."""

_FIRST_CELL, _N_CELLS = -(2**31 >> _SHIFT), 2**32 >> _SHIFT
"""Lowest cell of a float32, and number of cells."""

Range = tuple[float, float]
"""Lowest and highest finite intensity; (inf, -inf) if there is none."""


def byte_range(dtypes: Iterable[np.dtype[Any]]) -> Range | None:
    """Return the limits of 8-bit integer images, whose data range is that of their dtype; None for others.

    Examples
    --------
    >>> byte_range([np.dtype(np.uint8)])
    (0.0, 255.0)
    >>> byte_range([np.dtype(np.uint8), np.dtype(np.uint16)]) is None
    True
    """
    common = np.result_type(*dtypes)
    if common.kind not in "iu" or common.itemsize > 1:
        return None
    limits = np.iinfo(common)
    return float(limits.min), float(limits.max)


@dataclass(frozen=True)
class Histogram:
    """Histogram of intensities.

    Attributes
    ----------
    exact : bool
        Whether a cell is one integer.
    cells : (K,) int64
        Occupied cells, rising.
    counts : (K,) int64
        Number of finite values in each.
    ends : (low, high)
        Lowest and highest finite value, exactly.
    """

    exact: bool
    cells: NDArray[np.int64]
    counts: NDArray[np.int64]
    ends: Range

    def borders(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper border of each cell, clipped to the range of the values."""
        if self.exact:
            lower = upper = self.cells.astype(np.float64)
        else:
            lower, upper = _start_of(self.cells), _start_of(self.cells + 1)
        return np.maximum(lower, self.ends[0]), np.minimum(upper, self.ends[1])


def intensity_histogram(values: NDArray[Any]) -> Histogram:
    """Return the histogram of an array.

    Parameters
    ----------
    values
        Integers of up to 16 bits, float32 or float64, of any shape.

    Examples
    --------
    >>> spread = intensity_histogram(np.array([7, 3, 7], np.uint16))
    >>> spread.cells.tolist(), spread.counts.tolist(), spread.ends
    ([3, 7], [1, 2], (3.0, 7.0))
    >>> intensity_histogram(np.array([0.5, np.nan])).ends
    (0.5, 0.5)
    """
    from napari_ensir.ensemble import kernels

    values = np.ascontiguousarray(values).reshape(-1).view()
    values.flags.writeable = False  # kernels are compiled for read-only arrays
    if values.dtype.kind == "f":
        table = np.zeros(_N_CELLS, np.int64)
        ends = kernels.count_cells(values, _SHIFT, _FIRST_CELL, table)
        return _of_table(False, table, _FIRST_CELL, ends)
    limits = np.iinfo(values.dtype)
    table = np.zeros(int(limits.max) - int(limits.min) + 1, np.int64)
    kernels.count_values(values, int(limits.min), table)
    return _of_table(True, table, int(limits.min), finite_range(values))


def _of_table(exact: bool, table: NDArray[np.int64], first: int, ends: Range) -> Histogram:
    cells = np.flatnonzero(table)
    return Histogram(exact, cells + first, table[cells], ends)


def finite_range(values: NDArray[Any], within: Range = (-np.inf, np.inf)) -> Range:
    """Return the lowest and highest finite value of an array, of those within a range."""
    if values.size:
        low, high = float(values.min()), float(values.max())
        if np.isfinite([low, high]).all() and within[0] <= low and high <= within[1]:
            return low, high
        values = values[np.isfinite(values) & (values >= within[0]) & (values <= within[1])]
    return (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)


def widest(parts: Sequence[Range]) -> Range:
    """Return the smallest range that contains all parts."""
    return min(low for low, _ in parts), max(high for _, high in parts)


def sum_of(parts: Sequence[Histogram]) -> Histogram:
    """Return the histogram of all parts together; the same in any order and grouping."""
    if len(parts) == 1:
        return parts[0]
    cells, place = np.unique(np.concatenate([part.cells for part in parts]), return_inverse=True)
    counts = np.zeros(len(cells), np.int64)
    np.add.at(counts, place, np.concatenate([part.counts for part in parts]))
    return Histogram(parts[0].exact, cells, counts, widest([part.ends for part in parts]))


def robust_range(spread: Histogram, ends_within: Callable[[Range], Range]) -> Range:
    """Return the shortest range that leaves out at most one value in :data:`STRAYS`.

    If all other values are equal, the range also contains the shortest range of the outliers.

    Parameters
    ----------
    spread : Histogram
        Histogram of all arrays.
    ends_within
        Returns the lowest and highest intensity of these arrays within a range; called only if the cells are
        too coarse.

    Raises
    ------
    EnsembleError
        If there are fewer than two intensities.

    Examples
    --------
    >>> values = np.append(np.arange(100, 4001, dtype=np.uint16).repeat(3), np.uint16(65535))
    >>> robust_range(intensity_histogram(values), lambda ends: ends)
    (100.0, 4000.0)
    """
    if not len(spread.cells):
        raise EnsembleError("every pixel is NaN or infinite; there is nothing to learn from.")
    if spread.ends[0] == spread.ends[1]:
        raise EnsembleError(
            f"every pixel of every image is {spread.ends[0]:g}; "
            "there is nothing to learn from constant images."
        )
    lower, upper = spread.borders()
    first, last = _shortest(lower, upper, spread.counts)
    low, high = float(lower[first]), float(upper[last])
    if not spread.exact and spread.cells[last] - spread.cells[first] < FEW_CELLS:
        low, high = ends_within((low, high))
    if low == high:
        others = np.ones(len(lower), bool)
        others[first : last + 1] = False
        lower, upper = lower[others], upper[others]
        first, last = _shortest(lower, upper, spread.counts[others])
        low, high = min(low, float(lower[first])), max(high, float(upper[last]))
    return low, high


def _shortest(
    lower: NDArray[np.float64], upper: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[int, int]:
    """First and last cell of the shortest run that holds enough values; the lowest if there are several."""
    before = np.cumsum(counts) - counts
    total = int(counts.sum())
    strays = total // STRAYS
    firsts = np.flatnonzero(before <= strays)
    lasts = np.searchsorted(before + counts, total - strays + before[firsts])
    lengths = upper[lasts] / 2 - lower[firsts] / 2  # halves, because the difference may overflow
    best = int(np.argmin(lengths))
    return int(firsts[best]), int(lasts[best])


def _start_of(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lowest value of each cell."""
    # The cells of infinity extend beyond the bit patterns of numbers.
    ordered = np.clip(cells << _SHIFT, -0x7F800001, 0x7F800000).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered)
    return np.asarray(bits.view(np.float32), np.float64)

"""Which range of intensities images show, whatever a few of their pixels do. Bins nothing, scores nothing.

The range is the shortest that leaves out no more than one pixel in ten thousand, of all arrays together, so
that a hot pixel cannot stretch it. It comes from how often intensities occur, and such counts add: over
arrays, images, chunks and workers, in any order, to the same range.

Integers of up to 16 bits are counted one by one. Anything else is counted in *cells*: the float32 values that
agree in sign, exponent and the first eleven bits behind the point, 1/2048 of their own size wide or less. An
end that leaves pixels out lies on a cell's border then; one that leaves none out is exact. Where the range
spans so few cells that their borders would be too coarse, a second look finds the least and the greatest
intensity within.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["STRAYS", "Ends", "Spread", "ends_of", "robust_range", "spread_of", "sum_of", "widest"]

STRAYS = 10_000
"""One pixel in so many may lie outside the range."""

FEW_CELLS = 64
"""A range of fewer cells is looked at again: their borders are off by up to 1/64 of it."""

_SHIFT = 12
"""Bits of a float32 that a cell does not tell apart."""

_FIRST_CELL, _N_CELLS = -(2**31 >> _SHIFT), 2**32 >> _SHIFT
"""The lowest cell that a float32 can lie in, and how many there are."""

_SMALL = 2**17
"""Up to so many values are sorted; more are counted in a table of all cells."""

Ends = tuple[float, float]
"""Least and greatest finite intensity; (inf, -inf) if there is none."""


@dataclass(frozen=True)
class Spread:
    """How often intensities occur.

    Attributes
    ----------
    exact : bool
        Whether a cell is one integer.
    cells : (K,) int64
        Those that occur, rising.
    counts : (K,) int64
        How many finite values lie in each.
    ends : (low, high)
        Exact.
    """

    exact: bool
    cells: NDArray[np.int64]
    counts: NDArray[np.int64]
    ends: Ends

    def borders(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper border of each cell, none beyond the ends."""
        if self.exact:
            lower = upper = self.cells.astype(np.float64)
        else:
            lower, upper = _start_of(self.cells), _start_of(self.cells + 1)
        return np.maximum(lower, self.ends[0]), np.minimum(upper, self.ends[1])


def spread_of(values: NDArray[Any]) -> Spread:
    """Count the values of an array: integers of up to 16 bits, or floats.

    Examples
    --------
    >>> spread = spread_of(np.array([7, 3, 7], np.uint16))
    >>> spread.cells.tolist(), spread.counts.tolist(), spread.ends
    ([3, 7], [1, 2], (3.0, 7.0))
    >>> spread_of(np.array([0.5, np.nan])).ends
    (0.5, 0.5)
    """
    exact = values.dtype.kind in "iu"
    values = values.reshape(-1)
    loops = compiled_loops()
    if _SMALL < values.size < 2**32 and loops is not None:
        return _compiled_spread(values, exact, loops)
    ends = ends_of(values)
    if not exact and not np.isfinite([values.min(initial=np.inf), values.max(initial=-np.inf)]).all():
        values = values[np.isfinite(values)]
    if not values.size:
        none = np.zeros(0, np.int64)
        return Spread(exact, none, none, ends)
    if exact:
        place, first, span = values, int(ends[0]), int(ends[1] - ends[0]) + 1
    else:
        place, first, span = _cells(values), _FIRST_CELL, _N_CELLS
    if values.size <= _SMALL:
        cells, counts = np.unique(place, return_counts=True)
        return Spread(exact, cells.astype(np.int64), counts.astype(np.int64), ends)
    return _of_table(exact, np.bincount(place.astype(np.int64) - first, minlength=span), first, ends)


def _compiled_spread(values: NDArray[Any], exact: bool, loops: Any) -> Spread:
    values = values.view()
    values.flags.writeable = False  # one kind of array for the compiled code
    if not exact:
        table = np.zeros(_N_CELLS, np.uint32)
        ends = loops.count_cells(values, _SHIFT, _FIRST_CELL, table)
        return _of_table(exact, table, _FIRST_CELL, ends)
    limits = np.iinfo(values.dtype)
    table = np.zeros(int(limits.max) - int(limits.min) + 1, np.uint32)
    loops.count_values(values, int(limits.min), table)
    shown = np.flatnonzero(table) + int(limits.min)
    return _of_table(exact, table, int(limits.min), (float(shown[0]), float(shown[-1])))


def _of_table(exact: bool, table: NDArray[np.integer[Any]], first: int, ends: Ends) -> Spread:
    cells = np.flatnonzero(table)
    return Spread(exact, cells + first, table[cells].astype(np.int64), ends)


def ends_of(values: NDArray[Any], within: Ends = (-np.inf, np.inf)) -> Ends:
    """Least and greatest finite value of an array, of those within the given ones."""
    if not values.size:
        return np.inf, -np.inf
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite([low, high]).all() and within[0] <= low and high <= within[1]):
        # Comparisons with NaN are false: what is not finite goes here, too.
        values = values[np.isfinite(values) & (values >= within[0]) & (values <= within[1])]
        if not values.size:
            return np.inf, -np.inf
        low, high = float(values.min()), float(values.max())
    return low, high


def widest(parts: Sequence[Ends]) -> Ends:
    """The ends of all parts together."""
    return min(low for low, _ in parts), max(high for _, high in parts)


def sum_of(parts: Sequence[Spread]) -> Spread:
    """The spread of all parts together; the same in any order and grouping."""
    if len(parts) == 1:
        return parts[0]
    exact, ends = parts[0].exact, widest([part.ends for part in parts])
    cells, counts = (np.concatenate([getattr(part, of) for part in parts]) for of in ("cells", "counts"))
    if not len(cells):
        return Spread(exact, cells, counts, ends)
    first, last = int(cells.min()), int(cells.max())
    if last - first < 4 * len(cells):
        table = np.zeros(last - first + 1, np.int64)
        np.add.at(table, cells - first, counts)
        return _of_table(exact, table, first, ends)
    cells, place = np.unique(cells, return_inverse=True)
    table = np.zeros(len(cells), np.int64)
    np.add.at(table, place, counts)
    return Spread(exact, cells, table, ends)


def robust_range(spread: Spread, ends_within: Callable[[Ends], Ends]) -> Ends:
    """The shortest range that leaves out no more than one value in :data:`STRAYS`.

    Where all but so few have one intensity, it is that and the shortest range of the others.

    Parameters
    ----------
    spread : Spread
        Of all arrays.
    ends_within
        Finds, in those arrays, the least and greatest intensity within the given ones; asked only where
        cells are too coarse.

    Raises
    ------
    EnsembleError
        If there is one intensity at most.

    Examples
    --------
    >>> values = np.append(np.arange(100, 4001, dtype=np.uint16).repeat(3), np.uint16(65535))
    >>> robust_range(spread_of(values), lambda ends: ends)
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
    """First and last cell of the shortest run that holds enough; the lowest of several."""
    before = np.cumsum(counts) - counts
    total = int(counts.sum())
    strays = total // STRAYS
    firsts = np.flatnonzero(before <= strays)
    lasts = np.searchsorted(before + counts, total - strays + before[firsts])
    lengths = upper[lasts] / 2 - lower[firsts] / 2  # halves: no length is too great for a float
    best = int(np.argmin(lengths))
    return int(firsts[best]), int(lasts[best])


def _cells(values: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """Cell of each value; cells rise as values do."""
    with np.errstate(over="ignore"):
        # Adding nothing makes -0 the same as 0.
        bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    # Below zero the bits of a float fall as it rises: turned round, all but the sign's.
    bits ^= (bits >> 31) & 0x7FFFFFFF
    bits >>= _SHIFT
    return bits


def _start_of(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Least value of each cell."""
    # The outermost cells, those of infinity, reach beyond the patterns of numbers.
    ordered = np.clip(cells << _SHIFT, -0x7F800001, 0x7F800000).astype(np.int32)
    bits = np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered)
    return np.asarray(bits.view(np.float32), np.float64)

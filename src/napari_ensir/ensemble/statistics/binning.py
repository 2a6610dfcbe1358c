"""Intensities to bins, and bins to bin sets. Knows no pixels' neighbours, no weights.

A *bin set* is one intensity bin per candidate (EnsIR, section 3.2). It is written as a row
``(t_1, ..., t_M, c)``: the bin of each candidate, then the channel. Rows sort lexicographically,
which is also the order in which the authors' code walks through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, floor, frexp, isfinite, log2, log10
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_torch
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["BinSetIndex", "Binning", "choose_binning", "pack_rows"]

MAX_BINS = 65535
"""Bins per candidate that a 16-bit bin number can tell apart."""

FLOAT_LEVELS = 2**18
"""Levels that a floating-point range is cut into, at least: an error of at most range / 2**19.

EM stops where the likelihood rises by less than 1e-5; what moves that by one iteration shows in the weights,
so the grid is much finer than the noise of any image."""

DENSE_ENTRIES = 2**22
"""Largest direct lookup table, in entries; beyond it keys are searched instead."""


@dataclass(frozen=True)
class Binning:
    """How intensities of one data set fall into bins, and into finer levels within a bin.

    Everything the fit counts is counted on integer *levels*, so that sums are exact and merge in any
    order. Integer images of up to 16 bits have one level per intensity; other images have ``sublevels``
    levels per bin, each standing for the intensity in its middle.

    Parameters
    ----------
    low, high : float
        Data range in intensity units; the last bin is closed, and values outside go to the end bins.
    width : float
        Bin width in intensity units.
    n_bins : int
        Bins per candidate.
    sublevels : int
        Levels per bin.
    integer : bool
        Whether a level is one intensity exactly.
    """

    low: float
    high: float
    width: float
    n_bins: int
    sublevels: int
    integer: bool

    @property
    def step(self) -> float:
        """Distance of two levels in intensity units."""
        return self.width / self.sublevels

    @property
    def n_levels(self) -> int:
        """Levels between the lowest and the highest bin's edges."""
        return self.n_bins * self.sublevels

    def bins(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Bin number of each value, 0 to ``n_bins - 1``; a NaN gets bin 0.

        Examples
        --------
        >>> choose_binning(np.uint8, (0, 255), 32).bins(np.array([0, 31, 32, 255], np.uint8))
        array([0, 0, 1, 7])
        """
        scaled = (values.astype(np.float64) - self.low) / self.width
        inside = np.clip(np.nan_to_num(scaled, nan=0.0), 0, self.n_bins - 1)
        return np.asarray(inside.astype(np.int64))

    def grid(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """What a dtype's bins are found by, in the precision to do it in.

        For integers of up to 16 bits on whole edges that is single precision: half a unit below them, no
        rounding error reaches across an edge.

        Returns
        -------
        (4,) float32 or float64
            First bin's lower edge, width, number of bins; then what to multiply by rather than divide by the
            width, where that gives the same bins, else 0.
        """
        whole = self.integer and dtype.kind in "iu" and dtype.itemsize <= 2
        near = whole and abs(self.low) < 2**20
        # Multiplying rounds as dividing by a power of two does; half a unit is more than rounding moves.
        same = (whole or frexp(self.width)[0] == 0.5) and isfinite(1 / self.width)
        low, inverse = self.low - 0.5 if whole else self.low, 1 / self.width if same else 0.0
        return np.array([low, self.width, self.n_bins, inverse], np.float32 if near else np.float64)

    def intensities(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Intensity that each level stands for: the value itself, or the middle of the level."""
        offset = 0.0 if self.integer else 0.5
        return np.asarray(self.low + (levels + offset) * self.step, np.float64)

    def multiple_of(self, fine: Binning) -> int | None:
        """How many bins of ``fine`` make one of these, if the edges agree; else None."""
        if self.integer != fine.integer or self.low != fine.low or self.high != fine.high:
            return None
        factor = round(self.width / fine.width)
        same = factor >= 1 and np.isclose(factor * fine.width, self.width, rtol=1e-9, atol=0.0)
        return factor if same else None

    def coarsened(self, factor: int) -> Binning:
        """The same range in bins ``factor`` times as wide.

        Examples
        --------
        >>> choose_binning(np.uint8, (0, 255), 8).coarsened(4).n_bins
        8
        """
        return Binning(
            self.low,
            self.high,
            self.width * factor,
            -(-self.n_bins // factor),
            self.sublevels * factor,
            self.integer,
        )

    def rescaled(self, gain: float, offset: float) -> Binning:
        """The same bins for intensities ``gain * x + offset``.

        Whole gains and offsets of whole-numbered bins stay whole, and exact. Other gains put the edges of
        such bins half an intensity below where they were, so that no rounding carries a value across one.

        Raises
        ------
        EnsembleError
            If the gain is not a finite number above 0, or the offset is not finite.

        Examples
        --------
        >>> choose_binning(np.uint8, (0, 255), 32).rescaled(2, 100).bins(np.array([162, 164]))
        array([0, 1])
        """
        if not (np.isfinite([gain, offset]).all() and gain > 0):
            raise EnsembleError(f"gain is {gain!r} and offset {offset!r}; use a gain above 0, both finite.")
        whole = self.integer and gain == round(gain) and offset == round(offset)
        half = 0.5 if self.integer and not whole else 0.0
        low, high = (gain * edge + offset for edge in (self.low - half, self.high + half))
        width = gain * self.width
        if whole:
            return Binning(low, high, width, self.n_bins, int(width), True)
        return Binning(low, high, width, self.n_bins, _sublevels(self.n_bins), False)

    def refined(self, factor: int) -> Binning:
        """The same range in bins ``factor`` times as narrow, where the levels allow it.

        Raises
        ------
        EnsembleError
            If ``factor`` does not divide the levels of a bin.
        """
        if self.sublevels % factor:
            raise EnsembleError(
                f"a bin of {self.sublevels} levels cannot be cut into {factor} equal parts; "
                f"use a divisor of {self.sublevels}."
            )
        fine = Binning(
            self.low,
            self.high,
            self.width / factor,
            self.n_bins * factor,
            self.sublevels // factor,
            self.integer,
        )
        span = self.high - self.low + (1 if self.integer else 0)
        needed = max(1, min(fine.n_bins, ceil(span / fine.width * (1 - 1e-12))))
        return Binning(fine.low, fine.high, fine.width, needed, fine.sublevels, fine.integer)


def choose_binning(
    dtype: np.typing.DTypeLike, data_range: tuple[float, float], bin_width: float | None = None
) -> Binning:
    """Cut a data range into bins of one width.

    Parameters
    ----------
    dtype
        Common dtype of candidates and ground truth.
    data_range
        Lowest and highest intensity.
    bin_width
        Width of a bin in intensity units; None takes an eighth of the range (32 for 8 bit).

    Raises
    ------
    EnsembleError
        If the range is empty, or the width is not positive, not whole for an integer dtype, or so small
        that it makes more than 65535 bins.

    Examples
    --------
    >>> choose_binning(np.uint8, (0, 255)).width
    32.0
    >>> choose_binning(np.float32, (0.0, 1.0), 0.25).n_bins
    4
    """
    try:
        low, high = (float(edge) for edge in data_range)
    except (TypeError, ValueError):
        raise EnsembleError(f"data_range is {data_range!r}; give two numbers, (low, high).") from None
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        raise EnsembleError(
            f"the data range is ({low:g}, {high:g}); it must rise from a finite low to a finite high. "
            "If every pixel has the same value, there is nothing to learn from."
        )
    span = high - low
    if not np.isfinite(span):
        raise EnsembleError(
            f"the data range ({low:g}, {high:g}) is too wide for bins; scale the images down."
        )
    integer = np.issubdtype(np.dtype(dtype), np.integer) and span < 2**16
    if integer:
        low, high = float(floor(low)), float(ceil(high))
        span = high - low + 1
    if bin_width is None:
        width = float(ceil(span / 8)) if integer else span / 8
    else:
        try:
            width = float(bin_width)
        except (TypeError, ValueError):
            width = float("nan")
    if not (np.isfinite(width) and width > 0):
        raise EnsembleError(f"bin_width is {bin_width!r}; it must be a positive number of intensity units.")
    if integer and width != round(width):
        raise EnsembleError(
            f"bin_width is {width:g}, but the images hold whole numbers; "
            f"{max(1, round(width))} intensity units would be right."
        )
    n_bins = max(1, ceil(span / width * (1 - 1e-12)))
    if n_bins > MAX_BINS:
        raise EnsembleError(
            f"bin_width {width:g} cuts the range {low:g} to {high:g} into {n_bins} bins; "
            f"at most {MAX_BINS} are possible, so use {_least_width(span, integer):.9g} or more."
        )
    if integer:
        return Binning(low, high, width, n_bins, int(width), True)
    return Binning(low, high, width, n_bins, _sublevels(n_bins), False)


def _sublevels(n_bins: int) -> int:
    """Levels of a bin where they are no whole intensities: a power of two, so that bins halve exactly."""
    return 1 << max(0, ceil(log2(FLOAT_LEVELS / n_bins)))


def _least_width(span: float, integer: bool) -> float:
    """A width that makes no more than :data:`MAX_BINS` bins, in three digits."""
    least = span / MAX_BINS
    digit = 1.0 if integer else 10.0 ** (floor(log10(least)) - 2)
    return ceil(least / digit) * digit


def pack_rows(rows: NDArray[np.integer[Any]], radices: Sequence[int]) -> NDArray[np.int64]:
    """One int64 key per row that sorts as the rows do, lexicographically.

    Parameters
    ----------
    rows : (R, D) array of non-negative integers
    radices : (D,)
        Exclusive upper bound of each column.

    Notes
    -----
    Where the product of the radices does not fit 62 bits, the columns so far are replaced by their ranks
    among the rows given: the keys of two different calls are then not comparable.
    """
    key = np.zeros(len(rows), np.int64)
    span = 1
    for column, radix in zip(rows.T, radices, strict=True):
        if span * radix > 2**62:
            unique, key = np.unique(key, return_inverse=True)
            span = len(unique)
        key = key * radix + column.astype(np.int64)
        span *= radix
    return key


@dataclass(frozen=True)
class _Stage:
    """A run of columns whose keys fit 62 bits: ``key = previous rank * span + columns``."""

    start: int
    stop: int
    keys: NDArray[np.int64]  # sorted, unique
    last_row: NDArray[np.int64]  # last row that begins with this prefix


class BinSetIndex:
    """Finds the row number of a bin set among the occupied ones.

    Memory follows the number of occupied bin sets, never ``n_bins ** M``: beyond 62 bits of key, prefixes
    are replaced by their ranks, as in a trie of few, wide levels.

    Parameters
    ----------
    rows : (R, M + 1) array of integers
        Occupied bin sets, sorted lexicographically, no row twice.
    radices : (M + 1,)
        Exclusive upper bound of each column.
    """

    def __init__(self, rows: NDArray[np.integer[Any]], radices: Sequence[int]) -> None:
        self.n_rows = len(rows)
        self.radices = tuple(int(radix) for radix in radices)
        self.stages: list[_Stage] = []
        numbers = np.arange(self.n_rows, dtype=np.int64)
        prefix = np.zeros(self.n_rows, np.int64)
        span, start = 1, 0
        key = prefix
        for column, radix in enumerate(self.radices):
            if span * radix > 2**62:
                prefix, span = self._close_stage(start, column, key, numbers)
                key, start = prefix, column
            key = key * radix + rows[:, column].astype(np.int64)
            span *= radix
        self._close_stage(start, len(self.radices), key, numbers)
        self.span = span

    def _close_stage(
        self, start: int, stop: int, key: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        keys, inverse = np.unique(key, return_inverse=True)
        last_row = np.zeros(len(keys), np.int64)
        last_row[inverse] = numbers  # rows are sorted: the last write wins
        self.stages.append(_Stage(start, stop, keys, last_row))
        return inverse.astype(np.int64), max(1, len(keys))

    @property
    def is_dense(self) -> bool:
        """Whether one direct table over all possible bin sets is small enough."""
        return len(self.stages) == 1 and self.span <= DENSE_ENTRIES

    def find(self, columns: Sequence[Any]) -> tuple[Any, Any]:
        """Row number of each bin set, and whether it is occupied.

        Parameters
        ----------
        columns : M + 1 int64 arrays of one shape, numpy or torch
            The bin of each candidate, then the channel.

        Returns
        -------
        row : int64 array
            The row itself; for an unoccupied bin set, the last row before it (-1: none).
        found : bool array
        """
        xp: Any = np
        convert: Callable[[NDArray[np.int64]], Any] = np.asarray
        if is_torch(columns[0]):
            import torch

            xp, convert = torch, partial(torch.as_tensor, device=columns[0].device)
        row = xp.full_like(columns[0], -1)
        found = xp.full_like(columns[0], self.n_rows > 0, dtype=xp.bool)
        if self.n_rows == 0:
            return row, found
        rank = xp.zeros_like(columns[0])
        for stage in self.stages:
            keys, last_row = convert(stage.keys), convert(stage.last_row)
            key = rank
            for column in range(stage.start, stage.stop):
                key = key * self.radices[column] + columns[column]
            place = xp.searchsorted(keys, key)
            near = xp.clip(place, 0, len(keys) - 1)
            hit = keys[near] == key
            before = xp.where(place > 0, last_row[xp.clip(place - 1, 0, None)], -1)
            row = xp.where(found, xp.where(hit, last_row[near], before), row)
            found = found & hit
            rank = near
        return row, found

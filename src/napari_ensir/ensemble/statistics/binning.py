"""Map intensities to bins, and bins to bin sets.

A *bin set* is one intensity bin per candidate (EnsIR, section 3.2). It is represented as a row
``(t_1, ..., t_M, c)``: the bin of each candidate, then the channel. Rows are sorted lexicographically, as in
the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor, frexp, isfinite, log2, log10
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_torch
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

MAX_BINS = 65535
"""Maximum number of bins per candidate: what fits a 16-bit index."""

FLOAT_LEVELS = 2**18
"""Minimum number of levels of a floating-point range: a quantization error of at most range / 2**19.

The grid is much finer than the noise of any image, because EM stops where the likelihood rises by less than
1e-5, and one iteration more or less shows in the weights."""

DENSE_ENTRIES = 2**22
"""Maximum number of entries of a dense lookup table; for more, keys are searched."""


@dataclass(frozen=True)
class Binning:
    """Bins of a data range, and the finer levels within each bin.

    Statistics are computed from integer *levels*, so that sums are exact and can be merged in any order.
    Integer images have one level per intensity if the range spans less than 2**16; other images have
    ``sublevels`` levels per bin, each representing the intensity in its middle.

    Parameters
    ----------
    low, high : float
        Data range in intensity units; the last bin is closed, and values outside belong to the end bins.
    width : float
        Bin width in intensity units.
    n_bins : int
        Bins per candidate.
    sublevels : int
        Levels per bin.
    integer : bool
        Whether a level is one integer intensity.
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
        """Number of levels of all bins."""
        return self.n_bins * self.sublevels

    def bins(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each value, 0 to ``n_bins - 1``; NaN belongs to bin 0.

        Examples
        --------
        >>> choose_binning(np.uint8, (0, 255), 32).bins(np.array([0, 31, 32, 255], np.uint8))
        array([0, 0, 1, 7])
        """
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            limits = np.iinfo(values.dtype)
            every = np.arange(limits.min, limits.max + 1)
            if values.size > every.size:  # looking up is faster than dividing
                return self.bins(every).take(values.astype(np.int64) - limits.min)
        scaled = (values.astype(np.float64) - self.low) / self.width
        inside = np.clip(np.nan_to_num(scaled, nan=0.0), 0, self.n_bins - 1)
        return np.asarray(inside.astype(np.int64))

    def grid(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the binning constants for a dtype.

        For integers of up to 16 bits they are float32: with edges half a unit below the integers, no rounding
        error moves a value across an edge.

        Returns
        -------
        (4,) float32 or float64
            Lower edge of the first bin, width, number of bins, and the inverse of the width, or 0 where
            multiplying by it could give other bins than dividing by the width.
        """
        is_exact = self.integer and dtype.kind in "iu" and dtype.itemsize <= 2
        is_single = is_exact and abs(self.low) < 2**20
        # Multiplying is exact for powers of two; for integers, rounding moves values by less than half a
        # unit.
        can_multiply = (is_exact or frexp(self.width)[0] == 0.5) and isfinite(1 / self.width)
        low, inverse = self.low - 0.5 if is_exact else self.low, 1 / self.width if can_multiply else 0.0
        return np.array([low, self.width, self.n_bins, inverse], np.float32 if is_single else np.float64)

    def intensities(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the intensity of each level: the integer itself, or the middle of the level."""
        offset = 0.0 if self.integer else 0.5
        return np.asarray(self.low + (levels + offset) * self.step, np.float64)

    def multiple_of(self, fine: Binning) -> int | None:
        """Return the number of bins of ``fine`` in one of these; None if the edges do not match."""
        if self.integer != fine.integer or self.low != fine.low or self.high != fine.high:
            return None
        factor = round(self.width / fine.width)
        same = factor >= 1 and np.isclose(factor * fine.width, self.width, rtol=1e-9, atol=0.0)
        return factor if same else None

    def coarsened(self, factor: int) -> Binning:
        """Return the binning of the same range with bins ``factor`` times as wide.

        Examples
        --------
        >>> choose_binning(np.uint8, (0, 255), 8).coarsened(4).n_bins
        8
        """
        n_bins = -(-self.n_bins // factor)
        return replace(self, width=self.width * factor, n_bins=n_bins, sublevels=self.sublevels * factor)

    def rescaled(self, gain: float, offset: float) -> Binning:
        """Return the same bins for intensities ``gain * x + offset``.

        Integer gains and offsets keep integer bins exact. Other gains shift the edges of integer bins by half
        an intensity, so that no rounding error moves a value across an edge.

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
        """Return the binning of the same range with bins ``factor`` times as narrow.

        Raises
        ------
        EnsembleError
            If ``factor`` does not divide the levels of a bin.
        """
        if self.sublevels % factor:
            raise EnsembleError(
                f"a bin of {self.sublevels} levels cannot be divided into {factor} equal parts; "
                f"use a divisor of {self.sublevels}."
            )
        width = self.width / factor
        span = self.high - self.low + (1 if self.integer else 0)
        n_bins = max(1, min(self.n_bins * factor, ceil(span / width * (1 - 1e-12))))
        return replace(self, width=width, n_bins=n_bins, sublevels=self.sublevels // factor)


def choose_binning(
    dtype: np.typing.DTypeLike, data_range: tuple[float, float], bin_width: float | None = None
) -> Binning:
    """Divide a data range into bins of equal width.

    Parameters
    ----------
    dtype
        Common dtype of candidates and ground truth.
    data_range
        Lowest and highest intensity.
    bin_width
        Width of a bin in intensity units; None: an eighth of the range (32 for 8 bit).

    Raises
    ------
    EnsembleError
        If the range is empty, or the width is not positive, not an integer for an integer dtype, or so small
        that there are more than 65535 bins.

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
            f"the data range is ({low:g}, {high:g}); low must be less than high, and both finite. "
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
            f"bin_width is {width:g}, but the images hold integers; "
            f"use an integer width, such as {max(1, round(width))}."
        )
    n_bins = max(1, ceil(span / width * (1 - 1e-12)))
    if n_bins > MAX_BINS:
        raise EnsembleError(
            f"bin_width {width:g} divides the range {low:g} to {high:g} into {n_bins} bins; "
            f"at most {MAX_BINS} are possible, so use {_least_width(span, integer):.9g} or more."
        )
    if integer:
        return Binning(low, high, width, n_bins, int(width), True)
    return Binning(low, high, width, n_bins, _sublevels(n_bins), False)


def _sublevels(n_bins: int) -> int:
    """Levels per bin of floating-point images: a power of two, so that bins can be halved exactly."""
    return 1 << max(0, ceil(log2(FLOAT_LEVELS / n_bins)))


def _least_width(span: float, integer: bool) -> float:
    """Return a width, of three digits, that gives at most :data:`MAX_BINS` bins."""
    least = span / MAX_BINS
    digit = 1.0 if integer else 10.0 ** (floor(log10(least)) - 2)
    return ceil(least / digit) * digit


def pack_rows(rows: NDArray[np.integer[Any]], radices: Sequence[int]) -> NDArray[np.int64]:
    """Return one int64 key per row, in the lexicographical order of the rows.

    Parameters
    ----------
    rows : (R, D) array of non-negative integers
    radices : (D,)
        Exclusive upper bound of each column.

    Notes
    -----
    If the product of the radices exceeds 62 bits, columns are replaced by their ranks among the given rows;
    keys of different calls are then not comparable.
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
    """Columns whose keys fit 62 bits: ``key = previous rank * span + columns``."""

    start: int
    stop: int
    keys: NDArray[np.int64]  # sorted, unique
    last_row: NDArray[np.int64]  # last row that begins with this prefix


class BinSetIndex:
    """Index that finds the row of a bin set among the occupied ones.

    Memory grows with the number of occupied bin sets, not with ``n_bins ** M``: if keys exceed 62 bits,
    prefixes are replaced by their ranks, as in a trie.

    Parameters
    ----------
    rows : (R, M + 1) array of integers
        Occupied bin sets, unique and sorted lexicographically.
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
        last_row[inverse] = numbers  # rows are sorted, so the last one remains
        self.stages.append(_Stage(start, stop, keys, last_row))
        return inverse.astype(np.int64), max(1, len(keys))

    @property
    def is_dense(self) -> bool:
        """Whether a dense table over all possible bin sets is small enough."""
        return len(self.stages) == 1 and self.span <= DENSE_ENTRIES

    def find(self, columns: Sequence[Any]) -> tuple[Any, Any]:
        """Find the row of each bin set.

        Parameters
        ----------
        columns : M + 1 int64 arrays of one shape, numpy or torch
            The bin of each candidate, then the channel.

        Returns
        -------
        row : int64 array
            The row of the bin set, or, if it is not occupied, the last row before it (-1: none).
        found : bool array
            Whether the bin set is occupied.
        """
        xp: Any = np
        convert: Callable[[NDArray[np.int64]], Any] = np.asarray
        if is_torch(columns[0]):
            import torch

            xp, convert = torch, partial(torch.as_tensor, device=columns[0].device)
        row = xp.full_like(columns[0], -1)
        found = row < 0  # everywhere
        if self.n_rows == 0:
            return row, ~found
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

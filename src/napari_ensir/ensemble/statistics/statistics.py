"""Sufficient statistics of a reference set, from which every estimator computes its weights.

For each occupied bin set they hold, as exact integers on the binning's levels,

- the histogram of the ground truth's levels, from which EM is computed;
- the sums of ``d_m`` and ``d_m ** 2``, where ``d_m`` is candidate ``m`` minus the lower edge of its bin;
- the sums of ``e_m * e_k``, where ``e_m`` is candidate ``m`` minus the ground truth.

So that single pixels far outside the range do not dominate, a value further outside than the range is wide
counts as lying that far outside.

Statistics are additive: over images, blocks, threads and machines, in any order, with a result identical bit
for bit; and statistics of bins several times as wide follow from them. Their size does not grow with the
number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.statistics.binning import Binning, pack_rows
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

LARGEST_SUM = 2.0**62
"""Upper bound of sums of squares: half of the range of int64; no other sum is larger."""


def n_moments(n_candidates: int) -> int:
    """Return the number of sums per bin set, without the histogram."""
    return 2 * n_candidates + n_candidates * (n_candidates + 1) // 2


def square_columns(n_candidates: int) -> list[int]:
    """Return the columns of the moments that are sums of squares; they bound the others (Cauchy-Schwarz)."""
    m = n_candidates
    return [*range(m, 2 * m), *(2 * m + k * (k + 3) // 2 for k in range(m))]


def check_sums(squares: NDArray[np.float64]) -> None:
    """Check that sums of squares, computed in floating point, fit int64.

    Raises
    ------
    EnsembleError
        If one is too large: for 16-bit images, a billion pixels in one bin set, all with a large error.
    """
    if squares.size and squares.max() >= LARGEST_SUM:
        raise EnsembleError(
            f"the squared errors of one bin set sum to {squares.max():.3g} squared levels, too large for "
            "exact 64-bit sums; use fewer pixels, for example by a mask."
        )


def find_runs(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the first of each run of equal values.

    Examples
    --------
    >>> find_runs(np.array([5, 5, 7, 5]))
    array([0, 2, 3])
    """
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of the occupied bin sets of a reference set.

    Attributes
    ----------
    binning : Binning
    n_candidates, n_channels : int
    rows : (R, M + 1) uint16
        Bin of each candidate, then the channel; unique and sorted.
    moments : (R, K) int64
        Sums of d_1..d_M, of their squares, and of e_m * e_k for k <= m, row by row; in levels.
    starts : (R + 1,) int64
        Index of the first histogram entry of each bin set.
    levels : (P,) int64
        Ground-truth levels that occur, rising within a bin set; negative below the data range.
    level_counts : (P,) int64
        Number of pixels of each level.
    outside : (M + 1,) int64
        Number of pixels outside the data range, in each candidate and the truth; they are counted in the end
        bins.
    not_finite : int
        Number of pixels not counted because a candidate or the truth is NaN or infinite.
    """

    binning: Binning
    n_candidates: int
    n_channels: int
    rows: NDArray[np.uint16]
    moments: NDArray[np.int64]
    starts: NDArray[np.int64]
    levels: NDArray[np.int64]
    level_counts: NDArray[np.int64]
    outside: NDArray[np.int64]
    not_finite: int
    _coarser: dict[int, Statistics] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of pixels of each bin set, (R,)."""
        if not len(self.rows):
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.level_counts, self.starts[:-1])

    @property
    def n_pixels(self) -> int:
        """Number of pixels counted, over all channels."""
        return int(self.level_counts.sum())

    @property
    def radices(self) -> tuple[int, ...]:
        """Exclusive upper bounds of the columns of ``rows``."""
        return (self.binning.n_bins,) * self.n_candidates + (self.n_channels,)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of each candidate in each bin set, (R, M), intensity units (EnsIR, eq. 12)."""
        inside = self.moments[:, : self.n_candidates] / self.counts[:, None]
        edges = self.rows[:, :-1].astype(np.float64) * self.binning.sublevels
        offset = 0.0 if self.binning.integer else 0.5
        return self.binning.low + (edges + inside + offset) * self.binning.step

    @property
    def variances(self) -> NDArray[np.float64]:
        """Population variance of each candidate in each bin set, (R, M), squared units (EnsIR, eq. 13)."""
        n = self.counts[:, None]
        first = self.moments[:, : self.n_candidates]
        second = self.moments[:, self.n_candidates : 2 * self.n_candidates]
        # About the nearest integer, so that the variance of a constant candidate is exactly zero.
        centre = np.rint(first / n).astype(np.int64)
        about = second - 2 * centre * first + n * centre**2
        mean = (first - n * centre) / n
        return np.asarray(np.maximum(about / n - mean**2, 0.0) * self.binning.step**2, np.float64)

    @property
    def error_gram(self) -> NDArray[np.float64]:
        """Sum over pixels of e e^T in each bin set, (R, M, M), squared intensity units."""
        return np.asarray(self.level_gram * self.binning.step**2, np.float64)

    @property
    def level_gram(self) -> NDArray[np.int64]:
        """Sum over pixels of e e^T in each bin set, (R, M, M), in squared levels, exactly."""
        m = self.n_candidates
        gram = np.zeros((len(self.rows), m, m), np.int64)
        below = np.tril_indices(m)
        gram[:, below[0], below[1]] = self.moments[:, 2 * m :]
        gram[:, below[1], below[0]] = gram[:, below[0], below[1]]
        return gram

    @property
    def truth(self) -> NDArray[np.float64]:
        """Ground-truth intensity of each histogram entry, (P,)."""
        return self.binning.intensities(self.levels)

    @property
    def histogram_rows(self) -> NDArray[np.int64]:
        """Index of the bin set of each histogram entry, (P,)."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts))

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        arrays = (self.rows, self.moments, self.starts, self.levels, self.level_counts)
        return sum(array.nbytes for array in arrays)

    @classmethod
    def empty(cls, binning: Binning, n_candidates: int, n_channels: int) -> Statistics:
        """Statistics of no pixels."""
        none = np.zeros(0, np.int64)
        return cls(
            binning,
            n_candidates,
            n_channels,
            np.zeros((0, n_candidates + 1), np.uint16),
            np.zeros((0, n_moments(n_candidates)), np.int64),
            np.zeros(1, np.int64),
            none,
            none,
            np.zeros(n_candidates + 1, np.int64),
            0,
        )

    @classmethod
    def group(
        cls,
        binning: Binning,
        n_channels: int,
        rows: NDArray[Any],
        moments: NDArray[np.int64],
        entries: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
        outside: NDArray[np.int64],
        not_finite: int,
    ) -> Statistics:
        """Add up the entries of each bin set.

        Parameters
        ----------
        rows : (N, M + 1)
            Bin sets, in any order, with repetitions.
        moments : (N, K) int64
        entries : three arrays of length P
            Histogram entries: index into ``rows``, level, count.
        """
        n_candidates = rows.shape[1] - 1
        if not len(rows):
            return replace(
                cls.empty(binning, n_candidates, n_channels), outside=outside, not_finite=not_finite
            )
        keys = pack_rows(rows, (binning.n_bins,) * n_candidates + (n_channels,))
        order = np.argsort(keys, kind="stable")
        firsts = find_runs(keys[order])
        group_of = np.empty(len(order), np.int64)
        group_of[order] = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(order)))

        entry_row, entry_level, entry_count = entries
        lowest = int(entry_level.min(initial=0))
        span = int(entry_level.max(initial=0)) - lowest + 1
        pairs = group_of[entry_row] * span + (entry_level - lowest)
        by_pair = np.argsort(pairs, kind="stable")
        pairs = pairs[by_pair]
        news = find_runs(pairs)
        distinct = pairs[news]
        owner = distinct // span
        squares = moments[:, square_columns(n_candidates)].astype(np.float64)
        check_sums(np.add.reduceat(squares[order], firsts, axis=0))
        return cls(
            binning,
            n_candidates,
            n_channels,
            np.ascontiguousarray(rows[order[firsts]], dtype=np.uint16),
            np.add.reduceat(moments[order], firsts, axis=0),
            np.searchsorted(owner, np.arange(len(firsts) + 1)),
            distinct % span + lowest,
            np.add.reduceat(entry_count[by_pair], news),
            outside,
            not_finite,
        )

    def subset(self, chosen: NDArray[np.int64]) -> Statistics:
        """Return the statistics of some bin sets, given by their indices; ``outside`` stays that of all."""
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], lengths)
        return replace(
            self,
            rows=self.rows[chosen],
            moments=self.moments[chosen],
            starts=starts,
            levels=self.levels[entries],
            level_counts=self.level_counts[entries],
        )

    def coarsened(self, factor: int) -> Statistics:
        """Return the statistics of the same pixels in bins ``factor`` times as wide, exactly; they are kept.

        Examples
        --------
        >>> from napari_ensir.ensemble.statistics.binning import choose_binning
        >>> Statistics.empty(choose_binning(np.uint8, (0, 255), 8), 2, 1).coarsened(4).binning.width
        32.0
        """
        if factor == 1:
            return self
        if factor not in self._coarser:
            self._coarser[factor] = self._coarsened(factor)
        return self._coarser[factor]

    def _coarsened(self, factor: int) -> Statistics:
        m = self.n_candidates
        bins = self.rows[:, :-1].astype(np.int64)
        shift = bins % factor * self.binning.sublevels
        n = self.counts[:, None]
        first, second = (self.moments[:, part].astype(np.float64) for part in (slice(m), slice(m, 2 * m)))
        check_sums(second + shift * (2 * first + n.astype(np.float64) * shift))
        moments = self.moments.copy()
        moments[:, m : 2 * m] += shift * (2 * self.moments[:, :m] + n * shift)
        moments[:, :m] += n * shift
        rows = np.concatenate([bins // factor, self.rows[:, -1:].astype(np.int64)], axis=1)
        return Statistics.group(
            self.binning.coarsened(factor),
            self.n_channels,
            rows,
            moments,
            (self.histogram_rows, self.levels, self.level_counts),
            self.outside,
            self.not_finite,
        )

    def in_bins(self, binning: Binning) -> Statistics:
        """Return the statistics in a coarser binning of the same range.

        Raises
        ------
        EnsembleError
            If the width of the new bins is not a multiple of the present one.
        """
        mine = self.binning
        if (binning.low, binning.high, binning.integer) != (mine.low, mine.high, mine.integer):
            raise EnsembleError(
                f"the statistics were collected on {mine.low:g} to {mine.high:g}; {binning.low:g} to "
                f"{binning.high:g} is another data range, so the pixels must be read again."
            )
        factor = binning.multiple_of(mine)
        if factor is None:
            raise EnsembleError(
                f"the statistics were collected in bins of {self.binning.width:g}; "
                f"a bin width of {binning.width:g} is not a multiple of that, so the pixels must be read "
                "again."
            )
        return self.coarsened(factor)


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Add statistics; exact, in any order and grouping.

    Parameters
    ----------
    parts : iterable of Statistics
        Of the same binning, number of candidates and number of channels.

    Returns
    -------
    Statistics

    Raises
    ------
    EnsembleError
        If there is no part, or parts differ in binning, candidates or channels.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> part = collect_reference([((truth // 2 * 2, truth // 4 * 4), truth)], device="cpu").statistics
    >>> merge([part, part]).n_pixels
    512
    """
    parts = list(parts)
    if not parts:
        raise EnsembleError("there are no statistics to merge; give at least one.")
    first = parts[0]
    shape = (first.binning, first.n_candidates, first.n_channels)
    for part in parts[1:]:
        if (part.binning, part.n_candidates, part.n_channels) != shape:
            raise EnsembleError(
                "statistics of different bins, candidates or channels cannot be merged; "
                "collect them with the same."
            )
    if len(parts) == 1:
        return first
    bases = np.cumsum([0] + [len(part.rows) for part in parts[:-1]])
    return Statistics.group(
        first.binning,
        first.n_channels,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.moments for part in parts]),
        (
            np.concatenate([part.histogram_rows + base for part, base in zip(parts, bases, strict=True)]),
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.level_counts for part in parts]),
        ),
        np.sum([part.outside for part in parts], axis=0),
        sum(part.not_finite for part in parts),
    )

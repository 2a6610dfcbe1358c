"""Sums of whole numbers without a sign, and the statistics that they come to. Reads no pixel.

Pixels are counted as *heights*, whole numbers from zero upward: levels above the lowest that there can be.
What is summed in every bin set is

    x_m,    x_m * x_k  for k <= m,    x_m * y,

with heights ``x`` of the candidates and ``y`` of the truth: one product each, none with a sign. Moments of
:class:`~napari_ensir.ensemble.statistics.Statistics` follow from these and the histogram of the truth. All of
it is done in 64-bit integers, whose sums and products are exact modulo ``2 ** 64``: sums of heights may wrap,
and moments, which do not, come out right all the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.statistics import (
    LARGEST_SUM,
    Statistics,
    check_sums,
    merge,
    n_moments,
    square_columns,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bins import Binning

__all__ = ["Scale", "merged_in_pairs"]


class Scale:
    """How pixels of one dtype become bin sets and heights in one binning.

    Attributes
    ----------
    binning : Binning
    n_candidates, n_channels, n_rows : int
        ``n_rows``: bin sets that there can be.
    dtype
        What blocks are read as.
    is_exact : bool
        Whether a height is one integer exactly, so that all heights are known beforehand.
    lowest : int
        Level of height 0.
    n_heights : int
    nearest, furthest : int
        Integers beyond these count as these: they lie further outside the range than it is wide. Heights of
        other numbers are held so themselves.
    holds_all : bool
        Whether none lies beyond.
    harmless : int
        So many pixels cannot carry a moment past 64 bits, even if all of them are as far off as can be.
    """

    def __init__(self, binning: Binning, n_candidates: int, n_channels: int, dtype: np.dtype[Any]) -> None:
        self.binning, self.n_candidates, self.n_channels = binning, n_candidates, n_channels
        self.dtype = dtype
        self.n_rows = binning.n_bins**n_candidates * n_channels
        self.is_exact = binning.integer and dtype.kind in "iu"
        if self.is_exact:
            limits = np.iinfo(dtype)
            self.smallest = int(limits.min)
            self.lowest = self.smallest - int(binning.low)
            self.n_heights = int(limits.max) - int(limits.min) + 1
            low, far = int(binning.low), binning.n_levels
            self.nearest = max(int(limits.min), low - far)
            self.furthest = min(int(limits.max), low + 2 * far + binning.sublevels - 1)
            self.holds_all = (self.nearest, self.furthest) == (limits.min, limits.max)
        else:
            self.smallest, self.nearest, self.furthest, self.holds_all = 0, 0, 0, True
            self.lowest = -binning.n_levels
            self.n_heights = 3 * binning.n_levels + binning.sublevels
        self.harmless = int(LARGEST_SUM // max(3 * binning.n_levels, 2**17) ** 2)

    @property
    def radices(self) -> tuple[int, ...]:
        """Exclusive upper bounds of the columns of a bin set's row."""
        return (self.binning.n_bins,) * self.n_candidates + (self.n_channels,)

    def held(self, block: NDArray[Any]) -> NDArray[Any]:
        """A block with nothing beyond :attr:`nearest` and :attr:`furthest`; itself if there is none."""
        if self.holds_all or (self.nearest <= block.min() and block.max() <= self.furthest):
            return block
        held: NDArray[Any] = np.clip(block, self.nearest, self.furthest)
        held.flags.writeable = False  # as blocks are
        return held

    def empty(self) -> Statistics:
        """Statistics of no pixels."""
        return Statistics.empty(self.binning, self.n_candidates, self.n_channels)

    def histogram(
        self, owners: NDArray[np.int64], heights: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Statistics:
        """Statistics of a histogram, sorted by bin set and height; their moments are zero."""
        if not len(owners):
            return self.empty()
        is_first = np.append(True, owners[1:] != owners[:-1])
        occupied = owners[is_first]
        return Statistics(
            self.binning,
            self.n_candidates,
            self.n_channels,
            np.stack(np.unravel_index(occupied, self.radices), axis=1).astype(np.uint16),
            np.zeros((len(occupied), n_moments(self.n_candidates)), np.int64),
            np.append(np.flatnonzero(is_first), len(owners)),
            heights + self.lowest,
            counts,
            np.zeros(self.n_candidates + 1, np.int64),
            0,
        )

    def histogram_of(self, pairs: NDArray[np.int64], n_heights: int) -> Statistics:
        """The same of sorted numbers ``bin set * n_heights + height``, one a pixel."""
        is_new = np.empty(len(pairs), bool)
        is_new[0] = True
        np.not_equal(pairs[1:], pairs[:-1], out=is_new[1:])
        news = np.flatnonzero(is_new)
        counts = np.diff(np.append(news, len(pairs)))
        return self.histogram(pairs[news] // n_heights, pairs[news] % n_heights, counts)

    def with_moments(self, histogram: Statistics, sums: NDArray[np.int64]) -> Statistics:
        """Statistics of a histogram and the sums of heights, (bin sets, shares, K), that belong to it.

        Raises
        ------
        EnsembleError
            If a sum is too large for 64 bits.
        """
        m = self.n_candidates
        rows = histogram.rows.astype(np.int64)
        found = sums[np.ravel_multi_index(tuple(rows.T), self.radices)].sum(axis=1)
        first, crossed, with_truth = found[:, :m], found[:, m:-m], found[:, -m:]
        n = histogram.counts[:, None]
        heights = histogram.levels - self.lowest
        truth_squared = np.add.reduceat(heights * heights * histogram.level_counts, histogram.starts[:-1])
        # Height of each bin's lower edge.
        edge = rows[:, :m] * self.binning.sublevels - self.lowest
        below = np.tril_indices(m)
        square = crossed[:, np.flatnonzero(below[0] == below[1])]
        errors = crossed - with_truth[:, below[0]] - with_truth[:, below[1]] + truth_squared[:, None]
        moments = np.concatenate(
            [first - n * edge, square - 2 * edge * first + n * edge * edge, errors], axis=1
        )
        check_sums(moments[:, square_columns(m)].astype(np.float64))
        return replace(histogram, moments=moments)


def merged_in_pairs(parts: list[Statistics]) -> list[Statistics]:
    """Merge parts of like size, so that each pixel's share is merged a logarithmic number of times."""
    while len(parts) > 1 and len(parts[-1].levels) * 2 >= len(parts[-2].levels):
        parts = [*parts[:-2], merge(parts[-2:])]
    return parts

"""Running sums over blocks of pixels: compiled, in torch, and for more bin sets than a table holds.

A tally knows the blocks that it is given and no field as a whole. All count the same to the last bit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_ensir.ensemble.arrays.blocks import Channels, read_block, read_tensor
from napari_ensir.ensemble.statistics.statistics import (
    LARGEST_SUM,
    Statistics,
    check_sums,
    merge,
    n_moments,
    square_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.image_set import Field
    from napari_ensir.ensemble.statistics.binning import Binning

__all__ = [
    "CompiledTally",
    "Scale",
    "SparseTally",
    "Tally",
    "TorchTally",
    "bins_of",
    "channel_of",
    "keys_of",
    "merged_in_pairs",
    "read_values",
    "real_of",
    "which_count",
]


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


def real_of(device: torch.device) -> torch.dtype:
    """The floating-point numbers that a device computes bins and images in."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def read_values(
    arrays: Sequence[Any],
    slices: Slices,
    dtype: np.dtype[Any],
    device: torch.device,
    *,
    as_reals: bool = False,
) -> list[torch.Tensor]:
    """One block of each array, flat: int32 where a field holds integers of up to 16 bits, else real.

    ``as_reals``: such integers as float32, which holds them as well.
    """
    import torch

    small = dtype.kind in "iu" and dtype.itemsize <= 2
    wanted = (torch.float32 if as_reals else torch.int32) if small else real_of(device)
    # Move the few bytes of the image first, widen them there.
    return [read_tensor(array, slices, device).to(wanted) for array in arrays]


def channel_of(field: Field, slices: Slices, device: torch.device) -> torch.Tensor:
    """Channel of each pixel of a block, int32; not to be written to."""
    channels = Channels.of_block(field.shape, slices, field.channel_axis)
    size = 1
    for part, length in zip(slices, field.shape, strict=True):
        size *= len(range(*part.indices(length)))
    return _channel_of(channels, size, device)


@lru_cache(maxsize=4)
def _channel_of(channels: Channels, size: int, device: torch.device) -> torch.Tensor:
    import torch

    place = torch.arange(size, dtype=torch.int32, device=device)
    return channels.first + place.div(channels.inner, rounding_mode="floor") % channels.count


def bins_of(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Bin of each value, int32; what is not a number falls into the first."""
    import torch

    return _places_of(values, binning, dtype).to(torch.int32)


def _places_of(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Bin of each value and how far into it, in floating-point numbers that nobody else holds."""
    import torch

    grid = binning.grid(dtype)
    low, width, n_bins, inverse = grid.tolist()
    place = values.to(torch.float32 if grid.dtype == np.float32 else real_of(values.device)).sub(low)
    place = (place.mul_(inverse) if inverse else place.div_(width)).clamp_(0, n_bins - 1)
    return place.nan_to_num_(nan=0.0) if dtype.kind == "f" else place


def keys_of(
    values: Sequence[torch.Tensor],
    binning: Binning,
    dtype: np.dtype[Any],
    channel: torch.Tensor,
    n_channels: int,
) -> torch.Tensor:
    """Number of each pixel's bin set, int32, where there are fewer than 2**24 bin sets.

    So many, a single-precision number tells apart, and what is done in place in one kind of number takes a
    third of the time.
    """
    import torch

    key = _places_of(values[0], binning, dtype).floor_()
    for value in values[1:]:
        key = _places_of(value, binning, dtype).floor_().add_(key, alpha=binning.n_bins)
    return key.mul_(n_channels).add_(channel).to(torch.int32)


def which_count(
    field: Field, slices: Slices, values: Sequence[torch.Tensor], binning: Binning
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Where to count in a block (None: everywhere), and how much of it lies outside the range.

    Returns
    -------
    keep : bool tensor or None
        Within the mask, where all values are finite.
    outside : (M + 2,) int64 tensor
        Pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    import torch

    device = values[0].device
    mask = field.read_mask(slices)
    keep = None if mask is None else torch.from_numpy(mask.copy()).to(device)
    not_finite = torch.zeros((), dtype=torch.int64, device=device)
    for value in values:
        if value.is_floating_point():
            finite = value.isfinite()
            lost = ~finite if keep is None else keep & ~finite
            not_finite = not_finite + lost.sum()
            keep = finite if keep is None else keep & finite
    if _covers(binning, field.dtype):
        outside = [torch.zeros_like(not_finite)] * len(values)
    else:
        beyond = [(value < binning.low) | (value > binning.high) for value in values]
        outside = [torch.count_nonzero(one if keep is None else one & keep) for one in beyond]
    return keep, torch.stack([*outside, not_finite])


def _covers(binning: Binning, dtype: np.dtype[Any]) -> bool:
    """Whether no value of a dtype lies outside the range."""
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return bool(binning.low <= limits.min and limits.max <= binning.high)


HISTOGRAM_CELLS = 2**23
"""Most cells of a thread's histogram, four bytes each; memory is taken as they are written to."""

PAGE_TABLE = 2**22
"""Most pages that there can be, in use or not."""

SMALLEST_PAGE, LARGEST_PAGE = 8, 13
"""Heights per page, as powers of two."""

_LINE = 8
"""Numbers of 64 bits in one of memory's lines."""

DENSE_HISTOGRAM = 2**26
"""Most cells of a histogram kept whole, four bytes each, where there are no pages."""


PENDING = (2**24, 2**18)
"""Most pairs of bin set and height waited for at once, eight bytes each: on an accelerator, on the CPU."""


class Tally(Protocol):
    """One thread's running sums."""

    def add(self, field: Field, slices: Slices) -> None:
        """Count one block, or raise and have counted nothing of it."""

    def statistics(self) -> Statistics:
        """What was counted since the last time that this was asked."""


class _TableTally:
    """What tallies share that keep one table of sums over all bin sets there can be."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.counted = 0
        self.drained: list[Statistics] = []
        self.spilled: list[Statistics] = []

    def _make_room(self, pixels: int) -> None:
        if self.counted and self.counted + pixels > self.scale.harmless:
            self._drain()
        self.counted += pixels

    def _spill(self, pairs: NDArray[np.int64], n_heights: int) -> None:
        """Keep sorted numbers ``bin set * n_heights + height``, one a pixel."""
        if len(pairs):
            self.spilled = merged_in_pairs([*self.spilled, self.scale.histogram_of(pairs, n_heights)])

    def _drain(self) -> None:
        """Turn the sums into statistics and begin again from zero."""
        if not self.counted:
            return
        sums, histogram = self._take()
        parts = [*self.spilled, *([histogram] if len(histogram.rows) else [])]
        if parts:
            self.drained = merged_in_pairs([*self.drained, self.scale.with_moments(merge(parts), sums)])
        self.spilled, self.counted = [], 0

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        """The sums, (bin sets, shares, K), and the histogram beside what was spilled; both begin again."""
        raise NotImplementedError

    def _statistics(self, outside: NDArray[np.int64]) -> Statistics:
        self._drain()
        parts, self.drained = self.drained, []
        whole = merge(parts) if parts else self.scale.empty()
        return replace(whole, outside=outside[:-1], not_finite=int(outside[-1]))


class CompiledTally(_TableTally):
    """Counts on the CPU, by the compiled loops of ``kernels.py``."""

    def __init__(self, scale: Scale, loops: Any) -> None:
        super().__init__(scale)
        self.loops = loops
        self.outside = np.zeros(scale.n_candidates + 2, np.int64)
        self.sums = self._zeros()
        self.shift, self.per_row, n_pages = _page_sizes(scale)
        self.pages = np.full(scale.n_rows * self.per_row if n_pages else 0, -1, np.int32)
        self.cells = np.zeros((n_pages, 1 << self.shift), np.uint32)
        self.owners = np.zeros(n_pages + 1, np.int64)

    def _zeros(self) -> NDArray[np.int64]:
        """Empty sums on a border of memory's lines, which vectors are not to lie across."""
        n = self.scale.n_rows * self.loops.SHARES * n_moments(self.scale.n_candidates)
        room = np.zeros(n + _LINE, np.int64)
        begin = -room.ctypes.data // room.itemsize % _LINE
        return room[begin : begin + n]

    def add(self, field: Field, slices: Slices) -> None:
        """Count one block."""
        scale, binning = self.scale, self.scale.binning
        blocks = [scale.held(read_block(array, slices, scale.dtype)) for array in field.arrays]
        mask = field.read_mask(slices)
        self._make_room(blocks[-1].size)
        pairs = np.empty(blocks[-1].size, np.int64)
        run = Channels.of_block(field.shape, slices, field.channel_axis)
        pixels = (tuple(blocks[:-1]), blocks[-1], np.zeros(0, bool) if mask is None else mask.copy())
        where = (scale.n_channels, (run.first, run.count, run.inner))
        paging = (self.shift, self.per_row, len(self.cells))
        cells = self.cells.reshape(-1)
        tables = (self.sums, paging, self.pages, cells, self.owners, pairs, self.outside)
        grid = binning.grid(scale.dtype)
        if scale.is_exact:
            grid[0] -= scale.smallest
            ends = (int(binning.low) - scale.smallest, int(binning.high) - scale.smallest)
            if ends[0] <= 0 and scale.n_heights <= ends[1] + 1:
                ends = (0, 2**32 - 1)
            written = self.loops.count_integers(*pixels, scale.smallest, ends, grid, *where, *tables)
        else:
            levels = (binning.step, binning.sublevels)
            limits = (binning.low, binning.high)
            written = self.loops.count_floats(*pixels, limits, grid, levels, *where, *tables)
        self._spill(np.sort(pairs[:written]), self.per_row << self.shift)

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        used = int(self.owners[-1])
        order = np.argsort(self.owners[:used])
        cells, wanted = self.cells[order].reshape(-1), self.owners[order]
        places = np.flatnonzero(cells)
        wanted = wanted[places >> self.shift]
        heights = (wanted % self.per_row << self.shift) + (places & ((1 << self.shift) - 1))
        counts = cells[places].astype(np.int64)
        self.pages[...], self.cells[:used], self.owners[-1] = -1, 0, 0
        sums, self.sums = self.sums, self._zeros()
        shared = sums.reshape(self.scale.n_rows, self.loops.SHARES, -1)
        return shared, self.scale.histogram(wanted // self.per_row, heights, counts)

    def statistics(self) -> Statistics:
        """What was counted since the last time that this was asked."""
        outside, self.outside = self.outside, np.zeros_like(self.outside)
        return self._statistics(outside)


def _page_sizes(scale: Scale) -> tuple[int, int, int]:
    """Heights per page as a power of two, pages per bin set, pages to have: none where they were too many."""
    shift = SMALLEST_PAGE
    while shift < LARGEST_PAGE and scale.n_rows * -(-scale.n_heights >> shift) > PAGE_TABLE // 4:
        shift += 1
    per_row = -(-scale.n_heights >> shift)
    possible = scale.n_rows * per_row
    return shift, per_row, 0 if possible > PAGE_TABLE else min(possible, HISTOGRAM_CELLS >> shift)


class TorchTally(_TableTally):
    """Counts in torch, on any device, which is waited for once in many blocks at most.

    Pixels that do not count go to a bin set of their own, behind the others.
    """

    def __init__(self, scale: Scale, device: torch.device | None) -> None:
        import torch

        super().__init__(scale)
        self.device = torch.device("cpu") if device is None else device
        self.n_cells = scale.n_rows * scale.n_heights
        self.sums: list[torch.Tensor] = []
        self.pending: list[torch.Tensor] = []
        self.histogram: torch.Tensor | None = None
        self.outside: torch.Tensor | None = None

    def _make_tables(self) -> torch.Tensor:
        """Have tables to count in; return the one of pixels left out."""
        import torch

        n, m = self.scale.n_rows + 1, self.scale.n_candidates
        whole = torch.int64
        if self.outside is None:
            self.outside = torch.zeros(m + 2, dtype=whole, device=self.device)
        if not self.sums:
            self.sums = [torch.zeros(n, dtype=whole, device=self.device) for _ in range(n_moments(m))]
            if self.n_cells <= DENSE_HISTOGRAM:
                self.histogram = torch.zeros(self.n_cells + 1, dtype=torch.int32, device=self.device)
        return self.outside

    def add(self, field: Field, slices: Slices) -> None:
        """Count one block, or raise and have counted nothing of it."""
        import torch

        scale, device = self.scale, self.device
        values = read_values(field.arrays, slices, scale.dtype, device)
        self._make_tables()
        channel = channel_of(field, slices, device)
        keep, outside = which_count(field, slices, values, scale.binning)
        key = keys_of(values[:-1], scale.binning, scale.dtype, channel, scale.n_channels)
        heights = [_heights(value, scale) for value in values]
        # In 32 bits where they do: numbers of 64 are multiplied one by one.
        pairs = key.to(torch.int32 if self.n_cells < 2**31 else torch.int64) * scale.n_heights + heights[-1]
        key, pairs = key.to(torch.int64), pairs.to(torch.int64)
        if keep is not None:
            key, pairs = torch.where(keep, key, scale.n_rows), torch.where(keep, pairs, self.n_cells)
        products: Any = _products(heights)
        if device.type != "cpu":
            products = list(products)
        ones = torch.ones(1, dtype=torch.int32, device=device).expand(len(key))
        # All that takes memory is done: from here on the block counts as a whole.
        if sum(map(len, self.pending)) + len(pairs) > PENDING[device.type == "cpu"]:
            self._fetch()
        self._make_room(len(key))
        self._make_tables().add_(outside)
        for total, product in zip(self.sums, products, strict=True):
            total.scatter_add_(0, key, product)
        if self.histogram is not None:
            self.histogram.scatter_add_(0, pairs, ones)
        else:
            self.pending.append(pairs)

    def _fetch(self) -> None:
        """Wait for the pairs that are pending, and keep them."""
        if self.pending:
            pairs = np.sort(np.concatenate([pairs.cpu().numpy() for pairs in self.pending]))
            self.pending = []
            self._spill(pairs[: np.searchsorted(pairs, self.n_cells)], self.scale.n_heights)

    def _drain(self) -> None:
        """Turn the sums into statistics and begin again from zero."""
        self._fetch()
        super()._drain()

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        import torch

        sums = torch.stack(self.sums, dim=1).cpu().numpy()[:-1, None]
        places, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if self.histogram is not None:
            cells = self.histogram[:-1]
            found = cells.nonzero()[:, 0]
            places, counts = found.cpu().numpy(), cells[found].cpu().numpy().astype(np.int64)
        self.sums, self.histogram = [], None
        n_heights = self.scale.n_heights
        return sums, self.scale.histogram(places // n_heights, places % n_heights, counts)

    def statistics(self) -> Statistics:
        """What was counted since the last time that this was asked."""
        outside = np.zeros(self.scale.n_candidates + 2, np.int64)
        if self.outside is not None:
            outside += self.outside.cpu().numpy()
        self.outside = None
        return self._statistics(outside)


def _products(heights: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """What is summed, int64, in the order of ``heights.py``."""
    import torch

    *candidates, truth = heights
    for one in candidates:
        yield one.to(torch.int64)
    for m, one in enumerate(candidates):
        for other in candidates[: m + 1]:
            yield (one * other).to(torch.int64)
    for one in candidates:
        yield (one * truth).to(torch.int64)


def _heights(values: torch.Tensor, scale: Scale) -> torch.Tensor:
    """Height of each value, int32 if that holds products, else int64; of what is not finite, any."""
    import torch

    if scale.is_exact:
        whole = values.to(torch.int32 if scale.n_heights**2 < 2**31 else torch.int64)
        whole = whole if scale.holds_all else whole.clamp(scale.nearest, scale.furthest)
        return whole - scale.smallest if scale.smallest else whole
    binning = scale.binning
    above = values.sub(binning.low).nan_to_num_(nan=0.0)
    whole = (above / binning.width).floor_()
    part = above.sub_(whole * binning.width).div_(binning.step).floor_().clamp_(0, binning.sublevels - 1)
    whole.clamp_(-binning.n_bins, 2 * binning.n_bins).add_(binning.n_bins)
    return (whole * binning.sublevels).add_(part).to(torch.int64)


class SparseTally:
    """Counts where there can be more bin sets than a table holds: memory follows the bin sets that occur."""

    def __init__(self, scale: Scale, device: torch.device | None) -> None:
        import torch

        self.scale = scale
        self.device = torch.device("cpu") if device is None else device
        self.parts: list[Statistics] = []

    def add(self, field: Field, slices: Slices) -> None:
        """Count one block, or raise and have counted nothing of it."""
        import torch

        scale, m = self.scale, self.scale.n_candidates
        values = read_values(field.arrays, slices, scale.dtype, self.device)
        keep, outside = which_count(field, slices, values, scale.binning)
        columns = [bins_of(value, scale.binning, scale.dtype) for value in values[:-1]]
        columns.append(channel_of(field, slices, self.device))
        heights = [_heights(value, scale).to(torch.int64) for value in values]
        edges = [bins * scale.binning.sublevels - scale.lowest for bins in columns[:m]]
        inside = [height - edge for height, edge in zip(heights[:-1], edges, strict=True)]
        errors = [h - heights[-1] for h in heights[:-1]]
        sums = [*inside, *(d * d for d in inside)]
        sums += [errors[i] * errors[k] for i in range(m) for k in range(i + 1)]
        rows, features = torch.stack(columns, dim=1), torch.stack(sums, dim=1)
        truth = heights[-1]
        if keep is not None:
            rows, features, truth = rows[keep], features[keep], truth[keep]
        entries = (
            np.arange(len(rows)),
            truth.cpu().numpy() + scale.lowest,
            np.ones(len(rows), np.int64),
        )
        left = outside.cpu().numpy()
        part = Statistics.group(
            scale.binning,
            scale.n_channels,
            rows.cpu().numpy(),
            features.cpu().numpy(),
            entries,
            left[:-1],
            int(left[-1]),
        )
        self.parts = merged_in_pairs([*self.parts, part])

    def statistics(self) -> Statistics:
        """What was counted since the last time that this was asked."""
        parts, self.parts = self.parts, []
        return merge(parts) if parts else self.scale.empty()

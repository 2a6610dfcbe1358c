"""Accumulators of the sufficient statistics: compiled, in numpy, and in torch.

All accumulators return the same integers. Pixels are quantized to *codes*, non-negative integers: code 0 is
the level :attr:`Quantization.lowest`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_ensir.ensemble.arrays.blocks import Channels, block_size, read_block, read_tensor
from napari_ensir.ensemble.statistics.statistics import (
    LARGEST_SUM,
    Statistics,
    check_sums,
    find_runs,
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

HISTOGRAM_CELLS = 2**23
"""Maximum number of cells in the histogram of one thread, four bytes each, allocated on first write."""

PAGE_TABLE = 2**22
"""Maximum number of possible pages."""

SMALLEST_PAGE, LARGEST_PAGE = 8, 13
"""Smallest and largest binary logarithm of the number of codes per page."""

_LINE = 8
"""Number of 64-bit values in a cache line."""

DENSE_HISTOGRAM = 2**26
"""Maximum number of cells of a histogram without pages, four bytes each."""

NUMPY_HISTOGRAM, NUMPY_PIXELS = 2**20, 2**15
"""In numpy: maximum number of cells of the histogram, and number of pixels that are worked on at once."""

PENDING = (2**24, 2**18)
"""Maximum number of pending (bin set, code) pairs, eight bytes each, on an accelerator and on the CPU."""


class Accumulator(Protocol):
    """Accumulates the statistics of blocks in one thread."""

    def add(self, field: Field, slices: Slices) -> None:
        """Count a block; if this raises, nothing of the block was counted."""

    def statistics(self) -> Statistics:
        """Return the statistics counted since the last call."""


class Quantization:
    """Quantization of the pixels of one dtype, for one binning.

    Attributes
    ----------
    binning : Binning
    n_candidates, n_channels, n_rows : int
        ``n_rows``: number of possible bin sets.
    dtype
        Dtype that blocks are converted to.
    is_exact : bool
        Whether each code represents exactly one integer.
    lowest : int
        Level of code 0.
    n_codes : int
    nearest, furthest : int
        Integers are clamped to these limits, which lie one width of the range outside it. Floats are clamped
        after conversion to codes, to the same levels.
    needs_no_clamp : bool
        Whether all integers of the dtype lie within these limits.
    max_pixels : int
        Maximum number of pixels that are guaranteed not to overflow a 64-bit moment.
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
            self.n_codes = int(limits.max) - int(limits.min) + 1
            low, far = int(binning.low), binning.n_levels
            self.nearest = max(int(limits.min), low - far)
            self.furthest = min(int(limits.max), low + 2 * far + binning.sublevels - 1)
            self.needs_no_clamp = (self.nearest, self.furthest) == (limits.min, limits.max)
        else:
            self.smallest, self.nearest, self.furthest, self.needs_no_clamp = 0, 0, 0, True
            self.lowest = -binning.n_levels
            self.n_codes = 3 * binning.n_levels + binning.sublevels
        self.max_pixels = int(LARGEST_SUM // max(3 * binning.n_levels, 2**17) ** 2)

    @property
    def radices(self) -> tuple[int, ...]:
        """Exclusive upper bounds of the columns of a bin set's row."""
        return (self.binning.n_bins,) * self.n_candidates + (self.n_channels,)

    def clamp(self, block: NDArray[Any]) -> NDArray[Any]:
        """Clamp a block to :attr:`nearest` and :attr:`furthest`; return it uncopied if it lies within."""
        if self.needs_no_clamp or (self.nearest <= block.min() and block.max() <= self.furthest):
            return block
        clamped: NDArray[Any] = np.clip(block, self.nearest, self.furthest)
        clamped.flags.writeable = False  # kernels are compiled for read-only arrays
        return clamped

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the codes of finite values."""
        if self.is_exact:
            whole = values if self.needs_no_clamp else np.clip(values, self.nearest, self.furthest)
            return whole.astype(np.int64) - self.smallest
        binning = self.binning
        above = values.astype(np.float64) - binning.low
        with np.errstate(over="ignore", invalid="ignore"):  # far outside the range
            whole = np.floor(above / binning.width)  # the bin
            part = np.nan_to_num(np.floor((above - whole * binning.width) / binning.step))
            codes = (whole + binning.n_bins) * binning.sublevels + np.clip(part, 0, binning.sublevels - 1)
        return np.asarray(np.clip(codes, 0, self.n_codes - 1), np.int64)

    def empty(self) -> Statistics:
        """Statistics of no pixels."""
        return Statistics.empty(self.binning, self.n_candidates, self.n_channels)

    def histogram(
        self, owners: NDArray[np.int64], codes: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Statistics:
        """Return the statistics of a histogram that is sorted by bin set and code; their moments are zero."""
        if not len(owners):
            return self.empty()
        firsts = find_runs(owners)
        occupied = owners[firsts]
        return Statistics(
            self.binning,
            self.n_candidates,
            self.n_channels,
            np.stack(np.unravel_index(occupied, self.radices), axis=1).astype(np.uint16),
            np.zeros((len(occupied), n_moments(self.n_candidates)), np.int64),
            np.append(firsts, len(owners)),
            codes + self.lowest,
            counts,
            np.zeros(self.n_candidates + 1, np.int64),
            0,
        )

    def histogram_of(self, pairs: NDArray[np.int64], n_codes: int) -> Statistics:
        """Return the same for sorted values ``bin set * n_codes + code``, one per pixel."""
        news = find_runs(pairs)
        counts = np.diff(news, append=len(pairs))
        return self.histogram(pairs[news] // n_codes, pairs[news] % n_codes, counts)

    def with_moments(self, histogram: Statistics, sums: NDArray[np.int64]) -> Statistics:
        """Compute the moments of a histogram from the sums of codes, (bin sets, shares, K).

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
        codes = histogram.levels - self.lowest
        truth_squared = np.add.reduceat(codes * codes * histogram.level_counts, histogram.starts[:-1])
        # Code of each bin's lower edge.
        edge = rows[:, :m] * self.binning.sublevels - self.lowest
        below = np.tril_indices(m)
        square = crossed[:, np.flatnonzero(below[0] == below[1])]
        errors = crossed - with_truth[:, below[0]] - with_truth[:, below[1]] + truth_squared[:, None]
        moments = np.concatenate(
            [first - n * edge, square - 2 * edge * first + n * edge * edge, errors], axis=1
        )
        check_sums(moments[:, square_columns(m)].astype(np.float64))
        return replace(histogram, moments=moments)


def merge_similar(parts: list[Statistics]) -> list[Statistics]:
    """Merge the last two parts while their sizes are similar, so that each pixel is merged O(log n) times."""
    while len(parts) > 1 and len(parts[-1].levels) * 2 >= len(parts[-2].levels):
        parts = [*parts[:-2], merge(parts[-2:])]
    return parts


class _TableAccumulator:
    """Base class of accumulators with one table of sums for all possible bin sets."""

    def __init__(self, quantization: Quantization) -> None:
        self.quantization = quantization
        self.counted = 0
        self.drained: list[Statistics] = []
        self.spilled: list[Statistics] = []

    def _reserve(self, pixels: int) -> None:
        if self.counted and self.counted + pixels > self.quantization.max_pixels:
            self._drain()
        self.counted += pixels

    def _spill(self, pairs: NDArray[np.int64], n_codes: int) -> None:
        """Store pixels that the histogram cannot hold, as sorted values ``bin set * n_codes + code``."""
        if len(pairs):
            self.spilled = merge_similar([*self.spilled, self.quantization.histogram_of(pairs, n_codes)])

    def _drain(self) -> None:
        """Convert the sums to statistics and reset them."""
        if not self.counted:
            return
        sums, histogram = self._take()
        parts = [*self.spilled, *([histogram] if len(histogram.rows) else [])]
        if parts:
            self.drained = merge_similar([*self.drained, self.quantization.with_moments(merge(parts), sums)])
        self.spilled, self.counted = [], 0

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        """Return and reset the sums, (bin sets, shares, K), and the histogram without the spilled pixels."""
        raise NotImplementedError

    def _statistics(self, outside: NDArray[np.int64]) -> Statistics:
        self._drain()
        parts, self.drained = self.drained, []
        whole = merge(parts) if parts else self.quantization.empty()
        return replace(whole, outside=outside[:-1], not_finite=int(outside[-1]))


class CompiledAccumulator(_TableAccumulator):
    """Accumulator for the CPU that uses the compiled kernels."""

    def __init__(self, quantization: Quantization) -> None:
        from napari_ensir.ensemble import kernels

        super().__init__(quantization)
        self.loops = kernels
        self.outside = np.zeros(quantization.n_candidates + 2, np.int64)
        self.factors = kernels.factors_of(quantization.n_candidates)
        self.sums = self._zeros()
        self.shift, self.per_row, n_pages = _page_sizes(quantization)
        self.pages = np.full(quantization.n_rows * self.per_row if n_pages else 0, -1, np.int32)
        self.cells = np.zeros((n_pages, 1 << self.shift), np.uint32)
        self.owners = np.zeros(n_pages + 1, np.int64)

    def _zeros(self) -> NDArray[np.int64]:
        """Return zero-initialized sums aligned to a cache line, so that SIMD loads do not cross lines."""
        n = self.quantization.n_rows * self.loops.SHARES * self.factors.shape[1]
        buffer = np.zeros(n + _LINE, np.int64)
        begin = -buffer.ctypes.data // buffer.itemsize % _LINE
        return buffer[begin : begin + n]

    def add(self, field: Field, slices: Slices) -> None:
        """Count a block."""
        quantization, binning = self.quantization, self.quantization.binning
        blocks = [quantization.clamp(read_block(array, slices, quantization.dtype)) for array in field.arrays]
        mask = field.read_mask(slices)
        self._reserve(blocks[-1].size)
        pairs = np.empty(blocks[-1].size, np.int64)
        run = Channels.of_block(field.shape, slices, field.channel_axis)
        keep = np.zeros(0, bool) if mask is None else mask.copy()
        limits = (float(binning.low), float(binning.high))
        if covers(binning, quantization.dtype):
            limits = (-np.inf, np.inf)
        exact = quantization.is_exact
        levels = (0.0, 0, quantization.smallest) if exact else (binning.step, binning.sublevels, 0)
        written = self.loops.count(
            self.loops.addresses_of(blocks),
            blocks[-1],
            keep,
            limits,
            binning.grid(quantization.dtype),
            levels,
            quantization.n_channels,
            (run.first, run.count, run.inner),
            self.sums,
            self.factors,
            (self.shift, self.per_row, len(self.cells)),
            self.pages,
            self.cells.reshape(-1),
            self.owners,
            pairs,
            self.outside,
        )
        self._spill(np.sort(pairs[:written]), self.per_row << self.shift)

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        used = int(self.owners[-1])
        order = np.argsort(self.owners[:used])
        cells, wanted = self.cells[order].reshape(-1), self.owners[order]
        places = np.flatnonzero(cells)
        wanted = wanted[places >> self.shift]
        codes = (wanted % self.per_row << self.shift) + (places & ((1 << self.shift) - 1))
        counts = cells[places].astype(np.int64)
        self.pages[...], self.cells[:used], self.owners[-1] = -1, 0, 0
        sums, self.sums = self.sums, self._zeros()
        shared = sums.reshape(self.quantization.n_rows, self.loops.SHARES, -1)
        return shared, self.quantization.histogram(wanted // self.per_row, codes, counts)

    def statistics(self) -> Statistics:
        """Return the statistics counted since the last call."""
        outside, self.outside = self.outside, np.zeros_like(self.outside)
        return self._statistics(outside)


def _page_sizes(quantization: Quantization) -> tuple[int, int, int]:
    """Return the binary logarithm of the codes per page, pages per bin set, and pages (0 if too many)."""
    shift = SMALLEST_PAGE
    while shift < LARGEST_PAGE and quantization.n_rows * -(-quantization.n_codes >> shift) > PAGE_TABLE // 4:
        shift += 1
    per_row = -(-quantization.n_codes >> shift)
    possible = quantization.n_rows * per_row
    return shift, per_row, 0 if possible > PAGE_TABLE else min(possible, HISTOGRAM_CELLS >> shift)


class TorchAccumulator(_TableAccumulator):
    """Accumulator in torch, for any device; it synchronizes with the device only once in many blocks.

    Excluded pixels are added to an extra last bin set.
    """

    def __init__(self, quantization: Quantization, device: torch.device | None) -> None:
        import torch

        super().__init__(quantization)
        self.device = torch.device("cpu") if device is None else device
        self.n_cells = quantization.n_rows * quantization.n_codes
        self.sums: list[torch.Tensor] = []
        self.pending: list[torch.Tensor] = []
        self.histogram: torch.Tensor | None = None
        self.outside: torch.Tensor | None = None

    def _make_tables(self) -> torch.Tensor:
        """Allocate the tables if necessary; return the counts of pixels outside the range."""
        import torch

        n, m = self.quantization.n_rows + 1, self.quantization.n_candidates
        whole = torch.int64
        if self.outside is None:
            self.outside = torch.zeros(m + 2, dtype=whole, device=self.device)
        if not self.sums:
            self.sums = [torch.zeros(n, dtype=whole, device=self.device) for _ in range(n_moments(m))]
            if self.n_cells <= DENSE_HISTOGRAM:
                self.histogram = torch.zeros(self.n_cells + 1, dtype=torch.int32, device=self.device)
        return self.outside

    def add(self, field: Field, slices: Slices) -> None:
        """Count a block; if this raises, nothing of the block was counted."""
        import torch

        quantization, device = self.quantization, self.device
        values = read_values(field.arrays, slices, quantization.dtype, device)
        self._make_tables()
        channel = find_channels(field, slices, device)
        keep, outside = select_pixels(field, slices, values, quantization.binning)
        key = find_keys(
            values[:-1], quantization.binning, quantization.dtype, channel, quantization.n_channels
        )
        codes = [_codes(value, quantization) for value in values]
        # Use 32 bits where possible, because 64-bit products are not vectorized.
        pairs = (
            key.to(torch.int32 if self.n_cells < 2**31 else torch.int64) * quantization.n_codes + codes[-1]
        )
        key, pairs = key.to(torch.int64), pairs.to(torch.int64)
        if keep is not None:
            key, pairs = torch.where(keep, key, quantization.n_rows), torch.where(keep, pairs, self.n_cells)
        products: Any = (product.to(torch.int64) for product in _products(codes))
        if device.type != "cpu":
            products = list(products)
        ones = torch.ones(1, dtype=torch.int32, device=device).expand(len(key))
        # All memory is allocated now, so the block is counted completely or not at all.
        if sum(map(len, self.pending)) + len(pairs) > PENDING[device.type == "cpu"]:
            self._fetch()
        self._reserve(len(key))
        self._make_tables().add_(outside)
        for total, product in zip(self.sums, products, strict=True):
            total.scatter_add_(0, key, product)
        if self.histogram is not None:
            self.histogram.scatter_add_(0, pairs, ones)
        else:
            self.pending.append(pairs)

    def _fetch(self) -> None:
        """Fetch the pending pairs from the device."""
        if self.pending:
            pairs = np.sort(np.concatenate([pairs.cpu().numpy() for pairs in self.pending]))
            self.pending = []
            self._spill(pairs[: np.searchsorted(pairs, self.n_cells)], self.quantization.n_codes)

    def _drain(self) -> None:
        """Convert the sums to statistics and reset them."""
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
        n_codes = self.quantization.n_codes
        return sums, self.quantization.histogram(places // n_codes, places % n_codes, counts)

    def statistics(self) -> Statistics:
        """Return the statistics counted since the last call."""
        outside = np.zeros(self.quantization.n_candidates + 2, np.int64)
        if self.outside is not None:
            outside += self.outside.cpu().numpy()
        self.outside = None
        return self._statistics(outside)


def _products(codes: list[Any]) -> Iterator[Any]:
    """Yield the products to sum: x_m, then x_m * x_k for k <= m, then x_m * y."""
    *candidates, truth = codes
    yield from candidates
    for m, one in enumerate(candidates):
        for other in candidates[: m + 1]:
            yield one * other
    for one in candidates:
        yield one * truth


def _codes(values: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Return the codes, int32 if products fit, else int64; undefined for values that are not finite."""
    import torch

    if quantization.is_exact:
        whole = values.to(torch.int32 if quantization.n_codes**2 < 2**31 else torch.int64)
        whole = (
            whole if quantization.needs_no_clamp else whole.clamp(quantization.nearest, quantization.furthest)
        )
        return whole - quantization.smallest if quantization.smallest else whole
    binning = quantization.binning
    above = values.sub(binning.low).nan_to_num_(nan=0.0)
    whole = (above / binning.width).floor_()  # the bin
    part = above.sub_(whole * binning.width).div_(binning.step).floor_().nan_to_num_(nan=0.0)
    part.clamp_(0, binning.sublevels - 1)
    codes = whole.add_(binning.n_bins).mul_(binning.sublevels).add_(part)
    return codes.clamp_(0, quantization.n_codes - 1).to(torch.int64)


class NumpyAccumulator(_TableAccumulator):
    """Accumulator in numpy."""

    def __init__(self, quantization: Quantization) -> None:
        super().__init__(quantization)
        n_cells = quantization.n_rows * quantization.n_codes
        self.n_cells = n_cells if n_cells <= NUMPY_HISTOGRAM else 0
        levels = np.arange(quantization.n_codes) + quantization.smallest
        self.bins = quantization.binning.bins(levels) if quantization.is_exact else None
        self.outside = np.zeros(quantization.n_candidates + 2, np.int64)
        self._reset()

    def _reset(self) -> None:
        quantization = self.quantization
        self.sums = np.zeros((quantization.n_rows, n_moments(quantization.n_candidates)), np.int64)
        self.histogram = np.zeros(self.n_cells, np.int64)

    def add(self, field: Field, slices: Slices) -> None:
        """Count a block."""
        quantization = self.quantization
        values, channel, outside = _read_pixels(field, slices, quantization)
        self._reserve(values.shape[1])
        self.outside += outside
        pending = []
        for begin in range(0, values.shape[1], NUMPY_PIXELS):
            part = values[:, begin : begin + NUMPY_PIXELS]
            codes = quantization.codes(part)
            bins = quantization.binning.bins(part) if self.bins is None else self.bins[codes]
            key = np.zeros_like(codes[0])
            for each in bins[:-1]:
                key = key * quantization.binning.n_bins + each
            key = key * quantization.n_channels + channel[begin : begin + NUMPY_PIXELS]
            small = key.astype(np.uint16) if quantization.n_rows <= 2**16 else key  # sorted by radix
            order = np.argsort(small, kind="stable")
            key, codes = key[order], codes.take(order, axis=1)
            firsts = find_runs(key)
            for k, product in enumerate(_products(list(codes))):
                self.sums[key[firsts], k] += np.add.reduceat(product, firsts)
            pairs = key * quantization.n_codes + codes[-1]
            if self.n_cells:
                self.histogram += np.bincount(pairs, minlength=self.n_cells)
            else:
                pending.append(pairs)
        if pending:
            self._spill(np.sort(np.concatenate(pending)), quantization.n_codes)

    def _take(self) -> tuple[NDArray[np.int64], Statistics]:
        sums, places = self.sums[:, None], np.flatnonzero(self.histogram)
        counts, n_codes = self.histogram[places], self.quantization.n_codes
        self._reset()
        return sums, self.quantization.histogram(places // n_codes, places % n_codes, counts)

    def statistics(self) -> Statistics:
        """Return the statistics counted since the last call."""
        outside, self.outside = self.outside, np.zeros_like(self.outside)
        return self._statistics(outside)


def _read_pixels(
    field: Field, slices: Slices, quantization: Quantization
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Read the pixels of a block that are in the mask and finite.

    Returns
    -------
    values : (M + 1, pixels)
    channel : (pixels,)
    outside : (M + 2,)
        Pixels outside the range in each image, then pixels that are not finite.
    """
    binning = quantization.binning
    blocks = [read_block(array, slices, quantization.dtype) for array in field.arrays]
    values = np.stack(blocks, dtype=np.float64 if quantization.dtype.kind == "f" else None)
    run = Channels.of_block(field.shape, slices, field.channel_axis)
    channel = np.full(values.shape[1], run.first)
    if run.count > 1:
        channel += np.arange(values.shape[1]) // run.inner % run.count
    mask, not_finite = field.read_mask(slices), 0
    if mask is not None:
        values, channel = values[:, mask], channel[mask]
    if values.dtype.kind == "f":
        finite = np.isfinite(values).all(axis=0)
        not_finite = len(finite) - int(np.count_nonzero(finite))
        values, channel = values[:, finite], channel[finite]
    outside = np.zeros(len(values) + 1, np.int64)
    outside[-1] = not_finite
    if not covers(binning, quantization.dtype):
        outside[:-1] = np.count_nonzero((values < binning.low) | (values > binning.high), axis=1)
    return values, channel, outside


class SortedAccumulator:
    """Accumulator in numpy that sorts the pixels of each block.

    Its memory grows with the occupied bin sets, so it also serves where the possible ones do not fit a table.
    """

    def __init__(self, quantization: Quantization) -> None:
        self.quantization = quantization
        self.parts: list[Statistics] = []

    def add(self, field: Field, slices: Slices) -> None:
        """Count a block."""
        quantization, binning = self.quantization, self.quantization.binning
        values, channel, outside = _read_pixels(field, slices, quantization)
        bins, codes = binning.bins(values[:-1]), quantization.codes(values)
        inside = codes[:-1] + quantization.lowest - bins * binning.sublevels
        errors = codes[:-1] - codes[-1]
        first, second = np.tril_indices(quantization.n_candidates)
        entries = (np.arange(len(channel)), codes[-1] + quantization.lowest, np.ones_like(channel))
        part = Statistics.group(
            binning,
            quantization.n_channels,
            np.vstack([bins, channel]).T,
            np.vstack([inside, inside**2, errors[first] * errors[second]]).T,
            entries,
            outside[:-1],
            int(outside[-1]),
        )
        self.parts = merge_similar([*self.parts, part])

    def statistics(self) -> Statistics:
        """Return the statistics counted since the last call."""
        parts, self.parts = self.parts, []
        return merge(parts) if parts else self.quantization.empty()


# -- blocks as tensors --


def float_dtype(device: torch.device) -> torch.dtype:
    """Return the floating-point dtype that a device computes bins and images in."""
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
    """Read a block of each array, flattened: integers of up to 16 bits as int32, other values as floats.

    With ``as_reals``, these integers are read as float32, which represents them exactly.
    """
    import torch

    small = dtype.kind in "iu" and dtype.itemsize <= 2
    wanted = (torch.float32 if as_reals else torch.int32) if small else float_dtype(device)
    # Convert on the device, because fewer bytes are transferred in the original dtype.
    return [read_tensor(array, slices, device).to(wanted) for array in arrays]


def find_channels(field: Field, slices: Slices, device: torch.device) -> torch.Tensor:
    """Return the channel of each pixel of a block, int32; the result is cached, do not modify it."""
    channels = Channels.of_block(field.shape, slices, field.channel_axis)
    return _cached_channels(channels, block_size(field.shape, slices), device)


@lru_cache(maxsize=4)
def _cached_channels(channels: Channels, size: int, device: torch.device) -> torch.Tensor:
    import torch

    place = torch.arange(size, dtype=torch.int32, device=device)
    return channels.first + place.div(channels.inner, rounding_mode="floor") % channels.count


def find_bins(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Return the bin of each value, int32; NaN falls into the first bin."""
    import torch

    return _find_places(values, binning, dtype).to(torch.int32)


def find_keys(
    values: Sequence[torch.Tensor],
    binning: Binning,
    dtype: np.dtype[Any],
    channel: torch.Tensor,
    n_channels: int,
) -> torch.Tensor:
    """Return the index of each pixel's bin set, int32, for fewer than 2**24 bin sets.

    Float32 represents these indices exactly. Working in place in one dtype takes a third of the time.
    """
    import torch

    key = _find_places(values[0], binning, dtype).floor_()
    for value in values[1:]:
        key = _find_places(value, binning, dtype).floor_().add_(key, alpha=binning.n_bins)
    return key.mul_(n_channels).add_(channel).to(torch.int32)


def _find_places(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Return the fractional bin index of each value, in a new tensor."""
    import torch

    grid = binning.grid(dtype)
    low, width, n_bins, inverse = grid.tolist()
    place = values.to(torch.float32 if grid.dtype == np.float32 else float_dtype(values.device)).sub(low)
    place = (place.mul_(inverse) if inverse else place.div_(width)).clamp_(0, n_bins - 1)
    return place.nan_to_num_(nan=0.0) if dtype.kind == "f" else place


def select_pixels(
    field: Field, slices: Slices, values: Sequence[torch.Tensor], binning: Binning
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Select the pixels of a block to count, and count the values outside the range.

    Returns
    -------
    keep : bool tensor or None
        True within the mask where all values are finite; None: count all pixels.
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
    if covers(binning, field.dtype):
        outside = [torch.zeros_like(not_finite)] * len(values)
    else:
        beyond = [(value < binning.low) | (value > binning.high) for value in values]
        outside = [torch.count_nonzero(one if keep is None else one & keep) for one in beyond]
    return keep, torch.stack([*outside, not_finite])


def covers(binning: Binning, dtype: np.dtype[Any]) -> bool:
    """Return whether the range contains all values of a dtype."""
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return bool(binning.low <= limits.min and limits.max <= binning.high)

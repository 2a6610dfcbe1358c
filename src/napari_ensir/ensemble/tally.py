"""One field's pixels, block by block, into running sums. Knows no other field, and no lazy arrays.

On the CPU a compiled loop (``kernels.py``) counts where numba is installed; torch does the same anywhere, on
any device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays import Channels, block_size, block_slices, read_block, read_tensor
from napari_ensir.ensemble.loops import BLOCK_PIXELS, compiled_loops, integer_tables
from napari_ensir.ensemble.memory import sparing_memory
from napari_ensir.ensemble.statistics import (
    LARGEST_SUM,
    Statistics,
    check_sums,
    merge,
    n_moments,
    square_columns,
)
from napari_ensir.ensemble.threads import for_each, n_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays import Slices
    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.inputs import Field

__all__ = ["DENSE_SUMS", "count_field", "merged_in_pairs"]

DENSE_SUMS = 2**22
"""Most sums (bin sets times moments) kept as one table over all bin sets that there can be."""

DENSE_HISTOGRAM = 2**22
"""Most cells (bin sets times levels) of a histogram kept as one table."""


def count_field(
    field: Field,
    binning: Binning,
    n_channels: int,
    device: torch.device | None = None,
    *,
    threads: int | None = None,
    report: Callable[[int], object] = lambda pixels: None,
    say: Callable[[str], object] = lambda text: None,
) -> list[Statistics]:
    """Statistics of one field's pixels, in parts: one for each thread.

    Parameters
    ----------
    field, binning, n_channels, device, threads
        As for :func:`napari_ensir.ensemble.collect.collect`.
    report
        Called with the number of pixels just counted; what it raises stops the work.
    say
        Told, in a few words, when the CPU steps in for an accelerator.
    """
    on_cpu = device is None or device.type == "cpu"
    loops = compiled_loops() if on_cpu else None
    limit = BLOCK_PIXELS["gpu" if not on_cpu else "cpu" if loops is None else "compiled"]
    sums = n_moments(len(field.candidates))
    is_dense = binning.n_bins ** len(field.candidates) * n_channels * sums <= DENSE_SUMS
    if not is_dense:
        limit, loops = max(2**12, min(limit, 2**23 // sums)), None
    threads = (threads or n_threads()) if on_cpu else 1
    tallies = [_Tally(field, binning, n_channels, is_dense, loops, device) for _ in range(threads)]
    return _count_blocks(tallies, limit, report, say)


def _count_blocks(
    tallies: list[_Tally], limit: int, report: Callable[[int], object], say: Callable[[str], object]
) -> list[Statistics]:
    """Count one field's blocks, one tally a thread; the CPU counts what an accelerator has no room for."""
    first = tallies[0]
    shape = first.field.shape
    free: SimpleQueue[_Tally] = SimpleQueue()
    for tally in tallies:
        free.put(tally)
    spare = dataclasses.replace(first, loops=compiled_loops() if first.is_dense else None, device=None)

    def count(slices: Slices) -> None:
        tally = free.get()
        try:
            if tally.device is None or tally.device.type == "cpu":
                tally.add(slices)
            else:
                takes = {tally.device.type: tally, "cpu": spare}
                sparing_memory(lambda s, d: takes[d.type].add(s), slices, shape, tally.device, say)
        finally:
            free.put(tally)

    blocks = block_slices(shape, limit)
    for_each(blocks, count, lambda slices: report(block_size(shape, slices)), len(tallies))
    return [tally.statistics() for tally in [*tallies, spare]]


def merged_in_pairs(parts: list[Statistics]) -> list[Statistics]:
    """Merge parts of like size, so that each pixel's share is merged a logarithmic number of times."""
    while len(parts) > 1 and len(parts[-1].levels) * 2 >= len(parts[-2].levels):
        parts = [*parts[:-2], merge(parts[-2:])]
    return parts


@dataclass
class _Tally:
    """One thread's running sums over some blocks of one field."""

    field: Field
    binning: Binning
    n_channels: int
    is_dense: bool
    loops: Any
    device: torch.device | None
    parts: list[Statistics] = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.m = len(self.field.candidates)
        self.n_rows = self.binning.n_bins**self.m * self.n_channels
        self.dtype = self.field.dtype
        # The levels that the truth can have are known beforehand for integers of 16 bits only.
        self.is_exact = self.binning.integer and self.dtype.kind in "iu"
        if self.is_exact:
            limits = np.iinfo(self.dtype)
            self.lowest = int(limits.min) - int(self.binning.low)
            self.n_levels = int(limits.max) - int(limits.min) + 1
        else:
            self.lowest = -self.binning.n_levels
            self.n_levels = 3 * self.binning.n_levels + self.binning.sublevels
        self.outside = np.zeros(self.m + 2, np.int64)
        self.moments: Any = None
        # Even if all of them are as far off as can be, so many pixels cannot carry a sum past 64 bits.
        self.harmless = int(LARGEST_SUM // max(3 * self.binning.n_levels, 2**17) ** 2)
        self.unwatched = 0
        self.histogram: Any = None

    def add(self, slices: Slices) -> None:
        """Count one block, or raise and have counted nothing of it."""
        before = self.outside.copy()
        try:
            if self.loops is not None:
                self._add_compiled(slices)
            else:
                self._add_torch(slices)
        except BaseException:
            self.outside[:] = before
            raise
        self.unwatched += block_size(self.field.shape, slices)
        if self.moments is not None and self.unwatched >= self.harmless:
            self.unwatched = 0
            squares = self.moments[:, square_columns(self.m)]
            check_sums(np.asarray(squares if isinstance(squares, np.ndarray) else squares.cpu(), np.float64))

    # -- compiled ---------------------------------------------------------------------------------

    def _add_compiled(self, slices: Slices) -> None:
        self._make_tables()
        blocks = [read_block(array, slices, self.dtype) for array in self.field.arrays]
        mask = self.field.read_mask(slices)
        keep = np.zeros(0, bool) if mask is None else mask.copy()
        channels = Channels.of_block(self.field.shape, slices, self.field.channel_axis)
        pairs = np.empty(0 if self.histogram.size else blocks[-1].size, np.int64)
        runs = (channels.first, channels.count, channels.inner)
        pixels = (tuple(blocks[:-1]), blocks[-1], keep)
        sums = self.moments.reshape(-1)
        binning = self.binning
        low, high = binning.low, binning.high
        if self.is_exact:
            tables = integer_tables(self.dtype, binning, self.m, self.n_channels)
            levels = (self.lowest + int(low), self.n_levels)
            counts = self.histogram.reshape(-1)
            limits = (int(low), int(high))
            written = self.loops.count_integers(
                *pixels, tables, limits, runs, sums, counts, pairs, levels, self.outside
            )
        else:
            grid = (low, high, binning.width, binning.step, binning.n_bins, binning.sublevels)
            levels = (self.lowest, self.n_levels)
            written = self.loops.count_floats(
                *pixels, grid, self.n_channels, runs, sums, pairs, levels, self.outside
            )
        if written:
            self._keep_pairs(np.sort(pairs[:written]))

    def _keep_pairs(self, ordered: NDArray[np.int64]) -> None:
        """Shrink sorted (bin set, level) keys to distinct ones with counts, without their moments."""
        is_new = np.empty(len(ordered), bool)
        is_new[0] = True
        np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
        news = np.flatnonzero(is_new)
        counts = np.diff(np.append(news, len(ordered)))
        self.parts = merged_in_pairs([*self.parts, self._of_entries(ordered[news], counts, moments=None)])

    # -- torch ------------------------------------------------------------------------------------

    def _add_torch(self, slices: Slices) -> None:
        import torch

        device = torch.device("cpu") if self.device is None else self.device
        tensors = [read_tensor(array, slices, device) for array in self.field.arrays]
        keep = self._finite(tensors)
        mask = self.field.read_mask(slices)
        if mask is not None:
            here = torch.from_numpy(mask.copy()).to(device)
            keep = here if keep is None else keep & here
        channels = Channels.of_block(self.field.shape, slices, self.field.channel_axis)
        place = torch.arange(len(tensors[0]), device=device)
        channel = channels.first + place.div(channels.inner, rounding_mode="floor") % channels.count
        if keep is not None:
            channel = channel[keep]
            tensors = [tensor[keep] for tensor in tensors]
        for index, tensor in enumerate(tensors):
            beyond = (tensor < self.binning.low) | (tensor > self.binning.high)
            self.outside[index] += int(beyond.sum())
        bins, levels = zip(*(self._bins_and_levels(tensor) for tensor in tensors), strict=True)
        truth = levels[-1]
        inside = [levels[m] - bins[m] * self.binning.sublevels for m in range(self.m)]
        errors = [levels[m] - truth for m in range(self.m)]
        sums = [*inside, *(d * d for d in inside)]
        sums += [errors[m] * errors[p] for m in range(self.m) for p in range(m + 1)]
        if self.is_dense:
            self._add_dense(bins[:-1], channel, sums, truth)
        else:
            rows = torch.stack([*bins[:-1], channel], dim=1).cpu().numpy()
            features = torch.stack(sums, dim=1).cpu().numpy()
            entries = (np.arange(len(rows)), truth.cpu().numpy(), np.ones(len(rows), np.int64))
            part = Statistics.group(
                self.binning, self.n_channels, rows, features, entries, *self._none_left_out()
            )
            self.parts = merged_in_pairs([*self.parts, part])

    def _finite(self, tensors: list[torch.Tensor]) -> torch.Tensor | None:
        keep = None
        for tensor in tensors:
            if tensor.is_floating_point():
                finite = tensor.isfinite()
                keep = finite if keep is None else keep & finite
        if keep is not None:
            self.outside[-1] += int((~keep).sum())
        return keep

    def _bins_and_levels(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        binning = self.binning
        if self.is_exact:
            level = values - int(binning.low)
            whole = level.div(binning.sublevels, rounding_mode="floor")
            return whole.clamp(0, binning.n_bins - 1), level
        real = torch.float32 if values.device.type == "mps" else torch.float64
        above = values.to(real) - binning.low
        wholes = (above / binning.width).floor()
        part = ((above - wholes * binning.width) / binning.step).floor().clamp(0, binning.sublevels - 1)
        wholes = wholes.clamp(-binning.n_bins, 2 * binning.n_bins)
        whole = wholes.to(torch.int64)
        return whole.clamp(0, binning.n_bins - 1), whole * binning.sublevels + part.to(torch.int64)

    def _add_dense(
        self,
        bins: tuple[torch.Tensor, ...],
        channel: torch.Tensor,
        sums: list[torch.Tensor],
        truth: torch.Tensor,
    ) -> None:
        import torch

        row = torch.zeros_like(channel)
        for column in bins:
            row = row * self.binning.n_bins + column
        row = row * self.n_channels + channel
        pairs = row * self.n_levels + (truth - self.lowest)
        if row.device.type == "cpu":
            self._add_with_numpy(row.numpy(), pairs.numpy(), [part.numpy() for part in sums])
            return
        if self.moments is None:
            self.moments = torch.zeros((self.n_rows, len(sums)), dtype=torch.int64, device=row.device)
        features = torch.stack(sums, dim=1)
        keys, counts = torch.unique(pairs, return_counts=True)
        # All that takes memory is done: from here on the block counts as a whole.
        self.moments.index_add_(0, row, features)
        if len(keys):
            part = self._of_entries(keys.cpu().numpy(), counts.cpu().numpy(), moments=None)
            self.parts = merged_in_pairs([*self.parts, part])

    def _add_with_numpy(
        self, row: NDArray[np.int64], pairs: NDArray[np.int64], sums: list[NDArray[np.int64]]
    ) -> None:
        """On the CPU numpy scatters and sorts many times as fast as torch."""
        self._make_tables()
        for k, part in enumerate(sums):
            np.add.at(self.moments[:, k], row, part)
        if self.histogram.size:
            np.add.at(self.histogram.reshape(-1), pairs, 1)
        elif len(pairs):
            self._keep_pairs(np.sort(pairs))

    # -- both -------------------------------------------------------------------------------------

    def _make_tables(self) -> None:
        if self.moments is None:
            self.moments = np.zeros((self.n_rows, n_moments(self.m)), np.int64)
            dense = self.is_exact and self.n_rows * self.n_levels <= DENSE_HISTOGRAM
            self.histogram = np.zeros((self.n_rows, self.n_levels) if dense else (0, 0), np.int64)

    def _of_entries(
        self, keys: NDArray[np.int64], counts: NDArray[np.int64], moments: NDArray[np.int64] | None
    ) -> Statistics:
        """Statistics from sorted, distinct (bin set, level) keys; sums of zero without ``moments``."""
        owner = keys // self.n_levels
        is_first = np.append(True, owner[1:] != owner[:-1])
        occupied = owner[is_first]
        sums = (
            np.zeros((len(occupied), n_moments(self.m)), np.int64) if moments is None else moments[occupied]
        )
        starts = np.append(np.flatnonzero(is_first), len(keys))
        shape = (self.binning.n_bins,) * self.m + (self.n_channels,)
        rows = np.stack(np.unravel_index(occupied, shape), axis=1).astype(np.uint16)
        return Statistics(
            self.binning,
            self.m,
            self.n_channels,
            rows,
            sums,
            starts,
            keys % self.n_levels + self.lowest,
            counts,
            *self._none_left_out(),
        )

    def _none_left_out(self) -> tuple[NDArray[np.int64], int]:
        return np.zeros(self.m + 1, np.int64), 0

    def statistics(self) -> Statistics:
        """What was counted."""
        parts = list(self.parts)
        if self.histogram is not None and self.histogram.size:
            keys = np.flatnonzero(self.histogram)
            if len(keys):
                parts.append(self._of_entries(keys, self.histogram.ravel()[keys], self.moments))
        elif self.moments is not None and parts:
            whole = merge(parts)
            moments = self.moments if isinstance(self.moments, np.ndarray) else self.moments.cpu().numpy()
            shape = (self.binning.n_bins,) * self.m + (self.n_channels,)
            occupied = np.ravel_multi_index(tuple(whole.rows.astype(np.int64).T), shape)
            parts = [replace(whole, moments=moments[occupied])]
        if not parts:
            parts = [Statistics.empty(self.binning, self.m, self.n_channels)]
        return replace(merge(parts), outside=self.outside[:-1], not_finite=int(self.outside[-1]))

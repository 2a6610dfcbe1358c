"""Many fields' pixels, block by block over the CPU's threads, into statistics. Knows no lazy arrays."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.arrays import block_size, block_slices
from napari_ensir.ensemble.heights import Scale
from napari_ensir.ensemble.loops import BLOCK_PIXELS, compiled_loops
from napari_ensir.ensemble.memory import sparing_memory
from napari_ensir.ensemble.statistics import Statistics, merge, n_moments
from napari_ensir.ensemble.tally import CompiledTally, SparseTally, Tally, TorchTally
from napari_ensir.ensemble.threads import for_each, n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import torch

    from napari_ensir.ensemble.arrays import Slices
    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.inputs import Field

    Block = tuple[Field, np.dtype[Any], Slices]

__all__ = ["DENSE_SUMS", "count_fields"]

DENSE_SUMS = 2**22
"""Most sums (bin sets times moments) kept as one table over all bin sets that there can be."""


def count_fields(
    fields: Iterable[Field],
    binning: Binning,
    n_candidates: int,
    n_channels: int,
    device: torch.device | None = None,
    *,
    threads: int | None = None,
    report: Callable[[int], object] = lambda pixels: None,
    say: Callable[[str], object] = lambda text: None,
) -> Statistics:
    """Statistics of the pixels of all fields.

    Parameters
    ----------
    fields
        Taken as threads become free, so there may be any number of them.
    binning, n_candidates, n_channels, device, threads
        As for :func:`napari_ensir.ensemble.collect.collect`.
    report
        Called with the number of pixels just counted; what it raises stops the work.
    say
        Told, in a few words, when the CPU steps in for an accelerator.
    """
    counter = _Counter(binning, n_candidates, n_channels, device, threads, say)
    for_each(
        counter.blocks(fields),
        counter.count,
        lambda block: report(block_size(block[0].shape, block[2])),
        counter.threads,
    )
    return counter.statistics()


class _Counter:
    """Tallies, one for each thread and dtype, made when first needed and kept from field to field."""

    def __init__(
        self,
        binning: Binning,
        n_candidates: int,
        n_channels: int,
        device: torch.device | None,
        threads: int | None,
        say: Callable[[str], object],
    ) -> None:
        self.shape, self.say = (binning, n_candidates, n_channels), say
        self.device = None if device is None or device.type == "cpu" else device
        self.threads = 1 if self.device is not None else threads or n_threads()
        self.is_dense = binning.n_bins**n_candidates * n_channels * n_moments(n_candidates) <= DENSE_SUMS
        self.free: dict[np.dtype[Any], SimpleQueue[Tally]] = {}
        self.spare: dict[np.dtype[Any], Tally] = {}
        self.made: list[Tally] = []

    def blocks(self, fields: Iterable[Field]) -> Iterator[Block]:
        kind = "gpu" if self.device is not None else "cpu" if compiled_loops() is None else "compiled"
        limit = BLOCK_PIXELS[kind]
        if not self.is_dense:
            limit = max(2**12, min(limit, 2**23 // n_moments(self.shape[1])))
        for field in fields:
            dtype = field.dtype
            if dtype not in self.free:
                self.free[dtype] = SimpleQueue()
                for _ in range(self.threads):
                    self.free[dtype].put(self._tally(dtype, self.device))
            for slices in block_slices(field.shape, limit, workers=self.threads):
                yield field, dtype, slices

    def _tally(self, dtype: np.dtype[Any], device: torch.device | None) -> Tally:
        scale = Scale(*self.shape, dtype)
        loops = compiled_loops() if device is None else None
        tally: Tally
        if not self.is_dense:
            tally = SparseTally(scale, device)
        elif loops is not None:
            tally = CompiledTally(scale, loops)
        else:
            tally = TorchTally(scale, device)
        self.made.append(tally)
        return tally

    def count(self, block: Block) -> None:
        field, dtype, slices = block
        tally = self.free[dtype].get()
        try:
            if self.device is None:
                tally.add(field, slices)
            else:
                sparing_memory(
                    lambda part, device: self._on(device, tally, dtype).add(field, part),
                    slices,
                    field.shape,
                    self.device,
                    self.say,
                )
        finally:
            self.free[dtype].put(tally)

    def _on(self, device: torch.device, tally: Tally, dtype: np.dtype[Any]) -> Tally:
        """The accelerator's tally, or the one of the CPU, which counts what the former has no room for."""
        if device.type != "cpu":
            return tally
        if dtype not in self.spare:
            self.spare[dtype] = self._tally(dtype, None)
        return self.spare[dtype]

    def statistics(self) -> Statistics:
        parts = [tally.statistics() for tally in self.made]
        return merge(parts) if parts else Statistics.empty(*self.shape)

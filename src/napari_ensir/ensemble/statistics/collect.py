"""Collect the statistics of a reference set in one pass over its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.ensemble.statistics.count import collect_chunks, count_fields, is_lazy
from napari_ensir.ensemble.statistics.statistics import Statistics, merge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.statistics.binning import Binning

__all__ = ["collect"]


def collect(
    fields: Iterable[Field],
    binning: Binning,
    n_candidates: int,
    n_channels: int,
    device: torch.device | None = None,
    progress: Progress | None = None,
    total: int | None = None,
    threads: int | None = None,
) -> Statistics:
    """Return the statistics of all pixels of a reference set.

    Parameters
    ----------
    fields
        Images with ground truth, all with the same number of candidates and channels.
    binning
        See :func:`napari_ensir.ensemble.statistics.binning.choose_binning`.
    device
        A torch device; None or the CPU uses the compiled kernels.
    progress
        Called with (pixels done, ``total``, text) after every block; an exception that it raises stops the
        pass.
    total
        Number of pixels of all fields, for ``progress``.
    threads
        Number of CPU threads; None: all that this process may use.

    Returns
    -------
    Statistics
        Identical, bit for bit, for any order and partition of the pixels.
    """
    finished = 0
    parts: list[Statistics] = []

    def report(pixels: int) -> None:
        nonlocal finished
        finished += pixels
        say("counting pixels")

    def say(text: str) -> None:
        if progress is not None:
            progress(finished, max(finished, total or 0), text)

    def in_memory() -> Iterator[Field]:
        """Yield the fields in memory; count lazy ones on the way."""
        for one in fields:
            if is_lazy(one):
                parts.append(collect_chunks(one, binning, n_channels, device, report))
            else:
                yield one

    counted = count_fields(
        in_memory(), binning, n_candidates, n_channels, device, threads=threads, report=report, say=say
    )
    return merge([*parts, counted])

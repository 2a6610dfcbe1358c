"""One pass over a reference set's pixels, into statistics. Estimates nothing.

Bytes that must move: each candidate and the truth once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.ensemble.statistics.count import collect_chunks, count_fields, has_chunks
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
    """Statistics of all pixels of a reference set.

    Parameters
    ----------
    fields
        Images with ground truth, alike in number of candidates and channels.
    binning
        How to bin; see :func:`napari_ensir.ensemble.statistics.binning.choose_binning`.
    device
        A torch device; None or the CPU takes the compiled loop where numba is installed.
    progress
        Called with (pixels done, ``total``, text) after every block; what it raises stops the pass.
    total
        Pixels there are, for ``progress``.
    threads
        CPU threads to count on; None: all that there are.

    Returns
    -------
    Statistics
        The same, bit for bit, for any order and cutting of the pixels.
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

    def held() -> Iterator[Field]:
        """The fields that are in memory; lazy ones are counted on the way."""
        for one in fields:
            if has_chunks(one):
                parts.append(collect_chunks(one, binning, n_channels, device, report))
            else:
                yield one

    counted = count_fields(
        held(), binning, n_candidates, n_channels, device, threads=threads, report=report, say=say
    )
    return merge([*parts, counted])

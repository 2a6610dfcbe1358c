"""What counting and combining share: sizes of blocks, compiled loops, the tables these look things up in."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.bins import Binning

__all__ = ["BLOCK_PIXELS", "compiled_loops", "integer_tables"]

BLOCK_PIXELS = {"compiled": 2**18, "cpu": 2**15, "gpu": 2**22}
"""Pixels worked on at once: what stays in a core's cache, or keeps an accelerator busy.

Torch on the CPU shares operations on more than 2**15 numbers out to threads of its own, one by one; here
blocks run side by side instead.
"""


@cache
def compiled_loops() -> Any:
    """The compiled loops of ``kernels.py``, or None where numba is absent."""
    try:
        from napari_ensir.ensemble import kernels
    except ImportError:
        return None
    return kernels


@lru_cache(maxsize=16)
def integer_tables(
    dtype: np.dtype[Any], binning: Binning, n_candidates: int, n_channels: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """What the compiled loops look up for every integer of a dtype of up to 16 bits.

    A table makes any range and width cost the same, and the bin a matter of whole numbers only.

    Returns
    -------
    offsets : (M, integers)
        What the integer adds to the number of the bin set, by candidate.
    edges : (integers,)
        Lower edge of its bin; of use for integer binnings only.
    smallest : int
        The first integer.
    """
    limits = np.iinfo(dtype)
    bins = binning.bins(np.arange(limits.min, limits.max + 1, dtype=np.int64))
    strides = n_channels * binning.n_bins ** np.arange(n_candidates - 1, -1, -1)
    offsets = np.ascontiguousarray(strides[:, None] * bins, np.int32)
    edges = np.zeros(len(bins), np.int32)
    if binning.integer:
        edges[:] = bins * binning.sublevels + int(binning.low)
    for table in (offsets, edges):
        table.flags.writeable = False
    return offsets, edges, int(limits.min)

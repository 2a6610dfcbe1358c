"""Compile the kernels ahead of the first fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.intensity_range import spread_of
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.estimators.em import em
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.collect import collect
from napari_ensir.ensemble.uncertainty.bias import BiasSums
from napari_ensir.ensemble.uncertainty.error_table import ErrorTable
from napari_ensir.ensemble.uncertainty.measure import measure

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["warm_up"]

_PIXELS = 2**18
"""Pixels of the images that the kernels are called with."""


def warm_up(n_candidates: int, dtypes: Iterable[np.typing.DTypeLike] = (np.uint8, np.uint16)) -> None:
    """Compile the kernels for a number of candidates and for dtypes, or load them from disk.

    Compiled code is cached on disk, so compiling takes seconds once per machine. May run in a thread.

    Parameters
    ----------
    n_candidates : int
    dtypes
        Dtypes that blocks are read in; see :func:`~napari_ensir.ensemble.arrays.blocks.working_dtype`.

    Examples
    --------
    >>> warm_up(2, [])
    """
    for kind in dtypes:
        dtype = np.dtype(kind)
        truth = (np.arange(_PIXELS) % 100).astype(dtype)
        if dtype.itemsize > 1:
            spread_of(truth)
        field = Field(tuple(truth.copy() for _ in range(n_candidates)), truth, None, None)
        binning = choose_binning(dtype, (0, 100))
        found = collect([field], binning, n_candidates, 1, threads=1)
        estimate = em(found, Settings(max_iter=2))
        lookup = Lookup(binning, found.rows, estimate.weights, estimate.fallback, estimate.unseen)
        small = Field(tuple(truth[:4] for _ in range(n_candidates)), None, None, None)
        combine_field(lookup, small, "cpu", as_maps=False)
        limits = (binning.low, binning.high, 1)
        errors = ErrorTable.empty(*limits)
        known = Field(small.candidates, truth[:4], None, None)
        for empty in (errors, BiasSums.empty(*limits, n_candidates)):
            measure([known], lookup, empty, "cpu")
        errors.looked_up(np.zeros(4, np.float32), small.candidates, None)

"""Compile the kernels ahead of the first fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.intensity_range import intensity_histogram
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.engines import compile_at_once
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.estimators.em import em
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.count import collect
from napari_ensir.ensemble.uncertainty.error_table import ErrorSums, fit_error_table, measure

if TYPE_CHECKING:
    from collections.abc import Iterable


def warm_up(dtypes: Iterable[np.typing.DTypeLike] = (np.uint8, np.uint16)) -> None:
    """Compile the kernels for dtypes, or load them from disk.

    Compiled code is cached on disk, so compiling takes seconds once per machine. May run in a thread.

    Parameters
    ----------
    dtypes
        Dtypes that blocks are read in; see :func:`~napari_ensir.ensemble.arrays.blocks.working_dtype`.

    Examples
    --------
    >>> warm_up([])
    """
    for kind in dtypes:
        dtype = np.dtype(kind)
        compile_at_once(dtype)
        truth = (np.arange(4096) % 100).astype(dtype)
        if dtype.itemsize > 1:
            intensity_histogram(truth)
        field = Field((truth.copy(), truth.copy()), truth, None, None)
        binning = choose_binning(dtype, (0, 100))
        statistics = collect([field], binning, 2, 1, threads=1)
        estimate = em(statistics, Settings(max_iter=2))
        lookup = Lookup(binning, statistics.rows, estimate.weights, estimate.fallback, estimate.unseen)
        small = Field((truth[:4], truth[:4]), None, None, None)
        combine_field(lookup, small, "cpu", as_maps=False)
        known = Field(small.candidates, truth[:4], None, None)
        zeros = ErrorSums.zeros(binning.low, binning.high, 1, 2)
        errors = fit_error_table([measure(known, lookup, zeros, "cpu")])
        errors.predict(np.zeros(4, np.float32), small.candidates, None)

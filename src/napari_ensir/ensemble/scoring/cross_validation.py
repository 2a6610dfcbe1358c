"""Cross-validated errors of ensembles, computed from statistics without reading images.

The error of an ensemble at a pixel is ``sum_m w_m e_m``, so its squared error over a bin set is ``w^T G w``
with the Gram matrix ``G``, the sum of ``e e^T`` over the pixels, which the statistics contain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_ensir.ensemble.combine.folds import estimate_held_out_lookup
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.estimators.base import Settings, find_method
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.ensemble.statistics.statistics import Statistics


FACTORS = (1, 2, 4, 8, 16)
"""Bin widths to try, in multiples of the bin width of the statistics."""

SHRINKAGES = (100.0, 1000.0, 10000.0)
"""Shrinkages to try, in pixels."""


def peak(binning: Binning) -> float:
    """Return the peak of PSNR: the width of the range of the bins, which is 255 for 8 bit.

    The peak from the ground truth alone is that of
    :func:`~napari_ensir.ensemble.scoring.score_range.score_range_of`.
    """
    return binning.high - binning.low


def mean_squared_error(statistics: Statistics, weights: NDArray[np.float64] | Lookup | WeightLUT) -> float:
    """Return the mean squared error of an ensemble on the pixels of the statistics.

    Parameters
    ----------
    statistics : Statistics
    weights : (M,) array, Lookup or WeightLUT
        One vector for all pixels, or a table with the same bins.

    Returns
    -------
    float
        Squared intensity units.

    Raises
    ------
    EnsembleError
        If the table has other bins.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collected = collect_reference([(noisy, truth)], device="cpu")
    >>> [round(mean_squared_error(collected.statistics, np.eye(2)[i])) for i in (0, 1)]
    [4, 64]
    """
    if isinstance(weights, np.ndarray):
        per_row = np.broadcast_to(weights, (len(statistics.rows), statistics.n_candidates))
    else:
        lookup = weights if isinstance(weights, Lookup) else weights.lookup
        if lookup.binning != statistics.binning:
            raise EnsembleError(
                "the table and the statistics have different bins; convert the statistics with in_bins()."
            )
        per_row = lookup.all_weights[lookup.row_of(list(statistics.rows.astype(np.int64).T))]
    gram = statistics.error_gram
    total = np.einsum("rm,rmk,rk->", per_row, gram, per_row, optimize=True)
    return float(max(total, 0.0) / max(1, statistics.n_pixels))


def held_out_lookups(
    folds: Sequence[Statistics],
    method: str,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[Lookup | None]:
    """Return for each fold a table that is estimated from the others; None for empty folds.

    Parameters
    ----------
    folds : sequence of Statistics
        Two or more; see :class:`~napari_ensir.ensemble.statistics.reference.Reference`.
    method, settings, progress
        As for :func:`napari_ensir.ensemble.lut.lut.estimate_lut`.

    Raises
    ------
    EnsembleError
        If there are no folds, or all pixels lie in one fold.
    """
    if len(folds) < 2:
        raise EnsembleError("the reference set was collected without folds; collect it in two folds or more.")
    given = settings or Settings()
    return [
        estimate_held_out_lookup(number, folds, method, given, progress) if fold.n_pixels else None
        for number, fold in enumerate(folds)
    ]


def held_out_error(folds: Sequence[Statistics], lookups: Sequence[Lookup | None]) -> float:
    """Return the cross-validated mean squared error of a method.

    Parameters
    ----------
    folds : sequence of Statistics
    lookups : sequence of Lookup
        Those of :func:`held_out_lookups`.

    Returns
    -------
    float
        Squared intensity units.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> folds = collect_reference([(noisy, truth)], folds=2, device="cpu").folds
    >>> 3.5 < held_out_error(folds, held_out_lookups(folds, "least-squares")) < 4.5
    True
    """
    scored = [
        (mean_squared_error(fold, lookup) * fold.n_pixels, fold.n_pixels)
        for fold, lookup in zip(folds, lookups, strict=True)
        if lookup is not None
    ]
    errors, pixels = (sum(each) for each in zip(*scored, strict=True))
    return float(errors / pixels)


class BinChoice(NamedTuple):
    """Bin width and shrinkage with the smallest cross-validated error.

    Attributes
    ----------
    bin_width, shrinkage : float
    errors : dict
        Mean squared error by (bin width, shrinkage).
    """

    bin_width: float
    shrinkage: float
    errors: dict[tuple[float, float], float]


def choose_bins(
    reference: Reference,
    method: str,
    settings: Settings | None = None,
    *,
    binnings: Sequence[Binning] | None = None,
    shrinkages: Sequence[float] = SHRINKAGES,
    progress: Progress | None = None,
) -> BinChoice:
    """Choose the bin width, and the shrinkage for least squares, by cross-validation.

    Parameters
    ----------
    reference : Reference
        Collected in fine bins and in two folds or more.
    method : str
    settings : Settings, optional
    binnings : sequence of Binning, optional
        Bins to try; default: the fine bins, and multiples of their width (:data:`FACTORS`).
    shrinkages
        Values to try for methods that have this setting.
    progress
        Called with (done, total, text); an exception that it raises stops the work.

    Returns
    -------
    BinChoice
        The ``bin_width`` and the ``shrinkage`` with the smallest error.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collected = collect_reference([(noisy, truth)], bin_width=8, folds=2, device="cpu")
    >>> choose_bins(collected, "least-squares").bin_width in (8, 16, 32, 64, 128)
    True
    """
    base = settings or Settings()
    tried = shrinkages if "shrinkage" in find_method(method).uses else (base.shrinkage,)
    fine = reference.statistics.binning
    binnings = binnings or [fine.coarsened(factor) for factor in FACTORS if factor <= fine.n_bins]
    errors: dict[tuple[float, float], float] = {}
    for number, binning in enumerate(binnings):
        folds = [fold.in_bins(binning) for fold in reference.folds]
        for shrinkage in tried:
            lookups = held_out_lookups(folds, method, replace(base, shrinkage=shrinkage))
            errors[binning.width, shrinkage] = held_out_error(folds, lookups)
        if progress is not None:
            progress(number + 1, len(binnings), "choosing the bin width")
    return BinChoice(*min(errors, key=errors.__getitem__), errors)

"""Ground truth and Gaussian mixture of one bin set (EnsIR, equations 7 to 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.estimators.base import OUTCOMES, Settings, find_method
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.statistics import Statistics


@dataclass(frozen=True)
class BinSet:
    """Histogram of the ground truth in a bin set, and the Gaussian of each candidate.

    Attributes
    ----------
    truth : (P,) float64
        Values of the ground truth that occur, rising, in intensity units.
    counts : (P,) int64
        Number of pixels that have each value.
    means, variances : (M,) float64
        Mean of each candidate, and variance of its Gaussian in squared intensity units: the variance found
        by EM, else that of the candidate itself (equation 13).
    weights : (M,) float64
        Those of the table.
    step : float
        Distance between neighbouring values that can occur, in intensity units.
    is_fitted : bool
        Whether EM found the variances, so that the weighted Gaussians are the mixture of equation 8.
    """

    truth: NDArray[np.float64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]
    weights: NDArray[np.float64]
    step: float
    is_fitted: bool

    def densities(self, intensities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each candidate's weight times the density of its Gaussian.

        Parameters
        ----------
        intensities : (P,) float64

        Returns
        -------
        (M, P) float64
            Per intensity unit; NaN for a candidate that is constant in the bin set.
        """
        means, weights = self.means[:, None], self.weights[:, None]
        variances = np.where(self.variances > 0, self.variances, np.nan)[:, None]
        exponent = -0.5 * (intensities - means) ** 2 / variances
        return np.asarray(weights * np.exp(exponent) / np.sqrt(2 * np.pi * variances))


def bin_set_of(
    lut: WeightLUT, statistics: Statistics, intensities: Sequence[float], channel: int = 0
) -> BinSet:
    """Return the bin set of a table in which intensities fall.

    Parameters
    ----------
    lut : WeightLUT
    statistics : Statistics
        Those that the table was estimated from, in the same or narrower bins.
    intensities : M numbers
        One per candidate, in intensity units.
    channel : int
        The channel whose table is used; 0 if channels are pooled.

    Returns
    -------
    BinSet

    Raises
    ------
    EnsembleError
        If no pixel was learned from in this bin set.

    Examples
    --------
    >>> from napari_ensir import FitSession
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> session = FitSession([((truth // 2 * 2, truth // 4 * 4), truth)], method="em", device="cpu")
    >>> lut = session.estimate()
    >>> found = bin_set_of(lut, session.reference.statistics, (40, 40))
    >>> found.truth.min(), found.truth.max(), found.means
    (np.float64(32.0), np.float64(63.0), array([47., 46.]))
    """
    weights = lut.weights_for(intensities, channel)
    row = np.array([*lut.binning.bins(np.asarray(intensities, np.float64)), channel])
    factor = np.full(len(row), lut.binning.multiple_of(statistics.binning) or 1)
    factor[-1] = 1
    inside = np.flatnonzero((statistics.rows // factor == row).all(axis=1))
    if not len(inside):
        raise EnsembleError("No pixel was learned from in this bin set, so it has no histogram.")
    one = statistics.subset(inside).in_bins(lut.binning)
    variances, is_fitted = one.variances, False
    found = find_method(lut.method).load()(one, Settings.from_dict(lut.report.get("settings"), len(weights)))
    if found.variances is not None:
        variances, is_fitted = found.variances, OUTCOMES[found.outcome[0]] in ("converged", "iteration limit")
    step = one.binning.step
    return BinSet(one.truth, one.level_counts, one.means[0], variances[0], weights, step, is_fitted)

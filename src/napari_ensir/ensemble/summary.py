"""A lookup table in few numbers: what a plot or a text can show of it. Draws nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["bin_centres", "figures", "pair_map", "weights_along_intensity"]


def figures(value: float) -> str:
    """An intensity or a bin width for reading: four digits, or all those before the point.

    Parameters
    ----------
    value : float
        Intensity units.

    Returns
    -------
    str

    Examples
    --------
    >>> figures(0.11962890625), figures(32.0), figures(8191.875), figures(65535)
    ('0.1196', '32', '8192', '65535')
    """
    return f"{value:.{max(4, len(str(int(abs(value)))))}g}"


def bin_centres(lut: WeightLUT) -> NDArray[np.float64]:
    """Middle of each intensity bin, (T,), intensity units; the last one's within the data range."""
    edges = lut.binning.low + lut.binning.width * np.arange(lut.binning.n_bins + 1)
    edges[-1] = min(edges[-1], lut.binning.high)
    return np.asarray((edges[:-1] + edges[1:]) / 2, np.float64)


def _shares(
    lut: WeightLUT, channel: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Bins, weights and pixels of a channel's bin sets; each set counts one where pixels are not known."""
    here = lut.rows[:, -1] == channel
    counts = lut.counts[here]
    known = np.where(counts < 0, 1, counts).astype(np.float64)
    return lut.rows[here, :-1].astype(np.int64), lut.weights[here], known


def weights_along_intensity(
    lut: WeightLUT, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each candidate's weight where the candidates together have an intensity.

    Parameters
    ----------
    lut : WeightLUT
    channel : int

    Returns
    -------
    weights : (T, M) float64
        Mean over the bin sets whose median candidate lies in bin ``t``, by pixels; NaN where there is none.
    counts : (T,) float64
        Pixels behind them; bin sets, where the table does not know its pixels.
    """
    bins, weights, counts = _shares(lut, channel)
    # The median candidate's bin: a real bin, and not moved by one candidate that strays.
    place = np.sort(bins, axis=1)[:, (bins.shape[1] - 1) // 2]
    total = np.bincount(place, counts, minlength=lut.binning.n_bins).astype(np.float64)
    sums = np.stack([np.bincount(place, counts * w, minlength=lut.binning.n_bins) for w in weights.T], axis=1)
    mean = np.full_like(sums, np.nan)
    np.divide(sums, total[:, None], out=mean, where=total[:, None] > 0)
    return np.asarray(mean, np.float64), total


def pair_map(
    lut: WeightLUT, first: int, second: int, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of one candidate where it and another have given intensities.

    Parameters
    ----------
    lut : WeightLUT
    first, second : int
        Candidates: rows and columns of the map. The weight is the first's.
    channel : int

    Returns
    -------
    weights : (T, T) float64
        Mean over the other candidates' bins, by pixels; NaN where no pixel was seen.
    counts : (T, T) float64
    """
    bins, weights, counts = _shares(lut, channel)
    n = lut.binning.n_bins
    place = bins[:, first] * n + bins[:, second]
    total = np.bincount(place, counts, minlength=n * n).astype(np.float64)
    sums = np.bincount(place, counts * weights[:, first], minlength=n * n)
    mean = np.full(n * n, np.nan)
    np.divide(sums, total, out=mean, where=total > 0)
    return mean.reshape(n, n), total.reshape(n, n)

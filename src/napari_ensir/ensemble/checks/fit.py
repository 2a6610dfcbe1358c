"""What a user should know of a fit before trusting it, in sentences. Refuses and changes nothing.

All of it comes from what was counted: no pixel is looked at again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.arrays.image_set import describe_candidate
from napari_ensir.ensemble.estimators.base import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.estimators.base import Estimate
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.statistics import Statistics

__all__ = ["doubts", "range_warning", "share_outside"]


WORTH_SAYING = 0.01
"""Share of pixels outside the range from which on it is said: noise puts a few of them there."""


def share_outside(binning: Binning, image: ArrayLike) -> float:
    """Which share of an image's pixels lies outside a table's range, and so goes to its end bins.

    Parameters
    ----------
    binning : Binning
        The bins of a table: ``lut.binning``.
    image
        Intensities of any shape, an integer or float dtype; one plane of a large image will do.

    Returns
    -------
    float
        0 to 1, of the finite pixels; 0 where there are none.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([([truth // 2 * 2, truth // 4 * 4], truth)])
    >>> share_outside(lut.binning, truth), share_outside(lut.binning, truth * np.uint16(16))
    (0.0, 0.9375)
    """
    values = np.asarray(image)
    finite = np.isfinite(values)
    outside = finite & ((values < binning.low) | (values > binning.high))
    return float(outside.sum() / max(1, finite.sum()))


def range_warning(binning: Binning, name: str, image: ArrayLike) -> str:
    """A sentence about an image whose intensities a table was not made for; empty if they suit it.

    Parameters
    ----------
    binning : Binning
        The bins of a table: ``lut.binning``.
    name : str
        What to call the image.
    image
        As for :func:`share_outside`.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([([truth // 2 * 2, truth // 4 * 4], truth)])
    >>> range_warning(lut.binning, "a", truth)
    ''
    >>> print(range_warning(lut.binning, "a", truth * np.uint16(16)))
    93.8% of the pixels of "a" lie outside the table's range, 0 to 255: it was learned on another scale.
    >>> print(range_warning(lut.binning, "a", truth / 255))
    All of "a" (0 to 1) lies in one bin of the table, 0 to 255 in bins of 32: it was learned on another scale.
    """
    low, high = binning.low, binning.high
    outside = share_outside(binning, image)
    if outside > WORTH_SAYING:
        return (
            f'{outside:.1%} of the pixels of "{name}" lie outside the table\'s range, {low:g} to {high:g}: '
            "it was learned on another scale."
        )
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max() or binning.n_bins < 2:
        return ""
    ends = np.array([values.min(), values.max()], np.float64)
    if np.ptp(binning.bins(ends)) > 0:
        return ""
    return (
        f'All of "{name}" ({ends[0]:g} to {ends[1]:g}) lies in one bin of the table, {low:g} to {high:g} in '
        f"bins of {binning.width:g}: it was learned on another scale."
    )


MANY = 0.1
"""Share of the pixels without a solution from which on it is said: flat or saturated areas are ordinary."""

MOVED = 8.0
"""Ratio of contrasts that shows another scale, where the means differ too."""

FAR_MOVED = 30.0
"""So many times the truth's contrast shows another scale, whatever the mean.

So small a part of it does not: a truth may be all noise."""

APART = 5.0
"""Means so many standard deviations apart show another offset."""


def doubts(statistics: Statistics, names: Sequence[str], estimate: Estimate) -> list[str]:
    """Sentences on candidates that are constant or on another scale, on the range, on EM without solutions.

    Parameters
    ----------
    statistics : Statistics
    names : M strings
    estimate : Estimate
        Of these statistics.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    >>> lut = fit_lut([((truth // 2 * 2, truth // 256), truth)], names=("A", "B"), device="cpu")
    >>> print(lut.report["warnings"][0])  # doctest: +ELLIPSIS
    candidate 2 ("B") has a mean of 7.5 and a standard deviation of 4.61; the ground truth has 2048 and ...
    """
    means, deviations = _moments(statistics)
    flat = [m for m in range(len(names)) if deviations[m] == 0]
    found = [
        f"{describe_candidate(m, names)} has one intensity only, {means[m]:.6g}; it is of no use here."
        for m in flat
    ]
    found += [
        f"{describe_candidate(m, names)} has a mean of {means[m]:.3g} and a standard deviation of "
        f"{deviations[m]:.3g}; the ground truth has {means[-1]:.4g} and {deviations[-1]:.4g}. "
        "Bring them to one scale, or the weights mean nothing."
        for m in range(len(names))
        if m not in flat and _is_elsewhere(means[[m, -1]], deviations[[m, -1]])
    ]
    return [*found, *_outside(statistics, names), *_unsolved(statistics, names, estimate, flat)]


def _moments(statistics: Statistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each candidate and of the truth, (M + 1,), intensity units."""
    counts = statistics.counts[:, None]
    total = max(1, statistics.n_pixels)
    mean = (counts * statistics.means).sum(axis=0) / total
    variance = (counts * (statistics.variances + (statistics.means - mean) ** 2)).sum(axis=0) / total
    # Within bin sets the variance of a constant candidate is zero exactly; the sum of means is rounded.
    variance[(statistics.variances == 0).all(axis=0) & (np.ptp(statistics.means, axis=0) == 0)] = 0
    truth = float((statistics.truth * statistics.level_counts).sum() / total)
    spread = float((statistics.level_counts * (statistics.truth - truth) ** 2).sum() / total)
    return np.append(mean, truth), np.sqrt(np.append(variance, spread))


def _is_elsewhere(means: NDArray[np.float64], deviations: NDArray[np.float64]) -> bool:
    """Whether a candidate's and the truth's intensities differ as those of two scales do."""
    least, most = float(deviations.min()), float(deviations.max())
    apart = float(abs(means[0] - means[1]))
    return bool(
        deviations[0] > FAR_MOVED * deviations[1]
        or (most > MOVED * least and apart > most / 2)
        or apart > APART * (least + most)
    )


def _outside(statistics: Statistics, names: Sequence[str]) -> list[str]:
    """Candidates with many pixels outside the range; the truth is in no bin, and may have noise there."""
    low, high = statistics.binning.low, statistics.binning.high
    who = [describe_candidate(m, names) for m in range(len(names))]
    shares = statistics.outside[:-1] / max(1, statistics.n_pixels)
    return [
        f"{share:.1%} of the pixels of {one} lie outside the data range, {low:g} to {high:g}, and count in "
        "its end bins."
        for one, share in zip(who, shares, strict=True)
        if share > WORTH_SAYING
    ]


def _unsolved(
    statistics: Statistics, names: Sequence[str], estimate: Estimate, flat: Sequence[int]
) -> list[str]:
    """Bin sets for which EM has no solution, since a candidate is constant there."""
    unsolved = estimate.outcome == OUTCOMES.index("no solution")
    share = float(statistics.counts[unsolved].sum() / max(1, statistics.n_pixels))
    if not unsolved.any() or not (flat or share > MANY):
        return []
    constant = (statistics.variances[unsolved] == 0).sum(axis=0)
    guilty = [m for m in range(len(names)) if 2 * constant[m] >= max(1, constant.max())]
    return [
        f"EM has no solution in {unsolved.sum()} of {len(unsolved)} bin sets, {share:.0%} of the pixels, "
        f"and keeps its start weights there: {' and '.join(describe_candidate(m, names) for m in guilty)} "
        f"{'is' if len(guilty) == 1 else 'are'} constant in them."
    ]

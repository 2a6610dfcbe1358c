"""Checks of a fit from its statistics: constant candidates, other scales, range, unsolved bin sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.image_set import describe_candidate
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose, sort_diagnostics
from napari_ensir.ensemble.estimators.base import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.estimators.base import Estimate
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.statistics import Statistics


OUTSIDE = 0.01
"""Share of pixels outside the range that is reported of a fit: noise puts a few of them there."""

FAR = 0.5
"""Share of the range beyond its ends, and share of pixels there, that shows a table of another scale."""

NARROW = 0.125
"""Share of a bin width that an image of another scale spans at most."""


def check_range(binning: Binning, name: str, image: ArrayLike) -> list[Diagnostic]:
    """Check that a table's range is the scale of an image, before it is applied.

    Other fields may be brighter or darker than those learned from: what is reported is another unit.

    Parameters
    ----------
    binning : Binning
        The bins of a table: ``lut.binning``.
    name : str
        Of the candidate.
    image
        Intensities of any shape, an integer or float dtype; one plane of a large image is enough.

    Returns
    -------
    list of Diagnostic
        At most one: most pixels lie outside the range by more than half its width, or all span less than an
        eighth of one bin.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([([truth // 2 * 2, truth // 4 * 4], truth)])
    >>> check_range(lut.binning, "a", truth + 50)
    []
    >>> print(*check_range(lut.binning, "a", truth * np.uint16(16)))
    91% of the pixels of "a" lie far outside the table's range, 0 to 255: it was learned on another scale.
    >>> print(*check_range(lut.binning, "a", truth / 255))
    All of "a" (0 to 1) lies in one bin of the table, 0 to 255 in bins of 32: it was learned on another scale.
    """
    low, high = binning.low, binning.high
    fix = {"action": "match-intensities", "candidates": [name]}
    values = np.asarray(image, np.float64)
    finite = np.isfinite(values)
    values = values if finite.all() else values[finite]
    ends = np.array([values.min(), values.max()] if values.size else [0, 0])
    if ends[0] == ends[1]:
        return []
    margin = FAR * (high - low)
    if ends[0] < low - margin or ends[1] > high + margin:
        far = float(((values < low - margin) | (values > high + margin)).mean())
        if far > FAR:
            return [diagnose("outside-range", fix, share=far, name=name, low=low, high=high)]
    if binning.n_bins < 2 or np.ptp(ends) > NARROW * binning.width or np.ptp(binning.bins(ends)) > 0:
        return []
    table = {"low": low, "high": high, "width": binning.width}
    return [diagnose("one-bin", fix, name=name, least=ends[0], most=ends[1], **table)]


UNSOLVED = 0.1
"""Share of the pixels without a solution that is reported: flat or saturated areas are ordinary."""

TOO_FEW = 0.9
"""Share of the pixels in bin sets with too few pixels that is reported."""

CHANNELS = 32
"""More places along the channel axis are reported."""

CONTRAST = 8.0
"""Ratio of standard deviations that shows another scale, where the means differ too."""

GREAT_CONTRAST = 30.0
"""A standard deviation this many times the truth's shows another scale, whatever the mean.

A small fraction of it does not: a truth may be all noise."""

APART = 5.0
"""Means this many standard deviations apart show another offset."""


def check_fit(
    statistics: Statistics,
    names: Sequence[str],
    estimate: Estimate,
    channel_axis: int | None = None,
) -> list[Diagnostic]:
    """Check a fit: constant candidates, other scales, the data range, bin sets without a solution.

    Parameters
    ----------
    statistics : Statistics
    names : M strings
    estimate : Estimate
        Of these statistics.
    channel_axis : int, optional

    Returns
    -------
    list of Diagnostic
        Most severe first.

    Examples
    --------
    >>> from napari_ensir.ensemble.estimators.em import em
    >>> from napari_ensir.ensemble.estimators.base import Settings
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> truth = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    >>> found = collect_reference([((truth // 2 * 2, truth // 256), truth)], device="cpu").statistics
    >>> print(check_fit(found, ("A", "B"), em(found, Settings()))[0])  # doctest: +ELLIPSIS
    candidate 2 ("B") has a mean of 7.5 and a standard deviation of 4.61; the ground truth has 2048 and ...
    """
    means, deviations = moments(statistics)
    flat = [m for m in range(len(names)) if deviations[m] == 0]
    limits = {"low": statistics.binning.low, "high": statistics.binning.high}
    # The truth is not binned, and may have noise outside the range.
    outside = statistics.outside[:-1] / max(1, statistics.n_pixels)
    found = []
    for m, name in enumerate(names):
        who, about = describe_candidate(m, names), {"candidates": [name]}
        if m in flat:
            fix: dict[str, Any] = {"action": "drop-candidate", **about}
            found.append(diagnose("constant/fit", fix, who=who, mean=means[m]))
        elif _differs(means[[m, -1]], deviations[[m, -1]]):
            gain = float(deviations[-1] / deviations[m])
            offset = float(means[-1] - gain * means[m])
            fix = {"action": "match-intensities", **about, "gain": gain, "offset": offset}
            own = {"mean": means[m], "deviation": deviations[m]}
            true = {"true_mean": means[-1], "true_deviation": deviations[-1]}
            found.append(diagnose("scale-mismatch/fit", fix, who=who, **own, **true))
        if outside[m] > OUTSIDE:
            fix = {"action": "match-intensities", **about}
            found.append(diagnose("outside-range/fit", fix, who=who, share=outside[m], **limits))
    found += _unsolved(statistics, names, estimate, flat)
    if statistics.n_channels > CHANNELS:
        found.append(diagnose("many-channels", axis=channel_axis, n=statistics.n_channels))
    return sort_diagnostics(found)


def moments(statistics: Statistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def correlations(statistics: Statistics) -> list[list[float]]:
    """Correlation of each candidate with each other, (M, M), over the pixels of the fit.

    From the candidates' variances and their mean squared differences, ``G_mm + G_kk - 2 G_mk`` with the error
    Gram matrix ``G``.
    """
    means, deviations = (values[:-1] for values in moments(statistics))
    gram = statistics.error_gram.sum(axis=0) / max(1, statistics.n_pixels)
    apart = np.diag(gram)[:, None] + np.diag(gram) - 2 * gram
    variance = deviations**2
    covariance = (variance[:, None] + variance + (means[:, None] - means) ** 2 - apart) / 2
    size = deviations[:, None] * deviations
    known = np.where(size > 0, covariance / np.where(size > 0, size, 1.0), 0.0)
    return [[float(value) for value in row] for row in known.clip(-1, 1)]


def _differs(means: NDArray[np.float64], deviations: NDArray[np.float64]) -> bool:
    """Whether a candidate and the truth are on different scales."""
    least, most = float(deviations.min()), float(deviations.max())
    apart = float(abs(means[0] - means[1]))
    return bool(
        deviations[0] > GREAT_CONTRAST * deviations[1]
        or (most > CONTRAST * least and apart > most / 2)
        or apart > APART * (least + most)
    )


def _unsolved(
    statistics: Statistics, names: Sequence[str], estimate: Estimate, flat: Sequence[int]
) -> Iterator[Diagnostic]:
    """Bin sets in which EM keeps its start weights: a candidate is constant there, or pixels are too few."""
    width, total = statistics.binning.width, max(1, statistics.n_pixels)
    for outcome in ("no solution", "too few pixels"):
        chosen = estimate.outcome == OUTCOMES.index(outcome)
        share = float(statistics.counts[chosen].sum() / total)
        numbers = {"n": chosen.sum(), "total": len(chosen), "share": share}
        if outcome == "too few pixels" and share > TOO_FEW:
            fix = {"action": "set-bin-width", "value": 4 * width}
            yield diagnose("too-few-pixels", fix, width=width, **numbers)
        elif outcome == "no solution" and chosen.any() and (flat or share > UNSOLVED):
            constant = (statistics.variances[chosen] == 0).sum(axis=0)
            guilty = [m for m in range(len(names)) if 2 * constant[m] >= max(1, constant.max())]
            who = " and ".join(describe_candidate(m, names) for m in guilty)
            yield diagnose("no-solution", who=f"{who} {'is' if len(guilty) == 1 else 'are'}", **numbers)

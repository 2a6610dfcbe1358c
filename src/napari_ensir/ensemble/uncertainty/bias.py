"""Mean errors of candidates and ensemble by intensity, with standard errors.

Errors are averaged in two ways. *By the truth*: over pixels that truly have an intensity. Smoothing shows
there as a pull of bright and dark pixels toward common intensities. *By the reading*: over pixels where an
image itself shows an intensity. The estimate of least squared error is unbiased there, although it pulls
toward the middle as well. The first kind of bias matters for comparisons of dim and bright places, the second
for a single reading. Noise of the truth distorts the first (the brightest pixels of a noisy truth are mostly
pixels with positive noise) and leaves the second unchanged.

Errors of neighbouring pixels are correlated, so a standard error over pixels would be far too small. It is
taken over groups: whole images, or blocks of them where images are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.uncertainty.error_table import ErrorSums

By = Literal["truth", "reading"]

MAX_CHANNELS = 4
"""Most channels that a report keeps apart, enough for a camera; more, as of a spectrum, are pooled."""

_KINDS: tuple[By, By] = ("truth", "reading")


@dataclass(frozen=True, eq=False)
class BiasCurve:
    """Mean of image minus ground truth, by intensity.

    Attributes
    ----------
    by : "truth" or "reading"
        Whether pixels are classed by the truth's intensity, or by each image's own.
    intensities : (K,) float64
        Middle of each class, in intensity units.
    bias : (C, M + 1, K) float64
        Mean error by channel, of each candidate and, last, the ensemble, in intensity units; NaN without
        pixels.
    standard_error : (C, M + 1, K) float64
        Standard error of the bias, over images or blocks of them; NaN if only one of these has pixels.
    pixels : (C, M + 1, K) int64
        Number of pixels.
    """

    by: By
    intensities: NDArray[np.float64]
    bias: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    pixels: NDArray[np.int64]


def bias_curve(report: Mapping[str, Any], by: By = "truth") -> BiasCurve:
    """Read the mean errors by intensity from a table's report.

    Parameters
    ----------
    report
        Report of a calibrated table: :meth:`napari_ensir.WeightLUT.calibrated`.
    by
        ``"truth"``: errors of pixels that truly have an intensity. ``"reading"``: errors of pixels where an
        image shows an intensity.

    Returns
    -------
    BiasCurve

    Raises
    ------
    EnsembleError
        If the table was not calibrated (or by a version that kept no mean errors), if ``by`` is ``"truth"``
        and the truth was noisy, or if the report is damaged.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (96, 96)).astype(np.float32)
    >>> pairs = [([truth + 3 + rng.normal(0, 2, truth.shape), truth * 0.9], truth)]
    >>> lut = fit_lut(pairs, data_range=(0, 200), device="cpu").calibrated(pairs)
    >>> curve = bias_curve(lut.report)
    >>> bool(abs(curve.bias[0, 0] - 3).max() < 1), bool(curve.bias[0, 1, -1] < -18)
    (True, True)
    """
    if by not in _KINDS:
        raise EnsembleError(f'by is {by!r}; use "truth" or "reading".')
    kept = report.get("bias")
    if not isinstance(kept, dict):
        raise EnsembleError(
            "the table has no mean errors by intensity; add them with lut.calibrated(reference), or fit "
            "again."
        )
    if by == "truth" and by not in kept and "reading" in kept:
        raise EnsembleError(
            "the ground truth was noisy, which biases mean errors by its intensity; use those by the reading."
        )
    damaged = "the table's mean errors by intensity are damaged; fit again."
    try:
        bias, error, pixels = (
            np.array(kept[by][key], np.float64) for key in ("bias", "standard_error", "pixels")
        )
        low, high = float(kept["low"]), float(kept["high"])
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise EnsembleError(damaged) from cause
    good = bias.ndim == 3 and bias.size > 0 and bias.shape == error.shape == pixels.shape
    if not good or not (np.isfinite([low, high]).all() and low < high and np.isfinite(pixels).all()):
        raise EnsembleError(damaged)
    n = bias.shape[-1]
    intensities = low + (np.arange(n) + 0.5) * (high - low) / n
    return BiasCurve(by, intensities, bias, error, pixels.astype(np.int64))


def bias_report(groups: Sequence[ErrorSums], over: str, noise: float = 0.0) -> dict[str, Any]:
    """Make the entry of a table's report that :func:`bias_curve` reads.

    Parameters
    ----------
    groups
        Sums over groups of pixels; standard errors are taken over the groups.
    over
        What the groups are, in words.
    noise
        Standard deviation of the truth's noise: above zero, errors by the truth are left out.

    Returns
    -------
    dict
        Plain numbers in nested lists, None for NaN.
    """
    first = groups[0]
    counts = np.stack([group.bias_counts for group in groups])
    errors = np.stack([group.bias_errors for group in groups])
    if counts.shape[2] > MAX_CHANNELS:
        counts, errors = (each.sum(axis=2, keepdims=True) for each in (counts, errors))
    report: dict[str, Any] = {"low": first.low, "high": first.high, "over": over}
    for place, kind in enumerate(_KINDS):
        if kind == "truth" and noise > 0:
            continue
        mean, error = _mean_and_error(counts[:, place], errors[:, place], first.step)
        report[kind] = {
            "bias": _to_lists(mean),
            "standard_error": _to_lists(error),
            "pixels": counts[:, place].sum(axis=0).tolist(),
        }
    return report


def _mean_and_error(
    counts: NDArray[np.int64], errors: NDArray[np.int64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean error, and its standard error over groups, the first axis (Cochran 1977, eq. 6.10).

    The mean is a ratio of two sums over groups. Linearised, its variance is that of the groups' residuals
    ``r = errors - mean * counts``.
    """
    total = counts.sum(axis=0).astype(np.float64)
    groups = (counts > 0).sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = errors.sum(axis=0) / total
        residuals = np.where(counts > 0, errors - mean * counts, 0.0)
        error = np.sqrt((residuals**2).sum(axis=0) * groups / (groups - 1)) / total
    error[groups < 2] = np.nan
    return mean * step, error * step


def _to_lists(numbers: NDArray[np.float64]) -> Any:
    """Nested lists, rounded to five digits; None for NaN."""
    if numbers.ndim:
        return [_to_lists(one) for one in numbers]
    return float(f"{float(numbers):.5g}") if np.isfinite(numbers) else None


def rescale(values: Any, gain: float, offset: float = 0.0) -> Any:
    """Convert numbers in nested lists to ``gain * x + offset``; anything else stays as it is.

    Examples
    --------
    >>> rescale([[1, None], 2.5], 2, 1)
    [[3.0, None], 6.0]
    """
    if isinstance(values, list):
        return [rescale(each, gain, offset) for each in values]
    try:
        return float(gain * values + offset) if type(values) in (int, float) else values
    except OverflowError:  # JSON knows whole numbers of any size
        return values


def rescale_bias_report(kept: Any, gain: float, offset: float) -> Any:
    """Convert the entry of a report to intensities ``gain * x + offset``; return a damaged one unchanged."""
    if not isinstance(kept, dict):
        return kept
    found = kept | {end: rescale(kept.get(end), gain, offset) for end in ("low", "high")}
    for kind in _KINDS:
        if isinstance(curve := kept.get(kind), dict):
            found[kind] = curve | {key: rescale(curve.get(key), gain) for key in ("bias", "standard_error")}
    return found

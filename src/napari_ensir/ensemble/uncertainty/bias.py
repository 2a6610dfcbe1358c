"""Whether intensities survive: mean errors of candidates and ensemble by intensity. Removes no bias.

    images held out --image minus truth--> sums by intensity, in groups --over the groups--> mean, its error

Errors are looked at in two ways. *By the truth*: what becomes of pixels that truly have an intensity.
Whatever smooths shows there that it draws bright and dark ones toward what is common. *By the reading*: how
far off an image is, on average, where it says an intensity; the guess of least squared error is zero there,
though it draws to the middle as much as any. Comparisons of dim and bright places suffer from the first, a
single reading from the second. Noise of the truth makes the first false, for among its brightest pixels are
those whose noise is positive, and leaves the second as it is.

Errors of neighbouring pixels are alike, so a standard error over pixels would be far too small. It is taken
over groups of whole images, or of blocks of them where images are few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.ensemble.uncertainty.error_table import MOST, ErrorScale, first_of_channel, where_known
from napari_ensir.ensemble.uncertainty.measure import flattened
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field

__all__ = ["CLASSES", "BiasSums", "By", "Fidelity", "fidelity_of", "fidelity_report", "rescaled_fidelity"]

By = Literal["truth", "reading"]

CLASSES = 32
"""Classes of intensity, over the data range."""

MOST_CHANNELS = 4
"""Channels that a report keeps apart: all of a camera's; those of a spectrum are pooled."""

_WAYS: tuple[By, By] = ("truth", "reading")


@dataclass(frozen=True, eq=False)
class BiasSums(ErrorScale):
    """Errors of candidates and their ensemble, summed by intensity.

    Attributes
    ----------
    low, high : float
        Data range in intensity units.
    counts : (2, C, M + 1, CLASSES) int64
        Pixels: by the truth, then by the image's own intensity; of the candidates, then of the ensemble.
    errors : (2, C, M + 1, CLASSES) int64
        Sums of image minus truth, in steps.
    """

    counts: NDArray[np.int64]
    errors: NDArray[np.int64]

    @classmethod
    def empty(cls, low: float, high: float, n_channels: int, n_candidates: int) -> BiasSums:
        """The sums of no pixels."""
        shape = (2, n_channels, n_candidates + 1, CLASSES)
        return cls(low, high, np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def __add__(self, other: BiasSums) -> BiasSums:
        return replace(self, counts=self.counts + other.counts, errors=self.errors + other.errors)

    def counted(
        self, ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None
    ) -> BiasSums:
        """The sums of one block, whose arrays are in memory.

        Parameters
        ----------
        ensemble
            Of the block.
        field
            The block; its truth is known.
        keep
            Where to look; None: everywhere. Pixels that are not finite never count.
        """
        loops = compiled_loops()
        if loops is not None:
            counts, errors = np.zeros((2, self.counts.size), np.int64)
            grid = [self.low, CLASSES / (self.high - self.low), CLASSES, self.step, MOST]
            loops.count_biases(*flattened(ensemble, field, keep), np.array(grid, np.float64), counts, errors)
            shape = self.counts.shape
            return replace(self, counts=counts.reshape(shape), errors=errors.reshape(shape))
        whole = np.asarray(field.truth, np.float64)
        good, n_channels = where_known(ensemble, whole, keep), self.counts.shape[1]
        channel = first_of_channel(field.shape, field.channel_axis, n_channels, CLASSES)[good]
        truth = whole[good]
        by_truth = self.classes_of(truth, CLASSES) + channel
        counts, errors = np.zeros_like(self.counts), np.zeros_like(self.errors)
        counts[0] = self._histogram(by_truth)[:, np.newaxis]
        for place, image in enumerate((*field.candidates, ensemble)):
            values = np.asarray(image)[good].astype(np.float64)
            error = self.levels(values, truth)
            by_reading = self.classes_of(values, CLASSES) + channel
            counts[1, :, place] = self._histogram(by_reading)
            errors[0, :, place] = self._histogram(by_truth, error)
            errors[1, :, place] = self._histogram(by_reading, error)
        return replace(self, counts=counts, errors=errors)

    def _histogram(
        self, keys: NDArray[np.int32], weights: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        n_channels = self.counts.shape[1]
        found = np.bincount(keys, weights, n_channels * CLASSES)
        return found.astype(np.int64).reshape(n_channels, CLASSES)


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Mean of image minus ground truth, by intensity.

    Attributes
    ----------
    by : "truth" or "reading"
        Whether pixels were put together by the truth's intensity, or each image's by its own.
    intensities : (K,) float64
        Middle of each class, intensity units.
    bias : (C, M + 1, K) float64
        By channel, of each candidate and, last, the ensemble; intensity units. NaN where there was no pixel.
    standard_error : (C, M + 1, K) float64
        Of the bias, over images or blocks of them; NaN where only one of these has such pixels.
    pixels : (C, M + 1, K) int64
        Behind each.
    """

    by: By
    intensities: NDArray[np.float64]
    bias: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    pixels: NDArray[np.int64]


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


def fidelity_report(groups: Iterable[BiasSums], over: str, noise: float = 0.0) -> dict[str, Any]:
    """What a table's report keeps: plain numbers, None where there is none; see :func:`fidelity_of`.

    Parameters
    ----------
    groups
        The standard error is taken over them.
    over
        What they are, in words.
    noise
        Standard deviation of the truth's noise: above zero, nothing is said by the truth.
    """
    kept = list(groups)
    counts, errors = (np.stack([getattr(one, name) for one in kept]) for name in ("counts", "errors"))
    if counts.shape[2] > MOST_CHANNELS:
        counts, errors = (each.sum(axis=2, keepdims=True) for each in (counts, errors))
    report: dict[str, Any] = {"low": kept[0].low, "high": kept[0].high, "over": over}
    for place, way in enumerate(_WAYS):
        if way == "truth" and noise > 0:
            continue
        mean, error = _mean_and_error(counts[:, place], errors[:, place], kept[0].step)
        report[way] = {
            "bias": _plain(mean),
            "standard_error": _plain(error),
            "pixels": counts[:, place].sum(axis=0).tolist(),
        }
    return report


def _plain(numbers: NDArray[np.float64]) -> Any:
    """Nested lists of five digits each; None for what is no number."""
    if numbers.ndim:
        return [_plain(one) for one in numbers]
    return float(f"{float(numbers):.5g}") if np.isfinite(numbers) else None


def fidelity_of(report: Mapping[str, Any], by: By = "truth") -> Fidelity:
    """The mean errors by intensity that a table's report keeps.

    Parameters
    ----------
    report
        Of a calibrated table: :meth:`napari_ensir.WeightLUT.calibrated`.
    by
        ``"truth"``: what becomes of a true intensity. ``"reading"``: how far off an intensity is that is read
        from the image, on average.

    Returns
    -------
    Fidelity

    Raises
    ------
    EnsembleError
        If the report has none: of a table that was not calibrated, or was by an earlier version; or none by
        the truth, because that carried noise.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (96, 96)).astype(np.float32)
    >>> pairs = [([truth + 3 + rng.normal(0, 2, truth.shape), truth * 0.9], truth)]
    >>> lut = fit_lut(pairs, data_range=(0, 200), device="cpu").calibrated(pairs)
    >>> curve = fidelity_of(lut.report)
    >>> bool(abs(curve.bias[0, 0] - 3).max() < 1), bool(curve.bias[0, 1, -1] < -18)
    (True, True)
    """
    if by not in _WAYS:
        raise EnsembleError(f'by is {by!r}; use "truth" or "reading".')
    kept = report.get("fidelity")
    if not isinstance(kept, dict):
        raise EnsembleError(
            "the table has no mean errors by intensity; give it them with lut.calibrated(reference), or fit "
            "again."
        )
    if by == "truth" and by not in kept and "reading" in kept:
        raise EnsembleError(
            "the ground truth carried noise, so mean errors by its intensity would be false; those by the "
            "reading are true."
        )
    try:
        parts = [np.array(kept[by][key], np.float64) for key in ("bias", "standard_error", "pixels")]
        low, high = float(kept["low"]), float(kept["high"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EnsembleError("the table's mean errors by intensity are damaged; fit again.") from error
    bias, spread, pixels = parts
    good = bias.ndim == 3 and bias.size > 0 and bias.shape == spread.shape == pixels.shape
    if not good or not (np.isfinite([low, high]).all() and low < high and np.isfinite(pixels).all()):
        raise EnsembleError("the table's mean errors by intensity are damaged; fit again.")
    n = bias.shape[-1]
    intensities = low + (np.arange(n) + 0.5) * (high - low) / n
    return Fidelity(by, intensities, bias, spread, pixels.astype(np.int64))


def rescaled_fidelity(kept: Any, gain: float, offset: float) -> Any:
    """What a report keeps where intensities are now ``gain * x + offset``; unchanged if it is damaged."""
    try:
        found = {**kept, "low": gain * kept["low"] + offset, "high": gain * kept["high"] + offset}
        for way in _WAYS:
            if way in kept:
                scaled = {key: _times(kept[way][key], gain) for key in ("bias", "standard_error")}
                found[way] = {**kept[way], **scaled}
    except (KeyError, TypeError):
        return kept
    return found


def _times(numbers: Sequence[Any] | float | None, gain: float) -> Any:
    if isinstance(numbers, list):
        return [_times(one, gain) for one in numbers]
    return None if numbers is None else float(numbers * gain)  # type: ignore[operator]

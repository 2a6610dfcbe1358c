"""Checks of gain and offset: between candidates and a table, and between candidates and a second exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array, dtype_of, is_dask, is_torch
from napari_ensir.ensemble.arrays.image_set import as_numbers, make_field
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose, linear_text
from napari_ensir.ensemble.checks.planes import sample_planes
from napari_ensir.ensemble.statistics.reference import PERCENTS, compute_percentiles
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


SAME_SHAPE, SAME_GAIN, SAME_OFFSET = 0.012, 1.1, 0.05
"""Percentiles that are gain and offset of others up to the first share of their standard deviation are of
another exposure if the gain exceeds the second figure, either way, or the offset the third, as a share of the
intensity spread: other fields have histograms of other shapes."""

GROSS_GAIN = 5.0
"""Ratio of intensity spreads, either way, beyond which images of any shape are of another exposure. Fields of
one sample differ by up to 3.6 in the microscopy benchmark."""

FAR = 0.5
"""Share of the intensity spread by which the median lies outside the percentiles learned from."""

FLOOR_WIDTH, FLOOR_SHIFT = 0.06, 0.1
"""A dark background shows if the lowest tenth of the pixels spans at most the first share of the intensity
spread. Backgrounds that differ by more than the second share show another offset."""

SMOOTHING = 5.0
"""Standard deviation of the Gaussian, in pixels, that images are blurred with before they are regressed."""

BLOCKS = 8
"""Blocks along rows and columns that are left out in turn for the standard errors."""

SIGNIFICANT = 3.0
"""Standard errors beyond which a drift is corrected."""

MATERIAL = 0.03
"""Least drift that is corrected: of the gain, or of the mean in standard deviations of the blurred image.

Restorations that lose contrast differ from a second exposure by less.
"""


@dataclass(frozen=True)
class Exposure:
    """Intensities as ``gain * x + offset`` of those that a table was learned on.

    Attributes
    ----------
    gain : float
        Above 0.
    offset : float
        In intensity units.
    differs : bool
        Whether they differ by more than other fields of one sample do.
    spread : float
        Difference of the outermost percentiles of the images, in intensity units.
    """

    gain: float
    offset: float
    differs: bool
    spread: float

    def check(
        self,
        remedy: str = "match the table with --match, or lut.match_exposure(candidates) in Python",
    ) -> list[Diagnostic]:
        """Report another exposure; ``remedy`` says what the user can do.

        Returns
        -------
        list of Diagnostic
            At most one.
        """
        if not self.differs:
            return []
        fix = {"action": "match-intensities", "gain": self.gain, "offset": self.offset}
        scale = linear_text(self.gain, "their intensities", self.offset, self.spread)
        return [diagnose("other-exposure", fix, scale=scale, remedy=remedy)]


def exposure_of(report: Mapping[str, Any], sample: NDArray[np.floating[Any]]) -> Exposure | None:
    """Estimate the exposure of images relative to that of a table.

    Percentiles of the candidates' mean are compared with those in the table's report.

    Parameters
    ----------
    report
        Of the table.
    sample
        Pixels of the images to combine; see :func:`~.statistics.reference.sample_pixels`.

    Returns
    -------
    Exposure or None
        None if the table's report has no percentiles, or the images are constant or not sampled.

    Examples
    --------
    >>> image = np.random.default_rng(0).gamma(4, 20, (64, 64))
    >>> learned = {"inputs": {"percentiles": compute_percentiles(image)}}
    >>> found = exposure_of(learned, 2 * image + 100)
    >>> round(found.gain, 3), round(found.offset, 1)
    (2.0, 100.0)
    """
    inputs = report.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    now = compute_percentiles(sample)
    before = _as_percentiles(inputs.get("percentiles"))
    if before is None or now is None or now[-2] <= now[1]:
        return None
    after = np.asarray(now)
    gain, offset, _ = _regress_percentiles(before, after)
    each = inputs.get("image_percentiles")
    listed = [_as_percentiles(one) for one in each] if isinstance(each, list) else []
    known = [before, *(one for one in listed if one is not None)]
    return Exposure(gain, offset, _differ(known, after), float(np.ptp(after)))


def _as_percentiles(value: Any) -> NDArray[np.float64] | None:
    """Percentiles of a report; None if they are missing, constant or not numbers."""
    found = as_numbers(value, (len(PERCENTS),))
    return found if found is not None and found[-2] > found[1] else None


def _regress_percentiles(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Gain and offset from percentiles to others, and the share of these that they do not explain.

    Without the outermost percentiles, which saturation and bright spots change.
    """
    before, after = before[1:-1], after[1:-1]
    slope = float(np.polyfit(before, after, 1)[0])
    gain = slope if slope > 0 else float(np.ptp(after) / np.ptp(before))
    offsets = after - gain * before
    return gain, float(offsets.mean()), float(offsets.std() / after.std())


def _differ(known: Sequence[NDArray[np.float64]], after: NDArray[np.float64]) -> bool:
    """Whether percentiles are of another exposure than the known ones, and not just of another field."""
    gains, offsets, unexplained = np.array([_regress_percentiles(before, after) for before in known]).T
    every = np.array([*known, after])
    spreads, before = every[:, -1] - every[:, 0], every[:-1]
    ratios = np.maximum(gains, 1 / gains)
    same_shape = unexplained < SAME_SHAPE
    if same_shape.any():
        shifts = np.abs((gains - 1) * before[:, 4] + offsets) / spreads[:-1]
        return bool(((ratios > SAME_GAIN) | (shifts > SAME_OFFSET))[same_shape].all())
    low, high = before[:, 0] - FAR * spreads[:-1], before[:, -1] + FAR * spreads[:-1]
    if ratios.min() > GROSS_GAIN or not low.min() <= after[4] <= high.max():
        return True
    dark = (every[:, 2] - every[:, 0] < FLOOR_WIDTH * spreads).all()
    return bool(dark and np.abs(after[0] - before[:, 0]).min() > FLOOR_SHIFT * spreads.max())


def matched(exposure: Exposure | None) -> tuple[float, float]:
    """Gain and offset to rescale a table by.

    Raises
    ------
    EnsembleError
        If the exposure is not known.
    """
    if exposure is None:
        raise EnsembleError(
            "the table cannot be matched: its report has no percentiles of the images that it was learned "
            "from, or the images are constant or lazy; use lut.rescaled(gain, offset) in Python."
        )
    return exposure.gain, exposure.offset


@dataclass(frozen=True)
class Drift:
    """Gain and offset that bring a second exposure to the candidates' intensities, ``gain * truth + offset``.

    Attributes
    ----------
    gain, offset : float
        ``offset`` in intensity units.
    gain_error, offset_error : float
        Standard errors.
    significant : bool
        Whether contrast or mean brightness differ by more than three standard errors and more than 3 %.
    """

    gain: float
    offset: float
    gain_error: float
    offset_error: float
    significant: bool

    @property
    def correction(self) -> tuple[float, float]:
        """Gain and offset if they are significant, else 1 and 0."""
        return (self.gain, self.offset) if self.significant else (1.0, 0.0)

    def diagnostics(self, code: str, label: str = "") -> list[Diagnostic]:
        """Return a diagnostic of this code if the drift is significant; ``label`` names the image."""
        if not self.significant:
            return []
        gain, sign = f"{self.gain:.3f} (± {self.gain_error:.3f})", "-" if self.offset < 0 else "+"
        known = abs(self.offset) > self.offset_error / 10
        offset = f" {sign} {abs(self.offset):.3g}" if known else ""
        difference = (
            f"{f'image {label}: ' if label else ''}the second exposure differs in brightness from the "
            f"candidates, which are about {gain} x its intensities{offset}"
        )
        fix = {"action": "match-truth", "gain": self.gain, "offset": self.offset}
        return [diagnose(code, fix, difference=difference)]


NO_DRIFT = Drift(1.0, 0.0, np.inf, np.inf, significant=False)


def find_drift(candidates: Sequence[Any], truth: Any, channel_axis: int | None = None) -> Drift:
    """Measure gain and offset of a second exposure against the candidates.

    Truth and pixelwise median of the candidates are blurred, so that noise and lost detail hardly count, and
    their means and standard deviations compared (reduced major axis regression: both have errors). Standard
    errors are those of a jackknife over 64 blocks, and of the candidates among each other.

    Parameters
    ----------
    candidates : M arrays of one shape
    truth : array of that shape
        Noisy. A few planes are read, at most 512 x 512 pixels of each.
    channel_axis : int, optional

    Returns
    -------
    Drift
        Gain 1 and offset 0 if the images are too small, constant or not finite.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> rng = np.random.default_rng(0)
    >>> clean = 50 + 400 * gaussian_filter(rng.normal(size=(128, 128)), 5)
    >>> found = find_drift([clean], 0.8 * clean + rng.normal(0, 5, clean.shape))
    >>> round(found.gain, 1), found.significant
    (1.3, True)
    """
    from scipy.ndimage import gaussian_filter

    sums = []  # of n, x, y, x^2, y^2 and of each candidate's mean and square, by block
    for noisy, *restored in sample_planes([truth, *candidates], channel_axis):
        images = [noisy, np.median(restored, axis=0), *restored]
        x = np.stack([gaussian_filter(image, SMOOTHING) for image in images])
        rows, columns = (np.arange(size) * BLOCKS // size for size in noisy.shape)
        block = (rows[:, None] * BLOCKS + columns).ravel()
        values = [np.ones(x[0].size), *x.reshape(len(x), -1), *(x**2).reshape(len(x), -1)]
        sums.append([np.bincount(block, value, minlength=BLOCKS**2) for value in values])
    if not sums:
        return NO_DRIFT
    by_block = np.sum(sums, axis=0)
    whole = by_block.sum(axis=1, keepdims=True)
    (gain,), (shift,), (offset,), deviations = _regress(whole)
    left_out = _regress(whole - by_block)[:3]
    if not np.isfinite(gain) or gain <= 0 or not np.isfinite(left_out).all():
        return NO_DRIFT
    jackknife = np.sqrt((BLOCKS**2 - 1) * np.var(left_out, axis=1))
    # How far the candidates differ from each other is how far their median may be off.
    systematic = np.std(deviations, axis=1).ravel() / np.sqrt(len(candidates))
    gain_error, shift_error, offset_error = np.hypot(jackknife, systematic).tolist()
    n, total, squares = whole[0], whole[1], whole[1 + len(whole) // 2]
    contrast = float(np.sqrt(squares / n - (total / n) ** 2).item())
    significant = abs(gain - 1) > max(SIGNIFICANT * gain_error, MATERIAL)
    significant |= abs(shift) > max(SIGNIFICANT * shift_error, MATERIAL * contrast)
    return Drift(float(gain), float(offset), gain_error, offset_error, bool(significant))


def _regress(sums: NDArray[np.float64]) -> Any:
    """Gain, difference of means and offset of the median; the same three of each candidate."""
    n, values = sums[0], sums[1:]
    k = len(values) // 2
    means = values[:k] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.sqrt(np.maximum(values[k:] / n - means**2, 0))
        gains = deviations[1:] / deviations[0]
    shifts = means[1:] - means[0]
    offsets = means[1:] - gains * means[0]
    return gains[0], shifts[0], offsets[0], (gains[1:], shifts[1:], offsets[1:])


class MatchedTruths(Sequence[tuple[Sequence[Any], Any]]):
    """A reference set whose truths are brought to the candidates' gain and offset when they are read.

    Parameters
    ----------
    reference : sequence of (candidates, truth)
    drifts : one for each image
    """

    def __init__(self, reference: Sequence[tuple[Sequence[Any], Any]], drifts: Sequence[Drift]) -> None:
        self.reference, self.drifts = reference, drifts
        self.labels = getattr(reference, "labels", None)

    def __len__(self) -> int:
        return len(self.reference)

    @property
    def noise_gain(self) -> float:
        """Factor of the truths' noise: the root mean square of the gains."""
        return float(np.sqrt(np.mean([drift.correction[0] ** 2 for drift in self.drifts])))

    def __getitem__(self, number: Any) -> Any:
        place = range(len(self))[number]
        candidates, truth = self.reference[place]
        return candidates, _scale(truth, self.drifts[place])


def _scale(truth: Any, drift: Drift) -> Any:
    """A truth with gain and offset, in floats; lazy unless it is in memory."""
    gain, offset = drift.correction
    array = as_array(truth)
    if is_torch(array):
        return array * gain + offset if array.is_floating_point() else array.float() * gain + offset
    if isinstance(array, np.memmap) or not (is_dask(array) or isinstance(array, np.ndarray)):
        import dask.array as da

        array = da.from_array(array, chunks=getattr(array, "chunks", "auto"))  # type: ignore[no-untyped-call]
    dtype = np.result_type(dtype_of(array), np.float32)
    return array.astype(dtype) * dtype.type(gain) + dtype.type(offset)


def match_truths(
    reference: Iterable[tuple[Sequence[Any], Any]], channel_axis: int | None = None
) -> tuple[Iterable[tuple[Sequence[Any], Any]], list[Diagnostic]]:
    """Correct the drift of second exposures' brightness, such as of a lamp or by bleaching.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        Read into a list if it is no sequence.
    channel_axis : int, optional

    Returns
    -------
    reference : iterable
        The set as given, or a :class:`MatchedTruths` if the drift of an image is significant.
    diagnostics : list of Diagnostic
        What was corrected. If an image cannot be used, nothing is corrected; reading the set says why.
    """
    if not isinstance(reference, Sequence):
        reference = list(reference)
    labels = getattr(reference, "labels", None) or range(1, len(reference) + 1)
    drifts, found = [], []
    try:
        for number, (candidates, truth) in enumerate(reference):
            field = make_field(candidates, truth, channel_axis=channel_axis)
            drift = find_drift(field.candidates, field.truth, field.channel_axis)
            drifts.append(drift)
            found += drift.diagnostics("truth-matched", str(labels[number]) if len(reference) > 1 else "")
    except (TypeError, ValueError):
        return reference, []  # reported when the set is read
    return (MatchedTruths(reference, drifts) if found else reference), found

"""Scores of images against a ground truth, clean or noisy.

With a noisy reference z = y + n, where the noise n is independent of the image x and y is the truth,

    E (x - z)^2 = E (x - y)^2 + var n.

The difference in mean squared error between two images is therefore the same against z as against y. PSNR is
computed after subtracting the variance of the noise; SSIM cannot be corrected. Standard errors are those of
paired differences over blocks of pixels, so the difficulty of a block, common to both images, cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_ensir.ensemble.arrays.blocks import block_slices, dtype_of, read_block, working_dtype
from napari_ensir.ensemble.arrays.intensity_range import (
    Histogram,
    byte_range,
    finite_range,
    intensity_histogram,
    robust_range,
    sum_of,
    widest,
)
from napari_ensir.ensemble.scoring.cross_validation import held_out_lookups, mean_squared_error, peak
from napari_ensir.ensemble.scoring.metrics import luma, psnr, psnr_of_error, ssim
from napari_ensir.ensemble.scoring.score_table import (
    DIFFERENCE,
    PSNR,
    TIED,
    ScoreRow,
    ScoreTable,
    as_sentence_list,
    plus_minus,
)
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.intensity_range import Range
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.ensemble.statistics.statistics import Statistics

    Image = NDArray[Any]
    Slices = tuple[slice, ...]

__all__ = [
    "AVERAGE",
    "BlockErrors",
    "Difference",
    "ImageScore",
    "NoisyScores",
    "ScoreRange",
    "Scoring",
    "TruthRange",
    "block_errors",
    "errors_of_parts",
    "exclusion_note",
    "finite_everywhere",
    "joined",
    "known_range",
    "score_range",
    "score_range_of",
    "scores_of_reference",
    "side_by_side",
    "verdict",
]


AVERAGE = "average"
"""Name and role of the average of the candidates, the baseline of differences."""

BLOCKS = 8
"""Blocks along each of the two longest axes of an image."""

SURE = 0.975
"""Quantile of Student's t beyond which a difference is significant: two-sided, at the level of 5 %."""

CLEAR = 8.0
"""PSNR is shown only if the corrected error is at least this number of its standard errors (about 0.5 dB)."""


class Difference(NamedTuple):
    """Difference between the scores of two images.

    Attributes
    ----------
    value : float
        Difference of mean squared error in squared intensity units, or of PSNR in dB.
    standard_error : float
        NaN if there are fewer than two blocks.
    significant : bool
        Whether the difference is significant.
    """

    value: float
    standard_error: float
    significant: bool

    @property
    def is_zero(self) -> bool:
        """Whether the two images are equal in every block."""
        return self.value == 0 and self.standard_error == 0


class BlockErrors(NamedTuple):
    """Squared errors of K images against one reference, summed over each of B blocks of pixels.

    Attributes
    ----------
    sums : (B, K) float64
        Squared intensity units.
    counts : (B,) int64
        Pixels in each block.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class NoisyScores:
    """Scores of images against a noisy reference.

    Images are identified by their indices, since names may be equal.

    Attributes
    ----------
    names : tuple of K str
    blocks : BlockErrors
    peak : float
        Peak of PSNR, intensity units.
    noise : float or "unknown"
        Standard deviation of the noise of the reference; 0 if the reference is clean.
    baseline : int
        Index of the image that is subtracted in differences.
    roles : tuple of K str
        As in :class:`~napari_ensir.ensemble.scoring.score_table.ScoreRow`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = np.full((64, 64), 100.0)
    >>> near, far, noisy = (truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 5, 20))
    >>> blocks = block_errors(noisy, [near, far, (near + far) / 2])
    >>> scores = NoisyScores.of(("near", "far"), [blocks], 255.0, noise=20.0)
    >>> scores.best, scores.difference(0, 1).significant, scores.rows[2].role
    (0, True, 'average')
    """

    names: tuple[str, ...]
    blocks: BlockErrors
    peak: float
    noise: TruthNoise
    baseline: int
    roles: tuple[str, ...]

    @classmethod
    def of(
        cls,
        candidates: Sequence[str],
        parts: Sequence[BlockErrors],
        peak: float,
        noise: TruthNoise = "unknown",
        others: Sequence[tuple[str, str]] = (),
    ) -> NoisyScores:
        """Score candidates, their average, and other images on all images of a set.

        Parameters
        ----------
        candidates : M strings
        parts : one :class:`BlockErrors` for each image of the set
            Errors of the M candidates, their average, and the other images, in this order.
        peak : float
        noise : float or "unknown"
        others : pairs of (name, role)

        Returns
        -------
        NoisyScores

        Raises
        ------
        EnsembleError
            If no pixel can be scored.
        """
        names = (*candidates, AVERAGE, *(name for name, _ in others))
        roles = (*("candidate" for _ in candidates), AVERAGE, *(role for _, role in others))
        return cls(names, joined(parts), peak, noise, len(candidates), roles)

    @property
    def errors(self) -> NDArray[np.float64]:
        """Mean squared error of each image against the noisy reference, (K,)."""
        return np.asarray(self.blocks.sums.sum(axis=0) / self.blocks.counts.sum(), np.float64)

    @property
    def ranked(self) -> tuple[int, ...]:
        """Indices of the images in order of increasing error."""
        return tuple(int(index) for index in np.argsort(self.errors, kind="stable"))

    @property
    def best(self) -> int | None:
        """Index of the image that is significantly better than all others; None if there is none."""
        first = self.ranked[0]
        return None if len(self._tied) > 1 else first

    @property
    def _tied(self) -> tuple[int, ...]:
        """Indices of the image with the least error and of those that are not significantly worse."""
        first, *others = self.ranked
        found = {other: self.difference(first, other) for other in others}
        return (first, *(other for other in others if not (found[other].significant or found[other].is_zero)))

    def difference(self, index: int, other: int | None = None) -> Difference:
        """Return the mean squared error of an image minus that of another, by default the baseline.

        Parameters
        ----------
        index, other : int
            Indices in ``names``.

        Returns
        -------
        Difference
            In squared intensity units; negative if the first image is better.
        """
        sums, counts = self.blocks
        apart = sums[:, index] - sums[:, self.baseline if other is None else other]
        value = float(apart.sum() / counts.sum())
        return self._significance(value, apart - value * counts)

    def psnr_difference(self, index: int, other: int) -> Difference | None:
        """Return the PSNR of an image minus that of another, in dB.

        The standard error is that of the linearised logarithm of the ratio of errors, over the blocks of
        :meth:`difference`. The significance is that of :meth:`difference`.

        Parameters
        ----------
        index, other : int
            Indices in ``names``.

        Returns
        -------
        Difference or None
            None if the noise is unknown, or too large to measure one of the errors.
        """
        rows = self.rows
        mse, other_mse = rows[index].mse, rows[other].mse
        if any(not np.isfinite(rows[each].psnr) for each in (index, other)):
            return None
        sums, counts = self.blocks
        clean = sums - float(self.noise) ** 2 * counts[:, None]
        decibels = 10 / np.log(10)
        residuals = decibels * (clean[:, other] / other_mse - clean[:, index] / mse)
        found = self._significance(decibels * float(np.log(other_mse / mse)), residuals)
        return found._replace(significant=self.difference(index, other).significant)

    def _significance(self, value: float, residuals: NDArray[np.float64]) -> Difference:
        """Return a mean with its standard error, computed from the block sums of the deviations from it."""
        from scipy.special import stdtrit

        counts = self.blocks.counts
        n = int((counts > 0).sum())
        if n < 2:
            return Difference(value, float("nan"), False)
        spread = float(np.sum(residuals**2)) * n / (n - 1)
        error = float(np.sqrt(spread) / counts.sum())
        return Difference(value, error, bool(abs(value) > stdtrit(n - 1, SURE) * error))

    @property
    def rows(self) -> tuple[ScoreRow, ...]:
        """Scores of each image, in the order of the names."""
        tied = self._tied
        return tuple(
            self._row(index, index == self.best, len(tied) > 1 and index in tied)
            for index in range(len(self.names))
        )

    def _row(self, index: int, best: bool, tied: bool) -> ScoreRow:
        found = self.difference(index)
        row = ScoreRow(
            self.names[index],
            self.roles[index],
            difference=found.value,
            standard_error=found.standard_error,
            best=best,
            tied=tied,
        )
        if self.noise == "unknown":
            return row
        variance, n = float(self.noise) ** 2, int(self.blocks.counts.sum())
        mse = float(self.errors[index]) - variance
        # Variance of the mean square of Gaussian noise in n pixels, and of its product with the error.
        error = float(np.sqrt((2 * variance**2 + 4 * variance * max(mse, 0.0)) / n))
        if mse < CLEAR * error:
            return replace(row, mse=mse, note="below the noise")
        in_db = 10 / np.log(10) * error / mse if mse else 0.0
        return replace(row, mse=mse, psnr=psnr_of_error(mse, self.peak), psnr_error=float(in_db))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader needs to interpret the scores."""
        base = "the average of the candidates" if self.roles[self.baseline] == AVERAGE else ""
        notes = [
            f"Differences of mean squared error (MSE) are relative to {base or self.names[self.baseline]}, "
            "± their standard error over blocks; negative is better."
        ]
        if self.noise == "unknown":
            notes.append(
                "The reference is noisy and its noise level unknown, so there are no absolute scores."
            )
        elif self.noise:
            notes.append(
                f"The reference is noisy; the variance of its noise, {self.noise:g} squared, is subtracted."
            )
        if self.best is None:
            notes.append(f"No image is significantly better than all others; {TIED} marks the best ones.")
        return tuple(notes)

    def table(self, ranked: bool = False) -> ScoreTable:
        """Return the scores as a table, with the verdict on the ensemble as its summary if there is one.

        Parameters
        ----------
        ranked : bool
            Whether to sort the rows by error. False: the noisy input comes first.

        Returns
        -------
        ScoreTable
        """
        rows = self.rows
        order = (
            self.ranked if ranked else sorted(range(len(rows)), key=lambda each: rows[each].role != "input")
        )
        known = self.noise != "unknown"
        return ScoreTable(
            tuple(rows[index] for index in order),
            (DIFFERENCE, *[PSNR._replace(decimals=2, error="psnr_error")] * known),
            self.notes,
            verdict(self) if "ensemble" in self.roles else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        keys = ("name", "role", "difference", "standard_error", "mse", "psnr", "psnr_error", "best", "note")
        return {
            "truth_noise": self.noise,
            "peak": self.peak,
            "baseline": self.names[self.baseline],
            "blocks": len(self.blocks.counts),
            "pixels": int(self.blocks.counts.sum()),
            "rows": [row.to_dict(*keys) for row in self.rows],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return self.table().to_markdown()

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def verdict(scores: NoisyScores) -> str:
    """State in one sentence whether the ensemble is better than the best candidate, and by how much.

    Parameters
    ----------
    scores : NoisyScores
        The image with the role ``"ensemble"`` should be scored on held-out pixels. If there is no such image,
        the sentence names the best candidate.

    Returns
    -------
    str
        The difference, ± its standard error, is in dB if the noise of the reference is known and low enough,
        else in mean squared error.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = np.full((256, 256), 100.0)
    >>> a, b, noisy = (truth + rng.normal(0, sigma, truth.shape) for sigma in (15, 18, 10))
    >>> blocks = block_errors(noisy, [a, b, (a + b) / 2, 0.6 * a + 0.4 * b])
    >>> scores = NoisyScores.of("AB", [blocks], 255.0, noise=10.0, others=[("ensemble", "ensemble")])
    >>> verdict(scores)
    'The ensemble is better than the best candidate (A) by 2.31 ± 0.03 dB.'
    """
    candidates = [index for index in scores.ranked if scores.roles[index] == "candidate"]
    best, *others = candidates
    name = scores.names[best]
    if "ensemble" not in scores.roles:
        tied = [scores.names[each] for each in others if not scores.difference(each, best).significant]
        verb = "is" if len(tied) == 1 else "are"
        more = f"; {as_sentence_list(tied)} {verb} not significantly worse" if tied else ""
        return f"The best candidate is {name}{more}."
    ensemble = scores.roles.index("ensemble")
    if scores.difference(ensemble, best).is_zero:
        return f"The ensemble is equal to the best candidate ({name})."
    found, unit = scores.psnr_difference(ensemble, best), "dB"
    if found is None:
        found, unit = scores.difference(ensemble, best), "in mean squared error"
    amount = f"{plus_minus(abs(found.value), found.standard_error, digits=1, signed=False)} {unit}"
    word = "better" if scores.difference(ensemble, best).value < 0 else "worse"
    if found.significant:
        return f"The ensemble is {word} than the best candidate ({name}) by {amount}."
    return f"The ensemble is not significantly {word} than the best candidate ({name}): by {amount}."


def joined(parts: Sequence[BlockErrors]) -> BlockErrors:
    """Concatenate the blocks of several images.

    Raises
    ------
    EnsembleError
        If there is no pixel.
    """
    sums = np.concatenate([part.sums for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    if not counts.sum():
        raise EnsembleError(
            "no pixel is finite in every image and in the reference, so nothing can be scored."
        )
    return BlockErrors(sums, counts)


def side_by_side(columns: Sequence[BlockErrors]) -> BlockErrors:
    """Combine the errors of several images in the same blocks of pixels."""
    return BlockErrors(np.concatenate([each.sums for each in columns], axis=1), columns[0].counts)


def block_errors(
    reference: Image,
    images: Sequence[Image],
    *,
    valid: NDArray[np.bool_] | None = None,
    channel_axis: int | None = None,
) -> BlockErrors:
    """Sum the squared errors of images against one reference in blocks of pixels.

    Parameters
    ----------
    reference : array
        Ground truth, clean or noisy.
    images : K arrays of its shape
    valid : bool array of that shape, optional
        Pixels to score; default: all that are finite in the reference and in every image.
    channel_axis : int, optional
        Axis that is not split into blocks.

    Returns
    -------
    BlockErrors
        8 x 8 blocks along the two longest axes.

    Examples
    --------
    >>> sums, counts = block_errors(np.zeros((16, 16)), [np.ones((16, 16)), np.full((16, 16), 2.0)])
    >>> sums.shape, int(counts[0]), sums[0].tolist()
    ((64, 2), 4, [4.0, 16.0])
    """
    truth = np.asarray(reference, np.float64)
    squares = []
    with np.errstate(invalid="ignore", over="ignore"):  # these pixels are excluded below
        for image in images:
            apart = np.subtract(image, truth, dtype=np.float64)
            squares.append(np.square(apart, out=apart))
    if valid is None:
        valid = np.logical_and.reduce([np.isfinite(square) for square in squares])
    axes = [axis for axis in range(truth.ndim) if channel_axis is None or axis != channel_axis % truth.ndim]
    longest = sorted(axes, key=lambda axis: -truth.shape[axis])[:2]
    counts = _in_blocks(valid.astype(np.int64), longest)
    sums = [_in_blocks(np.where(valid, square, 0.0), longest) for square in squares]
    return BlockErrors(np.stack(sums, axis=1).astype(np.float64), counts.astype(np.int64))


def _in_blocks(values: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    """Sum over blocks along ``axes`` and over all other axes; return a flat array."""
    for axis in axes:
        size = values.shape[axis]
        starts = np.unique(np.linspace(0, size, min(BLOCKS, size) + 1).astype(int))[:-1]
        values = np.add.reduceat(values, starts, axis=axis)
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    return np.asarray(values.sum(axis=others)).reshape(-1)


def errors_of_parts(
    parts: Sequence[Statistics],
    weights: Sequence[NDArray[np.float64] | Lookup | WeightLUT | list[Lookup | None]],
) -> BlockErrors:
    """Compute block errors from the statistics of the parts of a reference set; each part is one block.

    Parameters
    ----------
    parts : B Statistics
        Such as the folds of a :class:`~napari_ensir.ensemble.statistics.reference.Reference`.
    weights : sequence of K
        Each is a vector of weights, a table, or a list with one table per part, or None for a part that is
        not scored.
    """
    sums = np.zeros((len(parts), len(weights)))
    counts = np.array([part.n_pixels for part in parts], np.int64)
    for (row, part), (column, given) in product(enumerate(parts), enumerate(weights)):
        if counts[row]:
            chosen = given[row] if isinstance(given, list) else given
            if chosen is not None:
                sums[row, column] = mean_squared_error(part, chosen) * counts[row]
    return BlockErrors(sums, counts)


def scores_of_reference(
    reference: Reference, lut: WeightLUT, settings: Settings | None = None, noise: TruthNoise = "unknown"
) -> NoisyScores:
    """Score candidates, their average and the ensemble on a reference set with a noisy ground truth.

    Parameters
    ----------
    reference : Reference
        Collected in at least two folds, which are the blocks and the parts for cross-validation.
    lut : WeightLUT
        Table learned from the reference set; its method and bins are cross-validated.
    settings : Settings, optional
        Settings that the table was estimated with.
    noise : float or "unknown"

    Returns
    -------
    NoisyScores
        The last image, ``"ensemble"``, is scored on held-out pixels.
    """
    parts = [fold.in_bins(lut.binning) for fold in reference.folds]
    n = len(reference.names)
    held_out = held_out_lookups(reference, lut.method, settings, lut.binning)
    blocks = errors_of_parts(parts, [*np.eye(n), np.full(n, 1 / n), held_out])
    return NoisyScores.of(reference.names, [blocks], peak(lut.binning), noise, [("ensemble", "ensemble")])


BLOCK = 2**22
"""Number of pixels read at a time."""


@dataclass(frozen=True)
class ScoreRange:
    """Range of intensities whose width is the peak of PSNR and SSIM.

    Attributes
    ----------
    low, high : float
        Intensity units.
    source : "given", "dtype", "truth" or "candidates"
        Where the range comes from.

    Examples
    --------
    >>> print(ScoreRange(100.0, 1999.0, "truth"))
    1899 (from 100 to 1999, the range of the ground truth)
    """

    low: float
    high: float
    source: Literal["given", "dtype", "truth", "candidates"]

    @property
    def peak(self) -> float:
        """Width of the range."""
        return self.high - self.low

    def __str__(self) -> str:
        why = {
            "given": "as given",
            "dtype": "the range of the dtype",
            "truth": "the range of the ground truth",
            "candidates": "the range of the average of the candidates, since the ground truth is noisy",
        }[self.source]
        return f"{self.peak:.6g} (from {self.low:.6g} to {self.high:.6g}, {why})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"peak": self.peak, "data_range": [self.low, self.high], "data_range_from": self.source}


def score_range(truths: Sequence[Any], given: tuple[float, float] | None = None) -> ScoreRange:
    """Find the range for scores from the ground truths of all images.

    The range is that of the dtype for 8 bit, else the shortest range that excludes at most one in ten
    thousand pixels. It is exact for integers of up to 16 bit; otherwise its relative accuracy is 1/2048.

    Parameters
    ----------
    truths : arrays
        Numpy, torch, dask or anything that can be sliced; read in blocks. 8-bit images are not read.
    given : (low, high), optional
        Range to return instead.

    Raises
    ------
    EnsembleError
        If the given range is not two increasing numbers, or the ground truths are constant.

    Examples
    --------
    >>> truth = np.arange(20_000, dtype=np.uint16)
    >>> truth[7] = 65535
    >>> score_range([truth])
    ScoreRange(low=0.0, high=19998.0, source='truth')
    >>> score_range([np.zeros((2, 2), np.uint8)])
    ScoreRange(low=0.0, high=255.0, source='dtype')
    """
    dtypes = [dtype_of(truth) for truth in truths]
    known = known_range(dtypes, given)
    if known is not None:
        return known
    shown = TruthRange(dtypes)
    for truth in truths:
        shown.add(truth)
    return shown.found(lambda ends: widest([shown.ends(truth, ends) for truth in truths]))


class TruthRange:
    """Accumulates the range of ground truths, image by image.

    Parameters
    ----------
    dtypes
        Dtypes of all images that will be added.
    """

    def __init__(self, dtypes: Sequence[np.dtype[Any]]) -> None:
        self.dtype = working_dtype(dtypes)
        self.spread: Histogram | None = None

    def add(self, truth: Any) -> None:
        """Read an image in blocks; if that fails, nothing is added."""
        parts = [] if self.spread is None else [self.spread]
        self.spread = sum_of([*parts, *(intensity_histogram(block) for block in self._blocks(truth))])

    def ends(self, truth: Any, within: Range) -> Range:
        """Return the lowest and highest intensity of an image within the given limits."""
        return widest([finite_range(block, within) for block in self._blocks(truth)])

    def found(self, ends_within: Callable[[Range], Range]) -> ScoreRange:
        """Return the range of all images that were added.

        Parameters
        ----------
        ends_within
            Returns the widest :meth:`ends` of all images; called only if the histogram is too coarse.

        Raises
        ------
        EnsembleError
            If the images are constant.
        """
        return _range_of_truth(self.spread, ends_within)

    def _blocks(self, truth: Any) -> Iterator[NDArray[Any]]:
        for slices in block_slices(truth.shape, BLOCK):
            yield read_block(truth, slices, self.dtype)


def score_range_of(
    statistics: Sequence[Statistics], dtype: np.dtype[Any], given: tuple[float, float] | None = None
) -> ScoreRange:
    """Find the range for scores from the statistics of a fit, without reading images.

    The range is exact for integers of up to 16 bit; otherwise its accuracy is one level of the binning.

    Parameters
    ----------
    statistics : sequence of Statistics
        With equal binning; together they should cover the whole ground truth.
    dtype
        Dtype of the ground truth.
    given : (low, high), optional

    Raises
    ------
    EnsembleError
        As :func:`score_range`.

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> truth = np.arange(5000, dtype=np.uint16).reshape(50, 100)
    >>> counted = collect_reference([((truth // 2, truth // 3), truth)], device="cpu").statistics
    >>> score_range_of([counted], truth.dtype) == score_range([truth])
    True
    """
    known = known_range([np.dtype(dtype)], given)
    if known is not None:
        return known
    levels, place = np.unique(np.concatenate([one.levels for one in statistics]), return_inverse=True)
    weights = np.concatenate([one.level_counts for one in statistics])
    counts = np.bincount(place, weights, minlength=len(levels)).astype(np.int64)
    ends = (float(levels[0]), float(levels[-1])) if len(levels) else (np.inf, -np.inf)
    in_levels = _range_of_truth(Histogram(True, levels, counts, ends), lambda within: within)
    low, high = statistics[0].binning.intensities(np.array([in_levels.low, in_levels.high], np.int64))
    return ScoreRange(float(low), float(high), "truth")


def known_range(dtypes: Sequence[np.dtype[Any]], given: tuple[float, float] | None) -> ScoreRange | None:
    """Return the given range, or that of an 8-bit dtype; None if the range depends on the pixels."""
    if given is not None:
        try:
            low, high = (float(edge) for edge in given)
        except (TypeError, ValueError):
            low = high = float("nan")
        if not (np.isfinite([low, high]).all() and low < high):
            raise EnsembleError(f"data_range is {given!r}; give two finite, increasing numbers (low, high).")
        return ScoreRange(low, high, "given")
    limits = byte_range(dtypes)
    return None if limits is None else ScoreRange(*limits, "dtype")


def _range_of_truth(spread: Histogram | None, ends_within: Callable[[Range], Range]) -> ScoreRange:
    if spread is None or not len(spread.cells) or spread.ends[0] == spread.ends[1]:
        known = spread is not None and len(spread.cells)
        problem = "is constant" if known else "has no finite pixel"
        raise EnsembleError(f"the ground truth {problem}, so PSNR has no peak; give the data range.")
    low, high = robust_range(spread, ends_within)
    return ScoreRange(low, high, "truth")


class ImageScore(NamedTuple):
    """PSNR and SSIM of an image.

    Attributes
    ----------
    psnr : float
        dB.
    ssim : float
        NaN if the image is smaller than its window, or every window contains an excluded pixel.
    """

    psnr: float
    ssim: float


def finite_everywhere(arrays: Sequence[Image]) -> NDArray[np.bool_]:
    """Return a mask of the pixels that are finite in all arrays, which have one shape.

    Raises
    ------
    EnsembleError
        If there is no such pixel.
    """
    finite: NDArray[np.bool_] = np.ones(arrays[0].shape, bool)
    for array in arrays:
        if array.dtype.kind not in "iu":
            finite &= np.isfinite(array)
    if not finite.any():
        raise EnsembleError(
            "no pixel is finite in every candidate and in the ground truth, so nothing can be scored."
        )
    return finite


def exclusion_note(n: int) -> list[str]:
    """Return a list with one sentence about n excluded pixels; empty if n is 0.

    Examples
    --------
    >>> exclusion_note(0), exclusion_note(1)
    ([], ['1 pixel is NaN or infinite in a candidate or the ground truth and is not scored.'])
    """
    subject, verb = ("pixel is", "is") if n == 1 else ("pixels are", "are")
    text = f"{n:,} {subject} NaN or infinite in a candidate or the ground truth and {verb} not scored."
    return [text] * bool(n)


@dataclass(frozen=True)
class Scoring:
    """Computes PSNR and SSIM of images without clipping them.

    Attributes
    ----------
    data_range : (low, high)
        Its width is the peak. For the Y channel, intensities are scaled from this range to 0 to 255.
    y_channel : bool
        Whether to score the Y channel (BT.601, 0 to 255) instead of RGB.
    crop_border : int
        Width of the border that is excluded along the last two spatial axes.
    channel_axis : int or None
        None: the last axis, if it has length 3 and there are at least 3 axes.

    Examples
    --------
    >>> truth = np.zeros((2, 3))
    >>> near, far = truth + 25.5, np.where(np.arange(3) == 1, np.nan, 255.0) + truth
    >>> [round(score.psnr) for score in Scoring((0, 255)).of_all(truth, [near, far])]
    [20, 0]
    """

    data_range: tuple[float, float]
    y_channel: bool = False
    crop_border: int = 0
    channel_axis: int | None = None

    def __call__(self, truth: Image, image: Image, valid: NDArray[np.bool_] | None = None) -> ImageScore:
        """Score one image.

        Parameters
        ----------
        truth, image : arrays of one shape
        valid : bool array of that shape, optional
            Pixels to score; default: all that are finite in both.
        """
        low, high = self.data_range
        axis = self.channels_of(truth.shape)
        first, second, peak = np.asarray(truth), np.asarray(image), high - low
        if valid is None:
            valid = np.isfinite(first) & np.isfinite(second)
        if not valid.all():
            first, second = (np.where(valid, x, 0) for x in (first, second))
        if self.y_channel:
            if axis is None:
                raise EnsembleError(
                    f"the image has shape {truth.shape}; the Y channel needs red, green and blue along a "
                    "channel axis."
                )
            first, second = (
                luma((np.moveaxis(x, axis, -1).astype(np.float64) - low) * (255 / (high - low)))
                for x in (first, second)
            )
            valid = np.asarray(valid.all(axis=axis))
            axis, peak = None, 255.0
        cut = self._cut(first.shape, axis)
        first, second, valid = first[cut], second[cut], valid[cut]
        return ImageScore(psnr(first, second, peak, valid), ssim(first, second, peak, axis, valid))

    def of_all(self, truth: Image, images: Sequence[Image]) -> list[ImageScore]:
        """Score several images on the pixels where the ground truth and all of them are finite.

        Raises
        ------
        EnsembleError
            If there is no such pixel.
        """
        valid = finite_everywhere([truth, *images])
        return [self(truth, image, valid) for image in images]

    def channels_of(self, shape: tuple[int, ...]) -> int | None:
        """Return the channel axis of an image of this shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(shape)
        return len(shape) - 1 if len(shape) > 2 and shape[-1] == 3 else None

    def inside(self, shape: tuple[int, ...]) -> Slices:
        """Return the slices that exclude the border of an image of this shape.

        Raises
        ------
        EnsembleError
            If no pixel is left.
        """
        return self._cut(shape, self.channels_of(shape))

    def _cut(self, shape: tuple[int, ...], channel_axis: int | None) -> Slices:
        spatial = [i for i in range(len(shape)) if i != channel_axis][-2:]
        border = self.crop_border
        if border < 0 or any(shape[i] <= 2 * border for i in spatial):
            raise EnsembleError(
                f"a border of {border} pixels leaves nothing of an image of shape {shape}; crop less."
            )
        return tuple(slice(border, n - border) if i in spatial else slice(None) for i, n in enumerate(shape))

"""Scores against a noisy reference: what can be said truly, and nothing else. Estimates no weight.

With a reference z = y + n, the truth y under noise n that is independent of an image x,

    E (x - z)^2 = E (x - y)^2 + var n.

So *differences* of mean squared error between images are those to the truth. A PSNR is not, unless the noise
is known and its variance taken off; nor is SSIM. Standard errors are over blocks of pixels, in pairs: what
makes a block hard for one image makes it hard for the other, and drops out of their difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_ensir.ensemble.arrays.blocks import block_slices, dtype_of, read_block, working_dtype
from napari_ensir.ensemble.arrays.intensity_range import (
    Spread,
    byte_range,
    ends_of,
    robust_range,
    spread_of,
    sum_of,
    widest,
)
from napari_ensir.ensemble.scoring.cross_validation import held_out_lookups, mean_squared_error, peak
from napari_ensir.ensemble.scoring.metrics import luma, psnr, psnr_of_error, ssim
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.ensemble.statistics.statistics import Statistics

    Image = NDArray[Any]
    from collections.abc import Callable, Iterator

    from napari_ensir.ensemble.arrays.intensity_range import Ends

    Slices = tuple[slice, ...]

__all__ = [
    "AVERAGE",
    "BlockErrors",
    "Difference",
    "NoisyRow",
    "NoisyScores",
    "Score",
    "ScoreRange",
    "Scoring",
    "TruthRange",
    "block_errors",
    "errors_of_parts",
    "finite_everywhere",
    "joined",
    "known_range",
    "left_out",
    "score_range",
    "score_range_of",
    "scores_of_reference",
    "side_by_side",
]


AVERAGE = "average"
"""What differences are taken to, where there are candidates: the mean of them all."""

BLOCKS = 8
"""Blocks along each of an image's two long axes."""

SURE = 0.975
"""A difference is real if it is beyond this quantile of Student's t: it comes out wrong once in twenty."""

CLEAR = 8.0
"""A corrected error is shown as PSNR if it is so many of its standard errors: half a dB each at most."""


class Difference(NamedTuple):
    """A difference of mean squared error, squared intensity units.

    Attributes
    ----------
    value : float
        Negative: the first is closer to the truth.
    standard_error : float
        NaN where there are fewer than two blocks.
    is_real : bool
        Whether it is unlikely to be chance.
    """

    value: float
    standard_error: float
    is_real: bool


class BlockErrors(NamedTuple):
    """Squared errors of K images against one reference, summed over B blocks of pixels.

    Attributes
    ----------
    sums : (B, K) float64
        Squared intensity units.
    counts : (B,) int64
        Pixels.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


class NoisyRow(NamedTuple):
    """What can be said of one image.

    Attributes
    ----------
    name : str
    role : "candidate", "average", "ensemble" or "method"
    difference : float
        Its mean squared error less that of the baseline; negative is better.
    standard_error : float or None
    mse : float or None
        Against the truth, if the noise is known; can come out negative.
    psnr : float or None
        dB; None if the noise is not known or the error drowns in it.
    psnr_error : float or None
        Standard error of that, dB: the noise's own power varies from exposure to exposure.
    best : bool
        Whether it is closer to the truth than every other, and each difference is real.
    note : str
    """

    name: str
    role: str
    difference: float
    standard_error: float | None
    mse: float | None
    psnr: float | None
    psnr_error: float | None
    best: bool
    note: str = ""


@dataclass(frozen=True)
class NoisyScores:
    """Images scored against a noisy reference. They are told by their places, since names may be equal.

    Attributes
    ----------
    names : tuple of K str
    blocks : BlockErrors
    peak : float
        Of PSNR, intensity units.
    noise : float or "unknown"
        Standard deviation of the reference's noise.
    baseline : int
        Whom differences are taken to.
    roles : tuple of K str
        As in :class:`NoisyRow`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = np.full((64, 64), 100.0)
    >>> near, far, noisy = (truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 5, 20))
    >>> blocks = block_errors(noisy, [near, far, (near + far) / 2])
    >>> scores = NoisyScores.of(("near", "far"), [blocks], 255.0, noise=20.0)
    >>> scores.best, scores.difference(0, 1).is_real, scores.rows[2].role
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
        """Scores of candidates, their average, and others, over all images of a set.

        Parameters
        ----------
        candidates : M strings
        parts : one :class:`BlockErrors` for each image of the set
            Of the M candidates, then their average, then the others.
        peak : float
        noise : float or "unknown"
        others : pairs of (name, role)

        Returns
        -------
        NoisyScores

        Raises
        ------
        EnsembleError
            If no pixel was scored.
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
        """Places of the images, the least error first."""
        return tuple(int(place) for place in np.argsort(self.errors, kind="stable"))

    @property
    def best(self) -> int | None:
        """The image that is closer to the truth than every other, if each difference is real."""
        first, *others = self.ranked
        return first if all(self.difference(first, other).is_real for other in others) else None

    def difference(self, place: int, other: int | None = None) -> Difference:
        """Mean squared error of an image less that of another one, by default the baseline.

        Parameters
        ----------
        place, other : int
            Places in ``names``.

        Returns
        -------
        Difference
            In squared intensity units, with its standard error.
        """
        from scipy.special import stdtrit

        sums, counts = self.blocks
        total, n = counts.sum(), int((counts > 0).sum())
        apart = sums[:, place] - sums[:, self.baseline if other is None else other]
        value = float(apart.sum() / total)
        if n < 2:
            return Difference(value, float("nan"), False)
        spread = float(np.sum((apart - value * counts) ** 2)) * n / (n - 1)
        error = float(np.sqrt(spread) / total)
        return Difference(value, error, bool(abs(value) > stdtrit(n - 1, SURE) * error))

    @property
    def rows(self) -> tuple[NoisyRow, ...]:
        """What can be said of each image, in the order of the names."""
        best = self.best
        return tuple(self._row(place, place == best) for place in range(len(self.names)))

    def _row(self, place: int, is_best: bool) -> NoisyRow:
        found = self.difference(place)
        spread = None if np.isnan(found.standard_error) else found.standard_error
        row = NoisyRow(self.names[place], self.roles[place], found.value, spread, None, None, None, is_best)
        if self.noise == "unknown":
            return row
        variance, n = float(self.noise) ** 2, int(self.blocks.counts.sum())
        mse = float(self.errors[place]) - variance
        # Of Gaussian noise over n pixels: its own power varies, and its product with the image's error.
        error = float(np.sqrt((2 * variance**2 + 4 * variance * max(mse, 0.0)) / n))
        if mse < CLEAR * error:
            return row._replace(mse=mse, note="below the noise")
        in_db = 10 / np.log(10) * error / mse
        return row._replace(mse=mse, psnr=psnr_of_error(mse, self.peak), psnr_error=float(in_db))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, a sentence each."""
        base = "the average of the candidates" if self.roles[self.baseline] == AVERAGE else ""
        said = [
            f"Differences are of mean squared error, to {base or self.names[self.baseline]}, with their "
            "standard error over blocks; negative is better."
        ]
        if self.noise == "unknown":
            said.append("The reference is noisy, its noise unknown: an absolute score would be wrong.")
        else:
            said.append(f"The reference is noisy: its variance, {self.noise:g} squared, is taken off.")
        if self.best is None:
            said.append("No image is surely the best: what is between the first ones can be chance.")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "truth_noise": self.noise,
            "peak": self.peak,
            "baseline": self.names[self.baseline],
            "blocks": len(self.blocks.counts),
            "pixels": int(self.blocks.counts.sum()),
            "rows": [row._asdict() for row in self.rows],
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """The table in Markdown."""
        known = self.noise != "unknown"
        lines = ["| | difference of MSE | standard error |" + (" PSNR, dB |" if known else "") + " |"]
        lines.append("|---|---|---|---|" + ("---|" if known else ""))
        for row in self.rows:
            spread = "" if row.standard_error is None else f"{row.standard_error:.4g}"
            score = row.note if row.psnr is None else f"{row.psnr:.2f} ± {row.psnr_error:.2f}"
            cells = [row.name, f"{row.difference:+.4g}", spread, *[score] * known, "★" * row.best]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def joined(parts: Sequence[BlockErrors]) -> BlockErrors:
    """Blocks of several images together.

    Raises
    ------
    EnsembleError
        If they have no pixel.
    """
    sums = np.concatenate([part.sums for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    if not counts.sum():
        raise EnsembleError("no pixel is finite in every image and the reference to score by.")
    return BlockErrors(sums, counts)


def side_by_side(columns: Sequence[BlockErrors]) -> BlockErrors:
    """Errors of several images in the same blocks of the same pixels, as one."""
    return BlockErrors(np.concatenate([each.sums for each in columns], axis=1), columns[0].counts)


def block_errors(
    reference: Image,
    images: Sequence[Image],
    *,
    valid: NDArray[np.bool_] | None = None,
    channel_axis: int | None = None,
) -> BlockErrors:
    """Squared errors of images against one reference, block by block.

    Parameters
    ----------
    reference : array
        Noisy.
    images : K arrays of its shape
    valid : bool array of that shape, optional
        Pixels that count; None: those that are finite in the reference and in every image.
    channel_axis : int, optional
        Not cut into blocks.

    Returns
    -------
    BlockErrors
        Of 8 x 8 blocks along the two longest axes.

    Examples
    --------
    >>> sums, counts = block_errors(np.zeros((16, 16)), [np.ones((16, 16)), np.full((16, 16), 2.0)])
    >>> sums.shape, int(counts[0]), sums[0].tolist()
    ((64, 2), 4, [4.0, 16.0])
    """
    truth = np.asarray(reference, np.float64)
    squares = []
    with np.errstate(invalid="ignore", over="ignore"):  # where a pixel is not finite, it is left out below
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
    """Sums over blocks along some axes, and over all of the others; flat."""
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
    """The same from statistics of parts of a reference set, without reading any pixel.

    Parameters
    ----------
    parts : B Statistics
        Such as the folds of a :class:`~napari_ensir.ensemble.statistics.reference.Reference`.
    weights : K of them
        One vector for all pixels, a table, or a list of tables, one for each part that has pixels.
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
    """Scores of candidates, their average and the ensemble where a reference set's truth is noisy.

    Parameters
    ----------
    reference : Reference
        Collected in two folds or more: they serve as blocks, and to hold the ensemble's pixels out.
    lut : WeightLUT
        What was learned from it; the ensemble is scored by its method and in its bins.
    settings : Settings, optional
        What it was estimated with.
    noise : float or "unknown"

    Returns
    -------
    NoisyScores
        The last of them, of the role ``"ensemble"``, on pixels that its weights were not learned from.
    """
    parts = [fold.in_bins(lut.binning) for fold in reference.folds]
    n = len(reference.names)
    held_out = held_out_lookups(reference, lut.method, settings, lut.binning)
    blocks = errors_of_parts(parts, [*np.eye(n), np.full(n, 1 / n), held_out])
    return NoisyScores.of(reference.names, [blocks], peak(lut.binning), noise, [("ensemble", "ensemble")])


BLOCK = 2**22
"""Pixels that are looked at together."""


@dataclass(frozen=True)
class ScoreRange:
    """The range of intensities whose width is the peak of PSNR and SSIM.

    Attributes
    ----------
    low, high : float
        Intensity units.
    source : "given", "dtype", "truth" or "candidates"
        Where it came from.

    Examples
    --------
    >>> print(ScoreRange(100.0, 1999.0, "truth"))
    1899, from 100 to 1999, which is what the ground truth shows
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
            "dtype": "the range of the ground truth's dtype",
            "truth": "which is what the ground truth shows",
            "candidates": "which is what the average of the candidates shows, the ground truth being noisy",
        }[self.source]
        return f"{self.peak:.6g}, from {self.low:.6g} to {self.high:.6g}, {why}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"peak": self.peak, "data_range": [self.low, self.high], "data_range_from": self.source}


def score_range(truths: Sequence[Any], given: tuple[float, float] | None = None) -> ScoreRange:
    """The range to score by, from the ground truths of all images together.

    Where pixels count, it is the shortest that leaves out no more than one in ten thousand, as for bins
    (``data_range.py``): exact for integers of up to 16 bit, else to 1/2048 of its ends.

    Parameters
    ----------
    truths : arrays
        Numpy, torch, dask or anything that can be sliced; read in blocks, one after the other. What has 8 bit
        is not read.
    given : (low, high), optional
        Taken as it is.

    Raises
    ------
    EnsembleError
        If the range given does not rise, or the truths show one intensity at most.

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
    """What ground truths show, one after the other.

    Parameters
    ----------
    dtypes
        Of all that will be added.
    """

    def __init__(self, dtypes: Sequence[np.dtype[Any]]) -> None:
        self.dtype = working_dtype(dtypes)
        self.spread: Spread | None = None

    def add(self, truth: Any) -> None:
        """Read an image in blocks; what raises in between leaves no trace."""
        parts = [] if self.spread is None else [self.spread]
        self.spread = sum_of([*parts, *(spread_of(block) for block in self._blocks(truth))])

    def ends(self, truth: Any, within: Ends) -> Ends:
        """Least and greatest intensity of an image, of those within others."""
        return widest([ends_of(block, within) for block in self._blocks(truth)])

    def found(self, ends_within: Callable[[Ends], Ends]) -> ScoreRange:
        """The range of all that was added.

        Parameters
        ----------
        ends_within
            :meth:`ends` of all of them; asked only where the first look was too coarse.

        Raises
        ------
        EnsembleError
            If there is one intensity at most.
        """
        return _range_of_truth(self.spread, ends_within)

    def _blocks(self, truth: Any) -> Iterator[NDArray[Any]]:
        for slices in block_slices(truth.shape, BLOCK):
            yield read_block(truth, slices, self.dtype)


def score_range_of(
    statistics: Sequence[Statistics], dtype: np.dtype[Any], given: tuple[float, float] | None = None
) -> ScoreRange:
    """The same from what a fit has counted, without reading a pixel.

    Exact for integers of up to 16 bit; for others to one level of the binning.

    Parameters
    ----------
    statistics : sequence of Statistics
        Of one binning; those of pixels held out as well, so that the truth is all there.
    dtype
        The ground truth's.
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
    in_levels = _range_of_truth(Spread(True, levels, counts, ends), lambda within: within)
    low, high = statistics[0].binning.intensities(np.array([in_levels.low, in_levels.high], np.int64))
    return ScoreRange(float(low), float(high), "truth")


def known_range(dtypes: Sequence[np.dtype[Any]], given: tuple[float, float] | None) -> ScoreRange | None:
    """The range that needs no pixel: as given, or that of 8 bit."""
    if given is not None:
        try:
            low, high = (float(edge) for edge in given)
        except (TypeError, ValueError):
            low = high = float("nan")
        if not (np.isfinite([low, high]).all() and low < high):
            raise EnsembleError(f"data_range is {given!r}; give two finite numbers that rise, (low, high).")
        return ScoreRange(low, high, "given")
    limits = byte_range(dtypes)
    return None if limits is None else ScoreRange(*limits, "dtype")


def _range_of_truth(spread: Spread | None, ends_within: Callable[[Ends], Ends]) -> ScoreRange:
    if spread is None or not len(spread.cells) or spread.ends[0] == spread.ends[1]:
        known = spread is not None and len(spread.cells)
        shown = "of one intensity" if known else "finite nowhere"
        raise EnsembleError(f"the ground truth is {shown}, which gives PSNR no peak; give the data range.")
    low, high = robust_range(spread, ends_within)
    return ScoreRange(low, high, "truth")


class Score(NamedTuple):
    """How close an image is to the ground truth.

    Attributes
    ----------
    psnr : float
        dB.
    ssim : float
        NaN where images are too small for its window, or no window is free of pixels left out.
    """

    psnr: float
    ssim: float


def finite_everywhere(arrays: Sequence[Image]) -> NDArray[np.bool_]:
    """Where every one of some arrays of one shape is finite.

    Raises
    ------
    EnsembleError
        If that is nowhere.
    """
    finite: NDArray[np.bool_] = np.ones(arrays[0].shape, bool)
    for array in arrays:
        if array.dtype.kind not in "iu":
            finite &= np.isfinite(array)
    if not finite.any():
        raise EnsembleError(
            "no pixel is finite in every candidate and the ground truth; there is nothing to score."
        )
    return finite


def left_out(n: int) -> list[str]:
    """What to say of pixels that are not scored: one sentence, or none.

    Examples
    --------
    >>> left_out(0), left_out(1)
    ([], ['1 pixel is NaN or infinite in a candidate or the ground truth; nothing is scored there.'])
    """
    are = "pixel is" if n == 1 else "pixels are"
    return (
        [f"{n:,} {are} NaN or infinite in a candidate or the ground truth; nothing is scored there."]
        if n
        else []
    )


@dataclass(frozen=True)
class Scoring:
    """How images are scored: by which peak, as RGB or Y, without which border. Nothing is clipped.

    Attributes
    ----------
    data_range : (low, high)
        Its width is the peak; for Y it becomes 0 to 255.
    y_channel : bool
        Score Y of BT.601 on 0 to 255 instead of the channels.
    crop_border : int
        Pixels left out at each edge of the last two spatial axes.
    channel_axis : int or None
        None: the last axis, where it has three places and is the third or a later one.

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

    def __call__(self, truth: Image, image: Image, valid: NDArray[np.bool_] | None = None) -> Score:
        """PSNR and SSIM of one image.

        Parameters
        ----------
        truth, image : arrays of one shape
        valid : bool array of that shape, optional
            Pixels that count; None: those that are finite in both.
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
                    f"the image has shape {truth.shape}; Y needs red, green and blue along a channel axis."
                )
            first, second = (
                luma((np.moveaxis(x, axis, -1).astype(np.float64) - low) * (255 / (high - low)))
                for x in (first, second)
            )
            valid = np.asarray(valid.all(axis=axis))
            axis, peak = None, 255.0
        cut = self._cut(first.shape, axis)
        first, second, valid = first[cut], second[cut], valid[cut]
        return Score(psnr(first, second, peak, valid), ssim(first, second, peak, axis, valid))

    def of_all(self, truth: Image, images: Sequence[Image]) -> list[Score]:
        """Scores of several images on the same pixels: where the truth and every one of them is finite.

        Raises
        ------
        EnsembleError
            If there is no such pixel.
        """
        valid = finite_everywhere([truth, *images])
        return [self(truth, image, valid) for image in images]

    def channels_of(self, shape: tuple[int, ...]) -> int | None:
        """The channel axis of an image of this shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(shape)
        return len(shape) - 1 if len(shape) > 2 and shape[-1] == 3 else None

    def inside(self, shape: tuple[int, ...]) -> Slices:
        """What is left of an image of this shape without the border.

        Raises
        ------
        EnsembleError
            If that is nothing.
        """
        return self._cut(shape, self.channels_of(shape))

    def _cut(self, shape: tuple[int, ...], channel_axis: int | None) -> Slices:
        spatial = [i for i in range(len(shape)) if i != channel_axis][-2:]
        border = self.crop_border
        if border < 0 or any(shape[i] <= 2 * border for i in spatial):
            raise EnsembleError(f"a border of {border} pixels leaves nothing of an image of shape {shape}.")
        return tuple(slice(border, n - border) if i in spatial else slice(None) for i, n in enumerate(shape))

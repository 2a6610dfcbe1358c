"""Scores of images against a noisy ground truth.

With a noisy reference z = y + n, where the noise n is independent of the image x and y is the truth,

    E (x - z)^2 = E (x - y)^2 + var n.

The difference in mean squared error between two images is therefore the same against z as against y. PSNR is
computed after subtracting the variance of the noise; SSIM cannot be corrected. Standard errors are those of
paired differences over blocks of pixels, so the difficulty of a block, common to both images, cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.ensemble.scoring.cross_validation import mean_squared_error
from napari_ensir.ensemble.scoring.metrics import psnr_of_error
from napari_ensir.ensemble.scoring.score_table import DIFFERENCE, PSNR, TIED, ScoreRow, ScoreTable, plus_minus
from napari_ensir.ensemble.statistics.student_t import student_t_quantile
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.statistics import Statistics

    Image = NDArray[Any]
    Slices = tuple[slice, ...]


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

    @cached_property
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

    def shown_difference(self, index: int, other: int) -> tuple[Difference, str]:
        """Return the difference in dB if it is known, else in mean squared error, and its unit in words.

        Parameters
        ----------
        index, other : int
            Indices in ``names``.

        Returns
        -------
        (Difference, str)
        """
        decibels = self.psnr_difference(index, other)
        if decibels is None:
            return self.difference(index, other), "in mean squared error"
        return decibels, "dB"

    def _significance(self, value: float, residuals: NDArray[np.float64]) -> Difference:
        """Return a mean with its standard error, computed from the block sums of the deviations from it."""
        counts = self.blocks.counts
        n = int((counts > 0).sum())
        if n < 2:
            return Difference(value, float("nan"), False)
        spread = float(np.sum(residuals**2)) * n / (n - 1)
        error = float(np.sqrt(spread) / counts.sum())
        return Difference(value, error, bool(abs(value) > student_t_quantile(n - 1, SURE) * error))

    @cached_property
    def rows(self) -> tuple[ScoreRow, ...]:
        """Scores of each image, in the order of the names."""
        return tuple(map(self._row, range(len(self.names)), self.names, self.roles))

    def _row(self, index: int, name: str, role: str) -> ScoreRow:
        value, error, _ = self.difference(index)
        best, tied = index == self.best, index in self._tied and self.best is None
        row = ScoreRow(name, role, difference=value, standard_error=error, best=best, tied=tied)
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
        numbers = ("difference", "standard_error", "mse", "psnr", "psnr_error")
        keys = ("name", "role", *numbers, "best", "tied", "note")
        return {
            "truth_noise": self.noise,
            "peak": self.peak,
            "baseline": self.names[self.baseline],
            "blocks": len(self.blocks.counts),
            "pixels": int(self.blocks.counts.sum()),
            "rows": [row.to_dict(*keys) for row in self.rows],
            "notes": list(self.notes),
        }

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
    found, unit = scores.shown_difference(ensemble, best)
    amount = f"{plus_minus(abs(found.value), found.standard_error, digits=1, signed=False)} {unit}"
    word = "better" if scores.difference(ensemble, best).value < 0 else "worse"
    doubt = "" if found.significant else " (not significant)"
    return f"The ensemble is {word} than the best candidate ({name}) by {amount}{doubt}."


def as_sentence_list(names: Sequence[str]) -> str:
    """Join names for a sentence.

    Examples
    --------
    >>> as_sentence_list(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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

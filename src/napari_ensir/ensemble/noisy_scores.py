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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.ensemble.metrics import psnr_of_error
from napari_ensir.ensemble.validation import held_out_lookups, mean_squared_error, peak
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.estimate import Settings
    from napari_ensir.ensemble.lookup import Lookup
    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.ensemble.reference import Reference
    from napari_ensir.ensemble.statistics import Statistics
    from napari_ensir.ensemble.truth_noise import TruthNoise

    Image = NDArray[Any]

__all__ = [
    "AVERAGE",
    "BlockErrors",
    "Difference",
    "NoisyRow",
    "NoisyScores",
    "block_errors",
    "errors_of_parts",
    "joined",
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
        Such as the folds of a :class:`~napari_ensir.ensemble.reference.Reference`.
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

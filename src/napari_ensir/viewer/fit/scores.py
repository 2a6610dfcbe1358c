"""How close each image comes to the ground truth: candidates, their average, every method. Shows nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.lut.lut import estimate_lut
from napari_ensir.ensemble.scoring.cross_validation import (
    held_out_error,
    held_out_lookups,
    mean_squared_error,
)
from napari_ensir.ensemble.scoring.metrics import evenly_spaced_planes, psnr_of_error, ssim
from napari_ensir.ensemble.scoring.scores import NoisyScores, errors_of_parts
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.viewer.fit.request import FitRequest

__all__ = [
    "SSIM_PIXELS",
    "Score",
    "Truth",
    "better_than_chosen",
    "score_method",
    "score_methods",
    "score_simple",
    "score_zzpm",
    "ssim_in_words",
    "ssim_planes",
    "with_ssim",
]

SSIM_PIXELS = 2**22
"""Pixels of an image that SSIM is computed on, at most, in whole planes evenly spaced; one plane at least."""

WORTH_SAYING = 0.01
"""dB by which another image has to do better for it to be said."""

_NAN = float("nan")


@dataclass(frozen=True)
class Score:
    """How close one image is to the ground truth.

    Attributes
    ----------
    name : str
    role : "candidate", "average", "method" or "zzpm"
        What it is, whatever its name.
    method : str
        Key of the method, where it is one.
    psnr : float
        dB, on the pixels learned from.
    held_out : float
        dB, on pixels that the weights were not learned from: all outside the mask and the planes, where
        there are such, else parts left out in turn; NaN where none could be held out.
    ssim : float
        NaN where it was not computed.
    difference, spread : float
        Where the ground truth is noisy: mean squared error less that of the candidates' average on what was
        held out, and its standard error, squared intensity units; else NaN.
    best : bool
        Whether it is surely closer to the truth than every other; for noisy ground truths.
    """

    name: str
    role: str
    method: str = ""
    psnr: float = _NAN
    held_out: float = _NAN
    ssim: float = _NAN
    difference: float = _NAN
    spread: float = _NAN
    best: bool = False


@dataclass(frozen=True)
class Truth:
    """What images are scored against: the pixels learned from, and those left out for good.

    Attributes
    ----------
    reference : Reference
    peak : float
        Of PSNR, in intensity units; see :func:`~napari_ensir.ensemble.scoring.scores.score_range_of`.
    unseen : Reference or None
    noise : float, "unknown" or None
        Standard deviation of the ground truth's own noise, which no image is to blame for; None: it is clean.
    """

    reference: Reference
    peak: float
    unseen: Reference | None = None
    noise: TruthNoise | None = None

    def psnr(self, weights: NDArray[np.float64] | WeightLUT, binning: Binning) -> tuple[float, float]:
        """PSNR of an ensemble on the pixels learned from, and on those left out: NaN where there are none."""
        parts = [self.reference, self.unseen]
        seen, unseen = (
            _NAN if part is None else self.in_db(_error(part, weights, binning)) for part in parts
        )
        return seen, unseen

    def in_db(self, error: float) -> float:
        """PSNR of a mean squared error; NaN where it drowns in the noise, or that is not known."""
        if self.noise is None:
            return psnr_of_error(error, self.peak)
        left = _NAN if self.noise == "unknown" else error - self.noise**2
        return psnr_of_error(left, self.peak) if left > 0 else _NAN

    def noisy_scores(self, lut: WeightLUT, settings: Settings) -> list[Score]:
        """Candidates, average, a method and ZZPM on what was held out, where the ground truth is noisy.

        Against such a truth errors differ from each other as those against the clean one do, and no PSNR is
        true; see :class:`~napari_ensir.ensemble.scoring.scores.NoisyScores`.
        """
        n, method = lut.n_candidates, METHODS[lut.method][0]
        held: list[NDArray[np.float64] | WeightLUT | list[Lookup | None]] = [*np.eye(n), np.full(n, 1 / n)]
        roles = [(method, "method")]
        if self.unseen is None:
            parts = self.reference.folds
            held.append(held_out_lookups(self.reference, lut.method, settings, lut.binning))
        else:
            parts = self.unseen.folds
            held.append(lut)
        if (zzpm := _zzpm_weights(self, lut)) is not None:
            held.append(zzpm)
            roles.append(("ZZPM", "zzpm"))
        blocks = errors_of_parts([part.in_bins(lut.binning) for part in parts], held)
        assert self.noise is not None
        found = NoisyScores.of(lut.names, [blocks], self.peak, self.noise, roles)
        return [
            Score(
                row.name,
                row.role,
                lut.method if row.role == "method" else "",
                psnr=_NAN if row.psnr is None else row.psnr,
                difference=row.difference,
                spread=_NAN if row.standard_error is None else row.standard_error,
                best=row.best,
            )
            for row in found.rows
        ]


def _error(part: Reference, weights: NDArray[np.float64] | WeightLUT, binning: Binning) -> float:
    return mean_squared_error(part.statistics.in_bins(binning), weights)


def score_simple(truth: Truth, lut: WeightLUT) -> list[Score]:
    """The candidates and their average: what needs no learning, in the bins of a table."""
    m = lut.n_candidates
    kinds = [("candidate", name, weights) for name, weights in zip(lut.names, np.eye(m), strict=True)]
    kinds.append(("average", "average", np.full(m, 1 / m)))
    return [_fixed(truth, name, role, weights, lut) for role, name, weights in kinds]


def _fixed(truth: Truth, name: str, role: str, weights: NDArray[np.float64], lut: WeightLUT) -> Score:
    """The score of weights that were not learned: any pixel is held out from them."""
    seen, unseen = truth.psnr(weights, lut.binning)
    return Score(name, role, psnr=seen, held_out=seen if truth.unseen is None else unseen)


def score_method(truth: Truth, lut: WeightLUT) -> Score:
    """One method on the pixels learned from; held out only where pixels were left out for good."""
    return Score(METHODS[lut.method][0], "method", lut.method, *truth.psnr(lut, lut.binning))


def score_methods(
    truth: Truth, chosen: WeightLUT, settings: Settings, progress: Progress | None = None
) -> tuple[list[Score], dict[str, WeightLUT]]:
    """Every method in the bins of the chosen one's table, seen and held out, and their tables."""
    scores, tables = [], {}
    for number, key in enumerate(METHODS):
        if progress is not None:
            progress(number, len(METHODS), f"scoring {METHODS[key][0]}")
        lut = chosen
        if key != chosen.method:
            lut = estimate_lut(truth.reference, key, settings, binning=chosen.binning, progress=progress)
        tables[key] = lut
        score = score_method(truth, lut)
        if truth.unseen is None:
            try:
                error = held_out_error(truth.reference, key, settings, chosen.binning, progress)
                score = replace(score, held_out=truth.in_db(error))
            except EnsembleError:  # too few places to hold any out: the score stays unknown
                pass
        scores.append(score)
    return scores, tables


def score_zzpm(truth: Truth, lut: WeightLUT) -> Score | None:
    """ZZPM, which weighs a candidate by its distance to the candidates' mean; None where there is none."""
    weights = _zzpm_weights(truth, lut)
    return None if weights is None else _fixed(truth, "ZZPM", "zzpm", weights, lut)


def _zzpm_weights(truth: Truth, lut: WeightLUT) -> NDArray[np.float64] | None:
    gram = truth.reference.statistics.in_bins(lut.binning).error_gram.sum(axis=0)
    # The truth cancels in the distance, so it can be told from the errors.
    spread = np.maximum(np.diag(gram) - 2 * gram.mean(axis=1) + gram.mean(), 0)
    if not (spread > 0).all():
        return None
    weights: NDArray[np.float64] = (1 / spread) / (1 / spread).sum()
    return weights


def better_than_chosen(scores: Sequence[Score], method: str) -> str:
    """A sentence where another method, or one candidate alone, does better held out; empty where none does.

    Examples
    --------
    >>> found = [Score("a", "candidate", held_out=41.0), Score("EM (paper)", "method", "em", held_out=43.27)]
    >>> found.append(Score("Least squares", "method", "least-squares", held_out=46.19))
    >>> better_than_chosen(found, "em")
    'Least squares does better here: 46.19 against 43.27 dB held out.'
    >>> better_than_chosen(found, "least-squares")
    ''
    """
    own = next((score.held_out for score in scores if score.method == method), _NAN)
    if np.isnan(own):
        sure = next((score for score in scores if score.best and score.method != method), None)
        return "" if sure is None else f'"{sure.name}" alone surely does better here than the ensemble.'
    rivals = [s for s in scores if s.method != method and s.held_out > own + WORTH_SAYING]
    if not rivals:
        return ""
    best = max(rivals, key=lambda score: score.held_out)
    named = f'"{best.name}" alone' if best.role == "candidate" else best.name[:1].upper() + best.name[1:]
    return f"{named} does better here: {best.held_out:.2f} against {own:.2f} dB held out."


def with_ssim(
    scores: Iterable[Score],
    request: FitRequest,
    tables: dict[str, WeightLUT],
    data_range: float,
    known: dict[tuple[str, str], float],
    progress: Progress | None = None,
) -> list[Score]:
    """Add SSIM: on the two last axes but colours, averaged over few planes.

    Parameters
    ----------
    scores
        As the functions above give them.
    request : FitRequest
    tables
        A table for each method scored.
    data_range : float
        Width of the data range, intensity units.
    known
        SSIM by role and name of what no setting changes; what is found is added.
    """
    planes = ssim_planes(request)
    steps = [(score, place) for score in scores for place in planes]
    values: dict[Score, list[float]] = {}
    for number, (score, place) in enumerate(steps):
        if progress is not None:
            progress(number, len(steps), "scoring SSIM")
        if (score.role, score.name) not in known:
            value = _ssim_at(request, score, tables.get(score.method), data_range, place)
            values.setdefault(score, []).append(value)
    found = []
    for score in scores:
        key = (score.role, score.name)
        value = known[key] if key in known else float(np.mean(values[score]))
        if score.role != "method":
            known[key] = value
        found.append(replace(score, ssim=value))
    return found


def _ssim_at(
    request: FitRequest, score: Score, table: WeightLUT | None, data_range: float, place: tuple[int, ...]
) -> float:
    axis = -1 if request.colour_axis is not None else None
    parts = [_plane(request, candidate, place) for candidate in request.candidates]
    if table is not None:
        shown = table.apply(parts, "cpu", channel_axis=axis, check=False)
    elif score.role == "candidate":
        shown = parts[request.names.index(score.name)]
    else:
        shown = np.mean(parts, axis=0, dtype=np.float64)
    return ssim(_plane(request, request.truth, place), shown, data_range, axis)


def ssim_planes(request: FitRequest) -> list[tuple[int, ...]]:
    """Places along the leading axes of the planes that SSIM is computed on."""
    return evenly_spaced_planes(request.spatial_shape, most_pixels=SSIM_PIXELS)


def ssim_in_words(request: FitRequest) -> str:
    """On which planes SSIM is computed; empty where there is one plane."""
    leading = request.spatial_shape[:-2]
    if prod(leading) <= 1:
        return ""
    return f"Structural similarity on {len(ssim_planes(request))} of {prod(leading)} planes, evenly spaced."


def _plane(request: FitRequest, array: Any, place: tuple[int, ...]) -> np.ndarray:
    """One plane with its colours last."""
    axis = request.colour_axis
    if axis is not None:
        array = np.moveaxis(array, axis, -1)
    return np.asarray(array[place])

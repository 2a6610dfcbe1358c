"""Held-out scores of the baselines on the parts that a fit session holds out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.compare.baselines import REGRESSORS, RefESR, Regression
from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex
from napari_ensir.ensemble.scoring.cross_validation import mean_squared_error
from napari_ensir.ensemble.scoring.metrics import psnr_of_error
from napari_ensir.ensemble.scoring.score_table import ScoreRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.compare.baselines import Pair
    from napari_ensir.ensemble.fit import FitSession

MOST_PIXELS = 2**22
"""Maximum number of pixels, counted in each channel, of images for which the regressors are scored."""

SAMPLES = 20_000
"""Number of pixels that the regressors except linear regression learn from."""


def baseline_scores(
    session: FitSession,
    low_resolution: tuple[Sequence[Any], Any] | None = None,
    progress: Progress | None = None,
) -> Iterator[ScoreRow]:
    """Yield the held-out scores of global least squares, RefESR and the regressors, one after the other.

    The parts held out are those of :meth:`FitSession.score`, so the scores can be compared with its scores.

    Parameters
    ----------
    session : FitSession
        With a clean ground truth.
    low_resolution : (candidates, image), optional
        The candidates of the only image of the session, and its input in low resolution, which RefESR needs.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises stops the work.

    Yields
    ------
    ScoreRow
        Of the regressors only if :func:`regressors_left_out` is empty.

    Raises
    ------
    EnsembleError
        If scikit-learn is not installed, or RefESR cannot use the images.

    Examples
    --------
    >>> from napari_ensir import FitSession
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)]
    >>> next(baseline_scores(FitSession([(noisy, truth)], device="cpu"))).name
    'global least squares'
    """
    peak = session.score_range.peak

    def row(name: str, errors: Iterable[tuple[float, int]], note: str = "") -> ScoreRow:
        total, pixels = np.sum([*errors], axis=0)
        return ScoreRow(name, "baseline", held_out=psnr_of_error(total / pixels, peak), note=note)

    reference, unseen = session.collect(progress), session.unseen
    scored = reference.folds if unseen is None else (unseen.statistics,)

    def weighted(name: str, weights: Iterable[NDArray[np.float64]]) -> ScoreRow:
        """Score weights that are the same for all pixels of a part."""
        return row(
            name,
            [
                (mean_squared_error(part, each) * part.n_pixels, part.n_pixels)
                for part, each in zip(scored, weights, strict=True)
            ],
        )

    grams = [part.error_gram.sum(axis=0) for part in reference.folds]
    learned_from = sum(grams) - np.array(grams) if unseen is None else np.array([sum(grams)])
    yield weighted("global least squares", minimise_on_simplex(learned_from)[0])
    parts = session.parts()
    if low_resolution is not None:
        method, found = RefESR(), []
        for learned, _ in parts:
            method.fit([(field.candidates, np.asarray(field.truth)) for field in learned])
            found.append(method.weights(*low_resolution))
        yield weighted(method.name, found)
    if regressors_left_out(session):
        return
    pixels = [([_pixels(field) for field in learned], [_pixels(f) for f in left]) for learned, left in parts]
    for number, name in enumerate(REGRESSORS):
        regression, errors = Regression(name, None if name == "linear regression" else SAMPLES), []
        for place, (pairs, left) in enumerate(pixels):
            if progress is not None:
                progress(number * len(pixels) + place, len(REGRESSORS) * len(pixels), f"scoring {name}")
            regression.fit(pairs)
            for candidates, truth in left:
                error = regression.predict(candidates) - truth
                errors.append((float(np.nansum(error**2)), int(np.isfinite(error).sum())))
        yield row(name, errors, f"{regression.note[:1].upper()}{regression.note[1:]}.")


def regressors_left_out(session: FitSession) -> str:
    """Return why the regressors are not scored, as a sentence; empty if they are."""
    parts = [part for part in (session.collect(), session.unseen) if part is not None]
    n = sum(part.statistics.n_pixels for part in parts)
    if n <= MOST_PIXELS:
        return ""
    return f"Regressors are left out, because they take long: {n:,} pixels, and the limit is {MOST_PIXELS:,}."


def _pixels(field: Field) -> Pair:
    """Candidates and ground truth of the pixels inside the mask, flattened."""
    arrays = [np.asarray(array) for array in field.arrays]
    mask = field.read_mask(tuple(slice(0, n) for n in field.shape))
    values = [array.ravel() if mask is None else array.ravel()[mask] for array in arrays]
    return values[:-1], values[-1]

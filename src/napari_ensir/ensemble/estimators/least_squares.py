"""Least squares on the simplex per bin set.

With errors ``e_m = x_m - y`` and ``G_r = sum e e^T`` over the pixels of bin set ``r``,

    w_r = argmin  w^T (G_r + shrinkage * G_bar) w    subject to  w >= 0, sum w = 1,

where ``G_bar`` is the mean of ``e e^T`` over all pixels of the channel. ``w^T G_r w`` is the squared error
of the ensemble itself. The second term counts as ``shrinkage`` pixels of typical error: it shrinks sparse bin
sets toward the global solution, which is also the fallback for unseen bin sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.estimators.base import Estimate
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.statistics.statistics import Statistics

_TOLERANCE = 1e-12
"""A weight at zero is freed if its gradient, relative to the mean diagonal, is below minus this."""

_RIDGE = 1e-10
"""Added to the scaled diagonal, so that equal candidates get equal weights; larger than the tolerance."""

_BATCH = 2**14
"""Bin sets solved at once."""

_ROUNDS = 20
"""Most steps of the active-set method for each candidate; it ends earlier, whatever rounding does."""


def least_squares(
    statistics: Statistics, settings: Settings, progress: Progress | None = None, /
) -> Estimate:
    """Estimate the weights of least squared error, shrunk toward the global solution.

    Parameters
    ----------
    statistics : Statistics
    settings : Settings
        Only ``shrinkage`` is used, in pixels; 0 means none.
    progress
        Called with (bin sets done, bin sets, text); what it raises stops the work.

    Raises
    ------
    EnsembleError
        If ``shrinkage`` is negative or not finite.
    """
    if not (np.isfinite(settings.shrinkage) and settings.shrinkage >= 0):
        raise EnsembleError(f"shrinkage is {settings.shrinkage}; it must be a number of pixels, 0 or more.")
    gram, counts = statistics.error_gram, statistics.counts
    channel = statistics.rows[:, -1]
    n_channels, m = statistics.n_channels, statistics.n_candidates
    total = np.zeros((n_channels, m, m))
    pixels = np.zeros(n_channels)
    np.add.at(total, channel, gram)
    np.add.at(pixels, channel, counts)
    mean = total / np.maximum(pixels, 1)[:, None, None]
    fallback, _ = minimise_on_simplex(mean)
    weights = np.empty((len(gram), m))
    rounds = np.empty(len(gram), np.int64)
    for first in range(0, len(gram), _BATCH):
        part = slice(first, first + _BATCH)
        shrunk = gram[part] + settings.shrinkage * mean[channel[part]]
        weights[part], rounds[part] = minimise_on_simplex(shrunk)
        if progress is not None:
            progress(min(first + _BATCH, len(gram)), len(gram), "estimating weights")
    return Estimate(weights, fallback, "fallback", rounds, np.zeros(len(gram), np.int8))


def minimise_on_simplex(matrices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Minimise ``w^T A w`` over the simplex, for many positive semi-definite ``A`` at once.

    An active-set method as in Lawson and Hanson (1974, chapter 23), for all problems in parallel. Each step
    solves for the free weights under ``sum w = 1``. If one would become negative, the step ends where it
    reaches zero, and it is fixed there; else the fixed weight with the most negative gradient is freed. The
    method stops when no gradient is negative.

    Parameters
    ----------
    matrices : (R, M, M) float64
        Symmetric, positive semi-definite.

    Returns
    -------
    weights : (R, M) float64
        Non-negative, summing to one; close to the solution of least norm if the minimum is not unique.
    rounds : (R,) int64
        Steps of each problem.

    Examples
    --------
    >>> weights, _ = minimise_on_simplex(np.array([[[1.0, 0.0], [0.0, 3.0]]]))
    >>> weights.round(6)
    array([[0.75, 0.25]])
    """
    n, m, _ = matrices.shape
    scale = np.einsum("rmm->r", matrices)[:, None, None] / m
    scaled = np.where(scale > 0, matrices / np.where(scale > 0, scale, 1), 0.0) + _RIDGE * np.eye(m)
    best = np.argmin(np.einsum("rmm->rm", scaled), axis=1)
    weights = np.zeros((n, m))
    weights[np.arange(n), best] = 1.0
    free = weights > 0
    rounds = np.zeros(n, np.int64)
    live = np.arange(n)
    for _ in range(_ROUNDS * (m + 1)):
        if not len(live):
            break
        rounds[live] += 1
        a, w = scaled[live], weights[live]
        f: NDArray[np.bool_] = free[live]
        z = _solve_on_free(a, f)
        negative: NDArray[np.bool_] = np.logical_and(f, z <= 0)
        blocked: NDArray[np.bool_] = np.any(negative, axis=1)
        # Step from w toward z as far as all weights stay non-negative.
        limit = np.where(negative, w / np.where(negative, w - z, 1), np.inf)
        length = np.where(blocked, limit.min(axis=1), 1.0)[:, None]
        w = np.where(f, w + length * (z - w), 0.0)
        f &= ~(blocked[:, None] & negative & (limit <= length))
        w = np.where(f, np.maximum(w, 0), 0.0)
        # After a full step, look for a weight to free.
        slope = np.einsum("rij,rj->ri", a, w)
        gain = np.where(f, 0.0, slope - np.einsum("ri,ri->r", slope, w)[:, None])
        most = gain.argmin(axis=1)
        done = ~blocked & (gain.min(axis=1) >= -_TOLERANCE)
        grow = np.flatnonzero(~blocked & ~done)
        f[grow, most[grow]] = True
        weights[live], free[live] = w, f
        live = live[~done]
    return weights / weights.sum(axis=1, keepdims=True), rounds


def _solve_on_free(a: NDArray[np.float64], free: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Minimise over the free weights under ``sum w = 1``; (R, M), zero for the others."""
    n, m = free.shape
    system = np.zeros((n, m + 1, m + 1))
    system[:, :m, :m] = np.where(free[:, :, None] & free[:, None, :], a, 0.0)
    system[:, np.arange(m), np.arange(m)] += ~free
    system[:, :m, m] = free
    system[:, m, :m] = free
    right = np.zeros((n, m + 1, 1))
    right[:, m] = 1.0
    solution: NDArray[np.float64] = np.linalg.solve(system, right)[:, :m, 0]
    return np.where(free, solution, 0.0)

"""The CPU's hot loop of EM, compiled by numba. The equations stand in ``em.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["iterate_em"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def iterate_em(
    starts: NDArray[np.int64],
    truth: NDArray[np.float64],
    share: NDArray[np.float64],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
    floors: NDArray[np.float64],
    rule: tuple[int, int, float, float, bool],
    iterations: NDArray[np.int64],
    status: NDArray[np.int8],
) -> None:
    """Run EM for each bin set in turn; the equations stand in ``em.py``.

    Parameters
    ----------
    starts : (R + 1,)
        Where each bin set's ground-truth values begin.
    truth, share : (P,)
        Values of the ground truth and the share of the bin set's pixels that have them.
    means, variances, weights : (R, M)
        The components; variances and weights are changed in place.
    floors : (R,)
        Added to every weight in every iteration.
    rule
        Most iterations, first iteration that may be the last, tolerance, floor of variances, whether the
        variance is taken about the new mean.
    iterations, status : (R,)
        Written: iterations used; 0 converged, 1 reached the limit, 2 no solution.
    """
    limit, first_check, tolerance, variance_floor, recentred = rule
    n_candidates = means.shape[1]
    work = np.empty((6, n_candidates))
    mass, centre, spread = work[0], work[1], work[2]
    for r in range(len(starts) - 1):
        entries = slice(starts[r], starts[r + 1])
        before = -np.inf
        status[r] = 1
        for iteration in range(limit + 1):
            likelihood = _expect(truth[entries], share[entries], means[r], variances[r], weights[r], work)
            iterations[r] = iteration
            if not np.isfinite(likelihood):
                status[r] = 2
                break
            if iteration >= first_check and likelihood - before < tolerance:
                status[r] = 0
                break
            if iteration == limit:
                break
            before = likelihood
            for m in range(n_candidates):
                if recentred:
                    shift = (centre[m] - floors[r] * means[r, m]) / (mass[m] + floors[r])
                    spread[m] += shift * (shift * mass[m] - 2 * centre[m])
                if mass[m] > 0 or recentred:  # a component that has died out keeps its variance
                    variances[r, m] = spread[m] / mass[m] + variance_floor
                weights[r, m] = mass[m] + floors[r]


@_jit
def _expect(
    truth: NDArray[np.float64],
    share: NDArray[np.float64],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
    work: NDArray[np.float64],
) -> float:
    """One bin set's E step; return the mean log likelihood of the components as they are.

    ``work`` is written: sums of the responsibilities, and of these times the truth's distance from the
    component's mean and its square; then room for three more vectors.
    """
    mass, centre, spread, scale, half, gamma = work
    n_candidates = len(means)
    work[:3] = 0.0
    for m in range(n_candidates):
        scale[m] = np.log(weights[m]) - 0.5 * np.log(2 * np.pi * variances[m])
        half[m] = 0.5 / variances[m]
    likelihood = 0.0
    for p in range(len(truth)):
        best = -np.inf
        for m in range(n_candidates):
            away = truth[p] - means[m]
            gamma[m] = scale[m] - half[m] * away * away
            best = max(best, gamma[m])
        total = 0.0
        for m in range(n_candidates):
            # The exponential is most of the work: it is not needed where it is one.
            gamma[m] = 1.0 if gamma[m] == best else np.exp(gamma[m] - best)
            total += gamma[m]
        likelihood += share[p] * (best + np.log(total))
        factor = share[p] / total
        for m in range(n_candidates):
            away = truth[p] - means[m]
            part = gamma[m] * factor
            mass[m] += part
            centre[m] += part * away
            spread[m] += part * away * away
    return likelihood

"""The CPU's two hot loops, compiled by numba: counting pixels and combining them.

One pass, no temporaries the size of the image. Where numba is absent, ``statistics.py`` and ``apply.py``
do the same in torch; the tests hold the two to the same numbers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["combine", "count_pixels", "iterate_em"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit  # type: ignore[misc]
def count_pixels(
    candidates: tuple[NDArray[Any], ...],
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    grid: tuple[float, float, float, float, int, int],
    bin_of: NDArray[np.uint16],
    smallest: int,
    channels: tuple[int, int, int],
    n_channels: int,
    moments: NDArray[np.int64],
    histogram: NDArray[np.int64],
    pairs: NDArray[np.int64],
    levels: tuple[int, int],
    left_out: NDArray[np.int64],
) -> int:
    """Add one block's pixels to the sums of their bin sets; return the number of pairs written.

    Parameters
    ----------
    candidates, truth
        Flat arrays of one dtype.
    keep
        Where to count; empty: everywhere.
    grid
        low, high, width, step, bins, levels per bin.
    bin_of, smallest
        Bin of each integer, the first standing for ``smallest``; empty for floating point.
    channels
        First channel, number of channels, pixels per channel run, in this block.
    n_channels
        Channels of the whole field.
    moments : (bin sets, moments)
        Added to, in the order of :class:`~napari_ensir.ensemble.statistics.Statistics`.
    histogram : (bin sets, levels) or empty
        Added to; where empty, ``bin set * levels + level`` is written to ``pairs`` instead.
    levels
        Lowest level of the ground truth, number of levels.
    left_out : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    n_candidates = len(candidates)
    low, high, width, step, n_bins, sublevels = grid
    first, count, inner = channels
    lowest, n_levels = levels
    errors = np.empty(n_candidates, np.int64)
    inside = np.empty(n_candidates, np.int64)
    exact = bin_of.size > 0
    written = 0
    channel = first
    run = 0
    for i in range(truth.size):
        here = channel
        run += 1
        if run == inner:
            run = 0
            channel += 1
            if channel == first + count:
                channel = first
        if keep.size > 0 and not keep[i]:
            continue
        if exact:
            y = np.int64(truth[i]) - np.int64(low)
        else:
            finite = np.isfinite(truth[i])
            for m in range(n_candidates):
                finite &= np.isfinite(candidates[m][i])
            if not finite:
                left_out[n_candidates + 1] += 1
                continue
            value = np.float64(truth[i]) - low
            whole = np.floor(value / width)
            part = min(max(np.floor((value - whole * width) / step), 0.0), sublevels - 1.0)
            whole = min(max(whole, -float(n_bins)), 2.0 * n_bins)
            y = np.int64(whole) * sublevels + np.int64(part)
        left_out[n_candidates] += truth[i] < low or truth[i] > high
        row = 0
        for m in range(n_candidates):
            pixel = candidates[m][i]
            left_out[m] += pixel < low or pixel > high
            if exact:
                t = np.int64(bin_of[np.int64(pixel) - smallest])
                level = np.int64(pixel) - np.int64(low)
            else:
                value = np.float64(pixel) - low
                whole = np.floor(value / width)
                part = min(max(np.floor((value - whole * width) / step), 0.0), sublevels - 1.0)
                whole = min(max(whole, -float(n_bins)), 2.0 * n_bins)
                t = np.int64(min(max(whole, 0.0), n_bins - 1.0))
                level = np.int64(whole) * sublevels + np.int64(part)
            row = row * n_bins + t
            inside[m] = level - t * sublevels
            errors[m] = level - y
        row = row * n_channels + here
        k = 2 * n_candidates
        for m in range(n_candidates):
            moments[row, m] += inside[m]
            moments[row, n_candidates + m] += inside[m] * inside[m]
            for p in range(m + 1):
                moments[row, k] += errors[m] * errors[p]
                k += 1
        if histogram.size > 0:
            histogram[row, y - lowest] += 1
        else:
            pairs[written] = row * n_levels + (y - lowest)
            written += 1
    return written


@_jit  # type: ignore[misc]
def combine(
    candidates: tuple[NDArray[Any], ...],
    grid: tuple[float, float, int],
    bin_of: NDArray[np.uint16],
    smallest: int,
    channels: tuple[int, int, int],
    n_channels: int,
    rows: NDArray[np.int32],
    weights: NDArray[np.float64],
    image: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> None:
    """Combine one block by its bin sets' weights, into ``image``, ``maps`` or both.

    Parameters
    ----------
    candidates
        Flat arrays of one dtype.
    grid
        low, width, bins.
    bin_of, smallest, channels, n_channels
        As in :func:`count_pixels`.
    rows : (bins ** M * channels,)
        Row of the weights for each bin set.
    weights : (rows, M)
    image : (pixels,) or empty
    maps : (M, pixels) or empty
    """
    n_candidates = len(candidates)
    low, width, n_bins = grid
    first, count, inner = channels
    exact = bin_of.size > 0
    channel = first
    run = 0
    for i in range(candidates[0].size):
        key = 0
        for m in range(n_candidates):
            if exact:
                t = np.int64(bin_of[np.int64(candidates[m][i]) - smallest])
            else:
                place = np.floor((np.float64(candidates[m][i]) - low) / width)
                t = np.int64(min(max(place, 0.0), n_bins - 1.0)) if place == place else 0
            key = key * n_bins + t
        row = rows[key * n_channels + channel]
        if image.size > 0:
            total = 0.0
            for m in range(n_candidates):
                total += weights[row, m] * candidates[m][i]
            image[i] = total
        if maps.size > 0:
            for m in range(n_candidates):
                maps[m, i] = weights[row, m]
        run += 1
        if run == inner:
            run = 0
            channel += 1
            if channel == first + count:
                channel = first


@_jit  # type: ignore[misc]
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
    scale = np.empty(n_candidates)
    half = np.empty(n_candidates)
    gamma = np.empty(n_candidates)
    mass = np.empty(n_candidates)
    spread = np.empty(n_candidates)
    centre = np.empty(n_candidates)
    for r in range(len(starts) - 1):
        before = -np.inf
        status[r] = 1
        for iteration in range(limit + 1):
            for m in range(n_candidates):
                scale[m] = np.log(weights[r, m]) - 0.5 * np.log(2 * np.pi * variances[r, m])
                half[m] = 0.5 / variances[r, m]
                mass[m] = 0.0
                spread[m] = 0.0
                centre[m] = 0.0
            likelihood = 0.0
            for p in range(starts[r], starts[r + 1]):
                best = -np.inf
                for m in range(n_candidates):
                    away = truth[p] - means[r, m]
                    gamma[m] = scale[m] - half[m] * away * away
                    best = max(best, gamma[m])
                total = 0.0
                for m in range(n_candidates):
                    gamma[m] = np.exp(gamma[m] - best)
                    total += gamma[m]
                likelihood += share[p] * (best + np.log(total))
                factor = share[p] / total
                for m in range(n_candidates):
                    away = truth[p] - means[r, m]
                    part = gamma[m] * factor
                    mass[m] += part
                    centre[m] += part * away
                    spread[m] += part * away * away
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

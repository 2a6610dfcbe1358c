"""The CPU's hot loops, compiled by numba: counting pixels, combining them, and EM.

One pass, no temporaries the size of the image. Where numba is absent, ``tally.py``, ``apply.py`` and
``em.py`` do the same in torch; the tests hold the two to the same numbers.

Unsigned subscripts are not a matter of taste here: numba then leaves out Python's counting from the end,
which halves the time of the first two loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["combine_floats", "combine_integers", "count_floats", "count_integers", "iterate_em"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_U = np.uint64


@_jit
def count_integers(
    candidates: tuple[NDArray[Any], ...],
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    tables: tuple[NDArray[np.int32], NDArray[np.int32], int],
    limits: tuple[int, int],
    channels: tuple[int, int, int],
    moments: NDArray[np.int64],
    histogram: NDArray[np.int64],
    pairs: NDArray[np.int64],
    levels: tuple[int, int],
    left_out: NDArray[np.int64],
) -> int:
    """Add a block of integers of up to 16 bits to its bin sets' sums; return the number of pairs written.

    Parameters
    ----------
    candidates, truth
        Flat arrays of one dtype.
    keep
        Where to count; empty: everywhere.
    tables
        For every integer of the dtype: what it adds to the number of the bin set, by candidate, and the lower
        edge of its bin; then the first integer that the tables stand for.
    limits
        Lowest and highest intensity of the range.
    channels
        First channel, number of channels, pixels per channel run, in this block.
    moments : (bin sets * moments,)
        Added to, in the order of :class:`~napari_ensir.ensemble.statistics.Statistics`.
    histogram : (bin sets * levels,) or empty
        Added to; where empty, ``bin set * levels + level`` is written to ``pairs`` instead.
    levels
        Lowest intensity that the ground truth can have, number of them.
    left_out : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    n_candidates = len(candidates)
    offsets, edges, smallest = tables
    low, high = limits
    lowest, n_levels = levels
    inside, errors = np.empty(n_candidates, np.int64), np.empty(n_candidates, np.int64)
    masked, dense = keep.size > 0, histogram.size > 0
    written = 0
    channel, run = channels[0], 0
    for i in range(truth.size):
        row = _U(channel)
        channel, run = _next(channel, run, channels)
        if masked and not keep[i]:
            continue
        y = np.int64(truth[i])
        if y < low or y > high:
            left_out[n_candidates] += 1
        for m in range(n_candidates):
            x = np.int64(candidates[m][i])
            if x < low or x > high:
                left_out[m] += 1
            place = _U(x - smallest)
            row += _U(offsets[m, place])
            inside[m] = x - edges[place]
            errors[m] = x - y
        _add_moments(candidates, moments, row, inside, errors)
        pair = row * _U(n_levels) + _U(y - lowest)
        if dense:
            histogram[pair] += 1
        else:
            pairs[written] = pair
            written += 1
    return written


@_jit
def _next(channel: int, run: int, channels: tuple[int, int, int]) -> tuple[int, int]:
    """Channel of the following pixel, and its place in the run of that channel."""
    first, count, inner = channels
    if run + 1 < inner:
        return channel, run + 1
    return (channel + 1 if channel + 1 < first + count else first), 0


@_jit
def _add_moments(
    candidates: tuple[NDArray[Any], ...],
    moments: NDArray[np.int64],
    row: np.uint64,
    inside: NDArray[np.int64],
    errors: NDArray[np.int64],
) -> None:
    n = len(candidates)  # of a tuple: known when compiled, so that the loops unroll
    base = row * _U(2 * n + n * (n + 1) // 2)
    cross = base + _U(2 * n)
    for m in range(n):
        moments[base + _U(m)] += inside[m]
        moments[base + _U(n + m)] += inside[m] * inside[m]
        for p in range(m + 1):
            moments[cross] += errors[m] * errors[p]
            cross += _U(1)


@_jit
def count_floats(
    candidates: tuple[NDArray[Any], ...],
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    grid: tuple[float, float, float, float, int, int],
    n_channels: int,
    channels: tuple[int, int, int],
    moments: NDArray[np.int64],
    pairs: NDArray[np.int64],
    levels: tuple[int, int],
    left_out: NDArray[np.int64],
) -> int:
    """The same for blocks of floating-point numbers, on the binning's grid of levels.

    Parameters
    ----------
    grid
        low, high, width, step, bins, levels per bin.
    n_channels
        Channels of the whole field.
    levels
        Lowest level that the ground truth can have, number of them.
    candidates, truth, keep, channels, moments, pairs, left_out
        As for :func:`count_integers`.
    """
    n_candidates = len(candidates)
    low, high, _, _, n_bins, sublevels = grid
    lowest, n_levels = levels
    inside, errors = np.empty(n_candidates, np.int64), np.empty(n_candidates, np.int64)
    written = 0
    channel, run = channels[0], 0
    for i in range(truth.size):
        here = channel
        channel, run = _next(channel, run, channels)
        if keep.size > 0 and not keep[i]:
            continue
        finite = np.isfinite(truth[i])
        for m in range(n_candidates):
            finite &= np.isfinite(candidates[m][i])
        if not finite:
            left_out[n_candidates + 1] += 1
            continue
        y = _level(truth[i], grid)
        left_out[n_candidates] += truth[i] < low or truth[i] > high
        row = 0
        for m in range(n_candidates):
            x = candidates[m][i]
            left_out[m] += x < low or x > high
            level = _level(x, grid)
            t = min(max(level // sublevels, 0), n_bins - 1)
            row = row * n_bins + t
            inside[m] = level - t * sublevels
            errors[m] = level - y
        row = row * n_channels + here
        _add_moments(candidates, moments, _U(row), inside, errors)
        pairs[written] = row * n_levels + (y - lowest)
        written += 1
    return written


@_jit
def _level(value: float, grid: tuple[float, float, float, float, int, int]) -> int:
    """Level of a finite value, at most one range beyond the range: first the bin, then the place in it."""
    low, _, width, step, n_bins, sublevels = grid
    above = np.float64(value) - low
    whole = np.floor(above / width)
    part = min(max(np.floor((above - whole * width) / step), 0.0), sublevels - 1.0)
    whole = min(max(whole, -float(n_bins)), 2.0 * n_bins)
    return int(whole) * sublevels + int(part)


@_jit
def combine_integers(
    candidates: tuple[NDArray[Any], ...],
    offsets: NDArray[np.int32],
    smallest: int,
    channels: tuple[int, int, int],
    rows: NDArray[np.int32],
    weights: NDArray[np.float64],
    image: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> None:
    """Combine a block of integers of up to 16 bits by its bin sets' weights, into image or maps.

    Parameters
    ----------
    candidates
        Flat arrays of one dtype.
    offsets, smallest
        For every integer of the dtype: what it adds to the number of the bin set, by candidate; the first of
        those integers.
    channels
        First channel, number of channels, pixels per channel run, in this block.
    rows : (bins ** M * channels,)
        Row of the weights for each bin set.
    weights : (rows, M)
    image : (pixels,) or empty
    maps : (M, pixels) or empty
    """
    n_candidates = len(candidates)
    first, count, inner = channels
    channel, change = first, inner
    steps, per_candidate = offsets.reshape(-1), _U(offsets.shape[1])
    flat = weights.reshape(-1)
    for i in range(candidates[0].size):
        if i == change:
            change += inner
            channel = channel + 1 if channel + 1 < first + count else first
        key = _U(channel)
        for m in range(n_candidates):
            key += _U(steps[_U(m) * per_candidate + _U(np.int64(candidates[m][i]) - smallest)])
        row = _U(rows[key]) * _U(n_candidates)
        if image.size > 0:
            total = 0.0
            for m in range(n_candidates):
                total += flat[row + _U(m)] * candidates[m][i]
            image[i] = total
        if maps.size > 0:
            for m in range(n_candidates):
                maps[m, i] = flat[row + _U(m)]


@_jit
def combine_floats(
    candidates: tuple[NDArray[Any], ...],
    grid: tuple[float, float, int],
    n_channels: int,
    channels: tuple[int, int, int],
    rows: NDArray[np.int32],
    weights: NDArray[np.float64],
    image: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> None:
    """The same for blocks of floating-point numbers.

    Parameters
    ----------
    grid
        low, width, bins.
    n_channels
        Channels of the whole field.
    candidates, channels, rows, weights, image, maps
        As for :func:`combine_integers`.
    """
    n_candidates = len(candidates)
    low, width, n_bins = grid
    channel, run = channels[0], 0
    for i in range(candidates[0].size):
        key = 0
        for m in range(n_candidates):
            place = np.floor((np.float64(candidates[m][i]) - low) / width)
            if place != place:  # not a number: the first bin
                place = 0.0
            key = key * n_bins + int(min(max(place, 0.0), n_bins - 1.0))
        row = _U(rows[_U(key * n_channels + channel)])
        if image.size > 0:
            total = 0.0
            for m in range(n_candidates):
                total += weights[row, _U(m)] * candidates[m][i]
            image[i] = total
        if maps.size > 0:
            for m in range(n_candidates):
                maps[m, i] = weights[row, _U(m)]
        channel, run = _next(channel, run, channels)


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

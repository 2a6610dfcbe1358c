"""The CPU's hot loop of EM, compiled by numba. The equations stand in ``em.py``.

Nearly all of its time is exponentials. The compiler turns short loops without a branch into vector
instructions, but has an exponential and a logarithm for single numbers only; those at the end are made of
additions and multiplications, as any library makes them, and take a tenth of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["iterate_em"]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_jit_sum = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
"""For sums alone, whose terms may be added in any order."""

_U = np.uint64

_CHUNK = 256
"""Values of the ground truth worked on at once: the room to work in stays in a core's first cache."""


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
    mass, centre, spread = np.empty(n_candidates), np.empty(n_candidates), np.empty(n_candidates)
    gamma, best = np.empty((n_candidates, _CHUNK)), np.empty(_CHUNK)
    total, room, value = np.empty(_CHUNK), np.empty(_CHUNK), np.empty(_CHUNK)
    bits = (total.view(np.int64), room.view(np.int64), value.view(np.int64))
    work = (best, total, room, value)
    for r in range(len(starts) - 1):
        before = -np.inf
        status[r] = 1
        for iteration in range(limit + 1):
            likelihood = _expect(
                truth,
                share,
                starts[r],
                starts[r + 1],
                means[r],
                variances[r],
                weights[r],
                mass,
                centre,
                spread,
                gamma,
                work,
                bits,
            )
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
    start: int,
    stop: int,
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
    mass: NDArray[np.float64],
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
    gamma: NDArray[np.float64],
    work: tuple[NDArray[np.float64], ...],
    bits: tuple[NDArray[np.int64], ...],
) -> float:
    """One bin set's E step; return the mean log likelihood of the components as they are.

    ``mass``, ``centre`` and ``spread`` are written: sums of the responsibilities, and of these times the
    truth's distance from the component's mean and its square. ``gamma`` and what follows is room to work in.
    """
    best, total, room, value = work
    for m in range(len(means)):
        mass[m] = centre[m] = spread[m] = 0.0
    likelihood = 0.0
    for begin in range(start, stop, _CHUNK):
        size = min(_CHUNK, stop - begin)
        for j in range(size):
            best[j], total[j] = -np.inf, 0.0
        for m in range(len(means)):
            scale = np.log(weights[m]) - 0.5 * np.log(2 * np.pi * variances[m])
            half, mean, here = 0.5 / variances[m], means[m], gamma[m]
            for j in range(size):
                away = truth[_U(begin + j)] - mean
                here[j] = scale - half * away * away
                best[j] = here[j] if here[j] > best[j] else best[j]
        for m in range(len(means)):
            _add_exponential(gamma[m], best, total, room, value, bits, size)
        _logarithm(total, room, bits, size)
        likelihood += _divide(share, begin, size, best, total, room)
        for m in range(len(means)):
            _add_sums(gamma[m], total, truth, begin, size, means[m], m, mass, centre, spread)
    return likelihood


@_jit_sum
def _divide(
    share: NDArray[np.float64],
    begin: int,
    size: int,
    best: NDArray[np.float64],
    total: NDArray[np.float64],
    logs: NDArray[np.float64],
) -> float:
    """Share of the log likelihood; ``total`` becomes what turns densities into responsibilities."""
    found = 0.0
    for j in range(size):
        part = share[_U(begin + j)]
        found += part * (best[j] + logs[j])
        total[j] = part / total[j]
    return found


@_jit_sum
def _add_sums(
    gamma: NDArray[np.float64],
    factor: NDArray[np.float64],
    truth: NDArray[np.float64],
    begin: int,
    size: int,
    mean: float,
    m: int,
    mass: NDArray[np.float64],
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> None:
    first, second, third = 0.0, 0.0, 0.0
    for j in range(size):
        part, away = gamma[j] * factor[j], truth[_U(begin + j)] - mean
        first += part
        second += part * away
        third += part * away * away
    mass[m] += first
    centre[m] += second
    spread[m] += third


_LEAST = -708.0
"""Below this an exponential is taken for zero: it is less than the least number of full precision."""
_ROUND = 1.5 * 2.0**52
"""Added and taken away again, it leaves the nearest whole number; in between that stands in the last bits."""
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""The logarithm of two in two parts; a whole number times the first is exact."""


@_jit
def _add_exponential(
    x: NDArray[np.float64],
    best: NDArray[np.float64],
    total: NDArray[np.float64],
    whole: NDArray[np.float64],
    value: NDArray[np.float64],
    bits: tuple[NDArray[np.int64], ...],
    size: int,
) -> None:
    """Exponential of ``x - best``, which is zero at most, in place, and added to the total.

    To 2 units in the last place, below -708 zero: ``exp(x) = 2 ** n * exp(r)`` with whole ``n`` and ``r`` of
    at most half a logarithm of two, where thirteen terms of Taylor's series are enough. Whatever is not a
    number stays so.
    """
    _, whole_bits, value_bits = bits
    for j in range(size):
        x[j] -= best[j]
        whole[j] = x[j] * _LOG2_E + _ROUND
        n = whole[j] - _ROUND
        r = x[j] - n * _LN2_HIGH - n * _LN2_LOW
        p = 1 / 6227020800.0
        p = p * r + 1 / 479001600.0
        p = p * r + 1 / 39916800.0
        p = p * r + 1 / 3628800.0
        p = p * r + 1 / 362880.0
        p = p * r + 1 / 40320.0
        p = p * r + 1 / 5040.0
        p = p * r + 1 / 720.0
        p = p * r + 1 / 120.0
        p = p * r + 1 / 24.0
        p = p * r + 1 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        value[j] = p * r + 1.0
    for j in range(size):
        value_bits[j] += whole_bits[j] << 52  # into the exponent
    for j in range(size):
        small = 0.0 if x[j] < _LEAST else x[j]
        x[j] = value[j] if x[j] >= _LEAST else small
        total[j] += x[j]


@_jit
def _logarithm(
    x: NDArray[np.float64], out: NDArray[np.float64], bits: tuple[NDArray[np.int64], ...], size: int
) -> None:
    """Natural logarithm of numbers from one upward, to 2 units in the last place of one.

    ``log(x) = n log 2 + 2 artanh s`` with ``s = (f - 1) / (f + 1)`` and ``x = 2 ** n * f``, where ``f`` lies
    between 3/4 and 3/2 and eleven terms of the series are enough. Whatever is not a number stays so.
    """
    x_bits, out_bits, _ = bits
    three_quarters = 0x3FE8000000000000
    for j in range(size):
        out_bits[j] = x_bits[j] - ((x_bits[j] - three_quarters) >> 52 << 52)
    for j in range(size):
        n = np.float64((x_bits[j] - three_quarters) >> 52)
        s = (out[j] - 1.0) / (out[j] + 1.0)
        q = s * s
        p = 1 / 21.0
        p = p * q + 1 / 19.0
        p = p * q + 1 / 17.0
        p = p * q + 1 / 15.0
        p = p * q + 1 / 13.0
        p = p * q + 1 / 11.0
        p = p * q + 1 / 9.0
        p = p * q + 1 / 7.0
        p = p * q + 1 / 5.0
        p = p * q + 1 / 3.0
        p = p * q + 1.0
        value = n * _LN2_HIGH + (n * _LN2_LOW + 2 * s * p)
        out[j] = value if x[j] >= 1.0 else x[j]

"""The CPU's hot loops over pixels, compiled by numba: counting here, the others by name. Decides nothing.

One pass, in tiles that stay in a core's first cache. Within a tile short loops without a branch come first,
which the compiler turns into vector instructions: intensities to bins, bins to the number of the bin set.
Only what no vector instruction does, going to the bin set's place in memory, is left to the last loop. Where
numba is absent, ``collect.py`` and ``apply.py`` do the same in torch; the tests hold the two to the same
numbers.

Unsigned subscripts are not a matter of taste here: numba then leaves out Python's counting from the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import create_struct_proxy
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Blocks = tuple[NDArray[Any], ...]
    """M flat, contiguous, read-only arrays of one dtype and size."""
    Channels = tuple[int, int, int]
    """First channel, number of channels, pixels per channel run, in this block."""
    ChannelRuns = tuple[int, int]
    """Number of channels, pixels per channel run; a block begins with the first channel."""

__all__ = [
    "combine",
    "count_biases",
    "count_cells",
    "count_errors",
    "count_floats",
    "count_integers",
    "count_values",
    "iterate_em",
    "look_up_errors",
]


_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

TILE = 384
"""Pixels worked on at once: three, four and six channels divide it, and all buffers fit 32 KiB."""


@_jit
def tile_of(channels: Channels) -> tuple[int, bool]:
    """Pixels of a tile, and whether all tiles have the same channels in the same order."""
    _, count, inner = channels
    if count == 1:
        return TILE, True
    period = count * inner
    if period <= TILE:
        return TILE // period * period, True
    return TILE, False


@_jit
def fill_channels(start: int, channels: Channels, out: NDArray[np.uint32]) -> None:
    """Channel of each pixel from ``start`` on."""
    first, count, inner = channels
    channel, left = first + start // inner % count, inner - start % inner
    for j in range(out.size):
        out[j] = channel
        left -= 1
        if left == 0:
            channel = channel + 1 if channel + 1 < first + count else first
            left = inner


@_jit
def append_bins(values: NDArray[Any], grid: NDArray[Any], keys: NDArray[np.uint32]) -> None:
    """Append each value's bin to the number of its bin set; not a number falls into the first bin.

    Parameters
    ----------
    values : (>= keys,)
    grid : (4,)
        See :meth:`~napari_ensir.ensemble.statistics.binning.Binning.grid`.
    keys : (pixels,)
        Changed in place.
    """
    low, width, n_bins, inverse = grid[0], grid[1], grid[2], grid[3]
    zero, last, radix = low - low, n_bins - (n_bins / n_bins), np.uint32(n_bins)
    # Comparisons, as min and max let what is not a number through.
    if inverse > zero:
        for j in range(keys.size):
            place = (values[j] - low) * inverse
            place = place if place > zero else zero
            place = place if place < last else last
            keys[j] = keys[j] * radix + np.uint32(np.int32(place))
    else:
        for j in range(keys.size):
            place = (values[j] - low) / width
            place = place if place > zero else zero
            place = place if place < last else last
            keys[j] = keys[j] * radix + np.uint32(np.int32(place))


@_jit
def append_channels(channel: NDArray[np.uint32], n_channels: int, keys: NDArray[np.uint32]) -> None:
    """Append each pixel's channel to the number of its bin set."""
    radix = np.uint32(n_channels)
    for j in range(keys.size):
        keys[j] = keys[j] * radix + channel[j]


_U, _S = np.uint64, np.float32


@_jit
def combine(
    candidates: Blocks,
    grid: NDArray[Any],
    n_channels: int,
    channels: Channels,
    rows: NDArray[np.int32],
    quads: NDArray[np.complex128],
    start: int,
    image: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> None:
    """Combine a block by its bin sets' weights, into image or maps.

    Parameters
    ----------
    candidates
    grid : (4,) float32 or float64
        See :meth:`~napari_ensir.ensemble.statistics.binning.Binning.grid`.
    n_channels
        Channels of the whole field.
    channels
    rows : (bins ** M * channels,) or empty
        Row of the weights for each bin set; empty: the number of the bin set itself.
    quads : (M / 4 rounded up, rows)
        Weights, four float32 to a number; see :attr:`~napari_ensir.ensemble.combine.lookup.Lookup.quads`.
    start
        Where the block begins in the flattened field.
    image : (pixels of the field,) or empty
    maps : (M, pixels of the field) or empty
    """
    n = len(candidates)
    # Not empty: what lies behind a block's end is worked on too, and odd numbers there take time.
    values, chosen = np.zeros((4 * len(quads), TILE), grid.dtype), np.zeros(TILE, np.complex128)
    weights, room = chosen.view(np.float32), np.zeros((3, TILE), np.float32)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    for begin in range(0, candidates[0].size, tile):
        size = min(tile, candidates[0].size - begin)
        if begin == 0 or not repeats:
            fill_channels(begin, channels, channel)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n):
            block, value = candidates[m][begin : begin + size], values[m]
            for j in range(size):
                value[j] = block[j]
            append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        if rows.size > 0:
            for j in range(size):
                key[j] = rows[_U(key[j])]
        for q in range(len(quads)):
            _choose(quads[q], key, chosen)
            if image.size == 0:
                for m in range(4 * q, min(4 * q + 4, n)):
                    _take(weights, m - 4 * q, room[0], maps[m, start + begin : start + begin + size])
            elif n > 4:
                _add_quad(weights, values, 4 * q, room[0])
        if image.size > 0:
            out = image[start + begin : start + begin + size]
            if n > 4:
                _hold(candidates, values, room, out)
            elif size == TILE:  # past a tile in between, the result would come out in a rush
                _weigh(candidates, weights, values, out)
            else:
                _weigh(candidates, weights, values, room[0])
                _copy(room[0], out)


@_jit
def _choose(quads: NDArray[np.complex128], keys: NDArray[np.uint32], out: NDArray[np.complex128]) -> None:
    for j in range(keys.size):
        out[j] = quads[_U(keys[j])]


@_jit
def _copy(tile: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for j in range(out.size):
        out[j] = tile[j]


@_jit
def _take(
    weights: NDArray[np.float32], place: int, room: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """One of the four weights of each pixel."""
    if out.size == TILE:
        _take_tile(weights, place, out)
    else:
        _take_tile(weights, place, room)
        _copy(room, out)


@_jit
def _take_tile(weights: NDArray[np.float32], place: int, out: NDArray[np.float32]) -> None:
    if place == 0:
        for j in range(TILE):
            out[j] = weights[_U(4 * j)]
    elif place == 1:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 1)]
    elif place == 2:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 2)]
    else:
        for j in range(TILE):
            out[j] = weights[_U(4 * j + 3)]


@_jit
def _weigh(
    candidates: Blocks, weights: NDArray[np.float32], values: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """Weighted sum of up to four candidates, held between the least and the greatest of them."""
    n = len(candidates)  # of a tuple: known when compiled
    first, second, third, fourth = values[0], values[1], values[2], values[3]
    for j in range(TILE):
        value = _S(first[j])
        low = high = value
        total = weights[_U(4 * j)] * value
        if n > 1:
            value = _S(second[j])
            total += weights[_U(4 * j + 1)] * value
            low = value if value < low else low
            high = value if value > high else high
        if n > 2:
            value = _S(third[j])
            total += weights[_U(4 * j + 2)] * value
            low = value if value < low else low
            high = value if value > high else high
        if n > 3:
            value = _S(fourth[j])
            total += weights[_U(4 * j + 3)] * value
            low = value if value < low else low
            high = value if value > high else high
        total = low if total < low else total  # a sum that is not a number stays so
        out[j] = high if total > high else total


@_jit
def _add_quad(weights: NDArray[np.float32], values: NDArray[Any], m: int, total: NDArray[np.float32]) -> None:
    """Add four candidates' share, in their order; where there are fewer, the rest is zero."""
    first, second, third, fourth = values[m], values[m + 1], values[m + 2], values[m + 3]
    for j in range(TILE):
        before = total[j] if m > 0 else _S(0)
        added = before + weights[_U(4 * j)] * _S(first[j])
        added += weights[_U(4 * j + 1)] * _S(second[j])
        added += weights[_U(4 * j + 2)] * _S(third[j])
        total[j] = added + weights[_U(4 * j + 3)] * _S(fourth[j])


@_jit
def _hold(
    candidates: Blocks, values: NDArray[Any], room: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Hold weighted sums, the first row of three, between the least and the greatest candidate."""
    total, low, high = room[0], room[1], room[2]
    for j in range(TILE):
        low[j] = _S(values[0, _U(j)])
    for m in range(1, len(candidates)):
        value = values[m]
        for j in range(TILE):
            low[j] = _S(value[j]) if _S(value[j]) < low[j] else low[j]
    for j in range(TILE):
        high[j] = _S(values[0, _U(j)])
    for m in range(1, len(candidates)):
        value = values[m]
        for j in range(TILE):
            high[j] = _S(value[j]) if _S(value[j]) > high[j] else high[j]
    for j in range(out.size):
        held = low[j] if total[j] < low[j] else total[j]
        out[j] = high[j] if held > high[j] else held


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


_TILE = 512

_ROOT = np.int32(np.float32(2**0.5).view(np.int32) & 0x7FFFFF)
"""The fraction's bits of the square root of two."""


@_jit
def _firsts(begin: int, channels: ChannelRuns, per_channel: int, out: NDArray[np.int64]) -> None:
    """Where the classes of each pixel's channel begin."""
    n_channels, inner = channels
    if n_channels == 1:
        out[:] = 0
        return
    channel, left = begin // inner % n_channels, inner - begin % inner
    for j in range(out.size):
        out[j] = channel * per_channel
        left -= 1
        if left == 0:
            channel = channel + 1 if channel + 1 < n_channels else 0
            left = inner


@_jit
def _spreads(candidates: NDArray[Any], begin: int, unit: np.float32, spread: NDArray[np.float32]) -> None:
    """Standard deviation over the candidates, in units, and a quarter more."""
    size, zero, n = spread.size, np.float32(0), np.float32(candidates.shape[0])
    total = np.zeros(size, np.float32)
    first = candidates[0, begin : begin + size]
    for j in range(size):
        spread[j] = zero
    for m in range(1, candidates.shape[0]):
        block = candidates[m, begin : begin + size]
        for j in range(size):
            # About the first candidate, so that large intensities of small spread lose nothing.
            above = np.float32(block[j]) - np.float32(first[j])
            total[j] += above
            spread[j] += above * above
    for j in range(size):
        mean = total[j] / n
        variance = spread[j] / n - mean * mean
        variance = variance if variance > zero else zero
        spread[j] = np.sqrt(variance) / unit + np.float32(0.25)


@_jit
def _held(value: Any, least: Any, most: Any) -> Any:
    """Between two bounds; what is not a number becomes the lower one: min and max let it through."""
    value = value if value > least else least
    return value if value < most else most


@_jit
def _classes(
    ensemble: NDArray[np.float32],
    spread: NDArray[np.float32],
    grid: NDArray[np.float32],
    n_spreads: int,
    keys: NDArray[np.int32],
) -> None:
    """Classes of intensity, and within each of the spread: two for each doubling, from a quarter on."""
    low, per_unit, n_classes = grid[0], grid[1], grid[2]
    zero, last, highest = np.float32(0), n_classes - np.float32(1), np.int32(n_spreads - 1)
    bits = spread.view(np.int32)
    for j in range(ensemble.size):
        place = _held((ensemble[j] - low) * per_unit, zero, last)
        # The exponent of a float, and whether its fraction is at the square root of two or above.
        half = np.int32(1) if (bits[j] & np.int32(0x7FFFFF)) >= _ROOT else np.int32(0)
        step = np.int32(2) * ((bits[j] >> np.int32(23)) - np.int32(127)) + half + np.int32(4)
        keys[j] = np.int32(place) * np.int32(n_spreads) + _held(step, np.int32(0), highest)


@_jit
def _levels(
    values: NDArray[Any], truth: NDArray[Any], step: float, most: float, levels: NDArray[np.float64]
) -> None:
    """Errors in whole steps, at most so many; what is not a number is as far below as can be."""
    for j in range(levels.size):
        levels[j] = np.rint(_held((np.float64(values[j]) - np.float64(truth[j])) / step, -most, most))


@_jit
def _which(
    ensemble: NDArray[np.float32], truth: NDArray[Any], keep: NDArray[np.bool_], begin: int, good: Any
) -> None:
    """Where a tile is to be counted."""
    for j in range(good.size):
        off = np.float64(ensemble[begin + j]) - np.float64(truth[begin + j])
        good[j] = off - off == 0
    if keep.size > 0:
        for j in range(good.size):
            good[j] &= keep[begin + j]


@_jit
def count_errors(
    candidates: NDArray[Any],
    truth: NDArray[Any],
    ensemble: NDArray[np.float32],
    keep: NDArray[np.bool_],
    channels: ChannelRuns,
    grid: NDArray[np.float32],
    n_spreads: int,
    step: float,
    most: float,
    squares: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Add a block's squared errors to the classes of intensity and spread that its pixels fall in.

    Parameters
    ----------
    candidates : (M, pixels) float32 or float64
    truth : (pixels,) of that dtype
    ensemble : (pixels,)
    keep
        Where to look; empty: everywhere.
    channels
    grid : (4,) float32
        Lower end of the first class of intensity, classes per unit, number of classes; the unit of spread.
    n_spreads
        Classes of spread: of s units the floor of ``2 log2(s + 1/4) + 4``.
    step, most
        What errors are counted in, and how many steps an error may have.
    squares, counts : (channels * classes,)
        Added to.
    """
    per_channel = squares.size // channels[0]
    spreads, keys = np.empty(_TILE, np.float32), np.empty(_TILE, np.int32)
    levels, good = np.empty(_TILE, np.float64), np.empty(_TILE, np.bool_)
    first = np.empty(_TILE, np.int64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _spreads(candidates, begin, grid[3], spreads[:size])
        _classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _levels(part, truth[begin : begin + size], step, most, levels[:size])
        _which(ensemble, truth, keep, begin, good[:size])
        _firsts(begin, channels, per_channel, first[:size])
        for j in range(size):
            if good[j]:
                place = first[j] + np.int64(keys[j])
                squares[place] += np.int64(levels[j] * levels[j])
                counts[place] += 1


@_jit
def look_up_errors(
    candidates: NDArray[Any],
    ensemble: NDArray[np.float32],
    channels: ChannelRuns,
    grid: NDArray[np.float32],
    n_spreads: int,
    errors: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the error to expect at each pixel of a block; NaN where the ensemble is not finite.

    Parameters
    ----------
    candidates, ensemble, channels, grid, n_spreads
        As for :func:`count_errors`.
    errors : (channels * classes,)
    out : (pixels,)
    """
    per_channel = errors.size // channels[0]
    spreads, keys = np.empty(_TILE, np.float32), np.empty(_TILE, np.int32)
    first = np.empty(_TILE, np.int64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _spreads(candidates, begin, grid[3], spreads[:size])
        _classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _firsts(begin, channels, per_channel, first[:size])
        for j in range(size):
            error = errors[first[j] + np.int64(keys[j])]
            out[begin + j] = error if part[j] - part[j] == 0 else np.float32(np.nan)


@_jit
def _bias_classes(values: NDArray[Any], grid: NDArray[np.float64], classes: NDArray[np.int32]) -> None:
    low, per_unit, last = grid[0], grid[1], grid[2] - 1.0
    for j in range(classes.size):
        classes[j] = np.int32(_held((np.float64(values[j]) - low) * per_unit, 0.0, last))


@_jit
def count_biases(
    candidates: NDArray[Any],
    truth: NDArray[Any],
    ensemble: NDArray[np.float32],
    keep: NDArray[np.bool_],
    channels: ChannelRuns,
    grid: NDArray[np.float64],
    counts: NDArray[np.int64],
    errors: NDArray[np.int64],
) -> None:
    """Add a block's errors to classes of intensity, by the truth and by each image's own.

    Parameters
    ----------
    candidates, truth, ensemble, keep, channels
        As for :func:`count_errors`.
    grid : (5,) float64
        Lower end of the first class, classes per unit, number of classes; the step that errors are counted
        in, and how many an error may have.
    counts, errors : (2 * channels * (M + 1) * classes,)
        Added to.
    """
    n_images, n_classes = len(candidates) + 1, int(grid[2])
    per_way = counts.size // 2
    by_truth, by_value = np.empty(_TILE, np.int32), np.empty(_TILE, np.int32)
    levels, good = np.empty(_TILE, np.float64), np.empty(_TILE, np.bool_)
    first, values = np.empty(_TILE, np.int64), np.empty(_TILE, np.float64)
    for begin in range(0, ensemble.size, _TILE):
        size = min(_TILE, ensemble.size - begin)
        true = truth[begin : begin + size]
        _bias_classes(true, grid, by_truth[:size])
        _which(ensemble, truth, keep, begin, good[:size])
        _firsts(begin, channels, n_images * n_classes, first[:size])
        for m in range(n_images):
            # One by one: for a slice numba compiles what would name unlike shapes, in seconds.
            if m < n_images - 1:
                block = candidates[m, begin : begin + size]
                for j in range(size):
                    values[j] = block[j]
            else:
                for j in range(size):
                    values[j] = ensemble[begin + j]
            _bias_classes(values[:size], grid, by_value[:size])
            _levels(values[:size], true, grid[3], grid[4], levels[:size])
            for j in range(size):
                if good[j]:
                    one = first[j] + m * n_classes + by_truth[j]
                    other = first[j] + m * n_classes + per_way + by_value[j]
                    error = np.int64(levels[j])
                    counts[one] += 1
                    errors[one] += error
                    counts[other] += 1
                    errors[other] += error


SHARES = 2
"""Tables of sums that pixels are added to in turn: neighbours often fall into one bin set, and what was just
written is long in coming back from memory."""

_WHOLE, _HEIGHT = ir.IntType(64), ir.IntType(32)


@_jit
def quads_for(n_candidates: int) -> int:
    """Groups of four that hold the heights of all candidates and the truth."""
    return (n_candidates + 4) // 4


@_jit
def add_products(
    candidates: Blocks,
    keys: NDArray[np.uint32],
    heights: NDArray[np.uint32],
    quads: NDArray[np.uint32],
    sums: NDArray[np.int64],
) -> None:
    """Add each pixel's products to the sums of its bin set.

    Parameters
    ----------
    candidates
        Only for their number, which is known when compiled.
    keys : (pixels,)
    heights : (>= M + 1, TILE), a multiple of four rows
        Of the candidates, then of the truth.
    quads : (rows of heights / 4, 4 * TILE)
        Room to work in.
    sums : (bin sets * SHARES * K,)
        Added to: for each bin set the sums of x_1..x_M, of x_m * x_k for k <= m, and of x_m * y.
    """
    n = len(candidates)
    n_sums = 2 * n + n * (n + 1) // 2
    for q in range(len(quads)):
        _interleave(heights[4 * q], heights[4 * q + 1], heights[4 * q + 2], heights[4 * q + 3], quads[q])
    for j in range(keys.size):
        row = _U(keys[j]) * _U(SHARES) + (_U(j) & _U(SHARES - 1))
        _add_pixel(candidates, quads, j, sums, row * _U(n_sums))  # type: ignore[call-arg]


@_jit
def _interleave(
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    third: NDArray[np.uint32],
    fourth: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> None:
    """Four heights of each pixel side by side."""
    for j in range(TILE):
        out[_U(4 * j)] = first[j]
        out[_U(4 * j + 1)] = second[j]
        out[_U(4 * j + 2)] = third[j]
        out[_U(4 * j + 3)] = fourth[j]


def _factors(n_candidates: int) -> tuple[list[int], list[int]]:
    """Which two heights make each product: candidates, the truth behind them, -1 for one."""
    m = range(n_candidates)
    pairs = [(one, -1) for one in m]
    pairs += [(one, other) for one in m for other in range(one + 1)]
    pairs += [(one, n_candidates) for one in m]
    return [one for one, _ in pairs], [other for _, other in pairs]


@intrinsic
def _add_pixel(typing: Any, candidates: Any, quads: Any, j: Any, sums: Any, begin: Any) -> Any:
    """Add the products of pixel ``j`` to the sums from ``begin`` on."""
    n_quads = quads_for.py_func(candidates.count)
    one, other = _factors(candidates.count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        proxies = [create_struct_proxy(kinds[i])(context, builder, args[i]) for i in (1, 3)]  # type: ignore[no-untyped-call]
        heights, table = (proxy.data for proxy in proxies)
        place = builder.mul(args[2], _WHOLE(4))
        starts = [builder.add(place, _WHOLE(4 * TILE * q)) for q in range(n_quads)]
        read = [_load(builder, heights, start, _HEIGHT, 4) for start in starts]
        pixel = builder.zext(_joined(builder, read), ir.VectorType(_WHOLE, 4 * n_quads))
        ones = ir.Constant(pixel.type, [1] * (4 * n_quads))
        left = _picked(builder, pixel, ones, one)
        right = _picked(builder, pixel, ones, [4 * n_quads if k < 0 else k for k in other])
        before = _load(builder, table, args[4], _WHOLE, len(one))
        where = builder.bitcast(builder.gep(table, [args[4]]), before.type.as_pointer())
        builder.store(builder.add(before, builder.mul(left, right)), where, align=8)
        return context.get_dummy_value()

    return types.void(candidates, quads, j, sums, begin), generate


def _load(builder: Any, data: Any, place: Any, kind: Any, n: int) -> Any:
    """So many numbers of a kind from a place of an array on."""
    start = builder.bitcast(builder.gep(data, [place]), ir.VectorType(kind, n).as_pointer())
    return builder.load(start, align=kind.width // 8)


def _picked(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    """Numbers of two vectors of one length, which are counted on."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_HEIGHT, len(places)), places))


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of vectors of four."""
    whole = parts[0]
    for part in parts[1:]:
        n = whole.type.count
        # Both must be of one length: the rest of the shorter is read by nobody.
        wide = _picked(builder, part, part, [i % 4 for i in range(n)])
        whole = _picked(builder, whole, wide, [*range(n), *range(n, n + 4)])
    return whole


@_jit
def count_values(values: NDArray[Any], first: int, table: NDArray[np.uint32]) -> None:
    """Add integers to a table that begins with ``first``."""
    for j in range(values.size):
        table[np.uint64(np.int64(values[j]) - first)] += np.uint32(1)


@_jit
def count_cells(
    values: NDArray[Any], shift: int, first: int, table: NDArray[np.uint32]
) -> tuple[float, float]:
    """Add the cells of finite floats to a table that begins with cell ``first``; return their ends.

    Parameters
    ----------
    values : float32 or float64
    shift
        Bits of a float32 that a cell does not tell apart.
    """
    low, high = np.inf, -np.inf
    single = np.empty(_TILE, np.float32)
    bits = single.view(np.int32)
    cells = np.empty(_TILE, np.uint32)
    for begin in range(0, values.size, _TILE):
        part = values[begin : begin + _TILE]
        for j in range(part.size):
            single[j] = np.float32(part[j]) + np.float32(0)  # -0 becomes 0
        for j in range(part.size):
            # Below zero the bits of a float fall as it rises: turned round, all but the sign's.
            turned = np.int32(bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            cells[j] = np.uint32((turned >> shift) - first)
        for j in range(part.size):
            value = part[j]
            if value - value == 0:
                table[np.uint64(cells[j])] += np.uint32(1)
                low, high = min(low, value), max(high, value)
    return low, high


_U, _I = np.uint64, np.int64
_ALL = np.uint32(2**32 - 1)

# Both kernels turn a tile into whole numbers from zero upward, its *heights*: those of the candidates, then
# of the truth. All sums that are kept are sums of products of two of them.


@_jit
def count_integers(
    candidates: Blocks,
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    smallest: int,
    limits: tuple[int, int],
    grid: NDArray[np.float32],
    n_channels: int,
    channels: Channels,
    sums: NDArray[np.int64],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> int:
    """Add a block of integers of up to 16 bits to its bin sets' sums; return the number of pairs written.

    Parameters
    ----------
    candidates, truth
    keep
        Where to count; empty: everywhere.
    smallest
        The dtype's first integer, the one of height 0.
    limits
        Lowest and highest height within the data range; (0, 2**32 - 1) where none lies outside.
    grid
        As for :func:`combine`, of heights.
    n_channels, channels
        As for :func:`combine`.
    sums : (bin sets * SHARES * K,)
        Added to; see :func:`~napari_ensir.ensemble.kernels.add_products`.
    paging, pages, histogram, owners, pairs
        The histogram of the truth; see :func:`_count_truth`.
    outside : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    n_candidates = len(candidates)
    # Modulo 2 ** 32, as the differences are: the smallest may be negative, and so may the limits.
    first = np.uint32(smallest & 0xFFFFFFFF)
    low, within = np.uint32(limits[0] & 0xFFFFFFFF), np.uint32(limits[1] - limits[0])
    heights = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
    quads = np.empty((quads_for(n_candidates), 4 * TILE), np.uint32)
    values = np.empty(TILE, grid.dtype)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    written = 0
    for begin in range(0, truth.size, tile):
        size = min(tile, truth.size - begin)
        if begin == 0 or not repeats or keep.size > 0:
            fill_channels(begin, channels, channel)
        for m in range(n_candidates + 1):
            block, height = candidates[m] if m < n_candidates else truth, heights[m]
            for j in range(size):
                height[j] = np.uint32(block[_U(begin) + _U(j)]) - first
        if keep.size > 0:
            size = _compress(keep[begin : begin + size], channel, heights)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n_candidates + 1):
            height, beyond = heights[m], 0
            if within < _ALL:
                for j in range(size):
                    beyond += int(np.uint32(height[j] - low) > within)
                outside[m] += beyond
            if m < n_candidates:
                for j in range(size):
                    values[j] = np.int32(height[j])  # which most processors turn into floats faster
                append_bins(values, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, heights[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, heights, quads, sums)
    return written


@_jit
def count_floats(
    candidates: Blocks,
    truth: NDArray[Any],
    keep: NDArray[np.bool_],
    limits: tuple[float, float],
    grid: NDArray[np.float64],
    levels: tuple[float, int],
    n_channels: int,
    channels: Channels,
    sums: NDArray[np.int64],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    outside: NDArray[np.int64],
) -> int:
    """The same for blocks of floating-point numbers, on the binning's grid of levels.

    Parameters
    ----------
    limits
        Lowest and highest intensity of the data range.
    levels
        Distance of two levels, levels per bin.
    candidates, truth, keep, grid, n_channels, channels
        As for :func:`count_integers`.
    sums, paging, pages, histogram, owners, pairs, outside
        As for :func:`count_integers`.
    """
    n_candidates = len(candidates)
    low, high = limits
    heights = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
    quads = np.empty((quads_for(n_candidates), 4 * TILE), np.uint32)
    values = np.empty((n_candidates + 1, TILE), grid.dtype)
    finite = np.empty(TILE, np.bool_)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    changed, written = True, 0
    for begin in range(0, truth.size, tile):
        size = min(tile, truth.size - begin)
        if changed or not repeats:
            fill_channels(begin, channels, channel)
        for m in range(n_candidates + 1):
            block, value = candidates[m] if m < n_candidates else truth, values[m]
            for j in range(size):
                value[j] = block[_U(begin) + _U(j)]
        changed = keep.size > 0
        if changed:
            size = _compress(keep[begin : begin + size], channel, values)
        n_finite = _find_finite(values, finite[:size])
        if n_finite < size:
            outside[n_candidates + 1] += size - n_finite
            changed, size = True, _compress(finite[:size], channel, values)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n_candidates + 1):
            value, beyond = values[m], 0
            for j in range(size):
                beyond += (value[j] < low) | (value[j] > high)
            outside[m] += beyond
            _find_levels(value, grid, levels, heights[m, :size])
            if m < n_candidates:
                append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, heights[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, heights, quads, sums)
    return written


@_jit
def _compress(keep: NDArray[np.bool_], channel: NDArray[np.uint32], columns: NDArray[Any]) -> int:
    """Move the pixels to keep to the front; return their number."""
    size = 0
    for j in range(keep.size):
        if keep[j]:
            channel[size] = channel[j]
            for m in range(len(columns)):
                columns[m, size] = columns[m, j]
            size += 1
    return size


@_jit
def _find_finite(values: NDArray[np.float64], finite: NDArray[np.bool_]) -> int:
    found = 0
    for j in range(finite.size):
        finite[j] = True
    for m in range(len(values)):
        for j in range(finite.size):
            finite[j] &= values[m, j] - values[m, j] == 0.0
    for j in range(finite.size):
        found += finite[j]
    return found


@_jit
def _find_levels(
    values: NDArray[np.float64],
    grid: NDArray[np.float64],
    levels: tuple[float, int],
    heights: NDArray[np.uint32],
) -> None:
    """Levels of finite values, at most one range beyond the range: first the bin, then the place in it."""
    low, width, n_bins = grid[0], grid[1], grid[2]
    step, sublevels = levels
    most = sublevels - 1.0
    for j in range(heights.size):
        above = values[j] - low
        whole = np.floor(above / width)
        part = np.floor((above - whole * width) / step)
        part = min(max(part, 0.0), most)
        whole = min(max(whole, -n_bins), 2.0 * n_bins)
        heights[j] = np.uint32(np.int32((whole + n_bins) * sublevels + part))


@_jit
def _count_truth(
    keys: NDArray[np.uint32],
    truth: NDArray[np.uint32],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
    written: int,
) -> int:
    """Count each bin set's heights of the truth, on pages that are taken into use when first written to.

    Parameters
    ----------
    keys, truth
        Bin set and height of each pixel.
    paging
        Heights per page as a power of two, pages per bin set, pages of the histogram.
    pages : (bin sets * pages per bin set,)
        Page of the histogram for a run of heights; negative: none yet. Empty where there are no pages.
    histogram : (pages * heights per page,)
        Added to.
    owners : (pages + 1,)
        Which of all pages there can be stands here; last, how many are in use.
    pairs
        Where no page is left, ``bin set * heights + height`` is written here, from ``written`` on.
    """
    shift, per_set, n_pages = _U(paging[0]), _U(paging[1]), paging[2]
    inside = (_U(1) << shift) - _U(1)
    for j in range(keys.size):
        height = _U(truth[j])
        wanted = _U(keys[j]) * per_set + (height >> shift)
        page = pages[wanted] if n_pages > 0 else np.int32(-1)
        if page < 0 and owners[n_pages] < n_pages:
            page = np.int32(owners[n_pages])
            pages[wanted], owners[page] = page, _I(wanted)
            owners[n_pages] += 1
        if page >= 0:
            histogram[(_U(page) << shift) + (height & inside)] += np.uint32(1)
        else:
            pairs[written] = _I((wanted << shift) + (height & inside))
            written += 1
    return written

"""Loops over pixels for the CPU, compiled by numba.

Each kernel makes one pass over a block, in tiles that fit a core's first-level cache. Within a tile, short
loops without branches come first, because the compiler vectorizes them: intensities to bins, bins to the
index of the bin set. Only the access to the bin set's place in memory is left to a scalar loop.

Array indices are unsigned where it matters for speed: numba then omits the check for negative indices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Channels = tuple[int, int, int]
    """First channel, number of channels, pixels per channel run, in this block."""
    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Keys = NDArray[np.uint32]
    Mask = NDArray[np.bool_]
    Singles = NDArray[np.float32]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_jit_sum = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
"""For sums only: terms may be added in any order."""

_intrinsic: Any = numba.extending.intrinsic  # its types do not fit calls in kernels
_structure: Any = cgutils.create_struct_proxy

_U, _I, _S = np.uint64, np.int64, np.float32

TILE = 384
"""Pixels per tile of counting and combining: a multiple of 3, 4 and 6; all buffers fit into 32 KiB."""

_ERROR_TILE = 512
"""Pixels per tile of the other kernels."""

SHARES = 2
"""Tables of sums that are added to in turn. Neighbouring pixels often share a bin set, and reading a sum that
was just written is slow."""


# -- arrays by address, so that a kernel is compiled once for any number of them --


def addresses_of(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uintp]:
    """Return the addresses of arrays; keep the arrays as long as these are used."""
    return np.array([array.__array_interface__["data"][0] for array in arrays], np.uintp)


@_intrinsic  # type: ignore[untyped-decorator]
def _array_at(typing: Any, like: Any, address: Any) -> Any:
    """Return the array at an address, of the dtype and size of another."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = _structure(signature.args[0])(context, builder, args[0])
        array.data = builder.inttoptr(args[1], array.data.type)
        array.meminfo = ir.Constant(array.meminfo.type, None)  # the caller keeps the memory
        return array._getvalue()

    return like(like, address), generate


# -- tiles, bins and channels --


@_jit
def tile_of(channels: Channels) -> tuple[int, bool]:
    """Return the pixels of a tile, and whether all tiles have the same sequence of channels."""
    _, count, inner = channels
    if count == 1:
        return TILE, True
    period = count * inner
    if period <= TILE:
        return TILE // period * period, True
    return TILE, False


@_jit
def fill_channels(start: int, channels: Channels, out: Keys) -> None:
    """Write the channel of each pixel from ``start`` on."""
    first, count, inner = channels
    if count == 1:
        for j in range(out.size):
            out[j] = first
        return
    channel, left = first + start // inner % count, inner - start % inner
    for j in range(out.size):
        out[j] = channel
        left -= 1
        if left == 0:
            channel = channel + 1 if channel + 1 < first + count else first
            left = inner


@_jit
def append_bins(values: NDArray[Any], grid: NDArray[Any], keys: Keys) -> None:
    """Append each value's bin to the index of its bin set; NaN falls into the first bin.

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
    # Comparisons: min and max would return NaN.
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
def append_channels(channel: Keys, n_channels: int, keys: Keys) -> None:
    """Append each pixel's channel to the index of its bin set."""
    radix = np.uint32(n_channels)
    for j in range(keys.size):
        keys[j] = keys[j] * radix + channel[j]


# -- the histogram of intensities --


@_jit
def count_values(values: NDArray[Any], first: int, table: Integers) -> None:
    """Count integers in a table that begins with ``first``."""
    for j in range(values.size):
        table[_U(_I(values[j]) - first)] += 1


@_jit
def count_cells(values: NDArray[Any], shift: int, first: int, table: Integers) -> tuple[float, float]:
    """Count the cells of finite floats in a table that begins with cell ``first``; return their extremes.

    Parameters
    ----------
    values : float32 or float64
    shift
        Number of low bits of a float32 that do not distinguish cells.
    """
    low, high = np.inf, -np.inf
    single = np.empty(_ERROR_TILE, np.float32)
    bits = single.view(np.int32)
    cells = np.empty(_ERROR_TILE, np.uint32)
    for begin in range(0, values.size, _ERROR_TILE):
        part = values[begin : begin + _ERROR_TILE]
        for j in range(part.size):
            single[j] = _S(part[j]) + _S(0)  # -0 becomes 0
        for j in range(part.size):
            # The bits of a float as an integer that rises with it: those of negative floats are inverted.
            rank = np.int32(bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            # A value that was rounded up belongs to the float below.
            rank -= np.int32(single[j] > part[j])
            cells[j] = np.uint32((rank >> shift) - first)
        for j in range(part.size):
            value = part[j]
            if value - value == 0:
                table[_U(cells[j])] += 1
                low, high = min(low, value), max(high, value)
    return low, high


# -- sufficient statistics --
# The kernel converts a tile into non-negative integers, its *codes*. All sums are sums of products of two
# codes, where the number one is a code as well.


@_jit
def count(
    images: NDArray[np.uintp],
    like: NDArray[Any],
    keep: Mask,
    limits: tuple[float, float],
    grid: NDArray[Any],
    levels: tuple[float, int, int],
    n_channels: int,
    channels: Channels,
    sums: Integers,
    factors: Integers,
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: Keys,
    owners: Integers,
    pairs: Integers,
    outside: Integers,
) -> int:
    """Add a block to the sums of its bin sets.

    Parameters
    ----------
    images, like
        As for :func:`combine`; the last image is the ground truth.
    keep
        Mask of the pixels to count; empty: all.
    limits
        Lowest and highest intensity of the data range; infinite if no value can lie outside.
    grid, n_channels, channels
        As for :func:`combine`.
    levels
        Distance of two levels, levels per bin, 0; for integers of up to 16 bits, which need no quantization,
        0, 0, the smallest integer of the dtype, whose code is 0.
    sums : (bin sets * SHARES * K,)
        Added to: for each bin set the sums of x_1..x_M, of x_m * x_k for k <= m, and of x_m * y.
    factors : (2, K)
        See :func:`factors_of`.
    paging, pages, histogram, owners, pairs
        The histogram of the truth; see :func:`_count_truth`.
    outside : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.

    Returns
    -------
    int
        Number of elements written to ``pairs``.
    """
    n_images, n_quads = len(images), (len(images) + 3) // 4
    low, high = grid.dtype.type(limits[0]), grid.dtype.type(limits[1])
    exact, first = levels[0] == 0, grid.dtype.type(levels[2])
    values, finite = np.empty((n_images, TILE), grid.dtype), np.empty(TILE, np.bool_)
    codes = np.zeros((4 * n_quads, TILE), np.uint32)
    quads = np.empty((n_quads, 4 * TILE), np.uint32)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    changed, written = True, 0
    for begin in range(0, like.size, tile):
        size = min(tile, like.size - begin)
        if changed or not repeats:
            fill_channels(begin, channels, channel)
        for i in range(n_images):
            block, value = _array_at(like, images[i]), values[i]
            for j in range(size):
                value[j] = block[_U(begin) + _U(j)]
        changed = keep.size > 0
        if changed:
            size = _compress(keep[begin : begin + size], channel, values)
        if not exact:
            n_finite = _find_finite(values, finite[:size])
            if n_finite < size:
                outside[n_images] += size - n_finite
                changed, size = True, _compress(finite[:size], channel, values)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for i in range(n_images):
            value, code = values[i], codes[i]
            if limits[0] > -np.inf:
                beyond = 0
                for j in range(size):
                    beyond += (value[j] < low) | (value[j] > high)
                outside[i] += beyond
            if exact:
                for j in range(size):
                    code[j] = np.uint32(np.int32(value[j] - first))
            else:
                _find_codes(value, grid, levels, code[:size])
            if i < n_images - 1:
                append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, codes[n_images - 1], paging, pages, histogram, owners, pairs, written)
        _add_products(key, codes, quads, factors, sums)
    return written


@_jit
def _compress(keep: Mask, channel: Keys, columns: NDArray[Any]) -> int:
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
def _find_finite(values: Doubles, finite: Mask) -> int:
    """Mark the pixels where all values are finite; return their number."""
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
def _find_codes(
    values: NDArray[Any], grid: NDArray[Any], levels: tuple[float, int, int], codes: Keys
) -> None:
    """Quantize finite values to codes; values more than one range outside the range are clamped."""
    step, sublevels, _ = levels
    low, width, n_bins = grid[0], grid[1], grid[2]
    most = sublevels - 1.0
    highest = 3.0 * n_bins * sublevels + most
    for j in range(codes.size):
        above = values[j] - low
        whole = np.floor(above / width)  # the bin
        part = np.floor((above - whole * width) / step)
        code = (whole + n_bins) * sublevels + _clamp(part, 0.0, most)
        codes[j] = np.uint32(np.int32(_clamp(code, 0.0, highest)))


@_jit
def _count_truth(
    keys: Keys,
    truth: Keys,
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: Keys,
    owners: Integers,
    pairs: Integers,
    written: int,
) -> int:
    """Count each bin set's codes of the truth in pages that are allocated when first used.

    Parameters
    ----------
    keys, truth
        Bin set and code of each pixel.
    paging
        Binary logarithm of the codes per page, pages per bin set, pages of the histogram.
    pages : (bin sets * pages per bin set,)
        Page of the histogram for a run of codes; negative: none yet. Empty if there are no pages.
    histogram : (pages * codes per page,)
        Added to.
    owners : (pages + 1,)
        Index into ``pages`` of each page in use; the last element is the number of pages in use.
    pairs
        If no page is left, ``bin set * codes + code`` is written here, from ``written`` on.
    written
        Number of elements written to ``pairs`` so far.

    Returns
    -------
    int
        The new ``written``.
    """
    shift, per_set, n_pages = _U(paging[0]), _U(paging[1]), paging[2]
    inside = (_U(1) << shift) - _U(1)
    for j in range(keys.size):
        code = _U(truth[j])
        wanted = _U(keys[j]) * per_set + (code >> shift)
        page = pages[wanted] if n_pages > 0 else np.int32(-1)
        if page < 0 and owners[n_pages] < n_pages:
            page = np.int32(owners[n_pages])
            pages[wanted], owners[page] = page, _I(wanted)
            owners[n_pages] += 1
        if page >= 0:
            histogram[(_U(page) << shift) + (code & inside)] += np.uint32(1)
        else:
            pairs[written] = _I((wanted << shift) + (code & inside))
            written += 1
    return written


def factors_of(n_candidates: int) -> Integers:
    """Return the two factors of each product, (2, K): candidates, M: the truth, -1: one."""
    m = range(n_candidates)
    pairs = [(one, -1) for one in m]
    pairs += [(one, other) for one in m for other in range(one + 1)]
    pairs += [(one, n_candidates) for one in m]
    return np.array(pairs, np.int64).T.copy()


@_jit
def _add_products(keys: Keys, codes: Keys, quads: Keys, factors: Integers, sums: Integers) -> None:
    """Add each pixel's products of codes to the sums of its bin set."""
    for q in range(len(quads)):
        _interleave(codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3], quads[q])
    n_sums = factors.shape[1]
    # The usual numbers of candidates: their products are vector operations.
    if n_sums == 7:
        for j in range(keys.size):
            _add_pixel(2, quads, _U(j), sums, _share(keys, j) * _U(7))
    elif n_sums == 12:
        for j in range(keys.size):
            _add_pixel(3, quads, _U(j), sums, _share(keys, j) * _U(12))
    elif n_sums == 18:
        for j in range(keys.size):
            _add_pixel(4, quads, _U(j), sums, _share(keys, j) * _U(18))
    elif n_sums == 25:
        for j in range(keys.size):
            _add_pixel(5, quads, _U(j), sums, _share(keys, j) * _U(25))
    else:
        for j in range(keys.size):
            begin = _share(keys, j) * _U(n_sums)
            for k in range(n_sums):
                other = factors[1, k]
                product = _I(codes[factors[0, k], j])
                product *= _I(codes[other, j]) if other >= 0 else 1
                sums[begin + _U(k)] += product


@_jit
def _share(keys: Keys, j: int) -> np.uint64:
    """Return the index of the table of sums that a pixel is added to."""
    return _U(keys[j]) * _U(SHARES) + (_U(j) & _U(SHARES - 1))


@_jit
def _interleave(first: Keys, second: Keys, third: Keys, fourth: Keys, out: Keys) -> None:
    """Store the codes of four images side by side, pixel by pixel."""
    for j in range(TILE):
        out[_U(4 * j)] = first[j]
        out[_U(4 * j + 1)] = second[j]
        out[_U(4 * j + 2)] = third[j]
        out[_U(4 * j + 3)] = fourth[j]


@_intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _add_pixel(typing: Any, n_candidates: Any, quads: Any, j: Any, sums: Any, begin: Any) -> Any:
    """Add the products of pixel ``j`` to the sums from index ``begin`` on; for up to seven candidates."""
    one, other = factors_of(n_candidates.literal_value).tolist()

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def vector_at(array: int, place: Any, length: int) -> Any:
            proxy = _structure(signature.args[array])(context, builder, args[array])
            kind = ir.VectorType(proxy.data.type.pointee, length)
            return builder.bitcast(builder.gep(proxy.data, [place]), kind.as_pointer())

        def shuffle(first: Any, second: Any, places: list[int]) -> Any:
            kind = ir.VectorType(ir.IntType(32), len(places))
            return builder.shuffle_vector(first, second, ir.Constant(kind, places))

        index = ir.IntType(64)
        place = builder.mul(args[2], index(4))
        last = builder.add(place, index(n_candidates.literal_value // 4 * 4 * TILE))
        read = [builder.load(vector_at(1, start, 4), align=4) for start in (place, last)]
        pixel = builder.zext(shuffle(read[0], read[1], list(range(8))), ir.VectorType(index, 8))
        ones = ir.Constant(pixel.type, [1] * 8)
        left, right = shuffle(pixel, ones, one), shuffle(pixel, ones, [8 if k < 0 else k for k in other])
        target = vector_at(3, args[4], len(one))
        total = builder.add(builder.load(target, align=8), builder.mul(left, right))
        builder.store(total, target, align=8)
        return context.get_dummy_value()

    return types.void(n_candidates, quads, j, sums, begin), generate


# -- EM --

_CHUNK = 256
"""Ground-truth values per chunk: the buffers of a chunk fit into a core's first-level cache."""


@_jit
def iterate_em(
    starts: Integers,
    truth: Doubles,
    share: Doubles,
    means: Doubles,
    variances: Doubles,
    weights: Doubles,
    floors: Doubles,
    rule: tuple[int, int, float, float, bool],
    iterations: Integers,
    status: NDArray[np.int8],
) -> None:
    """Run EM for each bin set in turn; ``estimators/em.py`` has the equations.

    Parameters
    ----------
    starts : (R + 1,)
        Index of each bin set's first ground-truth value.
    truth, share : (P,)
        Values of the ground truth, and the fraction of the bin set's pixels that have each.
    means, variances, weights : (R, M)
        The mixture's components; variances and weights are updated in place.
    floors : (R,)
        Added to every weight in every iteration.
    rule
        Maximum number of iterations, first iteration that may be the last, tolerance, floor of the variances,
        whether the variance is taken about the new mean.
    iterations, status : (R,)
        Written: iterations used; 0 converged, 1 reached the limit, 2 no solution.
    """
    limit, first_check, tolerance, variance_floor, recentred = rule
    n_candidates = means.shape[1]
    mass, centre, spread = np.empty(n_candidates), np.empty(n_candidates), np.empty(n_candidates)
    gamma, work = np.empty((n_candidates, _CHUNK)), np.empty((4, _CHUNK))
    bits = work.view(np.int64)
    for r in range(len(starts) - 1):
        true, part = truth[starts[r] : starts[r + 1]], share[starts[r] : starts[r + 1]]
        mean, variance, weight = means[r], variances[r], weights[r]
        before = -np.inf
        status[r] = 1
        for iteration in range(limit + 1):
            likelihood = _expect(true, part, mean, variance, weight, mass, centre, spread, gamma, work, bits)
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
                    shift = (centre[m] - floors[r] * mean[m]) / (mass[m] + floors[r])
                    spread[m] += shift * (shift * mass[m] - 2 * centre[m])
                if mass[m] > 0 or recentred:  # a component without mass keeps its variance
                    variance[m] = spread[m] / mass[m] + variance_floor
                weight[m] = mass[m] + floors[r]


@_jit
def _expect(
    truth: Doubles,
    share: Doubles,
    means: Doubles,
    variances: Doubles,
    weights: Doubles,
    mass: Doubles,
    centre: Doubles,
    spread: Doubles,
    gamma: Doubles,
    work: Doubles,
    bits: Integers,
) -> float:
    """Run the E step for one bin set; return the mean log likelihood of the current components.

    ``mass``, ``centre`` and ``spread`` are written: sums of the responsibilities, and of the responsibilities
    times the truth's deviation from the component's mean and its square. ``gamma`` and ``work`` are buffers;
    ``bits`` is ``work`` as integers.
    """
    best, total, logs = work[0], work[1], work[2]
    for m in range(len(means)):
        mass[m] = centre[m] = spread[m] = 0.0
    likelihood = 0.0
    for begin in range(0, truth.size, _CHUNK):
        true, part = truth[begin : begin + _CHUNK], share[begin : begin + _CHUNK]
        size = true.size
        for j in range(size):
            best[j], total[j] = -np.inf, 0.0
        for m in range(len(means)):
            scale = np.log(weights[m]) - 0.5 * np.log(2 * np.pi * variances[m])
            half, mean, here = 0.5 / variances[m], means[m], gamma[m]
            for j in range(size):
                away = true[j] - mean
                here[j] = scale - half * away * away
                best[j] = here[j] if here[j] > best[j] else best[j]
        for m in range(len(means)):
            _add_exponential(gamma[m], work, bits, size)
        _compute_logarithm(work, bits, size)
        likelihood += _normalize(part, best, total, logs)
        for m in range(len(means)):
            first, second, third = _find_moments(gamma[m], total, true, means[m])
            mass[m] += first
            centre[m] += second
            spread[m] += third
    return likelihood


@_jit_sum
def _normalize(share: Doubles, best: Doubles, total: Doubles, logs: Doubles) -> float:
    """Return the sum of the log likelihood; turn ``total`` into the factor of the responsibilities."""
    found = 0.0
    for j in range(share.size):
        found += share[j] * (best[j] + logs[j])
        total[j] = share[j] / total[j]
    return found


@_jit_sum
def _find_moments(gamma: Doubles, factor: Doubles, truth: Doubles, mean: float) -> tuple[float, float, float]:
    """Return the sum of one component's responsibilities, and their first two moments about its mean."""
    first, second, third = 0.0, 0.0, 0.0
    for j in range(truth.size):
        part, away = gamma[j] * factor[j], truth[j] - mean
        first += part
        second += part * away
        third += part * away * away
    return first, second, third


_LEAST = -708.0
"""Exponentials of less are set to zero: they are below the smallest normal number."""

_ROUND = 1.5 * 2.0**52
"""Adding and subtracting this rounds to the nearest integer; the sum has that integer in its last bits."""

_LOG2_E = 1.4426950408889634

_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""log(2) in two parts; an integer times the first is exact."""


@_jit
def _add_exponential(x: Doubles, work: Doubles, bits: Integers, size: int) -> None:
    """Replace ``x`` by ``exp(x - best)``, where ``x <= best``, and add it to the total.

    Accurate to 2 units in the last place; zero below -708. ``exp(x) = 2 ** n * exp(r)`` with integer ``n``
    and ``|r| <= log(2) / 2``, where thirteen terms of the Taylor series suffice. NaN stays NaN.

    Parameters
    ----------
    x : (>= size,)
    work, bits : (4, >= size)
        ``best``, the total, and two buffers; the same as integers.
    """
    best, total, whole, value = work[0], work[1], work[2], work[3]
    whole_bits, value_bits = bits[2], bits[3]
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
def _compute_logarithm(work: Doubles, bits: Integers, size: int) -> None:
    """Write the logarithm of row 1 of ``work``, numbers >= 1, into row 2, to 2 units in the last place of 1.

    ``log(x) = n log 2 + 2 artanh s`` with ``s = (f - 1) / (f + 1)`` and ``x = 2 ** n * f``, ``3/4 <= f <
    3/2``, where eleven terms of the series suffice. NaN stays NaN.
    """
    x, out = work[1], work[2]
    x_bits, out_bits = bits[1], bits[2]
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


# -- the ensemble --


@_jit
def combine(
    images: NDArray[np.uintp],
    like: NDArray[Any],
    grid: NDArray[Any],
    n_channels: int,
    channels: Channels,
    rows: NDArray[np.int32],
    quads: NDArray[np.complex128],
    start: int,
    image: Singles,
    maps: Singles,
) -> None:
    """Combine a block with the weights of its bin sets; write the image or the weight maps.

    Parameters
    ----------
    images : (M,)
        Addresses of the candidates.
    like
        One of the candidates; all are flat, contiguous and of the same dtype and size.
    grid : (4,) float32 or float64
        See :meth:`~napari_ensir.ensemble.statistics.binning.Binning.grid`.
    n_channels
        Channels of the whole field.
    channels
    rows : (bins ** M * channels,) or empty
        Row of the weights for each bin set; empty if the index of the bin set is the row.
    quads : (ceil(M / 4), rows)
        Weights, four float32 per element; see :attr:`~napari_ensir.ensemble.combine.lookup.Lookup.quads`.
    start
        Index of the block's first pixel in the flattened field.
    image : (pixels of the field,) or empty
    maps : (M, pixels of the field) or empty
    """
    n = len(images)
    # Zeros, because the loops also run over the unused end of a tile, where denormal numbers would be slow.
    values, gathered = np.zeros((4 * len(quads), TILE), grid.dtype), np.zeros(TILE, np.complex128)
    weights, buffer = gathered.view(np.float32), np.zeros((3, TILE), np.float32)
    keys, channel = np.empty(TILE, np.uint32), np.empty(TILE, np.uint32)
    tile, repeats = tile_of(channels)
    for begin in range(0, like.size, tile):
        size = min(tile, like.size - begin)
        if begin == 0 or not repeats:
            fill_channels(begin, channels, channel)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n):
            block, value = _array_at(like, images[m]), values[m]
            for j in range(size):
                value[j] = block[_U(begin) + _U(j)]
            append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        if rows.size > 0:
            for j in range(size):
                key[j] = rows[_U(key[j])]
        for q in range(len(quads)):
            _gather(quads[q], key, gathered)
            if image.size == 0:
                for m in range(4 * q, min(4 * q + 4, n)):
                    _extract(weights, m - 4 * q, maps[m, start + begin : start + begin + size])
            elif n > 4:
                _add_quad(weights, values, 4 * q, buffer[0])
        if image.size > 0:
            out = image[start + begin : start + begin + size]
            if n > 4:
                _clamp_to_candidates(n, values, buffer, out)
            elif size == TILE:  # directly: a copied buffer would reach memory in bursts
                _sum_weighted(n, weights, values, out)
            else:
                _sum_weighted(n, weights, values, buffer[0])
                _copy_tile(buffer[0], out)


@_jit
def _gather(quads: NDArray[np.complex128], keys: Keys, out: NDArray[np.complex128]) -> None:
    """Copy the four weights of each pixel's row."""
    for j in range(keys.size):
        out[j] = quads[_U(keys[j])]


@_jit
def _copy_tile(tile: Singles, out: Singles) -> None:
    """Copy a tile, up to the size of the output."""
    for j in range(out.size):
        out[j] = tile[j]


@_jit
def _extract(weights: Singles, place: int, out: Singles) -> None:
    """Extract one of the four weights of each pixel."""
    for j in range(out.size):
        out[j] = weights[_U(4 * j + place)]


def _make_sum(n: int) -> Any:
    """Compile the sum of ``n`` weighted candidates, 1 to 4: a loop over them is not vectorized."""

    @_jit
    def sum_weighted(weights: Singles, values: NDArray[Any], out: Singles) -> None:
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
            total = low if total < low else total  # NaN stays NaN
            out[j] = high if total > high else total

    return sum_weighted


_sum_one, _sum_two, _sum_three, _sum_four = map(_make_sum, (1, 2, 3, 4))


@_jit
def _sum_weighted(n: int, weights: Singles, values: NDArray[Any], out: Singles) -> None:
    """Sum up to four weighted candidates; clamp to the range of the candidates at each pixel."""
    if n == 1:
        _sum_one(weights, values, out)
    elif n == 2:
        _sum_two(weights, values, out)
    elif n == 3:
        _sum_three(weights, values, out)
    else:
        _sum_four(weights, values, out)


@_jit
def _add_quad(weights: Singles, values: NDArray[Any], m: int, total: Singles) -> None:
    """Add four weighted candidates, in order; values and weights beyond the last candidate are zero."""
    first, second, third, fourth = values[m], values[m + 1], values[m + 2], values[m + 3]
    for j in range(TILE):
        before = total[j] if m > 0 else _S(0)
        added = before + weights[_U(4 * j)] * _S(first[j])
        added += weights[_U(4 * j + 1)] * _S(second[j])
        added += weights[_U(4 * j + 2)] * _S(third[j])
        total[j] = added + weights[_U(4 * j + 3)] * _S(fourth[j])


@_jit
def _clamp_to_candidates(n: int, values: NDArray[Any], buffer: Singles, out: Singles) -> None:
    """Clamp the weighted sums, the first row of the buffer, to the range of the candidates at each pixel."""
    total, low, high = buffer[0], buffer[1], buffer[2]
    for j in range(TILE):
        low[j] = _S(values[0, _U(j)])
    for m in range(1, n):
        value = values[m]
        for j in range(TILE):
            low[j] = _S(value[j]) if _S(value[j]) < low[j] else low[j]
    for j in range(TILE):
        high[j] = _S(values[0, _U(j)])
    for m in range(1, n):
        value = values[m]
        for j in range(TILE):
            high[j] = _S(value[j]) if _S(value[j]) > high[j] else high[j]
    for j in range(out.size):
        held = low[j] if total[j] < low[j] else total[j]
        out[j] = high[j] if held > high[j] else held


# -- errors and biases --


@_jit
def count_errors(
    candidates: NDArray[Any],
    truth: NDArray[Any],
    ensemble: Singles,
    keep: Mask,
    channels: Channels,
    grid: Singles,
    n_spreads: int,
    bias_grid: Doubles,
    squares: Integers,
    counts: Integers,
    biases: Integers,
    bias_counts: Integers,
) -> None:
    """Add a block's errors to classes: of intensity and spread, and, for each image, of intensity.

    Parameters
    ----------
    candidates : (M, pixels) float32 or float64
    truth : (pixels,) of that dtype
    ensemble : (pixels,)
    keep
        Mask of the pixels to count; empty: all.
    channels
    grid : (4,) float32
        Lower end of the first class of intensity, classes per unit, number of classes; unit of the spread.
    n_spreads
        Number of classes of spread; the class of s units is ``floor(2 log2(s + 1/4) + 4)``.
    bias_grid : (5,) float64
        Lower end of the first class, classes per unit, number of classes; quantization step of the errors,
        and the maximum number of steps of an error.
    squares, counts : (channels * classes,)
        Squared errors of the ensemble and their number are added.
    biases, bias_counts : (2 * channels * (M + 1) * classes,)
        Errors of the candidates and, last, the ensemble, and their number are added: to classes of the
        truth's intensity, and of each image's own.
    """
    n_images, n_classes, per_way = len(candidates) + 1, int(bias_grid[2]), biases.size // 2
    per_channel = squares.size // channels[1]
    spreads, keys = np.empty(_ERROR_TILE, np.float32), np.empty(_ERROR_TILE, np.int32)
    by_truth, by_value = np.empty(_ERROR_TILE, np.int32), np.empty(_ERROR_TILE, np.int32)
    levels, good = np.empty(_ERROR_TILE, np.float64), np.empty(_ERROR_TILE, np.bool_)
    channel, values = np.empty(_ERROR_TILE, np.uint32), np.empty(_ERROR_TILE, np.float64)
    for begin in range(0, ensemble.size, _ERROR_TILE):
        size = min(_ERROR_TILE, ensemble.size - begin)
        part, true = ensemble[begin : begin + size], truth[begin : begin + size]
        _find_deviations(candidates, begin, grid[3], spreads[:size])
        _find_classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _find_bias_classes(true, bias_grid, by_truth[:size])
        for j in range(size):
            good[j] = np.isfinite(np.float64(part[j]) - np.float64(true[j]))
        if keep.size > 0:
            for j in range(size):
                good[j] &= keep[begin + j]
        fill_channels(begin, channels, channel[:size])
        for m in range(n_images):
            # A loop: assigning a slice takes numba seconds to compile.
            if m < n_images - 1:
                for j in range(size):
                    values[j] = candidates[m, begin + j]
            else:
                for j in range(size):
                    values[j] = part[j]
            _find_bias_classes(values[:size], bias_grid, by_value[:size])
            _quantize_errors(values[:size], true, bias_grid[3], bias_grid[4], levels[:size])
            for j in range(size):
                if good[j]:
                    first = (_I(channel[j]) * n_images + m) * n_classes
                    one, other = first + by_truth[j], first + per_way + by_value[j]
                    biases[one] += _I(levels[j])
                    biases[other] += _I(levels[j])
                    bias_counts[one] += 1
                    bias_counts[other] += 1
        for j in range(size):
            if good[j]:
                place = _I(channel[j]) * per_channel + keys[j]
                squares[place] += _I(levels[j] * levels[j])
                counts[place] += 1


@_jit
def look_up_errors(
    ensemble: Singles,
    candidates: NDArray[Any],
    channels: Channels,
    grid: Singles,
    n_spreads: int,
    errors: Singles,
    out: Singles,
) -> None:
    """Write the expected error of each pixel of a block; NaN where the ensemble is not finite.

    Parameters
    ----------
    ensemble, candidates, channels, grid, n_spreads
        As for :func:`count_errors`.
    errors : (channels * classes,)
    out : (pixels,)
    """
    per_channel = errors.size // channels[1]
    spreads, keys = np.empty(_ERROR_TILE, np.float32), np.empty(_ERROR_TILE, np.int32)
    channel = np.empty(_ERROR_TILE, np.uint32)
    for begin in range(0, ensemble.size, _ERROR_TILE):
        size = min(_ERROR_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _find_deviations(candidates, begin, grid[3], spreads[:size])
        _find_classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        fill_channels(begin, channels, channel[:size])
        for j in range(size):
            error = errors[_I(channel[j]) * per_channel + keys[j]]
            out[begin + j] = error if np.isfinite(part[j]) else np.float32(np.nan)


_ROOT = np.int32(np.float32(2**0.5).view(np.int32) & 0x7FFFFF)
"""Bits of the fraction of the square root of two."""


@_jit
def _find_deviations(candidates: NDArray[Any], begin: int, unit: np.float32, spread: Singles) -> None:
    """Compute the standard deviation over the candidates, in units, plus a quarter."""
    size, zero, n = spread.size, np.float32(0), np.float32(candidates.shape[0])
    total = np.zeros(size, np.float32)
    first = candidates[0, begin : begin + size]
    for j in range(size):
        spread[j] = zero
    for m in range(1, candidates.shape[0]):
        block = candidates[m, begin : begin + size]
        for j in range(size):
            # Relative to the first candidate, to avoid cancellation.
            above = np.float32(block[j]) - np.float32(first[j])
            total[j] += above
            spread[j] += above * above
    for j in range(size):
        mean = total[j] / n
        variance = spread[j] / n - mean * mean
        variance = variance if variance > zero else zero
        spread[j] = np.sqrt(variance) / unit + np.float32(0.25)


@_jit
def _clamp(value: Any, least: Any, most: Any) -> Any:
    """Clamp a value to two bounds; NaN becomes the lower one (min and max would return NaN)."""
    value = value if value > least else least
    return value if value < most else most


@_jit
def _find_classes(
    ensemble: Singles, spread: Singles, grid: Singles, n_spreads: int, keys: NDArray[np.int32]
) -> None:
    """Find classes of intensity and, within each, of spread: two per doubling, from a quarter on."""
    low, per_unit, n_classes = grid[0], grid[1], grid[2]
    zero, last, highest = np.float32(0), n_classes - np.float32(1), np.int32(n_spreads - 1)
    bits = spread.view(np.int32)
    for j in range(ensemble.size):
        place = _clamp((ensemble[j] - low) * per_unit, zero, last)
        # The exponent of a float, and whether its fraction is at least the square root of two.
        half = np.int32(1) if (bits[j] & np.int32(0x7FFFFF)) >= _ROOT else np.int32(0)
        step = np.int32(2) * ((bits[j] >> np.int32(23)) - np.int32(127)) + half + np.int32(4)
        keys[j] = np.int32(place) * np.int32(n_spreads) + _clamp(step, np.int32(0), highest)


@_jit
def _quantize_errors(
    values: NDArray[Any], truth: NDArray[Any], step: float, most: float, levels: Doubles
) -> None:
    """Quantize errors to multiples of ``step``, clamped to ``most`` steps; NaN becomes ``-most``."""
    for j in range(levels.size):
        levels[j] = np.rint(_clamp((np.float64(values[j]) - np.float64(truth[j])) / step, -most, most))


@_jit
def _find_bias_classes(values: NDArray[Any], grid: Doubles, classes: NDArray[np.int32]) -> None:
    """Find the classes of intensity."""
    low, per_unit, last = grid[0], grid[1], grid[2] - 1.0
    for j in range(classes.size):
        classes[j] = np.int32(_clamp((np.float64(values[j]) - low) * per_unit, 0.0, last))

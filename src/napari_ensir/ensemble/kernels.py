"""Loops over pixels for the CPU, compiled by numba.

Each kernel makes one pass over a block, in tiles that fit a core's first-level cache. Within a tile, short
loops without branches come first, because the compiler vectorizes them: intensities to bins, bins to the
index of the bin set. Only the access to the bin set's place in memory is left to a scalar loop.

Array indices are unsigned where it matters for speed: numba then omits the check for negative indices.
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

_jit_sum = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
"""For sums only: terms may be added in any order."""

_U, _I, _S = np.uint64, np.int64, np.float32

TILE = 384
"""Pixels per tile of counting and combining: a multiple of 3, 4 and 6; all buffers fit into 32 KiB."""

_ERROR_TILE = 512
"""Pixels per tile of the other kernels."""

SHARES = 2
"""Tables of sums that are added to in turn. Neighbouring pixels often share a bin set, and reading a sum that
was just written is slow."""


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
def fill_channels(start: int, channels: Channels, out: NDArray[np.uint32]) -> None:
    """Write the channel of each pixel from ``start`` on."""
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
def append_channels(channel: NDArray[np.uint32], n_channels: int, keys: NDArray[np.uint32]) -> None:
    """Append each pixel's channel to the index of its bin set."""
    radix = np.uint32(n_channels)
    for j in range(keys.size):
        keys[j] = keys[j] * radix + channel[j]


# -- the histogram of intensities --


@_jit
def count_values(values: NDArray[Any], first: int, table: NDArray[np.int64]) -> None:
    """Count integers in a table that begins with ``first``."""
    for j in range(values.size):
        table[_U(_I(values[j]) - first)] += 1


@_jit
def count_cells(
    values: NDArray[Any], shift: int, first: int, table: NDArray[np.int64]
) -> tuple[float, float]:
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
# Both kernels convert a tile into non-negative integers, its *codes*: those of the candidates, then of the
# truth. All sums are sums of products of two codes.

_UNBOUNDED = np.uint32(2**32 - 1)


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
    """Add a block of integers of up to 16 bits to the sums of its bin sets.

    Parameters
    ----------
    candidates, truth
    keep
        Mask of the pixels to count; empty: all.
    smallest
        The smallest integer of the dtype, whose code is 0.
    limits
        Lowest and highest code within the data range; (0, 2**32 - 1) if no value can lie outside.
    grid
        As for :func:`combine`, in codes.
    n_channels, channels
        As for :func:`combine`.
    sums : (bin sets * SHARES * K,)
        Added to; see :func:`~napari_ensir.ensemble.kernels.add_products`.
    paging, pages, histogram, owners, pairs
        The histogram of the truth; see :func:`_count_truth`.
    outside : (M + 2,)
        Added to: pixels outside the range in each candidate and the truth, then pixels that are not finite.

    Returns
    -------
    int
        Number of elements written to ``pairs``.
    """
    n_candidates = len(candidates)
    # Modulo 2 ** 32, as the differences below: the smallest integer and the limits may be negative.
    first = np.uint32(smallest & 0xFFFFFFFF)
    low, within = np.uint32(limits[0] & 0xFFFFFFFF), np.uint32(limits[1] - limits[0])
    codes = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
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
            block, code = candidates[m] if m < n_candidates else truth, codes[m]
            for j in range(size):
                code[j] = np.uint32(block[_U(begin) + _U(j)]) - first
        if keep.size > 0:
            size = _compress(keep[begin : begin + size], channel, codes)
        key = keys[:size]
        for j in range(size):
            key[j] = 0
        for m in range(n_candidates + 1):
            code, beyond = codes[m], 0
            if within < _UNBOUNDED:
                for j in range(size):
                    beyond += int(np.uint32(code[j] - low) > within)
                outside[m] += beyond
            if m < n_candidates:
                for j in range(size):
                    values[j] = np.int32(code[j])  # signed integers convert to floats faster
                append_bins(values, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, codes[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, codes, quads, sums)
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
    """Add a block of floating-point numbers to the sums of its bin sets, quantized to the binning's levels.

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

    Returns
    -------
    int
        Number of elements written to ``pairs``.
    """
    n_candidates = len(candidates)
    low, high = limits
    codes = np.zeros((4 * quads_for(n_candidates), TILE), np.uint32)
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
            _find_codes(value, grid, levels, codes[m, :size])
            if m < n_candidates:
                append_bins(value, grid, key)
        append_channels(channel, n_channels, key)
        written = _count_truth(key, codes[n_candidates], paging, pages, histogram, owners, pairs, written)
        add_products(candidates, key, codes, quads, sums)
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
    values: NDArray[np.float64],
    grid: NDArray[np.float64],
    levels: tuple[float, int],
    codes: NDArray[np.uint32],
) -> None:
    """Quantize finite values to codes; values more than one range outside the range are clamped."""
    low, width, n_bins = grid[0], grid[1], grid[2]
    step, sublevels = levels
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
    keys: NDArray[np.uint32],
    truth: NDArray[np.uint32],
    paging: tuple[int, int, int],
    pages: NDArray[np.int32],
    histogram: NDArray[np.uint32],
    owners: NDArray[np.int64],
    pairs: NDArray[np.int64],
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


@_jit
def quads_for(n_candidates: int) -> int:
    """Return the number of groups of four that hold the codes of all candidates and the truth."""
    return (n_candidates + 4) // 4


@_jit
def add_products(
    candidates: Blocks,
    keys: NDArray[np.uint32],
    codes: NDArray[np.uint32],
    quads: NDArray[np.uint32],
    sums: NDArray[np.int64],
) -> None:
    """Add each pixel's products of codes to the sums of its bin set.

    Parameters
    ----------
    candidates
        Only their number is used; it is a compile-time constant.
    keys : (pixels,)
    codes : (>= M + 1, TILE), a multiple of four rows
        Codes of the candidates, then of the truth.
    quads : (rows of codes / 4, 4 * TILE)
        Buffer.
    sums : (bin sets * SHARES * K,)
        Added to: for each bin set the sums of x_1..x_M, of x_m * x_k for k <= m, and of x_m * y.
    """
    n = len(candidates)
    n_sums = 2 * n + n * (n + 1) // 2
    for q in range(len(quads)):
        _interleave(codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3], quads[q])
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
    """Store the codes of four images side by side, pixel by pixel."""
    for j in range(TILE):
        out[_U(4 * j)] = first[j]
        out[_U(4 * j + 1)] = second[j]
        out[_U(4 * j + 2)] = third[j]
        out[_U(4 * j + 3)] = fourth[j]


_SUM, _CODE = ir.IntType(64), ir.IntType(32)


def _list_factors(n_candidates: int) -> tuple[list[int], list[int]]:
    """Return the factors of each product: indices of the candidates, M for the truth, -1 for one."""
    m = range(n_candidates)
    pairs = [(one, -1) for one in m]
    pairs += [(one, other) for one in m for other in range(one + 1)]
    pairs += [(one, n_candidates) for one in m]
    return [one for one, _ in pairs], [other for _, other in pairs]


@intrinsic
def _add_pixel(typing: Any, candidates: Any, quads: Any, j: Any, sums: Any, begin: Any) -> Any:
    """Add the products of pixel ``j`` to the sums from index ``begin`` on, as one vector operation."""
    n_quads = quads_for.py_func(candidates.count)
    one, other = _list_factors(candidates.count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        proxies = [create_struct_proxy(kinds[i])(context, builder, args[i]) for i in (1, 3)]  # type: ignore[no-untyped-call]
        codes, table = (proxy.data for proxy in proxies)
        place = builder.mul(args[2], _SUM(4))
        starts = [builder.add(place, _SUM(4 * TILE * q)) for q in range(n_quads)]
        read = [_load(builder, codes, start, _CODE, 4) for start in starts]
        pixel = builder.zext(_concatenate(builder, read), ir.VectorType(_SUM, 4 * n_quads))
        ones = ir.Constant(pixel.type, [1] * (4 * n_quads))
        left = _shuffle(builder, pixel, ones, one)
        right = _shuffle(builder, pixel, ones, [4 * n_quads if k < 0 else k for k in other])
        before = _load(builder, table, args[4], _SUM, len(one))
        where = builder.bitcast(builder.gep(table, [args[4]]), before.type.as_pointer())
        builder.store(builder.add(before, builder.mul(left, right)), where, align=8)
        return context.get_dummy_value()

    return types.void(candidates, quads, j, sums, begin), generate


def _load(builder: Any, data: Any, place: Any, kind: Any, n: int) -> Any:
    """Load ``n`` numbers as a vector."""
    start = builder.bitcast(builder.gep(data, [place]), ir.VectorType(kind, n).as_pointer())
    return builder.load(start, align=kind.width // 8)


def _shuffle(builder: Any, one: Any, other: Any, places: list[int]) -> Any:
    """Shuffle the elements of two vectors of equal length."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_CODE, len(places)), places))


def _concatenate(builder: Any, parts: list[Any]) -> Any:
    """Concatenate vectors of four elements."""
    whole = parts[0]
    for part in parts[1:]:
        n = whole.type.count
        # Both operands must have the same length; the padding is not used.
        wide = _shuffle(builder, part, part, [i % 4 for i in range(n)])
        whole = _shuffle(builder, whole, wide, [*range(n), *range(n, n + 4)])
    return whole


# -- EM --

_CHUNK = 256
"""Ground-truth values per chunk: the buffers of a chunk fit into a core's first-level cache."""


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
    gamma, best = np.empty((n_candidates, _CHUNK)), np.empty(_CHUNK)
    total, buffer, value = np.empty(_CHUNK), np.empty(_CHUNK), np.empty(_CHUNK)
    bits = (total.view(np.int64), buffer.view(np.int64), value.view(np.int64))
    work = (best, total, buffer, value)
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
                if mass[m] > 0 or recentred:  # a component without mass keeps its variance
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
    """Run the E step for one bin set; return the mean log likelihood of the current components.

    ``mass``, ``centre`` and ``spread`` are written: sums of the responsibilities, and of the responsibilities
    times the truth's deviation from the component's mean and its square. ``gamma``, ``work`` and ``bits`` are
    buffers.
    """
    best, total, buffer, value = work
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
            _add_exponential(gamma[m], best, total, buffer, value, bits, size)
        _compute_logarithm(total, buffer, bits, size)
        likelihood += _normalize(share, begin, size, best, total, buffer)
        for m in range(len(means)):
            _add_sums(gamma[m], total, truth, begin, size, means[m], m, mass, centre, spread)
    return likelihood


@_jit_sum
def _normalize(
    share: NDArray[np.float64],
    begin: int,
    size: int,
    best: NDArray[np.float64],
    total: NDArray[np.float64],
    logs: NDArray[np.float64],
) -> float:
    """Return the sum of the log likelihood; turn ``total`` into the factor of the responsibilities."""
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
    """Add one component's responsibilities, and their first and second moment about its mean."""
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
"""Exponentials of less are set to zero: they are below the smallest normal number."""

_ROUND = 1.5 * 2.0**52
"""Adding and subtracting this rounds to the nearest integer; the sum has that integer in its last bits."""

_LOG2_E = 1.4426950408889634

_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""log(2) in two parts; an integer times the first is exact."""


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
    """Replace ``x`` by ``exp(x - best)``, where ``x <= best``, and add it to the total.

    Accurate to 2 units in the last place; zero below -708. ``exp(x) = 2 ** n * exp(r)`` with integer ``n``
    and ``|r| <= log(2) / 2``, where thirteen terms of the Taylor series suffice. NaN stays NaN.
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
def _compute_logarithm(
    x: NDArray[np.float64], out: NDArray[np.float64], bits: tuple[NDArray[np.int64], ...], size: int
) -> None:
    """Compute the natural logarithm of numbers >= 1, to 2 units in the last place of 1.

    ``log(x) = n log 2 + 2 artanh s`` with ``s = (f - 1) / (f + 1)`` and ``x = 2 ** n * f``, ``3/4 <= f <
    3/2``, where eleven terms of the series suffice. NaN stays NaN.
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


# -- the ensemble --


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
    """Combine a block with the weights of its bin sets; write the image or the weight maps.

    Parameters
    ----------
    candidates
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
    n = len(candidates)
    # Zeros, because the loops also run over the unused end of a tile, where denormal numbers would be slow.
    values, gathered = np.zeros((4 * len(quads), TILE), grid.dtype), np.zeros(TILE, np.complex128)
    weights, buffer = gathered.view(np.float32), np.zeros((3, TILE), np.float32)
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
            _gather(quads[q], key, gathered)
            if image.size == 0:
                for m in range(4 * q, min(4 * q + 4, n)):
                    _extract(weights, m - 4 * q, buffer[0], maps[m, start + begin : start + begin + size])
            elif n > 4:
                _add_quad(weights, values, 4 * q, buffer[0])
        if image.size > 0:
            out = image[start + begin : start + begin + size]
            if n > 4:
                _clamp_to_candidates(candidates, values, buffer, out)
            elif size == TILE:  # directly: a copied buffer would reach memory in bursts
                _sum_weighted(candidates, weights, values, out)
            else:
                _sum_weighted(candidates, weights, values, buffer[0])
                _copy_tile(buffer[0], out)


@_jit
def _gather(quads: NDArray[np.complex128], keys: NDArray[np.uint32], out: NDArray[np.complex128]) -> None:
    """Copy the four weights of each pixel's row."""
    for j in range(keys.size):
        out[j] = quads[_U(keys[j])]


@_jit
def _copy_tile(tile: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Copy a tile, up to the size of the output."""
    for j in range(out.size):
        out[j] = tile[j]


@_jit
def _extract(
    weights: NDArray[np.float32], place: int, buffer: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Extract one of the four weights of each pixel."""
    if out.size == TILE:
        _extract_tile(weights, place, out)
    else:
        _extract_tile(weights, place, buffer)
        _copy_tile(buffer, out)


@_jit
def _extract_tile(weights: NDArray[np.float32], place: int, out: NDArray[np.float32]) -> None:
    """Extract one of the four weights of each pixel of a whole tile."""
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
def _sum_weighted(
    candidates: Blocks, weights: NDArray[np.float32], values: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """Sum up to four weighted candidates; clamp to the range of the candidates at each pixel."""
    n = len(candidates)  # length of a tuple: a compile-time constant
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


@_jit
def _add_quad(weights: NDArray[np.float32], values: NDArray[Any], m: int, total: NDArray[np.float32]) -> None:
    """Add four weighted candidates, in order; values and weights beyond the last candidate are zero."""
    first, second, third, fourth = values[m], values[m + 1], values[m + 2], values[m + 3]
    for j in range(TILE):
        before = total[j] if m > 0 else _S(0)
        added = before + weights[_U(4 * j)] * _S(first[j])
        added += weights[_U(4 * j + 1)] * _S(second[j])
        added += weights[_U(4 * j + 2)] * _S(third[j])
        total[j] = added + weights[_U(4 * j + 3)] * _S(fourth[j])


@_jit
def _clamp_to_candidates(
    candidates: Blocks, values: NDArray[Any], buffer: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Clamp the weighted sums, the first row of the buffer, to the range of the candidates at each pixel."""
    total, low, high = buffer[0], buffer[1], buffer[2]
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


# -- errors and biases --


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
    """Add a block's squared errors to classes of intensity and spread.

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
    step, most
        Quantization step of the errors, and the maximum number of steps of an error.
    squares, counts : (channels * classes,)
        Added to.
    """
    per_channel = squares.size // channels[0]
    spreads, keys = np.empty(_ERROR_TILE, np.float32), np.empty(_ERROR_TILE, np.int32)
    levels, good = np.empty(_ERROR_TILE, np.float64), np.empty(_ERROR_TILE, np.bool_)
    first = np.empty(_ERROR_TILE, np.int64)
    for begin in range(0, ensemble.size, _ERROR_TILE):
        size = min(_ERROR_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _find_deviations(candidates, begin, grid[3], spreads[:size])
        _find_classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _quantize_errors(part, truth[begin : begin + size], step, most, levels[:size])
        _mark_valid(ensemble, truth, keep, begin, good[:size])
        _fill_offsets(begin, channels, per_channel, first[:size])
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
    """Write the expected error of each pixel of a block; NaN where the ensemble is not finite.

    Parameters
    ----------
    candidates, ensemble, channels, grid, n_spreads
        As for :func:`count_errors`.
    errors : (channels * classes,)
    out : (pixels,)
    """
    per_channel = errors.size // channels[0]
    spreads, keys = np.empty(_ERROR_TILE, np.float32), np.empty(_ERROR_TILE, np.int32)
    first = np.empty(_ERROR_TILE, np.int64)
    for begin in range(0, ensemble.size, _ERROR_TILE):
        size = min(_ERROR_TILE, ensemble.size - begin)
        part = ensemble[begin : begin + size]
        _find_deviations(candidates, begin, grid[3], spreads[:size])
        _find_classes(part, spreads[:size], grid[:3], n_spreads, keys[:size])
        _fill_offsets(begin, channels, per_channel, first[:size])
        for j in range(size):
            error = errors[first[j] + np.int64(keys[j])]
            out[begin + j] = error if part[j] - part[j] == 0 else np.float32(np.nan)


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
    """Add a block's errors to classes of intensity: of the truth's, and of each image's own intensity.

    Parameters
    ----------
    candidates, truth, ensemble, keep, channels
        As for :func:`count_errors`.
    grid : (5,) float64
        Lower end of the first class, classes per unit, number of classes; quantization step of the errors,
        and the maximum number of steps of an error.
    counts, errors : (2 * channels * (M + 1) * classes,)
        Added to.
    """
    n_images, n_classes = len(candidates) + 1, int(grid[2])
    per_way = counts.size // 2
    by_truth, by_value = np.empty(_ERROR_TILE, np.int32), np.empty(_ERROR_TILE, np.int32)
    levels, good = np.empty(_ERROR_TILE, np.float64), np.empty(_ERROR_TILE, np.bool_)
    first, values = np.empty(_ERROR_TILE, np.int64), np.empty(_ERROR_TILE, np.float64)
    for begin in range(0, ensemble.size, _ERROR_TILE):
        size = min(_ERROR_TILE, ensemble.size - begin)
        true = truth[begin : begin + size]
        _find_bias_classes(true, grid, by_truth[:size])
        _mark_valid(ensemble, truth, keep, begin, good[:size])
        _fill_offsets(begin, channels, n_images * n_classes, first[:size])
        for m in range(n_images):
            # A loop: assigning a slice takes numba seconds to compile.
            if m < n_images - 1:
                block = candidates[m, begin : begin + size]
                for j in range(size):
                    values[j] = block[j]
            else:
                for j in range(size):
                    values[j] = ensemble[begin + j]
            _find_bias_classes(values[:size], grid, by_value[:size])
            _quantize_errors(values[:size], true, grid[3], grid[4], levels[:size])
            for j in range(size):
                if good[j]:
                    one = first[j] + m * n_classes + by_truth[j]
                    other = first[j] + m * n_classes + per_way + by_value[j]
                    error = np.int64(levels[j])
                    counts[one] += 1
                    errors[one] += error
                    counts[other] += 1
                    errors[other] += error


_ROOT = np.int32(np.float32(2**0.5).view(np.int32) & 0x7FFFFF)
"""Bits of the fraction of the square root of two."""


@_jit
def _fill_offsets(begin: int, channels: ChannelRuns, per_channel: int, out: NDArray[np.int64]) -> None:
    """Write the index of the first class of each pixel's channel."""
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
def _find_deviations(
    candidates: NDArray[Any], begin: int, unit: np.float32, spread: NDArray[np.float32]
) -> None:
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
    ensemble: NDArray[np.float32],
    spread: NDArray[np.float32],
    grid: NDArray[np.float32],
    n_spreads: int,
    keys: NDArray[np.int32],
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
    values: NDArray[Any], truth: NDArray[Any], step: float, most: float, levels: NDArray[np.float64]
) -> None:
    """Quantize errors to multiples of ``step``, clamped to ``most`` steps; NaN becomes ``-most``."""
    for j in range(levels.size):
        levels[j] = np.rint(_clamp((np.float64(values[j]) - np.float64(truth[j])) / step, -most, most))


@_jit
def _mark_valid(
    ensemble: NDArray[np.float32], truth: NDArray[Any], keep: NDArray[np.bool_], begin: int, good: Any
) -> None:
    """Mark the pixels of a tile to count: finite, and within the mask."""
    for j in range(good.size):
        off = np.float64(ensemble[begin + j]) - np.float64(truth[begin + j])
        good[j] = off - off == 0
    if keep.size > 0:
        for j in range(good.size):
            good[j] &= keep[begin + j]


@_jit
def _find_bias_classes(values: NDArray[Any], grid: NDArray[np.float64], classes: NDArray[np.int32]) -> None:
    """Find the classes of intensity."""
    low, per_unit, last = grid[0], grid[1], grid[2] - 1.0
    for j in range(classes.size):
        classes[j] = np.int32(_clamp((np.float64(values[j]) - low) * per_unit, 0.0, last))

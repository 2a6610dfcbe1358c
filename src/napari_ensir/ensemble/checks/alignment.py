"""Checks that candidates and ground truth show the same pixels on the same intensity scale."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose, linear_text, sort_diagnostics
from napari_ensir.ensemble.checks.planes import View, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.checks.planes import Plane


HALF, CLEARER, SURE = 0.6, 0.9, 4.0
"""A correction is accepted if the remaining squared difference is below the fraction HALF of the original; or
below the fraction CLEARER, and the reduction exceeds SURE standard errors over blocks."""

SIMILAR = 0.5
"""Minimum correlation of two images of the same field."""

DIFFERENT = 0.3
"""Correlation of block means below which images show different fields. Nine in ten pairs of unrelated
images are below it; blotchy restorations of images with few photons are at 0.38 or above."""

BLOCK = 16
"""Side of a block, pixels."""

LEAST_BLOCKS = 16
"""Minimum number of blocks; with fewer, their standard deviation is too uncertain."""

BORDER = 32
"""Width of the border of larger planes that is examined for empty regions, pixels."""

GAMMAS = (1 / 2.4, 1 / 2.2, 1 / 1.8, 1.8, 2.2, 2.4)
"""Exponents that displays and cameras apply to intensities."""

SMOOTHING = 4.0
"""Standard deviation, in pixels, of the Gaussian blur before scales are compared. Without the blur, errors of
the restoration would hide a difference of scale."""

SCALE_LEFT, SCALE_SHARE, SCALE_SHIFT = 0.35, 0.2, 0.05
"""A scale differs if matching it leaves at most the fraction SCALE_LEFT of the blurred images' squared
difference, removes at least SCALE_SHARE of the candidate's mean squared error, and changes intensities by at
least SCALE_SHIFT standard deviations of the ground truth."""

SKEWED = 0.4
"""Skewness of the remaining errors above which bright streaks, such as rain, explain the difference."""

CLIPPED = 0.02
"""Minimum fraction of pixels with the lowest or highest intensity for an image to count as clipped."""

EMPTY_SHARE, EMPTY_ERROR = 0.005, 4.0
"""A constant region is reported if it covers at least the fraction EMPTY_SHARE of the plane and its root mean
squared error is more than EMPTY_ERROR times that of the remaining pixels."""

COPY_RATIO, COPY_SHARE = 0.1, 0.02
"""A candidate is a copy of the ground truth if its root mean squared error is below COPY_RATIO times that of
the next candidate and below COPY_SHARE times the standard deviation of the ground truth."""

SEVERAL = 4
"""Maximum number of images of a reference set that are examined."""

FEW = 64
"""Rows and columns that a first, coarse check uses; the exact check runs only where it finds something."""

SLACK = 1.3
"""Factor by which limits are relaxed in the coarse check."""


def dot(one: Plane, other: Plane) -> float:
    """Return the sum of the products of two arrays of one axis.

    Not by BLAS, whose threads take milliseconds to meet if a core is busy.
    """
    return float(np.einsum("i,i", one, other))


def squared_difference(one: Plane, other: Plane) -> Plane:
    """Squared difference of two images, each standardized to mean 0 and standard deviation 1.

    Parameters
    ----------
    one, other : arrays of one shape
        Pixels that are NaN or infinite in either image are excluded.

    Returns
    -------
    array of the images' shape
        Its mean is ``2 (1 - r)``, where ``r`` is Pearson's correlation. 0 at excluded pixels; 2 everywhere if
        an image is constant.

    Examples
    --------
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> round(float(squared_difference(image, 5 - 2 * image).mean()), 6)
    4.0
    """
    both = _find_known(one, other)
    n = one.size if both is None else max(1, int(both.sum()))
    parts = []
    for image in (one, other):
        known = image if both is None else np.where(both, image, 0.0)
        known = known - known.sum() / n
        if both is not None:
            known[~both] = 0
        deviation = np.sqrt(dot(known.ravel(), known.ravel()) / n)
        if deviation == 0:
            return np.full(one.shape, 2.0)
        known /= deviation
        parts.append(known)
    return np.asarray((parts[0] - parts[1]) ** 2 * (one.size / n))


def correlation(one: Plane, other: Plane) -> float:
    """Pearson's correlation over the pixels that are finite in both; 0 if an image is constant."""
    first, second = _known_pixels(one, other)
    if not first.size:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt(dot(first, first) * dot(second, second)))
    return dot(first, second) / scale if scale else 0.0


def correlations(images: Sequence[Plane]) -> NDArray[np.float64]:
    """Pearson's correlation of each image with each other one, (M, M)."""
    if _find_known(*images) is not None:
        return np.array([[correlation(one, other) for other in images] for one in images])
    centred = np.stack([image.ravel() - image.mean() for image in images])
    products = np.einsum("ik,jk->ij", centred, centred)
    sizes = np.sqrt(products.diagonal())
    scale = np.outer(sizes, sizes)
    return np.asarray(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0))


def _find_known(*images: Plane) -> NDArray[np.bool_] | None:
    """Return where all images are finite; None: everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(sum(image.sum() for image in images)):  # faster than looking at each pixel
            return None
    known = reduce(np.logical_and, map(np.isfinite, images))
    return None if known.all() else known


def _known_pixels(*images: Plane) -> list[NDArray[np.float64]]:
    """Return the pixels of each image, flattened, that are finite in all."""
    known = _find_known(*images)
    return [image.ravel() if known is None else image[known] for image in images]


def thinned(image: Plane) -> Plane:
    """Return evenly spaced rows and columns of an image, for a coarse check."""
    steps = (slice(None, None, max(1, size // FEW)) for size in image.shape[:2])
    return np.ascontiguousarray(image[tuple(steps)])


def _may_be_closer(corrected: tuple[Plane, Plane], original: tuple[Plane, Plane]) -> bool:
    """Return whether :func:`is_closer` may be true; a coarse check on few pixels."""
    left, before = (1 - correlation(*map(thinned, pair)) for pair in (corrected, original))
    return left < SLACK * before


def _is_equal(one: Plane, other: Plane) -> bool:
    return all(
        np.array_equal(*pair, equal_nan=True) for pair in ((thinned(one), thinned(other)), (one, other))
    )


def _grey(plane: Plane) -> Plane:
    """Return the mean over the channels."""
    n = plane.shape[-1]
    return np.asarray(sum(plane[..., c] for c in range(n)) / n)


def is_closer(corrected: Plane, original: Plane) -> bool:
    """Return whether a correction clearly reduces the difference of two images.

    A correction is rejected if the corrected images still do not correlate.

    Parameters
    ----------
    corrected, original : arrays of one shape
        Results of :func:`squared_difference` with and without the correction.
    """
    left, before = corrected.mean(), original.mean()
    if left > 2 * (1 - SIMILAR):
        return False
    if left < HALF * before and before - left > 1e-4:
        return True
    gained = _block_means(original - corrected)
    gained = gained.mean(axis=-1) if gained.ndim > 2 else gained
    if gained.size < LEAST_BLOCKS or left > CLEARER * before:
        return False
    return bool(gained.mean() > SURE * gained.std() / np.sqrt(gained.size))


def _corrects(corrected: tuple[Plane, Plane], original: tuple[Plane, Plane]) -> bool:
    """Return whether a corrected pair of images is clearly closer than the original pair."""
    return _may_be_closer(corrected, original) and is_closer(
        squared_difference(*corrected), squared_difference(*original)
    )


def is_unrelated(one: Plane, other: Plane) -> bool:
    """Return whether both images have structure beyond pixel noise, and the structures do not correlate.

    Block means are compared, because they contain little noise.
    """
    coarse = [_block_means(image) for image in (one, other)]
    if coarse[0].size < LEAST_BLOCKS or not all(np.isfinite(means).all() for means in coarse):
        return False
    if correlation(*coarse) >= DIFFERENT:
        return False
    for image, means in zip((one, other), coarse, strict=True):
        variance = _whole_blocks(image).var() - means.var()  # within blocks
        if means.var() < 9 * variance / BLOCK**2:
            return False
    return True


def find_shift(truth: NDArray[Any], candidate: NDArray[Any]) -> tuple[int, int] | None:
    """Find the shift of a candidate against the ground truth in whole pixels, down and to the right.

    The function tries the peaks of the phase correlation and of the cross-correlation (Kuglin and Hines 1975,
    from scikit-image), and the eight shifts by one pixel. It returns the best shift if that is clearly better
    than no shift. The shift must also improve the blurred images, because correlated noise alone can favour
    a shift.

    Parameters
    ----------
    truth, candidate : (Y, X) arrays of one shape
        Any integer or float dtype; pixels that are not finite are excluded.

    Returns
    -------
    (int, int) or None
        None if the candidate is not shifted.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(40, 50))
    >>> find_shift(truth, np.roll(truth, (3, -1), axis=(0, 1)))
    (3, -1)
    >>> find_shift(truth, truth)
    """
    one, other = (np.asarray(image, np.float64) for image in (truth, candidate))
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    shifts += [
        shift
        for shift in _correlation_peaks(_fill(one), _fill(other))
        if shift != (0, 0) and all(2 * abs(n) <= size for n, size in zip(shift, one.shape, strict=True))
    ]
    if not any(
        _may_be_closer(overlap(one, other, shift), overlap(one, other, shift, moved=False))
        for shift in shifts
    ):
        return None
    best = max(shifts, key=lambda shift: correlation(*overlap(one, other, shift)))
    left = squared_difference(*overlap(one, other, best))
    # The pixels of the truth and those of the candidate are both compared without the shift, because a
    # candidate's errors may differ between the two parts.
    against = (-best[0], -best[1])
    unmoved = [overlap(one, other, best, moved=False), overlap(other, one, against, moved=False)]
    if not all(is_closer(left, squared_difference(*pair)) for pair in unmoved):
        return None
    first, second = (
        _blur(image[..., None], _find_known(image[..., None]), 2.0)[..., 0] for image in (one, other)
    )
    moved, still = (correlation(*overlap(first, second, best, moved=way)) for way in (True, False))
    return best if moved > still else None


def overlap(
    truth: Plane, candidate: Plane, shift: tuple[int, int], moved: bool = True
) -> tuple[Plane, Plane]:
    """Return the part of the truth that a shifted candidate covers, and the candidate there.

    With ``moved``, the candidate is moved back by the shift first.
    """
    there, back = (
        tuple(slice(max(0, n), size + min(0, n)) for n, size in zip(way, truth.shape, strict=True))
        for way in (shift, (-shift[0], -shift[1]))
    )
    return truth[back], candidate[there if moved else back]


def _correlation_peaks(truth: Plane, candidate: Plane) -> Iterator[tuple[int, int]]:
    """Yield the shifts at the peaks of the phase correlation and of the cross-correlation."""
    product = np.fft.rfft2(candidate) * np.fft.rfft2(truth).conj()
    size = np.abs(product)
    for spectrum in (product / np.maximum(size, 100 * np.finfo(np.float64).eps), product):
        peak = np.abs(np.fft.irfft2(spectrum, truth.shape)).argmax()
        places = zip(np.unravel_index(peak, truth.shape), truth.shape, strict=True)
        down, right = (int(place) - (n if place > n // 2 else 0) for place, n in places)
        yield down, right


def _fill(image: Plane) -> Plane:
    """Subtract the mean; set pixels that are not finite to 0."""
    known = _find_known(image)
    if known is None:
        return np.asarray(image - image.mean())
    mean = image[known].mean() if known.any() else 0.0
    return np.where(known, image - mean, 0.0)


def _whole_blocks(image: Plane) -> Plane:
    height, width = (size - size % BLOCK for size in image.shape[:2])
    return image[:height, :width]


def _block_means(image: Plane) -> Plane:
    """Means of blocks, of each channel."""
    whole = _whole_blocks(image)
    rows, columns = whole.shape[0] // BLOCK, whole.shape[1] // BLOCK
    rest = whole.shape[2:]
    # Axis by axis: several at once are slow.
    means = whole.reshape(rows, BLOCK, columns * BLOCK, *rest).mean(axis=1)
    return np.asarray(means.reshape(rows, columns, BLOCK, *rest).mean(axis=2))


def check_alignment(
    candidates: Sequence[Any],
    truth: Any = None,
    names: Sequence[str] | None = None,
    channel_axis: int | None = None,
) -> list[Diagnostic]:
    """Check that the candidates of one image are aligned with the ground truth, or with each other.

    Only the central 256 x 256 pixels of the middle plane are read. A problem is reported if its correction
    clearly reduces the difference between candidate and ground truth: the candidate is shifted, flipped or
    rotated, its channels are reversed, or its intensities are on another scale. Other problems, such as two
    candidates with swapped names, are not detected.

    Parameters
    ----------
    candidates : M arrays of one shape
        Numpy, torch, dask or anything that can be sliced; any integer or float dtype.
    truth : array of that shape, optional
        None: the candidates are compared with the one that correlates best with the others.
    names : M strings, optional
        Default: "1", "2", ...
    channel_axis : int, optional
        None: the last axis, if it has length 3 and is the third or a later one.

    Returns
    -------
    list of Diagnostic
        Most severe first. Candidates with the same problem share one.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> truth = np.sin(x / 3) + np.cos(y / 4 + x / 11)
    >>> good, late = truth + 0.1 * np.sin(17 * x * y), np.roll(truth, 2, axis=1)
    >>> print(*check_alignment([good, late], truth, ("good", "late")))
    candidate "late": shifted by 2 pixels to the right against the ground truth; align them.
    """
    names = _default_names(names, len(candidates))
    arrays = [as_array(array) for array in candidates]
    true = None if truth is None else as_array(truth)
    view = View.of((arrays[0] if true is None else true).shape, channel_axis)
    if not view.is_large_enough:
        return []
    planes = [view.plane(array) for array in arrays]
    with np.errstate(over="ignore", invalid="ignore"):  # intensities near the largest float
        if true is None:
            place = most_typical(planes)
            others = [one for m, one in enumerate(zip(names, arrays, planes, strict=True)) if m != place]
            against = f'candidate "{names[place]}"'
            return sort_diagnostics(_compare(view, others, arrays[place], planes[place], against))
        wanted = view.plane(true)
        if not varies(wanted):
            # A plane of a stack may be empty, and nothing can be compared with it.
            known = wanted[np.isfinite(wanted)]
            value = f"{known[0]:g}" if known.size else "NaN or infinite"
            return [] if view.stack is not None else [diagnose("constant-truth", value=value)]
        found = list(_check_truth(wanted, names, planes))
        about = _compare(view, list(zip(names, arrays, planes, strict=True)), true, wanted)
        if any(one.code == "truth-clipped" for one in found):  # all candidates differ from it in scale
            about = (one for one in about if one.code not in ("scale-mismatch", "tone-curve"))
        return sort_diagnostics([*found, *about, *_twins(names, planes)])


def _compare(
    view: View,
    candidates: Sequence[tuple[str, Any, Plane]],
    truth: Any,
    wanted: Plane,
    against: str = "the ground truth",
) -> Iterator[Diagnostic]:
    """Compare candidates (name, array, plane) with an image; yield one diagnostic for each problem."""
    found: dict[str, tuple[Diagnostic, list[str]]] = {}
    for name, candidate, plane in candidates:
        one = _first_problem(view, candidate, plane, truth, wanted)
        if one is None and is_unrelated(_grey(plane), _grey(wanted)):
            one = diagnose("other-field", {"action": "drop-candidate"})
        if one is not None:
            found.setdefault(one.message, (one, []))[1].append(name)
    for one, affected in found.values():
        yield about_candidates(one, affected, against)


def about_candidates(one: Diagnostic, names: Sequence[str], against: str = "the ground truth") -> Diagnostic:
    """Put the names of candidates, and of the image that they were compared with, into a diagnostic."""
    named = ", ".join(f'"{name}"' for name in names)
    text = one.message.replace("the ground truth", against)
    message = f"candidate{'s' * (len(names) > 1)} {named}: {text}"
    return replace(one, message=message, fix={**(one.fix or {}), "candidates": list(names)})


def most_typical(planes: Sequence[Plane]) -> int:
    """Return the index of the candidate that correlates best with the others; 0 if there are only two."""
    if len(planes) < 3:
        return 0
    return int(np.argmax(np.median(np.abs(correlations(planes)), axis=1)))


def check_reference(
    reference: Sequence[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    channel_axis: int | None = None,
    labels: Sequence[str] | None = None,
    places: Sequence[int] | None = None,
) -> list[Diagnostic]:
    """Check up to four images of a reference set, evenly spaced, by :func:`check_alignment`.

    Also check whether a candidate shows the field of another image, which happens if files are out of order.

    Parameters
    ----------
    reference : sequence of (candidates, truth)
    names, channel_axis
        As for :func:`check_alignment`.
    labels : one string per image, optional
        Names of the images; None: their numbers, from 1.
    places : indices of images, from 0, optional
        Images to choose from; None: all.

    Returns
    -------
    list of Diagnostic
        Most severe first; a problem of several images is reported once, for the first of them.

    Examples
    --------
    >>> from skimage import data, filters
    >>> truth = data.camera()
    >>> sharp, late = (np.rint(filters.gaussian(truth, s, preserve_range=True)) for s in (0.7, 1))
    >>> print(*check_reference([([sharp, np.roll(late, 2, axis=1)], truth)], names=("sharp", "late")))
    candidate "late": shifted by 2 pixels to the right against the ground truth; align them.
    """
    places = range(len(reference)) if places is None else places
    chosen = np.linspace(0, len(places) - 1, min(len(places), SEVERAL)).round().astype(int)
    found: list[Diagnostic] = []
    examined = []
    for place in (places[number] for number in chosen):
        candidates, truth = reference[place]
        candidates, truth = [remember(candidate) for candidate in candidates], remember(truth)
        label = labels[place] if labels else str(place + 1)
        where = f"image {label}: " if len(places) > 1 else ""
        these = check_alignment(candidates, truth, names, channel_axis)
        found += [replace(one, message=where + one.message) for one in these]
        view = View.of(truth.shape, channel_axis)
        if view.is_large_enough:
            planes = [view.plane(candidate) for candidate in candidates]
            examined.append((label, view.plane(truth), planes))
    return sort_diagnostics([*found, *_other_order(examined, names)])


def _first_problem(view: View, candidate: Any, plane: Plane, truth: Any, wanted: Plane) -> Diagnostic | None:
    """Return the first problem of a candidate; the message does not contain its name."""
    finite = np.isfinite(plane)
    drop = {"action": "drop-candidate"}
    if not finite.any():
        return diagnose("not-finite/plane")
    if not varies(plane):
        return diagnose("constant", drop, value=plane[finite][0])
    if _is_equal(plane, wanted):
        return diagnose("equals-truth", drop)
    if not all(map(varies, _known_pixels(plane, wanted))):
        return _check_missing(finite)
    return (
        _check_inversion(plane, wanted)
        or _check_position(plane, wanted)
        or _check_channels(plane, wanted)
        or _check_clipping(plane, wanted)
        or _check_region(view, plane, wanted)
        or check_scale(plane, wanted)
        or _check_borders(view, candidate, truth)
        or _check_neighbours(view, candidate, truth)
        or _check_missing(finite)
    )


TURNS: dict[str, Callable[[Plane], Plane]] = {
    "upside down": lambda x: x[::-1],
    "mirrored left to right": lambda x: x[:, ::-1],
    "rotated by 180 degrees": lambda x: x[::-1, ::-1],
    "transposed": lambda x: x.swapaxes(0, 1),
    "rotated by 90 degrees": lambda x: x.swapaxes(0, 1)[::-1],
    "rotated by 270 degrees": lambda x: x.swapaxes(0, 1)[:, ::-1],
    "transposed and rotated by 180 degrees": lambda x: x.swapaxes(0, 1)[::-1, ::-1],
}


def _check_inversion(plane: Plane, truth: Plane) -> Diagnostic | None:
    few = correlation(thinned(truth), thinned(plane))
    return diagnose("inverted") if few < -0.5 / SLACK and correlation(truth, plane) < -0.5 else None


def _check_position(plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check whether a candidate is flipped, rotated or shifted."""
    grey, wanted = _grey(plane), _grey(truth)
    if _is_in_place(grey, wanted):
        return None
    turned = {how: turn(grey) for how, turn in TURNS.items()}
    possible = [
        how
        for how, image in turned.items()
        if image.shape == grey.shape and _may_be_closer((wanted, image), (wanted, grey))
    ]
    how = max(possible, key=lambda one: correlation(wanted, turned[one]), default=None)
    if how and is_closer(squared_difference(wanted, turned[how]), squared_difference(wanted, grey)):
        return diagnose("turned", {"action": "transform", "how": how}, how=how)
    shift = find_shift(wanted, grey)
    if shift is None:
        return None
    words = [
        f"{abs(n)} pixel{'s' * (abs(n) > 1)} {to[n < 0]}"
        for n, to in zip(shift, (("down", "up"), ("to the right", "to the left")), strict=True)
        if n
    ]
    return diagnose("shifted", {"action": "align", "shift": list(shift)}, how=" and ".join(words))


def _is_in_place(image: Plane, truth: Plane) -> bool:
    """Return whether an image is closer to the truth than half the distance of the truth moved by one pixel.

    By the triangle inequality, no shift of the image is then closer than the image is.
    """
    moved = (truth[1:], truth[:-1]), (truth[:, 1:], truth[:, :-1])
    least = min(1 - correlation(*map(thinned, pair)) for pair in moved)
    return 4 * (1 - correlation(thinned(truth), thinned(image))) < least


def _check_channels(plane: Plane, truth: Plane) -> Diagnostic | None:
    if plane.shape[-1] == 1 or not _corrects((truth, plane[..., ::-1]), (truth, plane)):
        return None
    return diagnose("channels-reversed", {"action": "reverse-channels"})


def check_scale(plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check for other units or another tone curve; the message does not contain the candidate's name."""
    few_x, few_y = _known_pixels(thinned(plane), thinned(truth))
    x, y = _known_pixels(plane, truth)
    if _is_gamma(few_x, few_y, SLACK) and _is_gamma(x, y):
        return diagnose("tone-curve")
    coarse, wanted = _known_pixels(_block_means(plane), _block_means(truth))
    if coarse.size >= FEW and _match_scale(few_x, few_y, coarse, wanted, SLACK) is None:
        return None
    known = _find_known(plane, truth)
    inside = ... if known is None else known
    match = _match_scale(x, y, _blur(plane, known)[inside], _blur(truth, known)[inside])
    if match is None:
        return None
    gain, offset = match
    fix = {"action": "match-intensities", "gain": gain, "offset": offset}
    return diagnose("scale-mismatch", fix, scale=linear_text(gain, "the candidate", offset, y.std(), 4))


def _match_scale(
    x: Plane, y: Plane, blurred: Plane, wanted: Plane, slack: float = 1.0
) -> tuple[float, float] | None:
    """Return the gain and offset that match a candidate ``x`` to the truth ``y``; None: on one scale."""
    r = correlation(wanted, blurred)
    if r < 0.9 / slack:
        return None
    gain = float(r * wanted.std() / blurred.std())
    offset = float(wanted.mean() - gain * blurred.mean())
    before, left = np.mean((wanted - blurred) ** 2), np.mean((wanted - gain * blurred - offset) ** 2)
    removed, error = before - left, np.mean((y - x) ** 2)
    least = max(SCALE_SHARE * error, SCALE_SHIFT**2 * y.var())
    if left > slack * SCALE_LEFT * before or slack * removed < least:
        return None
    remaining = gain * x + offset - y
    if remaining.var() > slack * 0.25 * error and _skewness(remaining) > slack * SKEWED:
        return None
    return gain, offset


def _skewness(values: Plane) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(float(centred.std()) ** 3, 1e-300))


def _is_gamma(x: Plane, y: Plane, slack: float = 1.0) -> bool:
    """Return whether the truth is a power (gamma) of the candidate.

    Other curves do not count, because noise alone makes the mean truth at each intensity nonlinear.
    """
    r, least = correlation(y, x), 0.01 * y.var() / slack
    fitted = (1 - r * r) * y.var()
    if r < 0.9 / slack or fitted <= least:
        return False
    low = min(0.0, float(x.min()))
    unit = (x - low) / (x.max() - low)
    curved = min(1 - correlation(y, unit**gamma) ** 2 for gamma in GAMMAS) * y.var()
    return bool(curved < slack * 0.25 * fitted and fitted - curved > least)


def _blur(plane: Plane, valid: NDArray[np.bool_] | None, sigma: float = SMOOTHING) -> Plane:
    """Gaussian blur of rows and columns over the valid pixels; None: all."""
    from scipy.ndimage import gaussian_filter

    sigmas = (sigma, sigma, 0)
    if valid is None:
        return np.asarray(gaussian_filter(plane, sigmas))
    weight = gaussian_filter(valid.astype(np.float64), sigmas)
    return np.asarray(gaussian_filter(np.where(valid, plane, 0.0), sigmas) / np.maximum(weight, 1e-12))


def _check_clipping(plane: Plane, other: Plane, code: str = "clipped") -> Diagnostic | None:
    """Check for clipping: the other image varies there by more than the two differ elsewhere."""
    x, y = _known_pixels(plane, other)
    for end, which in ((x.max(), "greatest"), (x.min(), "least")):
        there = x == end
        if np.count_nonzero(there) > CLIPPED * x.size and y[there].std() > 3 * (y[~there] - x[~there]).std():
            return diagnose(code, share=there.mean(), value=end, which=which)
    return None


def _check_region(view: View, plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check for a constant region, such as a missing tile or an empty border, that the truth lacks."""
    known = _find_known(plane, truth)
    if known is not None and not known.any():
        return None
    ends = plane if known is None else plane[known]
    corner = [view.index[axis].start for axis in view.spatial]
    least = max(EMPTY_SHARE * plane[..., 0].size, 64)
    for value in {float(ends.min()), float(ends.max()), 0.0}:
        there = plane == value
        if np.count_nonzero(there) < least * plane.shape[-1]:
            continue
        both = np.ones(plane.shape, bool) if known is None else known
        flat, full = (there & both).all(axis=-1), both.all(axis=-1)
        squares = np.where(both, (plane - truth) ** 2, 0.0)
        most, least_rest = squares[flat].sum() / least, squares[full & ~flat].sum() / flat.size
        if most <= EMPTY_ERROR**2 * least_rest:  # even if all lay in the smallest region
            continue
        from scipy.ndimage import find_objects, label

        regions, _ = label(flat)
        sizes = np.bincount(regions.ravel())[1:]
        largest = int(sizes.argmax()) + 1
        inside = regions == largest
        rest = ~inside & full
        if sizes.max() < least or not rest.any():
            continue
        if squares[inside].mean() <= EMPTY_ERROR**2 * squares[rest].mean():
            continue
        rows, columns = (
            (part.start + first, part.stop + first)
            for part, first in zip(find_objects(inside.astype(int))[0], corner, strict=True)
        )
        fix = {"action": "crop", "region": [[*rows], [*columns]]}
        limits = {"rows": (rows[0], rows[1] - 1), "columns": (columns[0], columns[1] - 1)}
        return diagnose("empty-region", fix, value=value, share=inside.mean(), **limits)
    return None


def _check_borders(view: View, candidate: Any, truth: Any) -> Diagnostic | None:
    """Check the borders of the plane, outside the central part, for empty regions."""
    for axis in view.spatial:
        if view.index[axis].start > 0:
            for start in (0, truth.shape[axis] - BORDER):
                edge = view.moved(axis, start, start + BORDER)
                found = _check_region(edge, edge.plane(candidate), edge.plane(truth))
                if found is not None:
                    return found
    return None


def _check_neighbours(view: View, candidate: Any, truth: Any) -> Diagnostic | None:
    """Check whether a candidate is closer to the plane before or after, in the middle and elsewhere.

    In a stack that goes out of focus, a smooth candidate is also closer to a neighbouring plane that is more
    blurred. That plane is the one before on one side of the focus, and the one after on the other side.
    """
    if view.stack is None:
        return None

    def differences(away: int = 0) -> dict[int, Plane]:
        """Squared differences from the same plane of the truth (0), the one before (-1) and after (1)."""
        plane = view.plane(candidate, away)
        steps = (step for step in (0, -1, 1) if view.has(truth, away + step))
        return {step: squared_difference(view.plane(truth, away + step), plane) for step in steps}

    here = differences()
    closer = [step for step in (-1, 1) if step in here and is_closer(here[step], here[0])]
    if len(closer) != 1:
        return None
    quarter = truth.shape[view.stack] // 4
    for away in (-quarter, quarter):
        there = differences(away) if view.has(truth, away) else {}
        nearest = min(there, key=lambda step: float(there[step].mean()), default=0)
        if nearest == -closer[0] and 1 - there[nearest].mean() / 2 > SIMILAR:
            return None
    return diagnose("other-plane", where="later" if closer[0] > 0 else "earlier")


def _check_missing(finite: NDArray[np.bool_]) -> Diagnostic | None:
    share = 1 - finite.mean()
    return diagnose("not-finite", share=share) if share > 0.1 else None


def varies(image: NDArray[np.float64]) -> bool:
    """Return whether the finite pixels of an image differ."""
    (known,) = _known_pixels(image)
    return bool(known.size and np.ptp(known) > 0)


# -- all candidates together --------------------------------------------------------------------------


def _check_truth(truth: Plane, names: Sequence[str], planes: Sequence[Plane]) -> Iterator[Diagnostic]:
    """Check whether the truth is clipped, or is a copy of a candidate."""
    known = [plane for plane in planes if varies(plane) and not _is_equal(plane, truth)]
    if not known or not varies(truth):
        return
    yield from islice(filter(None, (_check_clipping(truth, plane, "truth-clipped") for plane in known)), 1)
    differences = [_known_pixels(plane - truth) for plane in planes]
    errors = [float(np.sqrt(dot(one, one) / one.size)) if one.size else np.inf for (one,) in differences]
    if len(errors) < 2:
        return
    nearest, second = np.argsort(errors)[:2]
    limit = min(COPY_RATIO * errors[second], COPY_SHARE * float(truth[np.isfinite(truth)].std()))
    if 0 < errors[nearest] < limit:
        fix = {"action": "drop-candidate", "candidates": [names[nearest]]}
        yield diagnose("truth-is-candidate", fix, name=names[nearest], error=errors[nearest])


def _twins(names: Sequence[str], planes: Sequence[Plane]) -> Iterator[Diagnostic]:
    for number, plane in enumerate(planes):
        for name, other in zip(names[:number], planes[:number], strict=True):
            if _is_equal(plane, other):
                fix = {"action": "drop-candidate", "candidates": [names[number]]}
                yield diagnose("equal-candidates", fix, first=name, second=names[number])
                break


def _other_order(
    examined: Sequence[tuple[str, Plane, Sequence[Plane]]], names: Sequence[str] | None
) -> Iterator[Diagnostic]:
    """Yield a diagnostic for the first candidate that shows the field of another image."""
    for label, truth, planes in examined:
        for name, plane in zip(_default_names(names, len(planes)), planes, strict=True):
            for other, other_truth, _ in examined:
                if other == label or other_truth.shape != plane.shape:
                    continue
                if _corrects((other_truth, plane), (truth, plane)) and (
                    correlation(other_truth, plane) >= max(SIMILAR, correlation(truth, plane))
                ):
                    yield diagnose("other-order", name=name, label=label, other=other)
                    return


def _default_names(names: Sequence[str] | None, n: int) -> Sequence[str]:
    return names or [str(number + 1) for number in range(n)]

"""Checks that candidates and ground truth show the same pixels on the same intensity scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array, read_block
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, sort_diagnostics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]
    """(Y, X, C), or (Y, X) if grey; pixels that are NaN or infinite are ignored."""
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "check_alignment",
    "check_reference",
    "check_scale",
    "correlation",
    "find_shift",
    "is_closer",
    "is_unrelated",
    "middle_of",
    "middle_plane",
    "most_typical",
    "overlap",
    "squared_difference",
]


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

SIDE = 256
"""Maximum number of pixels of a plane that are examined along each axis."""

LEAST_SIDE = 24
"""Minimum side of a plane, pixels; smaller planes are not examined."""

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
    both = np.isfinite(one) & np.isfinite(other)
    n, whole = int(both.sum()), bool(both.all())
    parts = []
    for image in (one, other):
        known = image if whole else np.where(both, image, 0.0)
        known = known - known.sum() / max(1, n)
        if not whole:
            known[~both] = 0
        deviation = np.sqrt(np.square(known).sum() / max(1, n))
        if deviation == 0:
            return np.full(one.shape, 2.0)
        known /= deviation
        parts.append(known)
    return np.asarray((parts[0] - parts[1]) ** 2 * (both.size / n))


def correlation(one: Plane, other: Plane) -> float:
    """Pearson's correlation over the pixels that are finite in both; 0 if an image is constant."""
    return float(1 - squared_difference(one, other).mean() / 2)


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
    if gained.size < LEAST_BLOCKS or left > CLEARER * before:
        return False
    return bool(gained.mean() > SURE * gained.std() / np.sqrt(gained.size))


def is_unrelated(one: Plane, other: Plane) -> bool:
    """Return whether both images have structure beyond pixel noise, and the structures do not correlate.

    Block means are compared, because they contain little noise.
    """
    coarse = [_block_means(image) for image in (one, other)]
    if coarse[0].size < LEAST_BLOCKS or not all(np.isfinite(means).all() for means in coarse):
        return False
    for image, means in zip((one, other), coarse, strict=True):
        variance = (_whole_blocks(image) - np.kron(means, np.ones((BLOCK, BLOCK)))).var()
        if means.var() < 9 * variance / BLOCK**2:
            return False
    return correlation(*coarse) < DIFFERENT


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
    from skimage.registration import phase_cross_correlation

    one, other = (np.asarray(image, np.float64) for image in (truth, candidate))
    filled = [_fill(one), _fill(other)]
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    for normalization in ("phase", None):
        offset = phase_cross_correlation(*filled, normalization=normalization)[0]  # type: ignore[no-untyped-call]
        found = (-round(float(offset[0])), -round(float(offset[1])))
        if found != (0, 0) and all(2 * abs(n) <= size for n, size in zip(found, one.shape, strict=True)):
            shifts.append(found)
    left = {shift: squared_difference(*overlap(one, other, shift)) for shift in shifts}
    best = min(shifts, key=lambda shift: float(left[shift].mean()))
    back, _ = overlap(one, other, best)
    _, unmoved = overlap(one, other, best, moved=False)
    if not is_closer(left[best], squared_difference(back, unmoved)):
        return None
    first, second = (
        _blur(image[..., None], np.isfinite(image)[..., None], 2.0)[..., 0] for image in (one, other)
    )
    moved, still = (
        float(squared_difference(*overlap(first, second, best, moved=way)).mean()) for way in (True, False)
    )
    return best if moved < still else None


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


def _fill(image: Plane) -> Plane:
    """Subtract the mean; set pixels that are not finite to 0."""
    known = image[np.isfinite(image)]
    mean = known.mean() if known.size else 0.0
    return np.where(np.isfinite(image), image - mean, 0.0)


def _whole_blocks(image: Plane) -> Plane:
    height, width = (size - size % BLOCK for size in image.shape[:2])
    return image[:height, :width]


def _block_means(image: Plane) -> Plane:
    """Means of blocks, over channels too."""
    whole = _whole_blocks(image)
    rows, columns = whole.shape[0] // BLOCK, whole.shape[1] // BLOCK
    return np.asarray(whole.reshape(rows, BLOCK, columns, BLOCK, -1).mean(axis=(1, 3, 4)))


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
    view = _View.of(as_array(candidates[0] if truth is None else truth), channel_axis)
    if view is None:
        return []
    planes = [view.plane(candidate) for candidate in candidates]
    with np.errstate(over="ignore", invalid="ignore"):  # intensities near the largest float
        if truth is not None:
            wanted = view.plane(truth)
            if not _varies(wanted):
                # A plane of a stack may be empty, and nothing can be compared with it.
                return [] if view.stack is not None else [_constant_truth(wanted)]
            found = list(_check_truth(wanted, names, planes))
            about = _compare(view, list(zip(names, candidates, planes, strict=True)), truth, wanted)
            if any(one.code == "truth-clipped" for one in found):  # all candidates differ from it in scale
                about = (one for one in about if one.code not in ("scale-mismatch", "tone-curve"))
            return sort_diagnostics([*found, *about, *_twins(names, planes)])
        place = most_typical(planes)
        others = [one for m, one in enumerate(zip(names, candidates, planes, strict=True)) if m != place]
        against = f'candidate "{names[place]}"'
        return sort_diagnostics(_compare(view, others, candidates[place], planes[place], against))


def _compare(
    view: _View,
    candidates: Sequence[tuple[str, Any, Plane]],
    truth: Any,
    wanted: Plane,
    against: str = "the ground truth",
) -> Iterator[Diagnostic]:
    """Compare candidates (name, array, plane) with an image; yield one diagnostic for each problem."""
    found: dict[str, tuple[Diagnostic, list[str]]] = {}
    for name, candidate, plane in candidates:
        one = _first_problem(view, as_array(candidate), plane, as_array(truth), wanted)
        if one is None and is_unrelated(plane.mean(axis=-1), wanted.mean(axis=-1)):
            text = "hardly correlates with the ground truth; does it show the same field?"
            one = Diagnostic("other-field", "error", text, {"action": "drop-candidate"})
        if one is not None:
            found.setdefault(one.message, (one, []))[1].append(name)
    for text, (one, affected) in found.items():
        named = ", ".join(f'"{name}"' for name in affected)
        message = f"candidate{'s' * (len(affected) > 1)} {named}: {text.replace('the ground truth', against)}"
        yield replace(one, message=message, fix={**(one.fix or {}), "candidates": affected})


def most_typical(planes: Sequence[Plane]) -> int:
    """Return the index of the candidate that correlates best with the others; 0 if there are only two."""
    if len(planes) < 3:
        return 0
    each = [[abs(correlation(one, other)) for other in planes] for one in planes]
    return int(np.argmax(np.median(each, axis=1)))


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
        label = labels[place] if labels else str(place + 1)
        where = f"image {label}: " if len(places) > 1 else ""
        these = check_alignment(candidates, truth, names, channel_axis)
        found += [replace(one, message=where + one.message) for one in these]
        view = _View.of(as_array(truth), channel_axis)
        if view is not None:
            planes = [view.plane(candidate) for candidate in candidates]
            examined.append((label, view.plane(truth), planes))
    return sort_diagnostics([*found, *_other_order(examined, names)])


def middle_of(array: Any, channel_axis: int | None = None) -> NDArray[np.float64]:
    """Read the middle plane of an image, at most 256 x 256 pixels of it, in float64.

    Parameters
    ----------
    array
        Any array that can be sliced, of any number of dimensions.
    channel_axis : int, optional
        All channels are read. None: the last axis, if it has length 3 and is the third or a later one.

    Examples
    --------
    >>> middle_of(np.zeros((9, 300, 20, 3))).shape, middle_of(np.arange(5)).shape
    ((1, 256, 20, 3), (5,))
    """
    array = as_array(array)
    index = _View.anything(tuple(array.shape), channel_axis).index
    shape = [part.stop - part.start for part in index]
    return read_block(array, index, np.dtype(np.float64)).reshape(shape)


def middle_plane(array: Any, channel_axis: int | None = None) -> Plane:
    """Return the result of :func:`middle_of` with the axes (Y, X, C)."""
    array = as_array(array)
    return _View.anything(tuple(array.shape), channel_axis).plane(array)


# -- one plane ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Part of an image that is examined: slices, channel axis and stack axis."""

    index: tuple[slice, ...]
    channel: int | None
    stack: int | None

    @classmethod
    def of(cls, array: Any, channel_axis: int | None) -> _View | None:
        """Return the part of an image to examine; None if the image is too small."""
        view = cls.anything(tuple(array.shape), channel_axis)
        sides = [part.stop - part.start for axis, part in enumerate(view.index) if axis != view.channel][-2:]
        return view if len(sides) == 2 and min(sides) >= LEAST_SIDE else None

    @classmethod
    def anything(cls, shape: tuple[int, ...], channel_axis: int | None) -> _View:
        """Return the part of an image of any size to examine."""
        channel = None if channel_axis is None else channel_axis % len(shape)
        if channel is None and len(shape) > 2 and shape[-1] == 3:
            channel = len(shape) - 1
        spatial = [axis for axis in range(len(shape)) if axis != channel][-2:]
        index = []
        for axis, size in enumerate(shape):
            wanted = size if axis == channel else min(size, SIDE) if axis in spatial else 1
            start = (size - wanted) // 2
            index.append(slice(start, start + wanted))
        others = [axis for axis in range(len(shape)) if axis != channel and axis not in spatial]
        return cls(tuple(index), channel, others[-1] if others else None)

    def plane(self, array: Any, step: int = 0) -> Plane:
        """Return the plane, or the one ``step`` planes later in the stack, as (Y, X, C) float64."""
        index = list(self.index)
        if step and self.stack is not None:
            index[self.stack] = slice(index[self.stack].start + step, index[self.stack].stop + step)
        shape = [part.stop - part.start for part in index]
        values = read_block(as_array(array), tuple(index), np.dtype(np.float64)).reshape(shape)
        last = values[..., None] if self.channel is None else np.moveaxis(values, self.channel, -1)
        return last.reshape(last.shape[-3:])

    def neighbours(self, candidate: Any, truth: Any, away: int = 0) -> dict[int, Plane]:
        """Return the squared differences of a candidate's plane from three planes of the truth, by step.

        The steps are -1 (the plane before), 0 and 1 (the plane after), if these planes exist. The candidate's
        plane is ``away`` planes from the middle.
        """
        plane = self.plane(candidate, away)
        steps = (step for step in (0, -1, 1) if self.has(truth, away + step))
        return {step: squared_difference(self.plane(truth, away + step), plane) for step in steps}

    def borders(self, shape: tuple[int, ...]) -> Iterator[_View]:
        """Yield the borders of the plane that lie outside the central part."""
        for axis in [axis for axis in range(len(shape)) if axis != self.channel][-2:]:
            if self.index[axis].start > 0:
                for start in (0, shape[axis] - BORDER):
                    index = list(self.index)
                    index[axis] = slice(start, start + BORDER)
                    yield replace(self, index=tuple(index))

    def has(self, array: Any, step: int) -> bool:
        """Return whether the stack has a plane ``step`` planes later."""
        return self.stack is not None and 0 <= self.index[self.stack].start + step < array.shape[self.stack]


def _first_problem(view: _View, candidate: Any, plane: Plane, truth: Any, wanted: Plane) -> Diagnostic | None:
    """Return the first problem of a candidate; the message does not contain its name."""
    finite = np.isfinite(plane)
    drop = {"action": "drop-candidate"}
    if not finite.any():
        text = "no pixel is finite in the examined plane, so nothing can be learned from it."
        return Diagnostic("not-finite", "warning", text)
    if not _varies(plane):
        text = f"constant (every examined pixel is {plane[finite][0]:g}); drop it, or check how it was saved."
        return Diagnostic("constant", "error", text, drop)
    if np.array_equal(plane, wanted, equal_nan=True):
        text = "equal to the ground truth in every pixel; drop it, or it will get all the weight."
        return Diagnostic("equals-truth", "error", text, drop)
    both = finite & np.isfinite(wanted)
    if not all(_varies(x[both]) for x in (plane, wanted)):
        return _check_missing(finite)
    for check in (_check_inversion, _check_position, _check_channels, _check_clipping):
        if (found := check(plane, wanted)) is not None:
            return found
    found = _check_region(view, plane, wanted) or check_scale(plane, wanted)
    if found is not None:
        return found
    for edge in view.borders(tuple(truth.shape)):
        if (found := _check_region(edge, edge.plane(candidate), edge.plane(truth))) is not None:
            return found
    return _check_neighbours(view, candidate, truth) or _check_missing(finite)


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
    if correlation(truth, plane) >= -0.5:
        return None
    return Diagnostic("inverted", "error", "dark where the ground truth is bright; invert it.")


def _check_position(plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check whether a candidate is flipped, rotated or shifted."""
    grey, wanted = plane.mean(axis=-1), truth.mean(axis=-1)
    original = squared_difference(wanted, grey)
    turned = {
        how: squared_difference(wanted, turn(grey))
        for how, turn in TURNS.items()
        if turn(grey).shape == grey.shape
    }
    how = min(turned, key=lambda one: float(turned[one].mean()))
    if is_closer(turned[how], original):
        text = f"{how} against the ground truth; transform it back."
        return Diagnostic("turned", "error", text, {"action": "transform", "how": how})
    shift = find_shift(wanted, grey)
    if shift is None:
        return None
    words = [
        f"{abs(n)} pixel{'s' * (abs(n) > 1)} {to[n < 0]}"
        for n, to in zip(shift, (("down", "up"), ("to the right", "to the left")), strict=True)
        if n
    ]
    text = f"shifted by {' and '.join(words)} against the ground truth; align them."
    return Diagnostic("shifted", "error", text, {"action": "align", "shift": list(shift)})


def _check_channels(plane: Plane, truth: Plane) -> Diagnostic | None:
    if plane.shape[-1] == 1:
        return None
    reversed_ = squared_difference(truth, plane[..., ::-1])
    if not is_closer(reversed_, squared_difference(truth, plane)):
        return None
    text = "closer to the ground truth with its channels in reverse order (BGR for RGB?); reorder them."
    return Diagnostic("channels-reversed", "error", text, {"action": "reverse-channels"})


def check_scale(plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check for other units or another tone curve; the message does not contain the candidate's name."""
    both = np.isfinite(plane) & np.isfinite(truth)
    x, y = plane[both], truth[both]
    if _is_gamma(x, y):
        text = "on another tone curve than the ground truth (gamma?); convert both to linear intensities."
        return Diagnostic("tone-curve", "error", text)
    blurred, wanted = (_blur(image, both)[both] for image in (plane, truth))
    r = correlation(wanted, blurred)
    if r < 0.9:
        return None
    gain = r * wanted.std() / blurred.std()
    offset = wanted.mean() - gain * blurred.mean()
    before, left = np.mean((wanted - blurred) ** 2), np.mean((wanted - gain * blurred - offset) ** 2)
    removed, error = before - left, np.mean((y - x) ** 2)
    if left > SCALE_LEFT * before or removed < max(SCALE_SHARE * error, SCALE_SHIFT**2 * y.var()):
        return None
    remaining = gain * x + offset - y
    if remaining.var() > 0.25 * error and _skewness(remaining) > SKEWED:
        return None
    text = (
        f"on another scale than the ground truth, which is about {gain:.4g} x the candidate "
        f"{'+' if offset >= 0 else '-'} {abs(offset):.4g}; match its intensities."
    )
    fix = {"action": "match-intensities", "gain": float(gain), "offset": float(offset)}
    return Diagnostic("scale-mismatch", "error", text, fix)


def _skewness(values: Plane) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(float(centred.std()) ** 3, 1e-300))


def _is_gamma(x: Plane, y: Plane) -> bool:
    """Return whether the truth is a power (gamma) of the candidate.

    Other curves do not count, because noise alone makes the mean truth at each intensity nonlinear.
    """
    r = correlation(y, x)
    fitted = (1 - r * r) * y.var()
    if r < 0.9 or fitted <= 0.01 * y.var():
        return False
    low = min(0.0, float(x.min()))
    unit = (x - low) / (x.max() - low)
    curved = min(1 - correlation(y, unit**gamma) ** 2 for gamma in GAMMAS) * y.var()
    return bool(curved < 0.25 * fitted and fitted - curved > 0.01 * y.var())


def _blur(plane: Plane, valid: NDArray[np.bool_], sigma: float = SMOOTHING) -> Plane:
    """Gaussian blur of rows and columns over the valid pixels."""
    from scipy.ndimage import gaussian_filter

    sigmas = (sigma, sigma, 0)
    if valid.all():
        return np.asarray(gaussian_filter(plane, sigmas))
    weight = gaussian_filter(valid.astype(np.float64), sigmas)
    return np.asarray(gaussian_filter(np.where(valid, plane, 0.0), sigmas) / np.maximum(weight, 1e-12))


def _check_clipping(plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check for clipping: the truth varies there by more than the candidate's errors elsewhere."""
    found = _clipped(plane, truth)
    if found is None:
        return None
    share, value, which = found
    text = (
        f"{share:.0%} of its pixels have its {which} value, {value:g}, where the ground truth varies; was it "
        "clipped?"
    )
    return Diagnostic("clipped", "warning", text)


def _clipped(plane: Plane, other: Plane) -> tuple[float, float, str] | None:
    """Return the fraction of clipped pixels, their value, and which extreme it is."""
    both = np.isfinite(plane) & np.isfinite(other)
    x, y = plane[both], other[both]
    for end, which in ((x.max(), "greatest"), (x.min(), "least")):
        there = x == end
        if there.mean() > CLIPPED and y[there].std() > 3 * (y[~there] - x[~there]).std():
            return float(there.mean()), float(end), which
    return None


def _check_region(view: _View, plane: Plane, truth: Plane) -> Diagnostic | None:
    """Check for a constant region, such as a missing tile or an empty border, that the truth lacks."""
    from scipy.ndimage import find_objects, label

    both = np.isfinite(plane) & np.isfinite(truth)
    if not both.any():
        return None
    squares = np.where(both, (plane - truth) ** 2, 0.0)
    top, left = [part.start for axis, part in enumerate(view.index) if axis != view.channel][-2:]
    for value in {float(plane[both].min()), float(plane[both].max()), 0.0}:
        flat = ((plane == value) & both).all(axis=-1)
        regions, n = label(flat)
        if not n:
            continue
        sizes = np.bincount(regions.ravel())[1:]
        largest = int(sizes.argmax()) + 1
        inside = regions == largest
        rest = ~inside & both.all(axis=-1)
        if sizes.max() < max(EMPTY_SHARE * flat.size, 64) or not rest.any():
            continue
        if squares[inside].mean() <= EMPTY_ERROR**2 * squares[rest].mean():
            continue
        rows, columns = (
            (part.start + first, part.stop + first)
            for part, first in zip(find_objects(inside.astype(int))[0], (top, left), strict=True)
        )
        text = (
            f"empty region: every pixel is {value:g} in rows {rows[0]} to {rows[1] - 1}, columns "
            f"{columns[0]} to {columns[1] - 1} ({inside.mean():.1%} of the examined part), but the ground "
            "truth varies there; crop all images, or exclude the region with a mask."
        )
        fix = {"action": "crop", "region": [[*rows], [*columns]]}
        return Diagnostic("empty-region", "warning", text, fix)
    return None


def _check_neighbours(view: _View, candidate: Any, truth: Any) -> Diagnostic | None:
    """Check whether a candidate is closer to the plane before or after, in the middle and elsewhere.

    In a stack that goes out of focus, a smooth candidate is also closer to a neighbouring plane that is more
    blurred. That plane is the one before on one side of the focus, and the one after on the other side.
    """
    if view.stack is None:
        return None
    here = view.neighbours(candidate, truth)
    closer = [step for step in (-1, 1) if step in here and is_closer(here[step], here[0])]
    if len(closer) != 1:
        return None
    quarter = truth.shape[view.stack] // 4
    for away in (-quarter, quarter):
        there = view.neighbours(candidate, truth, away) if view.has(truth, away) else {}
        nearest = min(there, key=lambda step: float(there[step].mean()), default=0)
        if nearest == -closer[0] and 1 - there[nearest].mean() / 2 > SIMILAR:
            return None
    where = "later" if closer[0] > 0 else "earlier"
    text = f"closer to the ground truth one plane {where}; realign the stacks."
    return Diagnostic("other-plane", "error", text)


def _check_missing(finite: NDArray[np.bool_]) -> Diagnostic | None:
    share = 1 - finite.mean()
    text = f"{share:.0%} of its pixels are NaN or infinite; they are not learned from."
    return Diagnostic("not-finite", "warning", text) if share > 0.1 else None


def _varies(image: NDArray[np.float64]) -> bool:
    known = image[np.isfinite(image)]
    return bool(known.size and np.ptp(known) > 0)


# -- all candidates together --------------------------------------------------------------------------


def _constant_truth(plane: Plane) -> Diagnostic:
    known = plane[np.isfinite(plane)]
    value = f"{known[0]:g}" if known.size else "NaN or infinite"
    text = f"the ground truth is constant ({value}) in the examined plane."
    return Diagnostic("constant-truth", "error", text)


def _check_truth(truth: Plane, names: Sequence[str], planes: Sequence[Plane]) -> Iterator[Diagnostic]:
    """Check whether the truth is clipped, or is a copy of a candidate."""
    known = [plane for plane in planes if _varies(plane) and not np.array_equal(plane, truth, equal_nan=True)]
    if not known or not _varies(truth):
        return
    found = next(filter(None, (_clipped(truth, plane) for plane in known)), None)
    if found is not None:
        share, value, which = found
        text = (
            f"{share:.0%} of the ground truth's pixels have its {which} value, {value:g}, where the "
            "candidates vary; is it saturated? The table will learn to clip."
        )
        yield Diagnostic("truth-clipped", "error", text)
    squares = [(plane - truth)[np.isfinite(plane - truth)] ** 2 for plane in planes]
    errors = [float(np.sqrt(values.mean())) if values.size else np.inf for values in squares]
    if len(errors) < 2:
        return
    nearest, second = np.argsort(errors)[:2]
    if (
        0
        < errors[nearest]
        < min(COPY_RATIO * errors[second], COPY_SHARE * float(truth[np.isfinite(truth)].std()))
    ):
        text = (
            f'candidate "{names[nearest]}" differs from the ground truth by only {errors[nearest]:.3g} (root '
            "mean square), so one seems to be a copy of the other; check the ground truth, or drop the "
            "candidate."
        )
        fix = {"action": "drop-candidate", "candidates": [names[nearest]]}
        yield Diagnostic("truth-is-candidate", "error", text, fix)


def _twins(names: Sequence[str], planes: Sequence[Plane]) -> Iterator[Diagnostic]:
    for number, plane in enumerate(planes):
        for name, other in zip(names[:number], planes[:number], strict=True):
            if np.array_equal(plane, other, equal_nan=True):
                text = f'candidates "{name}", "{names[number]}": equal in every pixel; drop one.'
                fix = {"action": "drop-candidate", "candidates": [names[number]]}
                yield Diagnostic("equal-candidates", "warning", text, fix)
                break


def _other_order(
    examined: Sequence[tuple[str, Plane, Sequence[Plane]]], names: Sequence[str] | None
) -> Iterator[Diagnostic]:
    """Yield a diagnostic for the first candidate that shows the field of another image."""
    for label, truth, planes in examined:
        for name, plane in zip(_default_names(names, len(planes)), planes, strict=True):
            original = squared_difference(truth, plane)
            for other, other_truth, _ in examined:
                if other == label or other_truth.shape != plane.shape:
                    continue
                if is_closer(squared_difference(other_truth, plane), original):
                    text = (
                        f'candidate "{name}": its image {label} is closer to the ground truth of image '
                        f"{other}; check that all files are in the same order."
                    )
                    yield Diagnostic("other-order", "error", text)
                    return


def _default_names(names: Sequence[str] | None, n: int) -> Sequence[str]:
    return names or [str(number + 1) for number in range(n)]

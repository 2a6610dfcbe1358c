"""What looks wrong with a reference set though it can be used, a sentence each. Refuses and changes nothing.

Looks at the middle plane of an image, and of that at the middle 256 x 256 pixels at most, so that it costs
next to nothing. A finding is named where putting the thing right brings candidate and ground truth clearly
closer: the candidate shifted, turned, its channels reversed, its intensities on another scale. What leaves no
such trace, such as two candidates under each other's names, cannot be seen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array, read_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]
    """(Y, X, C), or (Y, X) of grey; NaN and infinity stand for nothing."""
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "apart",
    "correlation",
    "is_closer",
    "middle_of",
    "shift_between",
    "suspicions",
    "suspicions_of_set",
    "unrelated",
]


HALF, CLEARER, SURE = 0.6, 0.9, 4.0
"""Another reading is the right one if it leaves less than the first share of the squares; or less than the
second, and that by so many standard errors over blocks."""

ALIKE = 0.5
"""Least correlation of images that show the same."""

UNLIKE = 0.3
"""Correlation of block means below which images show different things. Nine in ten pairs of unlike pictures
are below it; restorations of few photons, which leave blotches, have 0.38 and more."""

BLOCK = 16
"""Side of a block, pixels."""

MOST_BLOCKS_TO_DOUBT = 16
"""With fewer blocks their spread says nothing."""


def apart(one: Plane, other: Plane) -> Plane:
    """Squares of what is between two images, each of mean 0 and standard deviation 1 over what both show.

    Returns
    -------
    array of the images' shape
        Its mean is ``2 (1 - r)``; 0 where one of them is not finite, 2 everywhere where ``r`` is not defined.

    Examples
    --------
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> round(float(apart(image, 5 - 2 * image).mean()), 6)
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
        spread = np.sqrt(np.square(known).sum() / max(1, n))
        if spread == 0:
            return np.full(one.shape, 2.0)
        known /= spread
        parts.append(known)
    return np.asarray((parts[0] - parts[1]) ** 2 * (both.size / n))


def correlation(one: Plane, other: Plane) -> float:
    """Pearson's, over the pixels that are finite in both; 0 where it is not defined."""
    return float(1 - apart(one, other).mean() / 2)


def is_closer(left: Plane, plain: Plane) -> bool:
    """Whether another reading leaves so much less than the plain one that it must be the right one.

    One that leaves the images unlike cannot be right: something else is wrong then.

    Parameters
    ----------
    left, plain : arrays of one shape
        Of :func:`apart`.
    """
    if left.mean() > 2 * (1 - ALIKE):
        return False
    if left.mean() < HALF * plain.mean() and plain.mean() - left.mean() > 1e-4:
        return True
    gained = _block_means(plain - left)
    if gained.size < MOST_BLOCKS_TO_DOUBT or left.mean() > CLEARER * plain.mean():
        return False
    return bool(gained.mean() > SURE * gained.std() / np.sqrt(gained.size))


def unrelated(one: Plane, other: Plane) -> bool:
    """Whether both have structure beyond the noise of their pixels, and it does not agree.

    Judged by the means of blocks, in which noise all but vanishes: a noisy image is not unrelated for that.
    """
    coarse = [_block_means(image) for image in (one, other)]
    if coarse[0].size < MOST_BLOCKS_TO_DOUBT or not all(np.isfinite(means).all() for means in coarse):
        return False
    for image, means in zip((one, other), coarse, strict=True):
        spread = (_whole_blocks(image) - np.kron(means, np.ones((BLOCK, BLOCK)))).var()
        if means.var() < 9 * spread / BLOCK**2:
            return False
    return correlation(*coarse) < UNLIKE


def shift_between(truth: NDArray[Any], candidate: NDArray[Any]) -> tuple[int, int] | None:
    """By how many whole pixels a candidate lies off, down and to the right; None where it does not.

    The peaks of the phase correlation and of the plain one (Kuglin and Hines 1975, as scikit-image has them)
    propose shifts, as do the eight least ones. The best counts if the candidate moved back is clearly closer.

    Parameters
    ----------
    truth, candidate : (Y, X) arrays of one shape
        Any integer or float dtype; pixels that are not finite are left out.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(40, 50))
    >>> shift_between(truth, np.roll(truth, (3, -1), axis=(0, 1)))
    (3, -1)
    >>> shift_between(truth, truth)
    """
    from skimage.registration import phase_cross_correlation

    one, other = (np.asarray(image, np.float64) for image in (truth, candidate))
    filled = [_filled(one), _filled(other)]
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    for normalization in ("phase", None):
        offset = phase_cross_correlation(*filled, normalization=normalization)[0]  # type: ignore[no-untyped-call]
        found = (-round(float(offset[0])), -round(float(offset[1])))
        if found != (0, 0) and all(2 * abs(n) <= size for n, size in zip(found, one.shape, strict=True)):
            steps.append(found)
    left = {step: apart(*_moved_back(one, other, step)) for step in steps}
    best = min(steps, key=lambda step: float(left[step].mean()))
    _, still = _moved_back(one, other, best, by=0)
    back, _ = _moved_back(one, other, best)
    return best if is_closer(left[best], apart(back, still)) else None


def _moved_back(truth: Plane, candidate: Plane, step: tuple[int, int], by: int = 1) -> tuple[Plane, Plane]:
    """What a truth shows of a candidate that lies off by a step; that candidate, moved back or as it is."""
    there, back = (
        tuple(slice(max(0, n), size + min(0, n)) for n, size in zip(way, truth.shape, strict=True))
        for way in (step, (-step[0], -step[1]))
    )
    return truth[back], candidate[there if by else back]


def _filled(image: Plane) -> Plane:
    """About 0, and 0 where the image is not finite."""
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


SIDE = 256
"""Pixels of a plane that are looked at, along each axis."""

LEAST_SIDE = 24
"""Below it there is too little to tell anything by."""

GAMMAS = (1 / 2.4, 1 / 2.2, 1 / 1.8, 1.8, 2.2, 2.4)
"""Powers that displays and cameras apply."""

UNRELATED = "hardly like the ground truth; is it of the same field?"

SEVERAL = 4
"""Images of a set that are looked at."""


def suspicions(
    candidates: Sequence[Any],
    truth: Any,
    names: Sequence[str] | None = None,
    channel_axis: int | None = None,
) -> list[str]:
    """What looks wrong with the candidates of one image.

    Parameters
    ----------
    candidates : M arrays of the truth's shape
        Numpy, torch, dask or anything that can be sliced; any integer or float dtype. One plane is read.
    truth : array
    names : M strings, optional
    channel_axis : int, optional
        None: the last axis, where it has three places and is the third or a later one.

    Returns
    -------
    list of str
        A sentence for each finding; candidates with the same one share it.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> truth = np.sin(x / 3) + np.cos(y / 4 + x / 11)
    >>> good, late = truth + 0.1 * np.sin(17 * x * y), np.roll(truth, 2, axis=1)
    >>> print(*suspicions([good, late], truth, ("good", "late")))
    candidate "late": shifted by 2 pixels to the right against the ground truth; align them.
    """
    shown = _Shown.of(as_array(truth), channel_axis)
    if shown is None:
        return []
    wanted = shown.plane(truth)
    if not _varies(wanted):
        # In a stack that may well be, and nothing can be judged by it.
        return [] if shown.stack is not None else [_flat_truth(wanted)]
    planes = [shown.plane(candidate) for candidate in candidates]
    names = _called(names, len(planes))
    with np.errstate(over="ignore", invalid="ignore"):  # intensities near the end of what a float holds
        found = [
            _finding(shown, as_array(candidate), plane, as_array(truth), wanted)
            for candidate, plane in zip(candidates, planes, strict=True)
        ]
        texts = [
            text or (UNRELATED if unrelated(plane.mean(axis=-1), wanted.mean(axis=-1)) else "")
            for text, plane in zip(found, planes, strict=True)
        ]
    return [*_told(zip(names, texts, strict=True)), *_twins(names, planes)]


def suspicions_of_set(
    reference: Sequence[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    channel_axis: int | None = None,
    labels: Sequence[str] | None = None,
    places: Sequence[int] | None = None,
) -> list[str]:
    """What looks wrong with a reference set: up to four images, evenly spaced, each by :func:`suspicions`.

    Also whether candidates of one image show another one's field, as where files are in another order.

    Parameters
    ----------
    reference : sequence of (candidates, truth)
    names, channel_axis
        As for :func:`suspicions`.
    labels : one string per image, optional
        What to call the images; None: their numbers, from 1.
    places : numbers of images, from 0, optional
        Those to choose from; None: all.

    Returns
    -------
    list of str
        No sentence twice; where there are several images, each says in which it was seen first.

    Examples
    --------
    >>> from skimage import data, filters
    >>> truth = data.camera()
    >>> sharp, late = (np.rint(filters.gaussian(truth, s, preserve_range=True)) for s in (0.7, 1))
    >>> suspicions_of_set([([sharp, np.roll(late, 2, axis=1)], truth)], names=("sharp", "late"))
    ['candidate "late": shifted by 2 pixels to the right against the ground truth; align them.']
    """
    places = range(len(reference)) if places is None else places
    chosen = np.linspace(0, len(places) - 1, min(len(places), SEVERAL)).round().astype(int)
    said: dict[str, str] = {}
    looked_at = []
    for place in (places[number] for number in chosen):
        candidates, truth = reference[place]
        label = labels[place] if labels else str(place + 1)
        for sentence in suspicions(candidates, truth, names, channel_axis):
            said.setdefault(sentence, f"image {label}: {sentence}" if len(places) > 1 else sentence)
        shown = _Shown.of(as_array(truth), channel_axis)
        if shown is not None:
            planes = [shown.plane(candidate) for candidate in candidates]
            looked_at.append((label, shown.plane(truth), planes))
    return [*said.values(), *_mixed_up(looked_at, names)]


def middle_of(array: Any, channel_axis: int | None = None) -> NDArray[np.float64]:
    """What is looked at of an image: its middle plane, at most 256 x 256 pixels of it, in float64.

    Parameters
    ----------
    array
        Any that can be sliced, of any number of dimensions.
    channel_axis : int, optional
        Kept whole. None: the last axis, where it has three places and is the third or a later one.

    Examples
    --------
    >>> middle_of(np.zeros((9, 300, 20, 3))).shape, middle_of(np.arange(5)).shape
    ((1, 256, 20, 3), (5,))
    """
    array = as_array(array)
    index = _Shown.anything(tuple(array.shape), channel_axis).index
    shape = [part.stop - part.start for part in index]
    return read_block(array, index, np.dtype(np.float64)).reshape(shape)


# -- one plane ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
    """Which part of an image is looked at."""

    index: tuple[slice, ...]
    channel: int | None
    stack: int | None

    @classmethod
    def of(cls, array: Any, channel_axis: int | None) -> _Shown | None:
        """None where there is too little to see."""
        shown = cls.anything(tuple(array.shape), channel_axis)
        sides = [part.stop - part.start for axis, part in enumerate(shown.index) if axis != shown.channel][
            -2:
        ]
        return shown if len(sides) == 2 and min(sides) >= LEAST_SIDE else None

    @classmethod
    def anything(cls, shape: tuple[int, ...], channel_axis: int | None) -> _Shown:
        """However little it is."""
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
        """(Y, X, C) float64: the plane, or the one so many places further in the stack."""
        index = list(self.index)
        if step and self.stack is not None:
            index[self.stack] = slice(index[self.stack].start + step, index[self.stack].stop + step)
        shape = [part.stop - part.start for part in index]
        values = read_block(as_array(array), tuple(index), np.dtype(np.float64)).reshape(shape)
        last = values[..., None] if self.channel is None else np.moveaxis(values, self.channel, -1)
        return last.reshape(last.shape[-3:])

    def beside(self, candidate: Any, truth: Any, away: int = 0) -> dict[int, Plane]:
        """How far a plane of the candidate is from the truth's (0), the one before (-1), the one after (1).

        Of the plane so many places away; of the three those that there are.
        """
        plane = self.plane(candidate, away)
        steps = (step for step in (0, -1, 1) if self.has(truth, away + step))
        return {step: apart(self.plane(truth, away + step), plane) for step in steps}

    def has(self, array: Any, step: int) -> bool:
        """Whether there is a plane so many places further in the stack."""
        return self.stack is not None and 0 <= self.index[self.stack].start + step < array.shape[self.stack]


def _finding(shown: _Shown, candidate: Any, plane: Plane, truth: Any, wanted: Plane) -> str:
    """The first thing that looks wrong with a candidate; empty if nothing does."""
    finite = np.isfinite(plane)
    if not finite.any():
        return "no pixel is finite in the plane looked at; nothing can be learned of it there."
    if not _varies(plane):
        return f"every pixel looked at is {plane[finite][0]:g}; leave it out, or find out what became of it."
    if np.array_equal(plane, wanted, equal_nan=True):
        return "equal to the ground truth, pixel for pixel; leave it out, or it will be trusted everywhere."
    both = finite & np.isfinite(wanted)
    if not all(_varies(x[both]) for x in (plane, wanted)):
        return _missing(finite)
    for look in (_inverted, _placed_wrong, _coloured_wrong, _scaled_wrong, _cut_off):
        if text := look(plane, wanted):
            return text
    return _other_plane(shown, candidate, truth) or _missing(finite)


TURNS: dict[str, Callable[[Plane], Plane]] = {
    "upside down": lambda x: x[::-1],
    "mirrored left to right": lambda x: x[:, ::-1],
    "turned by 180 degrees": lambda x: x[::-1, ::-1],
    "transposed": lambda x: x.swapaxes(0, 1),
    "turned by 90 degrees": lambda x: x.swapaxes(0, 1)[::-1],
    "turned by 270 degrees": lambda x: x.swapaxes(0, 1)[:, ::-1],
    "transposed and turned by 180 degrees": lambda x: x.swapaxes(0, 1)[::-1, ::-1],
}


def _inverted(plane: Plane, truth: Plane) -> str:
    """Bright for dark."""
    return "dark where the ground truth is bright; invert it." if correlation(truth, plane) < -0.5 else ""


def _placed_wrong(plane: Plane, truth: Plane) -> str:
    """Turned or shifted."""
    grey, wanted = plane.mean(axis=-1), truth.mean(axis=-1)
    plain = apart(wanted, grey)
    turned = {how: apart(wanted, turn(grey)) for how, turn in TURNS.items() if turn(grey).shape == grey.shape}
    how = min(turned, key=lambda one: float(turned[one].mean()))
    if is_closer(turned[how], plain):
        return f"{how} against the ground truth; turn it back."
    shift = shift_between(wanted, grey)
    if shift is None:
        return ""
    words = [
        f"{abs(n)} pixel{'s' * (abs(n) > 1)} {to[n < 0]}"
        for n, to in zip(shift, (("down", "up"), ("to the right", "to the left")), strict=True)
        if n
    ]
    return f"shifted by {' and '.join(words)} against the ground truth; align them."


def _coloured_wrong(plane: Plane, truth: Plane) -> str:
    """Channels in reverse order."""
    if plane.shape[-1] > 1 and is_closer(apart(truth, plane[..., ::-1]), apart(truth, plane)):
        return "closer to the ground truth with its channels in reverse order (BGR for RGB?); reorder them."
    return ""


def _scaled_wrong(plane: Plane, truth: Plane) -> str:
    """Other units, or another tone curve."""
    both = np.isfinite(plane) & np.isfinite(truth)
    x, y = plane[both], truth[both]
    r = correlation(y, x)
    if r < 0.9:
        return ""
    gain = r * y.std() / x.std()
    offset = y.mean() - gain * x.mean()
    plain, fitted = np.mean((y - x) ** 2), np.mean((y - gain * x - offset) ** 2)
    # A power of the candidate, not just any curve: noise alone bends the mean of the truth at each intensity.
    if fitted > 0.01 * y.var():
        unit = (x - min(0.0, x.min())) / (x.max() - min(0.0, x.min()))
        curved = min(1 - correlation(y, unit**gamma) ** 2 for gamma in GAMMAS) * y.var()
        if curved < 0.25 * fitted and fitted - curved > 0.01 * y.var():
            return "on another tone curve than the ground truth (gamma?); give both in linear intensities."
    if fitted < 0.25 * plain and np.sqrt(plain - fitted) > 0.15 * y.std():
        sign = "+" if offset >= 0 else "-"
        return (
            f"on another scale than the ground truth, which is about {gain:.4g} x it {sign} "
            f"{abs(offset):.4g}; bring it to that scale."
        )
    return ""


def _cut_off(plane: Plane, truth: Plane) -> str:
    """Clipped where the truth varies by more than the candidate errs elsewhere."""
    both = np.isfinite(plane) & np.isfinite(truth)
    x, y = plane[both], truth[both]
    for end, which in ((x.max(), "greatest"), (x.min(), "least")):
        there = x == end
        if there.mean() > 0.02 and y[there].std() > 3 * (y[~there] - x[~there]).std():
            return (
                f"{there.mean():.0%} of its pixels have its {which} value, {end:g}, where the ground truth "
                "varies; was it clipped?"
            )
    return ""


def _other_plane(shown: _Shown, candidate: Any, truth: Any) -> str:
    """Closer to the plane before or after, and so elsewhere in the stack.

    A candidate that is too smooth, in a stack that goes out of focus, is closer to the next blurred plane: on
    one side of the focus that is the one before, on the other side the one after.
    """
    if shown.stack is None:
        return ""
    here = shown.beside(candidate, truth)
    closer = [step for step in (-1, 1) if step in here and is_closer(here[step], here[0])]
    if len(closer) != 1:
        return ""
    quarter = truth.shape[shown.stack] // 4
    for away in (-quarter, quarter):
        there = shown.beside(candidate, truth, away) if shown.has(truth, away) else {}
        nearest = min(there, key=lambda step: float(there[step].mean()), default=0)
        if nearest == -closer[0] and 1 - there[nearest].mean() / 2 > ALIKE:
            return ""
    where = "further on" if closer[0] > 0 else "before"
    return f"closer to the ground truth one plane {where}; line the stacks up."


def _missing(finite: NDArray[np.bool_]) -> str:
    share = 1 - finite.mean()
    return f"{share:.0%} of its pixels are NaN or infinite; nothing is learned there." if share > 0.1 else ""


def _varies(image: NDArray[np.float64]) -> bool:
    known = image[np.isfinite(image)]
    return bool(known.size and np.ptp(known) > 0)


# -- together -----------------------------------------------------------------------------------------


def _flat_truth(plane: Plane) -> str:
    known = plane[np.isfinite(plane)]
    value = f"{known[0]:g}" if known.size else "NaN or infinite"
    return f"the ground truth: every pixel looked at is {value}; find out what became of it."


def _told(found: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each finding, with all whom it concerns."""
    whom: dict[str, list[str]] = {}
    for name, text in found:
        if text:
            whom.setdefault(text, []).append(f'"{name}"')
    return [f"candidate{'s' * (len(who) > 1)} {', '.join(who)}: {text}" for text, who in whom.items()]


def _twins(names: Sequence[str], planes: Sequence[Plane]) -> list[str]:
    said = []
    for number, plane in enumerate(planes):
        for name, other in zip(names[:number], planes[:number], strict=True):
            if np.array_equal(plane, other, equal_nan=True):
                said.append(f'candidates "{name}", "{names[number]}": equal, pixel for pixel; leave one out.')
                break
    return said


def _mixed_up(
    looked_at: Sequence[tuple[str, Plane, Sequence[Plane]]], names: Sequence[str] | None
) -> list[str]:
    """The first candidate that shows another image's field."""
    for label, truth, planes in looked_at:
        for name, plane in zip(_called(names, len(planes)), planes, strict=True):
            plain = apart(truth, plane)
            for other, other_truth, _ in looked_at:
                if other == label or other_truth.shape != plane.shape:
                    continue
                if is_closer(apart(other_truth, plane), plain):
                    return [
                        f'candidate "{name}": its image {label} is closer to the ground truth of image '
                        f"{other}; are all in one order?"
                    ]
    return []


def _called(names: Sequence[str] | None, n: int) -> Sequence[str]:
    return names or [str(number + 1) for number in range(n)]

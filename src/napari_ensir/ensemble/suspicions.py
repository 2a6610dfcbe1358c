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

from napari_ensir.ensemble.arrays import as_array, read_block
from napari_ensir.ensemble.likeness import ALIKE, apart, correlation, is_closer, shift_between, unrelated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.likeness import Plane

__all__ = ["middle_of", "suspicions", "suspicions_of_set"]

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

"""The parts of images that the checks read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array, is_torch, read_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float64]
    """(Y, X, C), or (Y, X) if grey; pixels that are NaN or infinite are ignored."""


VIEW_SIDE = 256
"""Maximum number of pixels of a plane that are examined along each axis for alignment."""

LEAST_SIDE = 24
"""Minimum side of a plane that is examined for alignment, pixels."""

SAMPLE_SIDE, SAMPLES = 512, 4
"""Maximum number of pixels along each axis, and number of planes, that are examined for noise."""

LEAST_SAMPLE = 32
"""Minimum side of a plane that is examined for noise, pixels."""


class _Remembered:
    """An array of dask or of a file that reads each part once."""

    def __init__(self, array: Any) -> None:
        self.array, self.parts = array, dict[str, Any]()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, len(array.shape)

    def __getitem__(self, index: Any) -> Any:
        key = repr(index)  # slices are not hashable
        if key not in self.parts:
            self.parts[key] = np.asarray(self.array[index])
        return self.parts[key]


def remember(array: Any) -> Any:
    """Return an array; one that is not in memory in a form that reads each part once."""
    array = as_array(array)
    return array if isinstance(array, np.ndarray) or is_torch(array) else _Remembered(array)


def central(size: int, most: int) -> slice:
    """Return the middle of an axis, at most this number of pixels of it."""
    start = max(0, (size - most) // 2)
    return slice(start, min(size, start + most))


@dataclass(frozen=True)
class View:
    """Part of an image that is examined for alignment: the middle of its middle plane.

    Attributes
    ----------
    index : tuple of slice
    spatial : tuple of int
        Axes of rows and columns; only one if the image has only one.
    channel, stack : int or None
        Axis of the channels, and the one of the planes.
    """

    index: tuple[slice, ...]
    spatial: tuple[int, ...]
    channel: int | None
    stack: int | None

    @classmethod
    def of(cls, shape: Sequence[int], channel_axis: int | None = None) -> View:
        """Return the part of an image; without a channel axis, a last axis of length 3 is taken for it."""
        n = len(shape)
        channel = None if channel_axis is None else channel_axis % n
        if channel is None and n > 2 and shape[-1] == 3:
            channel = n - 1
        axes = [axis for axis in range(n) if axis != channel]
        most = [VIEW_SIDE if axis in axes[-2:] else 1 for axis in range(n)]
        if channel is not None:
            most[channel] = shape[channel]
        index = tuple(map(central, shape, most))
        return cls(index, tuple(axes[-2:]), channel, axes[-3] if len(axes) > 2 else None)

    @property
    def is_large_enough(self) -> bool:
        """Whether the part has enough rows and columns to compare."""
        sides = [self.index[axis].stop - self.index[axis].start for axis in self.spatial]
        return len(sides) == 2 and min(sides) >= LEAST_SIDE

    def plane(self, array: Any, step: int = 0) -> Plane:
        """Return the part, or the one ``step`` planes later in the stack, as (Y, X, C) float64."""
        view = self
        if step and self.stack is not None:
            start = self.index[self.stack].start + step
            view = self.moved(self.stack, start, start + 1)
        shape = [part.stop - part.start for part in view.index]
        values = read_block(as_array(array), view.index, np.dtype(np.float64)).reshape(shape)
        last = values[..., None] if self.channel is None else np.moveaxis(values, self.channel, -1)
        return last.reshape(last.shape[-3:])

    def moved(self, axis: int, start: int, stop: int) -> View:
        """Return the view with another range of an axis."""
        index = list(self.index)
        index[axis] = slice(start, stop)
        return View(tuple(index), self.spatial, self.channel, self.stack)

    def has(self, array: Any, step: int) -> bool:
        """Return whether the stack has a plane ``step`` planes later."""
        return self.stack is not None and 0 <= self.index[self.stack].start + step < array.shape[self.stack]


def middle_plane(array: Any, channel_axis: int | None = None) -> Plane:
    """Read the middle plane of an image, at most 256 x 256 pixels of it, as (Y, X, C) float64.

    Parameters
    ----------
    array
        Any array that can be sliced, of any number of dimensions.
    channel_axis : int, optional
        All channels are read. None: the last axis, if it has length 3 and is the third or a later one.

    Examples
    --------
    >>> middle_plane(np.zeros((9, 300, 20, 3))).shape, middle_plane(np.arange(5)).shape
    ((256, 20, 3), (5, 1))
    """
    array = as_array(array)
    return View.of(tuple(array.shape), channel_axis).plane(array)


def sample_planes(images: Sequence[Any], channel_axis: int | None) -> Iterator[tuple[Plane, ...]]:
    """Yield the middle of a few planes of images of one shape, channels one by one, as (Y, X) float64.

    Planes that are not finite in every pixel of every image are left out.
    """
    shape = tuple(images[0].shape)
    channel = None if channel_axis is None else channel_axis % len(shape)
    spatial = [axis for axis in range(len(shape)) if axis != channel]
    if len(spatial) < 2 or min(shape[axis] for axis in spatial[-2:]) < LEAST_SAMPLE:
        return
    before = list(spatial[:-2]) + ([] if channel is None else [channel])
    most = {axis: shape[axis] if axis == channel else SAMPLES for axis in before}
    every = list(product(*(_spread(shape[axis], n) for axis, n in most.items())))
    for number in _spread(len(every), SAMPLES if channel is None else 3 * SAMPLES):
        where: list[Any] = [central(size, SAMPLE_SIDE) for size in shape]
        for axis, place in zip(before, every[number], strict=True):
            where[axis] = place
        parts = [image[tuple(where)] for image in images]
        planes = [np.asarray(one.detach().cpu() if is_torch(one) else one, np.float64) for one in parts]
        if all(np.isfinite(plane).all() for plane in planes):
            yield tuple(planes)


def _spread(size: int, n: int) -> list[int]:
    """At most n evenly spaced indices."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(n, size)).tolist()})

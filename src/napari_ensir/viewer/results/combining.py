"""What a table makes of candidates, as it goes into layers: arrays, or views where these would be large.

A view (``computed.py``) combines the plane that is shown when it is shown, so that a stack costs no more to
look at, and to change the table of, than one plane of it. Knows no layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT

__all__ = ["Combined", "Computed", "combine", "difference", "over_colours"]


PIECE = 2**22
"""Values of an array that are worked on at once, about."""


@dataclass(frozen=True, eq=False)
class Computed:
    """What a function makes of arrays of one shape, place by place along all axes but the channels'.

    Parameters
    ----------
    function
        Given the same part of each array, as numpy arrays that keep all their axes; returns what becomes of
        it: of the part's shape, with ``n_maps`` places in front if there are such.
    arrays : sequence of arrays of one shape
        Numpy, dask, memory-mapped or anything that can be sliced.
    dtype
        Of the result.
    n_maps : int, optional
        Places along a first axis that the result has beside the arrays'.
    channel_axis : int, optional
        An axis of the arrays that the function needs whole; 0 or more.
    drops_channels : bool
        Whether the result lacks that axis.

    Examples
    --------
    >>> twice = Computed(lambda parts: 2 * parts[0], [np.arange(12).reshape(3, 4)], np.dtype(int))
    >>> twice[1, ::2]
    array([ 8, 12])
    >>> twice.shape, int(np.asarray(twice).sum())
    ((3, 4), 132)
    """

    function: Callable[[list[NDArray[Any]]], NDArray[Any]]
    arrays: Sequence[Any]
    dtype: np.dtype[Any]
    n_maps: int | None = None
    channel_axis: int | None = None
    drops_channels: bool = False

    def prepared(self) -> Computed:
        """The same, once the function has met a pixel: what is compiled or looked up once is so then.

        The pixel is made up, and none of the arrays' is read.
        """
        axes = range(len(self.arrays[0].shape))
        shape = tuple(self.arrays[0].shape[axis] if axis == self.channel_axis else 1 for axis in axes)
        self.function([np.zeros(shape, array.dtype) for array in self.arrays])
        return self

    def then(self, step: Callable[[NDArray[Any]], NDArray[Any]], dtype: np.dtype[Any]) -> Computed:
        """What a step makes of the maps of each part, their axis gone."""
        function = self.function
        return replace(self, function=lambda parts: step(function(parts)), dtype=dtype, n_maps=None)

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy has it."""
        own = tuple(self.arrays[0].shape)
        if self.drops_channels and self.channel_axis is not None:
            own = own[: self.channel_axis] + own[self.channel_axis + 1 :]
        return own if self.n_maps is None else (self.n_maps, *own)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """What all of it would take."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[(slice(None),) * self.ndim], dtype=dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        asked = self._expanded(key)
        if asked is None:  # lists, masks, new axes: rare, and numpy knows them
            return np.asarray(self)[key]
        # A single place is computed as a run of one, and its axis dropped in the end.
        runs = [slice(one, one + 1 or None) if isinstance(one, int) else one for one in asked]
        first = slice(None) if self.n_maps is None else runs.pop(0)
        spatial, within = list(runs), list(runs)
        if self.channel_axis is not None:
            if self.drops_channels:
                spatial.insert(self.channel_axis, slice(None))
            else:
                spatial[self.channel_axis] = slice(None)
                within = [one if axis == self.channel_axis else slice(None) for axis, one in enumerate(runs)]
        found = self._in_pieces(spatial, within, first)
        dropped = tuple(0 if isinstance(one, int) else slice(None) for one in asked)
        return found[dropped]

    def _in_pieces(self, spatial: list[slice], within: list[slice], first: slice) -> NDArray[Any]:
        """In parts of about :data:`PIECE` values: what the function needs beside its result stays small."""
        places = [range(n)[run] for n, run in zip(self.arrays[0].shape, spatial, strict=True)]
        axes = [axis for axis in range(len(places)) if axis != self.channel_axis]
        total = prod(len(each) for each in places)
        axis = next((each for each in axes if len(places[each]) > 1), None)
        if axis is None or total <= PIECE:
            return self._found(spatial, within, first)
        along = axis + (self.n_maps is not None)
        if self.drops_channels and self.channel_axis is not None and axis > self.channel_axis:
            along -= 1
        cut, step = places[axis], max(1, PIECE * len(places[axis]) // total)
        whole = None
        for start in range(0, len(cut), step):
            part = cut[start : start + step]
            run = slice(part.start, part.stop if part.stop >= 0 else None, part.step)
            found = self._found([*spatial[:axis], run, *spatial[axis + 1 :]], within, first)
            if whole is None:
                whole = np.empty((*found.shape[:along], len(cut), *found.shape[along + 1 :]), self.dtype)
            whole[(slice(None),) * along + (slice(start, start + len(part)),)] = found
        assert whole is not None  # there are places along the axis
        return whole

    def _found(self, spatial: list[slice], within: list[slice], first: slice) -> NDArray[Any]:
        """One piece, with all its axes."""
        parts = [np.asarray(array[tuple(spatial)]) for array in self.arrays]
        found: Any = self.function(parts)
        if self.channel_axis is not None and not self.drops_channels:
            found = found[(..., *within)]
        if self.n_maps is not None:
            found = found[first]
        return np.asarray(found, self.dtype)

    def _expanded(self, key: Any) -> list[int | slice] | None:
        """One place or run for each axis; None where the key is of another kind."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if any(part is Ellipsis for part in parts):
            at = next(place for place, part in enumerate(parts) if part is Ellipsis)
            parts[at : at + 1] = [slice(None)] * (self.ndim - len(parts) + 1)
        parts += [slice(None)] * (self.ndim - len(parts))
        if len(parts) != self.ndim:
            return None
        found: list[int | slice] = []
        for part, n in zip(parts, self.shape, strict=True):
            if isinstance(part, slice):
                found.append(part)
            elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
                if not -n <= part < n:
                    raise IndexError(f"there is no place {part} along an axis of {n}")
                found.append(int(part) % n)
            else:
                return None
        return found


VIEWED = 2**22
"""Values of a stack above which its results are views: larger ones take more than a tenth of a second."""


@dataclass(frozen=True)
class Combined:
    """The images that become layers.

    Attributes
    ----------
    image : (*shape) array
        In the candidates' dtype for colour of whole numbers, which napari shows in no other; else float32.
    exact : (*shape) float32 array
        The ensemble unrounded.
    maps : (M, *shape) float32 array
        Weights; the mean over the colours of an RGB image.
    """

    image: Any
    exact: Any
    maps: Any

    def map_of(self, place: int) -> Any:
        """One candidate's weights."""
        return _after(self.maps, lambda maps: maps[place], np.dtype(np.float32))

    def most_trusted(self) -> Any:
        """At each pixel one more than the place of the candidate with the largest weight; uint8."""
        return _after(
            self.maps, lambda maps: maps.argmax(axis=0).astype(np.uint8) + np.uint8(1), np.dtype(np.uint8)
        )


def _after(maps: Any, step: Any, dtype: np.dtype[Any]) -> Any:
    """What a step makes of weight maps: at once, or later where they are a view; the first axis goes."""
    return maps.then(step, dtype) if isinstance(maps, Computed) else step(maps)


def combine(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Combined:
    """Ensemble and weight maps: views where the candidates are a stack above :data:`VIEWED` values."""
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: where the table has it
    dtype = np.dtype(candidates[0].dtype)
    rounded = rgb and dtype.kind in "iu"
    shape = tuple(candidates[0].shape)
    lut.field(candidates, axis)  # what does not fit is said now, not when it is looked at
    if len(shape) - rgb > 2 and prod(shape) > VIEWED:
        return _views(lut, candidates, axis, dtype if rounded else None, rgb, device)
    exact = lut.apply(candidates, device, channel_axis=axis, progress=progress, check=False)
    maps = lut.weight_maps(candidates, device, channel_axis=axis, progress=progress)
    if rgb:
        maps = over_colours(maps)
    # Within the candidates' range, so within the dtype's.
    return Combined(np.rint(exact).astype(dtype) if rounded else exact, exact, maps)


def _views(
    lut: WeightLUT,
    candidates: Sequence[Any],
    axis: int | None,
    rounded: np.dtype[Any] | None,
    rgb: bool,
    device: str,
) -> Combined:
    n = len(candidates[0].shape)
    asked = lut.channel_axis if axis is None else axis
    channels = None if lut.n_channels == 1 or asked is None else asked % n
    colours = n - 1 if rgb else channels

    def ensemble(parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(lut.apply(parts, device, channel_axis=channels, check=False))

    def whole(parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.rint(ensemble(parts))

    def weights(parts: list[NDArray[Any]]) -> NDArray[Any]:
        maps = np.asarray(lut.weight_maps(parts, device, channel_axis=channels))
        return over_colours(maps) if rgb else maps

    single = np.dtype(np.float32)
    exact = Computed(ensemble, candidates, single, channel_axis=channels)
    image = exact if rounded is None else Computed(whole, candidates, rounded, channel_axis=channels)
    maps = Computed(
        weights, candidates, single, n_maps=lut.n_candidates, channel_axis=colours, drops_channels=rgb
    )
    # Beside the viewer: compiling takes seconds, once a machine, and the window would stand still for it.
    return Combined(image, exact.prepared(), maps.prepared())


def over_colours(values: Any) -> Any:
    """The mean over the last axis: numpy's own takes eight times as long over three."""
    total = values[..., 0].copy()
    for place in range(1, values.shape[-1]):
        total += values[..., place]
    total /= values.shape[-1]
    return total


def difference(image: Any, truth: Any, colours: bool) -> Any:
    """An image minus the ground truth, float32; the mean over the last axis where that is colours.

    A view where the image is one, or a stack above :data:`VIEWED` values.
    """
    single = np.dtype(np.float32)

    def minus(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        error = one.astype(single) - other.astype(single)
        return over_colours(error) if colours else error

    n = len(truth.shape)
    if not isinstance(image, Computed):
        if n - colours <= 2 or prod(truth.shape) <= VIEWED:
            return minus(image, truth)
        axis = n - 1 if colours else None
        return Computed(
            lambda parts: minus(*parts), [image, truth], single, channel_axis=axis, drops_channels=colours
        )
    axis = n - 1 if colours else image.channel_axis
    return Computed(
        lambda parts: minus(image.function(parts[:-1]), parts[-1]),
        [*image.arrays, truth],
        single,
        channel_axis=axis,
        drops_channels=colours,
    )

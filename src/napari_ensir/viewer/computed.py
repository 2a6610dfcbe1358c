"""Arrays computed where they are looked at: a plane when it is shown, all of them when they are saved.

A result of a hundred planes need not exist to be looked at: combining one plane takes a few thousandths of a
second. So a change of the table costs the plane on the canvas, and no memory. Knows no layers, no tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Computed"]

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

"""Ensemble, weight maps and errors of layers: numpy arrays, or dask arrays of planes for large stacks."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_dask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT

    Function = Callable[..., NDArray[Any]]

__all__ = ["Combined", "by_plane", "combine", "difference", "is_large_stack", "over_colours"]

VIEWED = 2**22
"""Most values of a stack that are computed at once, in about a tenth of a second; of more, each plane is
computed when it is shown."""


def is_large_stack(shape: Sequence[int], rgb: bool) -> bool:
    """Whether an image has several planes, and more than :data:`VIEWED` values."""
    return len(shape) - rgb > 2 and prod(shape) > VIEWED


def by_plane(
    function: Function,
    arrays: Sequence[Any],
    dtype: np.dtype[Any],
    *,
    rgb: bool = False,
    n_maps: int | None = None,
    channel_axis: int | None = None,
    drops_channels: bool = False,
) -> Any:
    """Apply a function to arrays of one shape plane by plane, when a plane is asked for.

    Parameters
    ----------
    function
        Called with one block of each array, as numpy arrays with all their axes; returns a block of the same
        shape, with ``n_maps`` places in front if given. Called at once on a pixel of zeros, to be compiled.
    arrays : sequence of arrays of one shape
        Numpy, dask, memory-mapped or any array that can be sliced.
    dtype
        Of the result.
    rgb : bool
        Whether the last axis is colour, so that planes lie along the two axes before it.
    n_maps : int, optional
        Length of a first axis that the result has beside the arrays'.
    channel_axis : int, optional
        An axis that is not cut; 0 or more.
    drops_channels : bool
        Whether the result lacks that axis.

    Returns
    -------
    dask.array.Array

    Examples
    --------
    >>> stack = np.arange(24).reshape(2, 3, 4)
    >>> twice = by_plane(lambda block: 2 * block, [stack], np.dtype(int))
    >>> twice.chunks, int(twice[1, 0, 0])
    (((1, 1), (3,), (4,)), 24)
    """
    import dask.array as da

    shape = tuple(arrays[0].shape)
    n = len(shape)
    whole = {*range(n - 2 - rgb, n), channel_axis}
    chunks = tuple(size if axis in whole else 1 for axis, size in enumerate(shape))
    axes = tuple(range(n))
    operands: list[Any] = []
    for array in arrays:
        if is_dask(array):
            cut = array.rechunk(chunks)
        else:
            meta = np.empty((0,) * n, array.dtype)
            cut = da.from_array(_Source(array), chunks, name=False, meta=meta)  # type: ignore[no-untyped-call]
        operands += [cut, axes]
    # Compiling takes seconds, once, and the viewer would stand still for it when the first plane is shown.
    pixel = [size if axis == channel_axis else 1 for axis, size in enumerate(shape)]
    function(*(np.zeros(pixel, array.dtype) for array in arrays))
    out = tuple(axis for axis in axes if not (drops_channels and axis == channel_axis))
    if n_maps is not None:
        out = (n, *out)
    return da.blockwise(
        _block,
        out,
        *operands,
        function=function,
        result=dtype,
        new_axes={} if n_maps is None else {n: n_maps},
        concatenate=True,
        align_arrays=False,
        name=f"ensir-{uuid4().hex}",  # else all that the function refers to is hashed
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
    )


class _Source:
    """An array that dask cuts when a block is asked for; numpy arrays it would copy at once."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, len(array.shape)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]


def _block(*blocks: NDArray[Any], function: Function, result: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(function(*map(np.asarray, blocks)), result)


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
        return self.maps[place]

    def most_trusted(self) -> Any:
        """At each pixel, 1 + the index of the candidate with the largest weight; uint8."""
        if not is_dask(self.maps):
            return _most_trusted(self.maps)
        return self.maps.map_blocks(_most_trusted, drop_axis=0, dtype=np.uint8)


def _most_trusted(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    return maps.argmax(axis=0).astype(np.uint8) + np.uint8(1)


def combine(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Combined:
    """Compute ensemble and weight maps; those of a large stack are computed plane by plane when shown."""
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: where the table has it
    dtype = np.dtype(candidates[0].dtype)
    rounded = rgb and dtype.kind in "iu"
    shape = tuple(candidates[0].shape)
    lut.field(candidates, axis)  # raises now what would else be raised when a plane is shown
    if is_large_stack(shape, rgb):
        return _lazy(lut, candidates, axis, dtype if rounded else None, rgb, device)
    exact = lut.apply(candidates, device, channel_axis=axis, progress=progress, check=False)
    maps = lut.weight_maps(candidates, device, channel_axis=axis, progress=progress)
    if rgb:
        maps = over_colours(maps)
    # The ensemble lies within the candidates' range, so within the dtype's.
    return Combined(np.rint(exact).astype(dtype) if rounded else exact, exact, maps)


def _lazy(
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

    def ensemble(*parts: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(lut.apply(parts, device, channel_axis=channels, check=False))

    def weights(*parts: NDArray[Any]) -> NDArray[Any]:
        maps = np.asarray(lut.weight_maps(parts, device, channel_axis=channels))
        return over_colours(maps) if rgb else maps

    single = np.dtype(np.float32)
    exact = by_plane(ensemble, candidates, single, rgb=rgb, channel_axis=channels)
    maps = by_plane(
        weights,
        candidates,
        single,
        rgb=rgb,
        n_maps=lut.n_candidates,
        channel_axis=n - 1 if rgb else channels,
        drops_channels=rgb,
    )
    image = exact
    if rounded is not None:
        image = exact.map_blocks(lambda one: np.rint(one).astype(rounded), dtype=rounded)
    return Combined(image, exact, maps)


def over_colours(values: Any) -> Any:
    """The mean over the last axis, eight times as fast as numpy's own over three values."""
    total = values[..., 0].copy()
    for place in range(1, values.shape[-1]):
        total += values[..., place]
    total /= values.shape[-1]
    return total


def difference(image: Any, truth: Any, colours: bool) -> Any:
    """An image minus the ground truth, float32; the mean over the last axis if that is colours.

    A dask array if the image is one, or a large stack.
    """
    single = np.dtype(np.float32)

    def minus(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        error = one.astype(single) - other.astype(single)
        return over_colours(error) if colours else error

    n = len(truth.shape)
    if not (is_dask(image) or is_large_stack(truth.shape, colours)):
        return minus(image, truth)
    axis = n - 1 if colours else None
    return by_plane(minus, [image, truth], single, rgb=colours, channel_axis=axis, drops_channels=colours)

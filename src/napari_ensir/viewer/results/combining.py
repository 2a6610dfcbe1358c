"""Compute ensemble, weight maps and errors of layers, lazily and plane by plane for large stacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_dask
from napari_ensir.viewer.layers.layers import StoredArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT

    Function = Callable[..., NDArray[Any]]

VIEWED = 2**22
"""Maximum number of values of a stack that are computed at once, in about 0.1 s. For a larger stack, each
plane is computed when it is shown."""


def is_large_stack(shape: Sequence[int], rgb: bool) -> bool:
    """Return whether an image has several planes and more than :data:`VIEWED` values."""
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
    """Return a lazy array: a function applied plane by plane to arrays of one shape.

    Parameters
    ----------
    function
        Called with one block of each array, as numpy arrays with all axes. Returns a block of the same shape,
        with a first axis of length ``n_maps`` if given. It is called once immediately, with a pixel of zeros,
        to compile it.
    arrays : sequence of arrays of one shape
        Numpy, dask, memory-mapped or any array that can be sliced.
    dtype
        Dtype of the result.
    rgb : bool
        Whether the last axis is colour, so that planes lie along the two axes before it.
    n_maps : int, optional
        Length of the first axis that the function adds to the result.
    channel_axis : int, optional
        An axis that is not split; not negative.
    drops_channels : bool
        Whether the function removes the channel axis.

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
            # dask would copy a plain numpy array at once.
            meta = np.empty((0,) * n, array.dtype)
            cut = da.from_array(StoredArray(array), chunks, name=False, meta=meta)  # type: ignore[no-untyped-call]
        operands += [cut, axes]
    # Compile now: it takes seconds and would block the viewer when the first plane is shown.
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
        name=f"ensir-{uuid4().hex}",  # without a name, dask would hash the function and all its data
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
    )


def _block(*blocks: NDArray[Any], function: Function, result: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(function(*map(np.asarray, blocks)), result)


@dataclass(frozen=True)
class Images:
    """Images that are shown as layers.

    Attributes
    ----------
    image : (*shape) array
        The ensemble. In the candidates' dtype for RGB images of integers, because napari cannot show them as
        float; else float32.
    exact : (*shape) float32 array
        The ensemble before rounding.
    maps : (M, *shape) float32 array
        Weights; for RGB images, averaged over the colours.
    coarser : tuple of Images
        The same at lower resolutions, if the candidates are pyramids.
    """

    image: Any
    exact: Any
    maps: Any
    coarser: tuple[Images, ...] = ()

    @cached_property
    def maps_by_candidate(self) -> list[Any]:
        """The weight map of each candidate."""
        return list(self.maps)

    @cached_property
    def most_trusted(self) -> Any:
        """At each pixel, 1 + the index of the candidate with the largest weight; uint8."""
        if not is_dask(self.maps):
            return _most_trusted(self.maps)
        return self.maps.map_blocks(_most_trusted, drop_axis=0, dtype=np.uint8)


def _most_trusted(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    return maps.argmax(axis=0).astype(np.uint8) + np.uint8(1)


def combine(
    lut: WeightLUT,
    candidates: Sequence[Any],
    rgb: bool,
    device: str,
    progress: Progress | None = None,
    coarser: Sequence[Sequence[Any]] = (),
) -> Images:
    """Compute ensemble and weight maps; for a large stack, each plane is computed when it is shown.

    Parameters
    ----------
    lut
    candidates : M arrays
    rgb
        Whether the last axis is colour.
    device, progress
        As for :meth:`napari_ensir.WeightLUT.apply`.
    coarser
        The candidates at lower resolutions.
    """

    def ensemble(*parts: Any, axis: int | None, progress: Progress | None = None) -> Any:
        return lut.apply(parts, device, channel_axis=axis, progress=progress, check=False)

    def weights(*parts: Any, axis: int | None, progress: Progress | None = None) -> Any:
        maps = lut.weight_maps(parts, device, channel_axis=axis, progress=progress)
        return over_colours(maps) if rgb else maps

    exact = _computed(ensemble, lut, candidates, rgb, progress)
    maps = _computed(weights, lut, candidates, rgb, progress, n_maps=lut.n_candidates, drops_channels=rgb)
    image, dtype = exact, np.dtype(candidates[0].dtype)
    if rgb and dtype.kind in "iu":
        # No clipping needed: the ensemble lies between the candidates, so within the range of the dtype.
        image = np.rint(exact).astype(dtype)
    return Images(image, exact, maps, tuple(combine(lut, each, rgb, device, progress) for each in coarser))


def expected_error(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Any:
    """The expected root mean square error at each pixel; of a large stack a dask array.

    Returns
    -------
    float32 array of the candidates' shape
        Intensity units. The errors of an RGB image's colours are averaged as squares.

    Raises
    ------
    EnsembleError
        If the table was not calibrated, or the candidates do not fit it.
    """

    def errors(*parts: Any, axis: int | None, progress: Progress | None = None) -> Any:
        found = lut.expected_error(parts, device, channel_axis=axis, progress=progress)
        return (over_colours(found**2) ** 0.5).astype(np.float32) if rgb else found

    return _computed(errors, lut, candidates, rgb, progress, drops_channels=rgb)


def _computed(
    function: Callable[..., Any],
    lut: WeightLUT,
    candidates: Sequence[Any],
    rgb: bool,
    progress: Progress | None,
    **shape: Any,
) -> Any:
    """Call a function of the candidates; for a large stack, plane by plane when they are shown."""
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: the axis of the table
    lut.field(candidates, axis)  # raise errors now, not when a plane is shown
    n = len(candidates[0].shape)
    if not is_large_stack(candidates[0].shape, rgb):
        return function(*candidates, axis=axis, progress=progress)
    asked = lut.channel_axis if axis is None else axis
    channels = None if lut.n_channels == 1 or asked is None else asked % n
    whole = n - 1 if shape.get("drops_channels") else channels
    single = np.dtype(np.float32)
    planes = partial(function, axis=channels)
    return by_plane(planes, candidates, single, rgb=rgb, channel_axis=whole, **shape)


def over_colours(values: Any) -> Any:
    """Return the mean over the last axis; for three values it is eight times as fast as ``numpy.mean``."""
    total = values[..., 0].copy()
    for place in range(1, values.shape[-1]):
        total += values[..., place]
    total /= values.shape[-1]
    return total


def difference(image: Any, truth: Any, colours: bool) -> Any:
    """Return an image minus the ground truth, float32, averaged over the last axis if ``colours``.

    The result is a dask array if the image is a dask array or a large stack.
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

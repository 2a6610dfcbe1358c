"""What a table makes of candidates, as it goes into layers: arrays, or views where these would be large.

A view (``computed.py``) combines the plane that is shown when it is shown, so that a stack costs no more to
look at, and to change the table of, than one plane of it. Knows no layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.viewer.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["Combined", "combine", "difference", "over_colours"]

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
    exact = lut.apply(candidates, device, channel_axis=axis, progress=progress)
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
        return np.asarray(lut.apply(parts, device, channel_axis=channels))

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

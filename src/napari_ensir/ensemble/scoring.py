"""Scores of whole images, as papers report them: what is clipped, converted and left out beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.metrics import luma, psnr, ssim
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_ensir.ensemble.baselines import Image

    Slices = tuple[slice, ...]

__all__ = ["Scoring", "shown_range"]


def shown_range(arrays: Iterable[Image]) -> tuple[float, float]:
    """The dtype's range for 8 bit, else the least and the greatest finite intensity.

    Raises
    ------
    EnsembleError
        If there is only one intensity, or none.

    Examples
    --------
    >>> shown_range([np.array([0.5, np.nan]), np.array([2.0, 1.0])])
    (0.5, 2.0)
    """
    arrays = list(arrays)
    if all(array.dtype.kind in "iu" and array.dtype.itemsize == 1 for array in arrays):
        limits = np.iinfo(arrays[0].dtype)
        return float(limits.min), float(limits.max)
    finite = [array[np.isfinite(array)] for array in arrays]
    low = min((float(array.min()) for array in finite if array.size), default=0.0)
    high = max((float(array.max()) for array in finite if array.size), default=0.0)
    if not low < high:
        raise EnsembleError("every pixel of every image is equal or not finite; there is nothing to score.")
    return low, high


@dataclass(frozen=True)
class Scoring:
    """How an image is scored: clipped to the data range, as RGB or Y, without its border.

    Attributes
    ----------
    data_range : (low, high)
    y_channel : bool
        Score Y of BT.601 on 0 to 255 instead of the channels.
    crop_border : int
        Pixels left out at each edge of the last two spatial axes.
    channel_axis : int or None
        None: the last axis, where it has three places and is the third or a later one.
    """

    data_range: tuple[float, float]
    y_channel: bool = False
    crop_border: int = 0
    channel_axis: int | None = None

    def __call__(self, truth: Image, image: Image) -> tuple[float, float]:
        """PSNR in dB and SSIM."""
        low, high = self.data_range
        axis = self.channels_of(truth.shape)
        first, second, peak = np.asarray(truth), np.clip(image, low, high), high - low
        if self.y_channel:
            if axis is None:
                raise EnsembleError(
                    f"the image has shape {truth.shape}; Y needs red, green and blue along a channel axis."
                )
            first, second = (
                luma((np.moveaxis(x, axis, -1).astype(np.float64) - low) * (255 / (high - low)))
                for x in (first, second)
            )
            axis, peak = None, 255.0
        cut = self._inside(first.shape, axis)
        return psnr(first[cut], second[cut], peak), ssim(first[cut], second[cut], peak, axis)

    def channels_of(self, shape: tuple[int, ...]) -> int | None:
        """The channel axis of an image of this shape."""
        if self.channel_axis is not None:
            return self.channel_axis % len(shape)
        return len(shape) - 1 if len(shape) > 2 and shape[-1] == 3 else None

    def _inside(self, shape: tuple[int, ...], channel_axis: int | None) -> Slices:
        spatial = [i for i in range(len(shape)) if i != channel_axis][-2:]
        border = self.crop_border
        if border < 0 or any(shape[i] <= 2 * border for i in spatial):
            raise EnsembleError(f"a border of {border} pixels leaves nothing of an image of shape {shape}.")
        return tuple(slice(border, n - border) if i in spatial else slice(None) for i, n in enumerate(shape))

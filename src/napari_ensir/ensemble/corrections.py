"""Corrections of images that do not match the others: intensities, alignment, size and orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array
from napari_ensir.ensemble.checks.alignment import TURNS
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def match_intensities(image: Any, gain: float, offset: float) -> NDArray[np.float32]:
    """Return ``gain * image + offset``.

    Parameters
    ----------
    image : array
    gain, offset : float

    Returns
    -------
    float32 array of the same shape

    Examples
    --------
    >>> match_intensities(np.array([10, 255], np.uint8), 2, 5)
    array([ 25., 515.], dtype=float32)
    """
    return np.asarray(np.asarray(image).astype(np.float64) * gain + offset, np.float32)


def shift_image(
    image: Any, shift: Sequence[float] | NDArray[np.float64], channel_axis: int | None = None
) -> NDArray[np.float32]:
    """Shift all planes of an image by cubic splines; the pixels at the border are repeated.

    Parameters
    ----------
    image : array
        The last two axes, the channels apart, are rows and columns.
    shift : (rows, columns)
        Pixels down and to the right; need not be integers.
    channel_axis : int, optional

    Returns
    -------
    float32 array of the same shape

    Examples
    --------
    >>> shift_image(np.arange(12.0).reshape(3, 4) // 4, (1, 0)).round()[:, 0] + 0
    array([0., 0., 1.], dtype=float32)
    """
    from scipy.ndimage import shift as spline_shift

    array = np.asarray(image)
    rows, columns = _spatial_axes(array.ndim, channel_axis)
    planes = np.moveaxis(array, (rows, columns), (-2, -1))
    out = np.empty(planes.shape, np.float32)
    for index in np.ndindex(planes.shape[:-2]):
        out[index] = spline_shift(planes[index].astype(np.float64), shift, order=3, mode="nearest")
    return np.moveaxis(out, (-2, -1), (rows, columns))


def find_subpixel_shift(
    truth: Any, image: Any, start: Sequence[float], channel_axis: int | None = None
) -> tuple[float, float]:
    """Refine the shift of an image against the ground truth to 1/20 pixel, by phase correlation.

    Parameters
    ----------
    truth, image : arrays of one shape
        Their middle planes are examined.
    start : (rows, columns)
        Shift of the image in whole pixels, down and to the right.
    channel_axis : int, optional

    Returns
    -------
    (rows, columns)
        The start, if the refined shift is more than a pixel away from it.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> truth = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 3)
    >>> rows, columns = find_subpixel_shift(truth, shift_image(truth, (0, 2.5)), (0, 2))
    >>> abs(rows) < 0.1, abs(columns - 2.5) < 0.1
    (True, True)
    """
    from skimage.registration import phase_cross_correlation

    reference, plane = (
        np.nan_to_num(middle_plane(each, channel_axis).mean(axis=-1)) for each in (truth, image)
    )
    # A window, so that the borders, which differ after a shift, do not count.
    window = np.hanning(reference.shape[0])[:, None] * np.hanning(reference.shape[1])
    wanted, found = (reference - reference.mean()) * window, np.array(start, np.float64)
    for _ in range(3):
        moved = shift_image(plane, -found)
        left = phase_cross_correlation(
            wanted, (moved - moved.mean()) * window, upsample_factor=20, normalization=None
        )[0]
        found -= np.asarray(left)
    if np.abs(found - start).max() > 1:
        found = np.array(start, np.float64)
    return float(found[0]), float(found[1])


def crop_image(image: Any, starts: Sequence[int], shape: Sequence[int]) -> Any:
    """Return the part of an image that begins at ``starts`` and has this shape, without copying it.

    Raises
    ------
    EnsembleError
        If the part does not lie within the image.

    Examples
    --------
    >>> crop_image(np.arange(9).reshape(3, 3), (1, 1), (2, 2))
    array([[4, 5],
           [7, 8]])
    """
    array = as_array(image)
    ends = [start + size for start, size in zip(starts, shape, strict=True)]
    if any(start < 0 or end > n for start, end, n in zip(starts, ends, array.shape, strict=True)):
        raise EnsembleError(
            f"the part from {tuple(starts)} to {tuple(ends)} does not lie within an image of shape "
            f"{tuple(array.shape)}."
        )
    return array[tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))]


def turn_image(image: Any, how: str, channel_axis: int | None = None) -> NDArray[Any]:
    """Flip, rotate or transpose all planes of an image.

    Parameters
    ----------
    image : array
    how : str
        As a diagnostic names it, such as ``"upside down"`` or ``"rotated by 90 degrees"``.
    channel_axis : int, optional

    Examples
    --------
    >>> turn_image(np.array([[1, 2], [3, 4]]), "upside down")
    array([[3, 4],
           [1, 2]])
    """
    if how not in TURNS:
        raise EnsembleError(f"there is no transform {how!r}; choose from: {', '.join(TURNS)}.")
    array = np.asarray(image)
    axes = _spatial_axes(array.ndim, channel_axis)
    return np.moveaxis(TURNS[how](np.moveaxis(array, axes, (0, 1))), (0, 1), axes)


def _spatial_axes(ndim: int, channel_axis: int | None) -> tuple[int, int]:
    axes = [axis for axis in range(ndim) if channel_axis is None or axis != channel_axis % ndim]
    if len(axes) < 2:
        raise EnsembleError("the image has no rows and columns.")
    return axes[-2], axes[-1]

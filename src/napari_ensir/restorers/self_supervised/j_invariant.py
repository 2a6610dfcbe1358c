"""Predictions of hidden pixels: J-invariant restoration (Batson and Royer 2019, arXiv 1901.11365).

Pixels on a grid are replaced by the mean of their four neighbours in the plane, the image is restored, and
the result at those pixels is kept. It does not depend on the hidden pixels, so it has none of their noise.
:func:`skimage.restoration.denoise_invariant` does this.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import channels_first, check_keeps_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress, Restorer


@dataclass(frozen=True)
class HiddenGrid:
    """The pixels of an image that are hidden in each run.

    Every plane (the last two axes except that of the channels) is divided into cells of ``stride`` x
    ``stride`` pixels. A run hides one pixel of every cell, at the same position in all cells. Successive
    planes use different positions, so that a restorer of volumes finds neighbours that are not hidden.
    Channels are hidden together, since their noise can be correlated.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image.
    channel_axis : int, optional
    stride : int
        Distance of hidden pixels along rows and columns, 2 or more.
    offsets : int
        Number of runs, each with another position hidden, ``stride ** 2`` at most.
    seed : int
        Seed of the order of the positions.

    Raises
    ------
    EnsembleError
        If a plane is smaller than one cell, or a number is out of its limits.

    Examples
    --------
    >>> grid = HiddenGrid((12, 18), stride=6, offsets=3)
    >>> [int(mask.sum()) for mask in grid.masks()]
    [6, 6, 6]
    """

    shape: tuple[int, ...]
    channel_axis: int | None = None
    stride: int = 6
    offsets: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.offsets <= self.stride**2:
            raise EnsembleError(
                f"{self.offsets} offsets were asked for; a stride of {self.stride} has 1 to {self.stride**2}."
            )
        if min(self.spatial_shape[-2:]) < self.stride:
            raise EnsembleError(
                f"the image has shape {self.shape}; a stride of {self.stride} needs as many pixels along "
                "rows and columns: give a smaller stride."
            )

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Shape of the image without its channels."""
        sizes = list(self.shape)
        if self.channel_axis is not None:
            del sizes[self.channel_axis]
        return tuple(sizes)

    def planes(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the image as an array of shape ``(rows, columns, planes * channels)``."""
        last = np.moveaxis(channels_first(image, self.channel_axis), 0, -1)
        return np.moveaxis(last, (-3, -2), (0, 1)).reshape(*self.spatial_shape[-2:], -1)

    def image(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Return the image of an array from :meth:`planes`."""
        *before, rows, columns = self.spatial_shape
        last = np.moveaxis(planes.reshape(rows, columns, *before, -1), (0, 1), (-3, -2))
        axis = self.channel_axis
        return np.ascontiguousarray(last[..., 0] if axis is None else np.moveaxis(last, -1, axis))

    def positions(self) -> NDArray[np.int64]:
        """Return the row and column within a cell that each run hides, (planes, offsets, 2)."""
        n_planes = prod(self.spatial_shape[:-2])
        order = np.random.default_rng(self.seed).permutation(self.stride**2)
        taken = order[np.arange(n_planes * self.offsets) % len(order)].reshape(n_planes, self.offsets)
        return np.stack(np.divmod(taken, self.stride), axis=-1)

    def _hidden(self) -> tuple[NDArray[np.int64], ...]:
        """Row, column and plane of the hidden pixels, which broadcast to (planes, offsets, cells, cells)."""
        row, column = self.positions()[..., np.newaxis, np.newaxis].transpose(2, 0, 1, 3, 4)
        down, right = (self.stride * np.arange(size // self.stride) for size in self.spatial_shape[-2:])
        return row + down[:, np.newaxis], column + right, np.arange(len(row)).reshape(-1, 1, 1, 1)

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the mask of hidden pixels of each run, in the shape of :meth:`planes`."""
        row, column, plane = self._hidden()
        n_channels = 1 if self.channel_axis is None else self.shape[self.channel_axis]
        for run in range(self.offsets):
            mask = np.zeros((*self.spatial_shape[-2:], len(plane)), bool)
            mask[row[:, run], column[:, run], plane[:, 0]] = True
            yield mask.repeat(n_channels, axis=-1)

    def select(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Return the hidden pixels of all runs, from an array in the shape of :meth:`planes`.

        Returns
        -------
        (..., offsets, rows // stride, columns // stride[, channels]) array
        """
        *before, rows, columns = self.spatial_shape
        found = planes.reshape(rows, columns, prod(before), -1)[self._hidden()]
        found = np.ascontiguousarray(found[..., 0] if self.channel_axis is None else found)
        return found.reshape(*before, *found.shape[1:])


def restore_checked(
    image: NDArray[Any], restorer: Restorer, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Restore an image and check the result, float32 of the image's shape.

    Raises
    ------
    EnsembleError
        If the restorer changes the shape, or gives values that are not finite.
    """
    found = np.asarray(restorer(image, progress=progress), np.float32)
    check_keeps_size(restorer, image, found)
    if found.shape != image.shape:
        raise EnsembleError(
            f"{restorer.name} turned an image of shape {image.shape} into {found.shape}; "
            "a restorer must keep the shape."
        )
    if not np.isfinite(found).all():
        raise EnsembleError(f"{restorer.name} gave values that are not finite; change its parameters.")
    return found


def restore_each(
    image: NDArray[Any], restorers: Sequence[Restorer], progress: Progress | None = None
) -> tuple[NDArray[np.float32], ...]:
    """Restore an image with several restorers; see :func:`restore_checked`."""
    n = len(restorers)
    return tuple(
        restore_checked(image, each, scaled_progress(progress, number, n))
        for number, each in enumerate(restorers)
    )


def restore_hidden(
    image: NDArray[Any], restorer: Restorer, grid: HiddenGrid, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Predict pixels by a restorer that does not see them.

    Parameters
    ----------
    image : array of the grid's shape
        An integer or float dtype; the restorer gets the same dtype.
    restorer
        It is called ``grid.offsets`` times.
    grid : HiddenGrid
    progress
        See :data:`napari_ensir.restorers.base.Progress`.

    Returns
    -------
    (..., offsets, rows // stride, columns // stride[, channels]) float32
        In the intensity units of the image.

    Raises
    ------
    EnsembleError
        If the restorer changes the shape, or gives values that are not finite.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> grid = HiddenGrid((12, 12), stride=4, offsets=2)
    >>> restore_hidden(np.ones((12, 12)), Gaussian(), grid).shape
    (2, 3, 3)
    """
    from skimage.restoration import denoise_invariant

    whole, runs = image.dtype.kind in "iu", count()

    def restored(planes: NDArray[Any], channel_axis: int) -> NDArray[Any]:
        run = next(runs)
        given = grid.image(np.rint(planes) if whole else planes).astype(image.dtype, copy=False)
        suffix = f", hidden pixels {run + 1} of {grid.offsets}"
        part = scaled_progress(progress, run, grid.offsets, suffix=suffix)
        return grid.planes(restore_checked(given, restorer, part))

    # scikit-image would round large integers to float32; it keeps the dtype of floats.
    planes = grid.planes(image.astype(np.float64) if whole else image)
    kept = denoise_invariant(  # type: ignore[no-untyped-call]
        planes, restored, masks=grid.masks(), denoiser_kwargs={"channel_axis": -1}
    )
    return np.asarray(grid.select(kept), np.float32)

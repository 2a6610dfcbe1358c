"""Apply a function to images of any size in overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_MAX_ENLARGEMENT = 16


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Size and overlap of the tiles of a plane or a volume.

    Parameters
    ----------
    size
        Side of a tile in pixels, or one for each of the last axes; smaller images are one tile.
    overlap
        Smallest overlap of neighbouring tiles in pixels, or one for each of the last axes.
    batch
        Number of tiles in one call.
    margin
        Number of outermost pixels of a tile that are discarded towards a neighbour; None: a quarter of
        `overlap`, whose middle half is then blended. A function whose receptive field extends no further
        gives the same result as on the whole image.
    border
        Number of reflected pixels that are added around the image and removed from the result, for
        functions whose outermost results are not valid.
    """

    size: int | tuple[int, ...] = 256
    overlap: int | tuple[int, ...] = 32
    batch: int = 4
    margin: int | None = None
    border: int = 0

    def __post_init__(self) -> None:
        lengths = {len(each) for each in (self.size, self.overlap) if isinstance(each, tuple)}
        if len(lengths) > 1:
            raise EnsembleError(
                f"tiles have sides {self.size} and overlaps {self.overlap}; give the same number of each."
            )
        for axis in range(-max(lengths, default=1), 0):
            size, overlap, margin = self.along(axis)
            limit = size // 2 if self.margin is None else size - 1
            fits = 0 <= overlap <= limit and 0 <= margin <= overlap // 2
            if not (fits and size >= 8 and self.batch >= 1 and self.border >= 0):
                raise EnsembleError(
                    f"tiles of {size} pixels cannot overlap by {overlap} with a margin of {margin} in "
                    f"batches of {self.batch}; tiles have at least 8 pixels, the overlap is at most half of "
                    "that, the margin at most half of the overlap, and batches have at least one tile."
                )

    def along(self, axis: int) -> tuple[int, int, int]:
        """Return side, overlap and margin along an axis, counted from the end.

        Examples
        --------
        >>> Tiles(size=(32, 64, 64), overlap=16).along(-3)
        (32, 16, 4)
        """
        size, overlap = _at(self.size, axis), _at(self.overlap, axis)
        return size, overlap, overlap // 4 if self.margin is None else self.margin

    def layout(self, shape: Sequence[int], multiple: int | tuple[int, ...] = 1) -> list[Axis]:
        """Return the tiles along each axis of an image of this shape, without channels.

        Sides are the smallest sufficient multiples, at most `size`. Starts are evenly spaced, and multiples
        if possible: a network that downsamples pairs pixels from the start of its tile, so such tiles pair
        them as one tile would. The last tile may extend beyond the image.

        Examples
        --------
        >>> Tiles(size=100, overlap=20).layout((250,), 4)
        [Axis(side=100, overlap=20, margin=5, starts=[0, 76, 152])]
        """
        found = []
        for axis, length in enumerate(shape, -len(shape)):
            (size, overlap, margin), unit = self.along(axis), _at(multiple, axis)
            length += 2 * self.border
            side = min(max(size // unit, 1) * unit, -(-length // unit) * unit)
            step = side - overlap  # the largest between two starts
            grid = unit if step >= unit else 1  # a fixed size has no smaller step
            last = -(-max(length - side, 0) // grid)
            n_starts = -(-last // max(step // grid, 1)) + 1
            starts = [round(start) * grid for start in np.linspace(0, last, n_starts)]
            found.append(Axis(side, overlap, margin, starts))
        return found

    def batches(self, shape: Sequence[int], multiple: int | tuple[int, ...]) -> int:
        """Return the number of calls of the function for an image of this shape, without channels."""
        return -(-prod(len(each.starts) for each in self.layout(shape, multiple)) // self.batch)


class Axis(NamedTuple):
    """Tiles along one axis: their side, overlap, margin and starts."""

    side: int
    overlap: int
    margin: int
    starts: list[int]


def _at(value: int | tuple[int, ...], axis: int) -> int:
    return value[axis] if isinstance(value, tuple) else value


def apply_tiled(
    function: Callable[..., Tensor],
    *planes: Tensor,
    tiles: Tiles,
    multiple: int | tuple[int, ...] = 1,
    tick: Callable[[], object] = lambda: None,
) -> Tensor:
    """Apply `function` to overlapping tiles and blend the results.

    Parameters
    ----------
    function
        From tensors of shape (batch, channels, [planes,] rows, columns), one for each of `planes`, to one
        tensor of that shape, or larger by an integer factor along each axis.
    planes
        Tensors of shape (channels, [planes,] rows, columns).
    tiles
        Size and overlap of the tiles.
    multiple
        The sides of a tile are multiples of this, along every axis or one for each; images are padded by
        reflection.
    tick
        Called after each batch.

    Returns
    -------
    Tensor
        Shape (channels of the function's result, [planes,] rows, columns), enlarged as the function's
        results are.

    Raises
    ------
    EnsembleError
        If the function changes the size in any other way.

    Examples
    --------
    >>> plane = torch.rand(1, 50, 70)
    >>> twice = apply_tiled(lambda x: 2 * x, plane, tiles=Tiles(size=32, overlap=8))
    >>> torch.allclose(twice, 2 * plane)
    True
    """
    axes = tiles.layout(planes[0].shape[1:], multiple)
    sides = [axis.side for axis in axes]
    filled = [axis.starts[-1] + axis.side for axis in axes]
    padded = [_pad(plane, tiles.border, filled) for plane in planes]
    corners = list(product(*(axis.starts for axis in axes)))
    total = weights = torch.zeros(0)
    times = [1] * len(axes)
    for first in range(0, len(corners), tiles.batch):
        batch = corners[first : first + tiles.batch]
        places = [(slice(None), *map(_cut, corner, sides)) for corner in batch]
        results = function(*(torch.stack([each[at] for at in places]) for each in padded))
        if results.shape[:1] != (len(batch),):
            raise EnsembleError(f"the network turned {len(batch)} tiles into {tuple(results.shape)} values.")
        if first == 0:
            times = _enlargement(sides, results.shape[2:])
            larger = [n * each for n, each in zip(filled, times, strict=True)]
            total, weights = results.new_zeros((results.shape[1], *larger)), results.new_zeros((1, *larger))
        for corner, result in zip(batch, results, strict=True):
            window = _window(axes, corner, times).to(total)
            to = (slice(None), *map(_cut, corner, sides, times))
            total[to] += window * result
            weights[to] += window
        tick()
    blended: Tensor = total / weights
    inner = [tiles.border] * len(axes)
    return blended[(slice(None), *map(_cut, inner, planes[0].shape[1:], times))]


def _cut(start: int, side: int, times: int = 1) -> slice:
    return slice(start * times, (start + side) * times)


def _enlargement(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the factor along each axis; EnsembleError if one is not an integer, or too large."""
    times = [large // small for small, large in zip(before, after, strict=False)]
    exact = [n * small for n, small in zip(times, before, strict=False)] == list(after)
    if exact and len(before) == len(after) and all(1 <= n <= _MAX_ENLARGEMENT for n in times):
        return times
    raise EnsembleError(
        f"the network turned tiles of {' x '.join(map(str, before))} pixels into "
        f"{' x '.join(map(str, after))}; only networks that keep the size or enlarge it by an integer factor "
        "can be used."
    )


def _pad(plane: Tensor, border: int, filled: Sequence[int]) -> Tensor:
    """Pad a plane by reflection, repeatedly if needed, to the size of its tiles."""
    for axis, (length, longer) in enumerate(zip(plane.shape[1:], filled, strict=True), start=1):
        if longer > length:
            index = np.pad(np.arange(length), (border, longer - length - border), "symmetric")
            plane = plane.index_select(axis, torch.from_numpy(index).to(plane.device))
    return plane


def _window(axes: Sequence[Axis], corner: Sequence[int], times: Sequence[int]) -> Tensor:
    """Return the weights of a tile, shape (1, *sides * times): a product over the axes."""
    window = torch.ones(1)
    for (side, overlap, margin, starts), start, n in zip(axes, corner, times, strict=True):
        along = _taper(side * n, overlap * n, margin * n, start > 0, start < starts[-1])
        window = window[..., None] * along
    return window


def _taper(side: int, overlap: int, margin: int, before: bool, after: bool) -> Tensor:
    """Return the weights along an axis: 0, then a squared sine, up to 1 at each end with a neighbour."""
    window = torch.ones(side)
    width = overlap - 2 * margin
    if overlap and (before or after):
        rise = torch.sin((torch.arange(width) + 0.5) / max(width, 1) * (torch.pi / 2)) ** 2
        rise = torch.cat([torch.zeros(margin), rise])
        if before:
            window[: len(rise)] = rise
        if after:
            window[side - len(rise) :] *= rise.flip(0)
    return window

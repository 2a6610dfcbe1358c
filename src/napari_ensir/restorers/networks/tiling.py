"""Apply a function to images of any size in overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["Tiles", "apply_tiled"]

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
        given = [each for each in (self.size, self.overlap) if isinstance(each, tuple)]
        if len({len(each) for each in given}) > 1:
            raise EnsembleError(
                f"tiles have sides {self.size} and overlaps {self.overlap}; give the same number of each."
            )
        for axis in range(-len(given[0] if given else (0,)), 0):
            size, overlap, margin = self.along(axis)
            limit = size // 2 if self.margin is None else size - 1
            if not (
                0 <= overlap <= limit
                and 0 <= margin <= overlap // 2
                and size >= 8
                and self.batch >= 1
                and self.border >= 0
            ):
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
        size, overlap = (
            each[axis] if isinstance(each, tuple) else each for each in (self.size, self.overlap)
        )
        return size, overlap, overlap // 4 if self.margin is None else self.margin

    def side(self, length: int, multiple: int | tuple[int, ...], axis: int = -1) -> int:
        """Return the side of the tiles along an axis: the smallest sufficient multiple, at most `size`."""
        multiple = multiple[axis] if isinstance(multiple, tuple) else multiple
        largest = max(self.along(axis)[0] // multiple, 1) * multiple
        return int(min(largest, -(-length // multiple) * multiple))

    def starts(self, length: int, multiple: int | tuple[int, ...], axis: int = -1) -> list[int]:
        """Return evenly spaced starts of the tiles along an axis of `length` pixels, multiples if possible.

        A network that downsamples pairs pixels from the start of its tile, so tiles that start at multiples
        pair them as one tile would. The last tile may extend beyond the image.

        Examples
        --------
        >>> Tiles(size=100, overlap=20).starts(250, 4)
        [0, 76, 152]
        """
        multiple = multiple[axis] if isinstance(multiple, tuple) else multiple
        side = self.side(length, multiple, axis)
        step = side - self.along(axis)[1]  # the largest between two starts
        grid = multiple if step >= multiple else 1  # a fixed size has no smaller step
        last = -(-max(length - side, 0) // grid)
        if last == 0:
            return [0]
        return [round(start) * grid for start in np.linspace(0, last, -(-last // (step // grid)) + 1)]

    def batches(self, shape: Sequence[int], multiple: int | tuple[int, ...]) -> int:
        """Return the number of calls of the function for an image of this shape, without channels."""
        lengths = [n + 2 * self.border for n in shape]
        counts = [len(self.starts(n, multiple, axis - len(shape))) for axis, n in enumerate(lengths)]
        return -(-int(np.prod(counts)) // self.batch)


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
    border = tiles.border
    lengths = [n + 2 * border for n in planes[0].shape[1:]]
    axes = range(-len(lengths), 0)
    sides = [tiles.side(n, multiple, axis) for axis, n in zip(axes, lengths, strict=True)]
    starts = [tiles.starts(n, multiple, axis) for axis, n in zip(axes, lengths, strict=True)]
    filled = [each[-1] + side for each, side in zip(starts, sides, strict=True)]
    padded = [_pad(plane, border, filled) for plane in planes]
    corners = list(product(*starts))
    total = weights = torch.zeros(0)
    times = [1] * len(lengths)
    for first in range(0, len(corners), tiles.batch):
        batch = [
            tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
            for corner in corners[first : first + tiles.batch]
        ]
        results = function(*(torch.stack([each[(slice(None), *at)] for at in batch]) for each in padded))
        if results.shape[:1] != (len(batch),):
            raise EnsembleError(f"the network turned {len(batch)} tiles into {tuple(results.shape)} values.")
        if first == 0:
            times = _enlargement(sides, results.shape[2:])
            larger = [n * each for n, each in zip(filled, times, strict=True)]
            total, weights = results.new_zeros((results.shape[1], *larger)), results.new_zeros((1, *larger))
        for at, result in zip(batch, results, strict=True):
            window = _window(tiles, sides, at, filled, times).to(total)
            to = (slice(None), *(slice(s.start * n, s.stop * n) for s, n in zip(at, times, strict=True)))
            total[to] += window * result
            weights[to] += window
        tick()
    blended: Tensor = total / weights
    kept = zip(planes[0].shape[1:], times, strict=True)
    return blended[(slice(None), *(slice(border * each, (border + n) * each) for n, each in kept))]


def _enlargement(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the factor along each axis; EnsembleError if one is not an integer, or too large."""
    if len(before) == len(after):
        times = [large // small for small, large in zip(before, after, strict=True)]
        if all(
            1 <= n <= _MAX_ENLARGEMENT and n * small == large
            for n, small, large in zip(times, before, after, strict=True)
        ):
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
            plane = plane.index_select(axis, _reflect_indices(length, border, longer).to(plane.device))
    return plane


def _window(
    tiles: Tiles, sides: Sequence[int], at: Sequence[slice], filled: Sequence[int], times: Sequence[int]
) -> Tensor:
    """Return the weights of a tile, shape (1, *sides * times): a product over the axes."""
    window = torch.ones(1)
    for axis, (side, cut, end, n) in enumerate(zip(sides, at, filled, times, strict=True)):
        _, overlap, margin = tiles.along(axis - len(sides))
        along = _taper(side * n, overlap * n, margin * n, cut.start > 0, cut.stop < end)
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


def _reflect_indices(length: int, border: int, longer: int) -> Tensor:
    """Return indices that extend an axis by symmetric reflection (the outermost pixels occur twice)."""
    index = torch.arange(-border, longer - border) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)

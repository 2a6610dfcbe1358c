"""Apply a function of limited reach to images of any size, by overlapping tiles. Knows no networks."""

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

__all__ = ["MOST_TIMES", "Tiles", "apply_tiled", "times_larger"]

MOST_TIMES = 16
"""How many times larger a function may make an image."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How to cut a plane or a volume.

    Parameters
    ----------
    size
        Side of a tile in pixels, or one side for each of the last axes; what is smaller is one tile.
    overlap
        Pixels that neighbouring tiles share at least; of volumes one number for each axis, if need be.
    batch
        Tiles at once.
    margin
        How many of a tile's outermost pixels are thrown away towards a neighbour; None: a quarter of
        `overlap`, whose middle half is then blended. A function that reaches no further than that gives
        exactly what it gives on the whole image.
    border
        How many pixels of reflection are put around the image and taken off what comes out, for functions
        whose outermost results are of no use.
    """

    size: int | tuple[int, ...] = 256
    overlap: int | tuple[int, ...] = 32
    batch: int = 4
    margin: int | None = None
    border: int = 0

    def __post_init__(self) -> None:
        for axis in range(-len(self._both()), 0):
            size, overlap, margin = self.along(axis)
            most = size // 2 if self.margin is None else size - 1
            if not (
                0 <= overlap <= most
                and 0 <= margin <= overlap // 2
                and size >= 8
                and self.batch >= 1
                and self.border >= 0
            ):
                raise EnsembleError(
                    f"tiles of {size} pixels cannot overlap by {overlap} and lose {margin} in batches of "
                    f"{self.batch}; a tile has at least 8 pixels, overlaps by at most half, loses at most "
                    "half of that, and a batch has at least one."
                )

    def _both(self) -> tuple[int, ...]:
        """Whichever of `size` and `overlap` is given for each axis."""
        given = [each for each in (self.size, self.overlap) if isinstance(each, tuple)]
        if len({len(each) for each in given}) > 1:
            raise EnsembleError(f"tiles have sides {self.size} and overlaps {self.overlap}: as many of each.")
        return given[0] if given else (0,)

    def along(self, axis: int) -> tuple[int, int, int]:
        """Side, overlap and margin along an axis, counted from the end.

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
        """Side of the tiles along an axis: at most `size`, a multiple, no larger than it need be."""
        multiple = multiple[axis] if isinstance(multiple, tuple) else multiple
        largest = max(self.along(axis)[0] // multiple, 1) * multiple
        return int(min(largest, -(-length // multiple) * multiple))

    def starts(self, length: int, multiple: int | tuple[int, ...], axis: int = -1) -> list[int]:
        """Where the tiles along an axis of `length` pixels start: evenly spread, at multiples where they can.

        A network that halves its images pairs pixels from where its tile starts; tiles that all start at
        multiples pair them as one tile would. The last one may end behind the image.

        Examples
        --------
        >>> Tiles(size=100, overlap=20).starts(250, 4)
        [0, 76, 152]
        """
        multiple = multiple[axis] if isinstance(multiple, tuple) else multiple
        side = self.side(length, multiple, axis)
        most = side - self.along(axis)[1]  # between two starts
        grid = multiple if most >= multiple else 1  # else it is of a fixed size
        last = -(-max(length - side, 0) // grid)
        if last == 0:
            return [0]
        return [round(start) * grid for start in np.linspace(0, last, -(-last // (most // grid)) + 1)]

    def batches(self, shape: Sequence[int], multiple: int | tuple[int, ...]) -> int:
        """How many times the function is called for an image of this shape, the channels apart."""
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
    """Apply `function` tile by tile and blend.

    Parameters
    ----------
    function
        From tensors of shape (batch, channels, [planes,] rows, columns), one for each of `planes`, to one
        of such a shape, as large or a whole number of times larger along each axis.
    planes
        Tensors of shape (channels, [planes,] rows, columns).
    tiles
        How to cut.
    multiple
        What the sides of a tile have to be multiples of, along every axis or one for each; what does not
        fill its tiles is reflected.
    tick
        Called after each batch.

    Returns
    -------
    Tensor
        Shape (channels of the function's result, [planes,] rows, columns), larger where the function's
        results are.

    Raises
    ------
    EnsembleError
        If the function changes the size in another way.

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
    padded = [_continued(plane, border, filled) for plane in planes]
    corners = list(product(*starts))
    total = weights = torch.zeros(0)
    times = [1] * len(lengths)
    for first in range(0, len(corners), tiles.batch):
        batch = [
            tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
            for corner in corners[first : first + tiles.batch]
        ]
        results = function(*(torch.stack([each[(slice(None), *at)] for at in batch]) for each in padded))
        if first == 0:
            times = times_larger(sides, results.shape[2:])
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


def times_larger(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """How many times larger each side became.

    Raises
    ------
    EnsembleError
        If one shrank, or by no whole number of times, or beyond :data:`MOST_TIMES`.

    Examples
    --------
    >>> times_larger((16, 24), (32, 48))
    [2, 2]
    """
    if len(before) == len(after):
        times = [large // small for small, large in zip(before, after, strict=True)]
        if all(
            1 <= n <= MOST_TIMES and n * small == large
            for n, small, large in zip(times, before, after, strict=True)
        ):
            return times
    raise EnsembleError(
        f"the network turned tiles of {' x '.join(map(str, before))} pixels into "
        f"{' x '.join(map(str, after))}; only networks that keep the size or enlarge it by a whole number of "
        "times can be used."
    )


def _continued(plane: Tensor, border: int, filled: Sequence[int]) -> Tensor:
    """The plane, continued by reflection at its ends, as often as it takes to fill its tiles."""
    for axis, (length, longer) in enumerate(zip(plane.shape[1:], filled, strict=True), start=1):
        if longer > length:
            plane = plane.index_select(axis, _reflected(length, border, longer).to(plane.device))
    return plane


def _window(
    tiles: Tiles, sides: Sequence[int], at: Sequence[slice], filled: Sequence[int], times: Sequence[int]
) -> Tensor:
    """Weights of a tile, shape (1, *sides * times): a product over the axes."""
    window = torch.ones(1)
    for axis, (side, cut, end, n) in enumerate(zip(sides, at, filled, times, strict=True)):
        _, overlap, margin = tiles.along(axis - len(sides))
        along = _rise_and_fall(side * n, overlap * n, margin * n, cut.start > 0, cut.stop < end)
        window = window[..., None] * along
    return window


def _rise_and_fall(side: int, overlap: int, margin: int, before: bool, after: bool) -> Tensor:
    """Weights along a side of a tile: 0, a squared sine and 1 where a neighbour lies, else 1."""
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


def _reflected(length: int, border: int, longer: int) -> Tensor:
    """Indices that continue an axis by reflection at its ends (the outermost pixels twice)."""
    index = torch.arange(-border, longer - border) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)

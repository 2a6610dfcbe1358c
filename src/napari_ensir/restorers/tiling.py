"""Apply a function of limited reach to a plane of any size, by overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["Tiles", "apply_tiled"]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How to cut a plane.

    Parameters
    ----------
    size
        Side of a tile in pixels; smaller planes are one tile.
    overlap
        Pixels that neighbouring tiles share at least. A tile's outermost quarter of them is thrown
        away, so a function that reaches no further than ``overlap // 4`` pixels gives exactly what
        it gives on the whole plane; the middle half is blended.
    batch
        Tiles at once.
    """

    size: int = 256
    overlap: int = 32
    batch: int = 4

    def __post_init__(self) -> None:
        if not (0 <= self.overlap <= self.size // 2 and self.size >= 8 and self.batch >= 1):
            raise EnsembleError(
                f"tiles of {self.size} pixels cannot overlap by {self.overlap} in batches of {self.batch}; "
                "a tile has at least 8 pixels, overlaps by at most half, and a batch has at least one."
            )

    def side(self, length: int, multiple: int) -> int:
        """Side of the tiles along an axis: at most `size`, a multiple, no larger than it need be."""
        largest = max(self.size // multiple, 1) * multiple
        return int(min(largest, -(-length // multiple) * multiple))

    def starts(self, length: int, multiple: int) -> list[int]:
        """Where the tiles along an axis of `length` pixels start, evenly spread.

        Examples
        --------
        >>> Tiles(size=100, overlap=20).starts(250, 4)
        [0, 75, 150]
        """
        side = self.side(length, multiple)
        if length <= side:
            return [0]
        count = -(-(length - self.overlap) // max(side - self.overlap, 1))
        return [round(start) for start in np.linspace(0, length - side, count)]

    def batches(self, rows: int, columns: int, multiple: int) -> int:
        """How many times the function is called for a plane."""
        tiles = len(self.starts(rows, multiple)) * len(self.starts(columns, multiple))
        return -(-tiles // self.batch)


def apply_tiled(
    function: Callable[..., Tensor],
    *planes: Tensor,
    tiles: Tiles,
    multiple: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Tensor:
    """Apply `function` tile by tile and blend.

    Parameters
    ----------
    function
        From tensors of shape (batch, channels, rows, columns), one for each of `planes`, to one of
        such a shape, with the same rows and columns.
    planes
        Tensors of shape (channels, rows, columns).
    tiles
        How to cut.
    multiple
        What the sides of a tile have to be multiples of; a plane too small is reflected at its end.
    tick
        Called after each batch.

    Returns
    -------
    Tensor
        Shape (channels of the function's result, rows, columns).

    Examples
    --------
    >>> plane = torch.rand(1, 50, 70)
    >>> twice = apply_tiled(lambda x: 2 * x, plane, tiles=Tiles(size=32, overlap=8))
    >>> torch.allclose(twice, 2 * plane)
    True
    """
    rows, columns = planes[0].shape[-2:]
    sides = tiles.side(rows, multiple), tiles.side(columns, multiple)
    corners = [(r, c) for r in tiles.starts(rows, multiple) for c in tiles.starts(columns, multiple)]
    # A plane smaller than its tile is continued by reflection, as often as it takes.
    padded = [
        plane[:, _reflected(rows, max(rows, sides[0]))][:, :, _reflected(columns, max(columns, sides[1]))]
        for plane in planes
    ]
    total = torch.zeros(0)
    weights = torch.zeros_like(padded[0][:1])
    for first in range(0, len(corners), tiles.batch):
        batch = corners[first : first + tiles.batch]
        cuts = [
            torch.stack([each[:, r : r + sides[0], c : c + sides[1]] for r, c in batch]) for each in padded
        ]
        results = function(*cuts)
        if results.shape[-2:] != cuts[0].shape[-2:]:
            raise EnsembleError(
                f"the network turned tiles of {sides[0]} x {sides[1]} pixels into "
                f"{results.shape[-2]} x {results.shape[-1]}; only networks that keep the size can be used."
            )
        if first == 0:
            total = results.new_zeros((results.shape[1], *padded[0].shape[-2:]))
        for (r, c), result in zip(batch, results, strict=True):
            window = torch.outer(
                _window(sides[0], tiles.overlap, r > 0, r + sides[0] < rows),
                _window(sides[1], tiles.overlap, c > 0, c + sides[1] < columns),
            ).to(total)
            total[:, r : r + sides[0], c : c + sides[1]] += window * result
            weights[:, r : r + sides[0], c : c + sides[1]] += window
        tick()
    return (total / weights)[:, :rows, :columns]


def _window(side: int, overlap: int, before: bool, after: bool) -> Tensor:
    """Weights along a side of a tile: 0, a squared sine and 1 where a neighbour lies, else 1."""
    window = torch.ones(side)
    margin = overlap // 4
    width = overlap - 2 * margin
    if overlap and (before or after):
        rise = torch.sin((torch.arange(width) + 0.5) / width * (torch.pi / 2)) ** 2
        rise = torch.cat([torch.zeros(margin), rise])
        if before:
            window[: len(rise)] = rise
        if after:
            window[side - len(rise) :] *= rise.flip(0)
    return window


def _reflected(length: int, longer: int) -> Tensor:
    """Indices that continue an axis by reflection at its end (the last pixel twice)."""
    index = torch.arange(longer) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)

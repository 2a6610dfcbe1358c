"""Goes through images with ground truth and lets what their ensemble amounts to be counted. Counts nothing.

images --bands, chunks--> candidates and ensemble in memory --counted--> sums, which add
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from napari_ensir.ensemble.apply import combine_field
from napari_ensir.ensemble.arrays import is_dask, read_block
from napari_ensir.ensemble.distributed import has_chunks, reduce_chunks
from napari_ensir.ensemble.inputs import Field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lookup import Lookup

__all__ = ["Sums", "bands", "in_memory", "measure", "sum_of"]

BLOCK_PIXELS = 2**20


class Sums(Protocol):
    """What is counted of an ensemble: sums over pixels, so that parts of an image add up to it."""

    def counted(self, ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None) -> Any:
        """The sums of one block, whose arrays are in memory.

        Parameters
        ----------
        ensemble
            Of the block.
        field
            The block; its truth is known.
        keep
            Where to look; None: everywhere.
        """

    def __add__(self, other: Any) -> Any: ...


Counted = TypeVar("Counted", bound=Sums)


def measure(
    fields: Iterable[Field],
    lookup: Lookup,
    empty: Counted,
    device: str | torch.device = "auto",
    report: Callable[[int], object] | None = None,
) -> Counted:
    """What a lookup's ensemble of fields with ground truth amounts to.

    Parameters
    ----------
    fields
        The lookup must not have learned from them, or its ensemble looks too good.
    lookup
    empty
        The sums of no pixel, to add to.
    device
        Where to combine.
    report
        Called with the number of pixels just finished.

    Returns
    -------
    As ``empty``
        The same for any order and cutting of the pixels.
    """
    found = empty
    for field in fields:
        if has_chunks(field):
            leaf = _Chunk(lookup, empty, field.channel_axis)
            found = found + reduce_chunks(_whole_channels(field), leaf, sum_of, report)
            continue
        for band in bands(field):
            found = found + _counted(band, lookup, empty, device)
            if report is not None:
                report(prod(band.shape))
    return found


def sum_of(parts: Sequence[Counted]) -> Counted:
    """All parts together."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def bands(field: Field) -> list[Field]:
    """Pieces that are worked on in memory, the channel axis whole."""
    return field.bands(max(1, ceil(prod(field.shape) / BLOCK_PIXELS)))


def in_memory(field: Field) -> Field:
    """The same field in numpy arrays of its one working dtype."""
    whole = (slice(None),) * len(field.shape)
    arrays = [read_block(array, whole, field.dtype).reshape(field.shape) for array in field.arrays]
    truth = None if field.truth is None else arrays.pop()
    return Field(tuple(arrays), truth, None, field.channel_axis)


def _counted(field: Field, lookup: Lookup, empty: Counted, device: str | torch.device) -> Counted:
    part = in_memory(field)
    whole = (slice(None),) * len(field.shape)
    mask = field.read_mask(whole)
    keep = None if mask is None else mask.reshape(field.shape)
    ensemble = np.asarray(combine_field(lookup, part, device, as_maps=False))
    counted: Counted = empty.counted(ensemble, part, keep)
    return counted


def _whole_channels(field: Field) -> Field:
    """The same field with the channel axis in one chunk."""
    axis = field.channel_axis
    if axis is None:
        return field
    candidates = [one.rechunk({axis: -1}) if is_dask(one) else one for one in field.candidates]
    truth = field.truth.rechunk({axis: -1}) if is_dask(field.truth) else field.truth
    return Field(tuple(candidates), truth, field.mask, axis)


class _Chunk:
    """Measures one chunk of dask arrays; small, so that it can be sent to where the chunk is read."""

    def __init__(self, lookup: Lookup, empty: Any, axis: int | None) -> None:
        self.lookup, self.empty, self.axis = lookup, empty, axis

    def __call__(self, arrays: Sequence[NDArray[Any]], mask: Any, first_channel: int) -> Any:
        found = self.empty
        for band in bands(Field(tuple(arrays[:-1]), arrays[-1], mask, self.axis)):
            found = found + _counted(band, self.lookup, self.empty, "cpu")
        return found

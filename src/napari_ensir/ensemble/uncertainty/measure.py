"""Goes through images with ground truth and lets what their ensemble amounts to be counted. Counts nothing.

images --bands, chunks--> candidates and ensemble in memory --counted--> sums, which add
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import is_dask, read_block
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.ensemble.statistics.count import has_chunks, reduce_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.combine.lookup import Lookup

__all__ = ["Flat", "Sums", "bands", "flattened", "in_memory", "measure", "sum_of"]

BLOCK_PIXELS = {"cpu": 2**18, "gpu": 2**20}
"""Pixels worked on at once."""

NO_MASK = np.zeros(0, bool)


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


class Flat(NamedTuple):
    """A block as the loops of ``measuring_loop.py`` take it: flat, and number and runs of the channels."""

    candidates: NDArray[np.floating[Any]]
    truth: NDArray[np.floating[Any]]
    ensemble: NDArray[np.float32]
    keep: NDArray[np.bool_]
    channels: tuple[int, int]


def flattened(ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None) -> Flat:
    """A block whose arrays are in memory, in the floats that hold its numbers exactly: 32 bits or 64.

    So the loops are compiled for these two and for no others. A truth that is not known is no pixels.
    """
    arrays = [np.asarray(array) for array in field.arrays]
    exact = np.stack(arrays, dtype=np.result_type(*arrays, np.float32)).reshape(len(arrays), -1)
    n, axis = len(field.candidates), field.channel_axis
    channels = (1, prod(field.shape)) if axis is None else (field.shape[axis], prod(field.shape[axis + 1 :]))
    return Flat(
        exact[:n],
        exact[n:].reshape(-1),
        np.ascontiguousarray(ensemble, np.float32).reshape(-1),
        NO_MASK if keep is None else np.ascontiguousarray(np.broadcast_to(keep, field.shape)).reshape(-1),
        channels,
    )


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
        found = found + _counted_side_by_side(field, lookup, empty, device, report)
    return found


def _counted_side_by_side(
    field: Field,
    lookup: Lookup,
    empty: Counted,
    device: str | torch.device,
    report: Callable[[int], object] | None,
) -> Counted:
    """Where the loops are compiled, so that the threads of one process do not wait for each other."""
    parts: dict[int, Counted] = {}
    total = empty

    def work(band: tuple[int, Field]) -> None:
        parts[band[0]] = _counted(band[1], lookup, empty, device)

    def done(band: tuple[int, Field]) -> None:
        nonlocal total
        total = total + parts.pop(band[0])
        if report is not None:
            report(prod(band[1].shape))

    alone = compiled_loops() is None or resolve_device(device).type != "cpu"
    for_each(enumerate(bands(field, device)), work, done, threads=1 if alone else None)
    return total


def sum_of(parts: Sequence[Counted]) -> Counted:
    """All parts together."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def bands(field: Field, device: str | torch.device = "cpu") -> list[Field]:
    """Pieces that are worked on in memory, the channel axis whole."""
    most = BLOCK_PIXELS["cpu" if resolve_device(device).type == "cpu" else "gpu"]
    return field.bands(max(1, ceil(prod(field.shape) / most)))


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

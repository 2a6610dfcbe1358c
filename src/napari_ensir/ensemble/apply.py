"""Weights on candidates, block by block, into the ensemble or weight maps. Learns nothing.

Bytes that must move: each candidate once in, four per pixel out. Beside input and output only blocks that
fit a core's cache are held.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays import (
    Channels,
    block_size,
    block_slices,
    is_dask,
    is_torch,
    read_block,
    read_tensor,
)
from napari_ensir.ensemble.inputs import Field
from napari_ensir.ensemble.loops import BLOCK_PIXELS, compiled_loops, integer_tables
from napari_ensir.ensemble.memory import sparing_memory
from napari_ensir.ensemble.threads import for_each

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays import Slices
    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lookup import Lookup

__all__ = ["combine_field"]

_NO_IMAGE = np.zeros(0, np.float32)
_NO_MAPS = np.zeros((0, 0), np.float32)


def combine_field(
    lookup: Lookup,
    field: Field,
    device: str | torch.device,
    *,
    as_maps: bool,
    progress: Progress | None = None,
) -> Any:
    """The ensemble of a field, or its weight maps; numpy in, numpy out, and so for torch and dask."""
    if any(is_dask(candidate) for candidate in field.candidates):
        return _combine_dask(lookup, field, device, as_maps)
    if all(is_torch(candidate) for candidate in field.candidates):
        # Tensors stay where they are unless a device is asked for.
        first = field.candidates[0].device
        return _combine_tensors(lookup, field, first if device == "auto" else device, as_maps, progress)
    return _combine_blocks(lookup, field, device, as_maps, progress)


def _combine_blocks(
    lookup: Lookup, field: Field, device: str | torch.device, as_maps: bool, progress: Progress | None
) -> NDArray[np.float32]:
    """Into a numpy array: on the CPU several blocks at once, on an accelerator one after the other."""
    shape = (lookup.n_candidates, *field.shape) if as_maps else field.shape
    result = np.empty(shape, np.float32)
    resolved = resolve_device(device)
    on_cpu = resolved.type == "cpu"
    is_compiled = on_cpu and compiled_loops() is not None and lookup.dense_rows is not None
    total, finished = prod(field.shape), 0

    def done(slices: Slices) -> None:
        nonlocal finished
        finished += block_size(field.shape, slices)
        if progress is not None:
            progress(finished, total, "combining")

    def say(text: str) -> None:
        if progress is not None:
            progress(finished, total, text)

    if is_compiled:
        work = _compiled_work(lookup, field, result, as_maps)
    else:
        work = _torch_work(lookup, field, resolved, result, as_maps, say)
    blocks = block_slices(
        field.shape, BLOCK_PIXELS["compiled" if is_compiled else "cpu" if on_cpu else "gpu"]
    )
    for_each(blocks, work, done, threads=None if on_cpu else 1)
    return result


def _compiled_work(lookup: Lookup, field: Field, result: NDArray[np.float32], as_maps: bool) -> Any:
    loops = compiled_loops()
    binning = lookup.binning
    dtype = field.dtype
    grid = (binning.low, binning.width, binning.n_bins)
    rows, weights = lookup.dense_rows, lookup.all_weights

    def work(slices: Slices) -> None:
        blocks = tuple(read_block(candidate, slices, dtype) for candidate in field.candidates)
        channels = Channels.of_block(field.shape, slices, field.channel_axis)
        runs = (channels.first, channels.count, channels.inner)
        image, maps = _NO_IMAGE, _NO_MAPS
        if as_maps:
            # One row per candidate; a block is contiguous within each, but the rows lie apart.
            maps = np.empty((lookup.n_candidates, blocks[0].size), np.float32)
        else:
            image = _part(result, slices, as_maps=False).reshape(-1)  # blocks are contiguous: a view
        if dtype.kind in "iu":
            offsets, _, smallest = integer_tables(dtype, binning, lookup.n_candidates, lookup.n_channels)
            loops.combine_integers(blocks, offsets, smallest, runs, rows, weights, image, maps)
        else:
            loops.combine_floats(blocks, grid, lookup.n_channels, runs, rows, weights, image, maps)
        if as_maps:
            target = _part(result, slices, as_maps)
            target[...] = maps.reshape(target.shape)

    return work


def _torch_work(
    lookup: Lookup,
    field: Field,
    device: torch.device,
    result: Any,
    as_maps: bool,
    say: Callable[[str], object],
) -> Any:
    def fill(slices: Slices, where: torch.device) -> None:
        target = _part(result, slices, as_maps)
        combined = combine_block(lookup, field, slices, where, as_maps).reshape(target.shape)
        if isinstance(result, np.ndarray):
            target[...] = combined.cpu().numpy()
        else:
            target.copy_(combined)

    return lambda slices: sparing_memory(fill, slices, field.shape, device, say)


def _part(result: Any, slices: Slices, as_maps: bool) -> Any:
    """A block's share of the result, always as a view."""
    return result[(slice(None), *slices, ...) if as_maps else (*slices, ...)]


def combine_block(
    lookup: Lookup, field: Field, slices: Slices, device: torch.device, as_maps: bool
) -> torch.Tensor:
    """One block in torch, on any device: (pixels,) or (M, pixels) float32."""
    import torch

    tensors = [read_tensor(candidate, slices, device) for candidate in field.candidates]
    channels = Channels.of_block(field.shape, slices, field.channel_axis)
    place = torch.arange(len(tensors[0]), device=device)
    channel = channels.first + place.div(channels.inner, rounding_mode="floor") % channels.count
    rows = _rows(lookup, tensors, channel, field.dtype)
    real = torch.float32 if device.type == "mps" else torch.float64
    weights = torch.tensor(lookup.all_weights).to(device=device, dtype=real)
    columns = [weights[:, m].contiguous().index_select(0, rows) for m in range(lookup.n_candidates)]
    if as_maps:
        return torch.stack(columns).to(torch.float32)
    total = torch.zeros(len(channel), dtype=real, device=device)
    for column, tensor in zip(columns, tensors, strict=True):
        total += column * tensor
    return total.to(torch.float32)


def _rows(
    lookup: Lookup, tensors: list[torch.Tensor], channel: torch.Tensor, dtype: np.dtype[Any]
) -> torch.Tensor:
    """Row of the weights for each pixel."""
    import torch

    binning, dense, device = lookup.binning, lookup.dense_rows, channel.device
    if dense is None:
        return lookup.row_of([*(_bins(tensor, binning) for tensor in tensors), channel])
    if dtype.kind in "iu":
        offsets, _, smallest = integer_tables(dtype, binning, lookup.n_candidates, lookup.n_channels)
        tables = torch.tensor(offsets, device=device)
        key = channel.to(torch.int32)
        for table, tensor in zip(tables, tensors, strict=True):
            key = key + table.index_select(0, tensor - smallest)
    else:
        key = torch.zeros_like(channel)
        for tensor in tensors:
            key = key * binning.n_bins + _bins(tensor, binning)
        key = key * lookup.n_channels + channel
    return torch.tensor(dense, device=device).index_select(0, key)


def _bins(values: torch.Tensor, binning: Any) -> torch.Tensor:
    import torch

    real = torch.float32 if values.device.type == "mps" else torch.float64
    place = ((values.to(real) - binning.low) / binning.width).floor().clamp(0, binning.n_bins - 1)
    whole: torch.Tensor = place.nan_to_num(nan=0.0).to(torch.int64)
    return whole


def _combine_tensors(
    lookup: Lookup, field: Field, device: str | torch.device, as_maps: bool, progress: Progress | None
) -> torch.Tensor:
    import torch

    resolved = resolve_device(device)
    if resolved.type == "cpu":
        return torch.from_numpy(_combine_blocks(lookup, field, resolved, as_maps, progress))
    shape = (lookup.n_candidates, *field.shape) if as_maps else field.shape
    result = torch.empty(shape, dtype=torch.float32, device=resolved)
    total, finished = prod(field.shape), 0

    def say(text: str) -> None:
        if progress is not None:
            progress(finished, total, text)

    work = _torch_work(lookup, field, resolved, result, as_maps, say)
    for slices in block_slices(field.shape, BLOCK_PIXELS["gpu"]):
        work(slices)
        finished += block_size(field.shape, slices)
        if progress is not None:
            progress(finished, total, "combining")
    return result


def _combine_dask(lookup: Lookup, field: Field, device: str | torch.device, as_maps: bool) -> Any:
    """A lazy result with the candidates' chunks; the channel axis is kept whole."""
    import dask.array as da

    axis = field.channel_axis
    first = next(candidate for candidate in field.candidates if is_dask(candidate))
    chunks = tuple(
        (n,) if i == axis else c for i, (n, c) in enumerate(zip(field.shape, first.chunks, strict=True))
    )
    arrays = [
        candidate.rechunk(chunks) if is_dask(candidate) else da.from_array(candidate, chunks=chunks)  # type: ignore[no-untyped-call]
        for candidate in field.candidates
    ]

    def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
        combined: NDArray[np.float32] = combine_field(
            lookup, Field(parts, None, None, axis), device, as_maps=as_maps
        )
        return combined

    extra = ((lookup.n_candidates,), *chunks) if as_maps else chunks
    return da.map_blocks(  # type: ignore[no-untyped-call]
        block,
        *arrays,
        dtype=np.float32,
        chunks=extra,
        new_axis=[0] if as_maps else None,
        meta=np.empty((0,) * (len(field.shape) + as_maps), np.float32),
        name=None,
    )

"""Weights on candidates, block by block, into the ensemble or weight maps. Learns nothing.

Bytes that must move: each candidate once in, four per pixel out. Beside input and output only blocks that
fit a core's cache are held.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import (
    Channels,
    block_size,
    block_slices,
    block_start,
    cut_like,
    is_dask,
    is_torch,
    read_block,
)
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads, sparing_memory
from napari_ensir.ensemble.engines import BLOCK_PIXELS, compiled_loops
from napari_ensir.ensemble.statistics.accumulate import bins_of, channel_of, keys_of, read_values

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.combine.lookup import Lookup

__all__ = ["combine_field", "map_chunks"]

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
    limit = BLOCK_PIXELS["compiled" if is_compiled else "cpu" if on_cpu else "gpu"]
    threads = n_threads() if is_compiled else 1  # torch has threads of its own
    for_each(block_slices(field.shape, limit, workers=threads), work, done, threads)
    return result


def _compiled_work(lookup: Lookup, field: Field, result: NDArray[np.float32], as_maps: bool) -> Any:
    loops = compiled_loops()
    dtype = field.dtype
    grid, n_channels = lookup.binning.grid(dtype), lookup.n_channels
    rows, quads = lookup.quads
    image = _NO_IMAGE if as_maps else result.reshape(-1)
    maps = result.reshape(lookup.n_candidates, -1) if as_maps else _NO_MAPS

    def work(slices: Slices) -> None:
        blocks = tuple(read_block(candidate, slices, dtype) for candidate in field.candidates)
        run = Channels.of_block(field.shape, slices, field.channel_axis)
        channels = (run.first, run.count, run.inner)
        start = block_start(field.shape, slices)
        loops.combine(blocks, grid, n_channels, channels, rows, quads, start, image, maps)

    return work


def _torch_work(
    lookup: Lookup,
    field: Field,
    device: torch.device,
    result: Any,
    as_maps: bool,
    say: Callable[[str], object],
) -> Any:
    tables = _Tables(lookup)

    def fill(slices: Slices, where: torch.device) -> None:
        target = _part(result, slices, as_maps)
        combined = combine_block(tables, field, slices, where, as_maps).reshape(target.shape)
        if isinstance(result, np.ndarray):
            target[...] = combined.cpu().numpy()
        else:
            target.copy_(combined)

    return lambda slices: sparing_memory(fill, slices, field.shape, device, say)


def _part(result: Any, slices: Slices, as_maps: bool) -> Any:
    """A block's share of the result, always as a view."""
    return result[(slice(None), *slices, ...) if as_maps else (*slices, ...)]


class _Tables:
    """What torch looks up for every block, brought to each device once."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.on_device: dict[torch.device, tuple[torch.Tensor | None, list[torch.Tensor]]] = {}

    def on(self, device: torch.device) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Row of each bin set, or None where there is one each, or too many; the candidates' weights."""
        import torch

        if device not in self.on_device:
            lookup = self.lookup
            rows, weights = lookup.direct
            columns = list(torch.tensor(weights.T.copy(), device=device))
            self.on_device[device] = (torch.tensor(rows, device=device) if rows.size else None, columns)
        return self.on_device[device]


def combine_block(
    tables: _Tables, field: Field, slices: Slices, device: torch.device, as_maps: bool
) -> torch.Tensor:
    """One block in torch, on any device: (pixels,) or (M, pixels) float32."""
    import torch

    lookup = tables.lookup
    rows, columns = tables.on(device)
    values = read_values(field.candidates, slices, field.dtype, device, as_reals=True)
    channel = channel_of(field, slices, device)
    if lookup.dense_rows is None:
        bins = [bins_of(value, lookup.binning, field.dtype) for value in values]
        key = lookup.row_of([column.to(torch.int64) for column in (*bins, channel)])
    else:
        key = keys_of(values, lookup.binning, field.dtype, channel, lookup.n_channels)
        key = key if rows is None else rows.index_select(0, key)
    chosen = [column.index_select(0, key) for column in columns]
    if as_maps:
        return torch.stack(chosen)
    intensities = [value.to(torch.float32) for value in values]
    total = chosen[0].mul_(intensities[0])
    for weight, intensity in zip(chosen[1:], intensities[1:], strict=True):
        total += weight.mul_(intensity)  # not in one go: the compiled loop rounds twice, too
    low, high = (reduce(bound, intensities) for bound in (torch.minimum, torch.maximum))
    return total.clamp_(low, high)


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
    def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
        combined: NDArray[np.float32] = combine_field(
            lookup, Field(parts, None, None, field.channel_axis), device, as_maps=as_maps
        )
        return combined

    return map_chunks(field, block, lookup.n_candidates if as_maps else None)


def map_chunks(field: Field, block: Callable[..., NDArray[np.float32]], n_maps: int | None = None) -> Any:
    """A lazy float32 result with the candidates' chunks; the channel axis is kept whole.

    Parameters
    ----------
    field
        With a dask array among its candidates; the others are cut alike.
    block
        Given a chunk of each candidate.
    n_maps
        Places along a first axis that the result of ``block`` has beside the candidates'; None: no such axis.
    """
    import dask.array as da

    axis = field.channel_axis
    first = next(candidate for candidate in field.candidates if is_dask(candidate))
    chunks = tuple(
        (n,) if i == axis else c for i, (n, c) in enumerate(zip(field.shape, first.chunks, strict=True))
    )
    arrays = [cut_like(candidate, chunks) for candidate in field.candidates]
    has_maps = n_maps is not None
    return da.map_blocks(  # type: ignore[no-untyped-call]
        block,
        *arrays,
        dtype=np.float32,
        chunks=((n_maps,), *chunks) if has_maps else chunks,
        new_axis=[0] if has_maps else None,
        meta=np.empty((0,) * (len(field.shape) + has_maps), np.float32),
        name=None,
    )

"""Combination of candidates, block by block, into the ensemble or weight maps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial, reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble import engines
from napari_ensir.ensemble.arrays.blocks import (
    Channels,
    as_dask,
    block_size,
    block_slices,
    block_start,
    is_dask,
    is_torch,
    read_block,
)
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads, run_within_memory, running_progress
from napari_ensir.ensemble.engines import choose_engine
from napari_ensir.ensemble.statistics.accumulate import find_bins, find_channels, find_keys, read_values

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.engines import Engine

    Work = Callable[[Slices], None]


def combine_field(
    lookup: Lookup,
    field: Field,
    device: str | torch.device,
    *,
    as_maps: bool,
    progress: Progress | None = None,
) -> Any:
    """Combine a field into its ensemble or its weight maps.

    Parameters
    ----------
    lookup
    field
        Candidates; a ground truth is ignored.
    device
        With ``"auto"``, torch tensors are combined on their device.
    as_maps
        Whether to return the weight maps instead of the ensemble.
    progress
        Called with (pixels done, pixels, text); an exception that it raises stops the work.

    Returns
    -------
    float32 array of the field's shape, or (M, *shape) for weight maps
        A numpy array, torch tensor or lazy dask array, like the candidates.
    """
    if any(is_dask(candidate) for candidate in field.candidates):
        return _combine_dask(lookup, field, device, as_maps)
    are_tensors = all(is_torch(candidate) for candidate in field.candidates)
    if are_tensors and device == "auto":
        device = field.candidates[0].device
    device = resolve_device(device)
    on_cpu = device.type == "cpu" and engines.forced != "torch"
    shape = (lookup.n_candidates, *field.shape) if as_maps else field.shape
    result: Any
    if are_tensors and not on_cpu:
        import torch

        result = torch.empty(shape, dtype=torch.float32, device=device)
    else:
        result = np.empty(shape, np.float32)
    job = _Job(lookup, field, device, as_maps, result)
    report = running_progress(progress, prod(field.shape), "combining")
    work = _cpu_work(job) if on_cpu else _torch_work(job, partial(report, 0))
    threads = n_threads() if on_cpu else 1
    limit = engines.BLOCK_PIXELS["compiled" if device.type == "cpu" else "torch"]
    blocks = block_slices(field.shape, limit, workers=threads)
    for_each(blocks, work, lambda slices, _: report(block_size(field.shape, slices)), threads)
    if are_tensors and on_cpu:
        import torch

        return torch.from_numpy(result)
    return result


@dataclass(frozen=True)
class _Job:
    """One field to combine, and its result."""

    lookup: Lookup
    field: Field
    device: torch.device
    as_maps: bool
    result: Any

    def target(self, slices: Slices) -> Any:
        """Return the part of the result for a block, always as a view."""
        return self.result[(slice(None), *slices, ...) if self.as_maps else (*slices, ...)]


def _cpu_work(job: _Job) -> Work:
    """Return the function that combines a block on the CPU."""
    dtype, n_candidates = job.field.dtype, job.lookup.n_candidates

    @cache
    def work_of(engine: Engine) -> Work:
        return _compiled_work(job) if engine == "compiled" else _numpy_work(job)

    def work(slices: Slices) -> None:
        engine: Engine = "numpy"
        if job.lookup.dense_rows is not None:
            n_values = n_candidates * block_size(job.field.shape, slices)
            engine = choose_engine("combine", dtype, n_values)
        work_of(engine)(slices)

    return work


def _compiled_work(job: _Job) -> Work:
    """Return the compiled function for the CPU, which needs a table with an entry for every bin set."""
    from napari_ensir.ensemble import kernels

    lookup, field, dtype = job.lookup, job.field, job.field.dtype
    grid = lookup.binning.grid(dtype)
    rows, quads = lookup.quads
    nothing = np.zeros(0, np.float32)
    image = nothing if job.as_maps else job.result.reshape(-1)
    maps = job.result.reshape(lookup.n_candidates, -1) if job.as_maps else nothing.reshape(0, 0)

    def work(slices: Slices) -> None:
        blocks = [read_block(candidate, slices, dtype) for candidate in field.candidates]
        run = Channels.of_block(field.shape, slices, field.channel_axis)
        kernels.combine(
            kernels.addresses_of(blocks),
            blocks[0],
            grid,
            lookup.n_channels,
            (run.first, run.count, run.inner),
            rows,
            quads,
            block_start(field.shape, slices),
            image,
            maps,
        )

    return work


def _numpy_work(job: _Job) -> Work:
    """Return the function in numpy for the CPU."""
    lookup, field = job.lookup, job.field
    rows, weights = lookup.direct

    def work(slices: Slices) -> None:
        values = [read_block(candidate, slices, field.dtype) for candidate in field.candidates]
        run = Channels.of_block(field.shape, slices, field.channel_axis)
        channel = np.full(values[0].size, run.first)
        if run.count > 1:
            channel += np.arange(values[0].size) // run.inner % run.count
        columns = [*(lookup.binning.bins(value) for value in values), channel]
        if lookup.dense_rows is None:
            row = lookup.row_of(columns)
        else:
            row = columns[0]
            for column, radix in zip(columns[1:], lookup.index.radices[1:], strict=True):
                row = row * radix + column
            row = rows[row] if rows.size else row
        chosen = weights[row].T
        target = job.target(slices)
        if job.as_maps:
            target[...] = chosen.reshape(target.shape)
            return
        intensities = [value.astype(np.float32) for value in values]
        with np.errstate(invalid="ignore"):  # zero times infinity
            total = chosen[0] * intensities[0]
            for weight, intensity in zip(chosen[1:], intensities[1:], strict=True):
                total += weight * intensity
        low, high = (reduce(bound, intensities) for bound in (np.minimum, np.maximum))
        target[...] = np.minimum(np.maximum(total, low), high).reshape(target.shape)

    return work


def _torch_work(job: _Job, say: Callable[[str], object]) -> Work:
    """Return the function in torch; if the memory of an accelerator is full, the CPU takes over."""
    tables = _TorchTables(job.lookup)

    def fill(slices: Slices, device: torch.device) -> None:
        target = job.target(slices)
        combined = _combine_block(tables, job.field, slices, device, job.as_maps).reshape(target.shape)
        if isinstance(job.result, np.ndarray):
            target[...] = combined.cpu().numpy()
        else:
            target.copy_(combined)

    def work(slices: Slices) -> None:
        run_within_memory(fill, slices, job.field.shape, job.device, say)

    return work


class _TorchTables:
    """The weight tables, copied to each device once."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.on_device: dict[torch.device, tuple[torch.Tensor | None, list[torch.Tensor]]] = {}

    def on(self, device: torch.device) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Return the row of each bin set (None if not needed or too many) and the candidates' weights."""
        import torch

        if device not in self.on_device:
            rows, weights = self.lookup.direct
            columns = list(torch.tensor(weights.T.copy(), device=device))
            self.on_device[device] = (torch.tensor(rows, device=device) if rows.size else None, columns)
        return self.on_device[device]


def _combine_block(
    tables: _TorchTables, field: Field, slices: Slices, device: torch.device, as_maps: bool
) -> torch.Tensor:
    """Combine one block in torch: (pixels,) or (M, pixels) float32."""
    import torch

    lookup = tables.lookup
    rows, columns = tables.on(device)
    values = read_values(field.candidates, slices, field.dtype, device, as_reals=True)
    channel = find_channels(field, slices, device)
    if lookup.dense_rows is None:
        bins = [find_bins(value, lookup.binning, field.dtype) for value in values]
        key = lookup.row_of([column.to(torch.int64) for column in (*bins, channel)])
    else:
        key = find_keys(values, lookup.binning, field.dtype, channel, lookup.n_channels)
        key = key if rows is None else rows.index_select(0, key)
    chosen = [column.index_select(0, key) for column in columns]
    if as_maps:
        return torch.stack(chosen)
    intensities = [value.to(torch.float32) for value in values]
    total = chosen[0].mul_(intensities[0])
    for weight, intensity in zip(chosen[1:], intensities[1:], strict=True):
        total += weight.mul_(intensity)  # rounded twice, as in the compiled kernel; addcmul rounds once
    low, high = (reduce(bound, intensities) for bound in (torch.minimum, torch.maximum))
    return total.clamp_(low, high)


def _combine_dask(lookup: Lookup, field: Field, device: str | torch.device, as_maps: bool) -> Any:
    def block(*parts: NDArray[Any]) -> NDArray[np.float32]:
        combined: NDArray[np.float32] = combine_field(
            lookup, Field(parts, None, None, field.channel_axis), device, as_maps=as_maps
        )
        return combined

    return map_chunks(field, block, lookup.n_candidates if as_maps else None)


def map_chunks(field: Field, block: Callable[..., NDArray[np.float32]], n_maps: int | None = None) -> Any:
    """Return a lazy float32 array: a function applied to each chunk of a field.

    Parameters
    ----------
    field
        At least one candidate is a dask array; the others are split into the same chunks. The channel axis
        is not split.
    block
        Called with one chunk of each candidate.
    n_maps
        Length of the first axis that ``block`` adds to its result. None: it adds no axis.
    """
    import dask.array as da

    axis = field.channel_axis
    first = next(candidate for candidate in field.candidates if is_dask(candidate))
    chunks = tuple(
        (n,) if i == axis else c for i, (n, c) in enumerate(zip(field.shape, first.chunks, strict=True))
    )
    arrays = [as_dask(candidate, chunks) for candidate in field.candidates]
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

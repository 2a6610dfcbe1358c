"""Count the pixels of fields: arrays in memory by threads, dask arrays chunk by chunk.

Each dask task reads and counts one chunk of every array, and the resulting statistics are merged in a tree.
Memory is therefore bounded, and only statistics move between workers. Statistics are sums of integers, so the
result does not depend on the chunks, their order, the number of workers, or the loss of a worker.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import as_dask, block_size, block_slices, is_dask
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads, run_within_memory
from napari_ensir.ensemble.engines import BLOCK_PIXELS, choose_engine
from napari_ensir.ensemble.statistics.accumulate import (
    Accumulator,
    CompiledAccumulator,
    NumpyAccumulator,
    Quantization,
    SortedAccumulator,
    TorchAccumulator,
)
from napari_ensir.ensemble.statistics.statistics import Statistics, merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.parallel import Report
    from napari_ensir.ensemble.statistics.binning import Binning

    Block = tuple[Field, np.dtype[Any], Slices]

DENSE_SUMS = 2**22
"""Maximum number of sums (bin sets times moments) of one table over all possible bin sets."""

FAN_IN = 8
"""Number of results that one task merges."""


def collect(
    fields: Iterable[Field],
    binning: Binning,
    n_candidates: int,
    n_channels: int,
    device: torch.device | None = None,
    report: Report = lambda pixels, text="": None,
    threads: int | None = None,
) -> Statistics:
    """Return the statistics of all pixels of a reference set.

    Parameters
    ----------
    fields
        Images with ground truth, all with the same number of candidates and channels.
    binning
        See :func:`napari_ensir.ensemble.statistics.binning.choose_binning`.
    device
        A torch device; None or the CPU uses the compiled kernels.
    report
        Called with the number of pixels of every finished block, or 0 and a message; an exception that it
        raises stops the pass.
    threads
        Number of CPU threads; None: all that this process may use.

    Returns
    -------
    Statistics
        Identical, bit for bit, for any order and partition of the pixels.
    """
    parts: list[Statistics] = []
    counter = _Counter(binning, n_candidates, n_channels, device, threads, partial(report, 0))

    def blocks() -> Iterator[Block]:
        for field in fields:
            if is_lazy(field):
                parts.append(collect_chunks(field, binning, n_channels, device, report))
            else:
                yield from counter.blocks(field)

    for_each(
        blocks(),
        counter.count,
        lambda block, _: report(block_size(block[0].shape, block[2])),
        counter.threads,
    )
    parts += [accumulator.statistics() for accumulator in counter.made]
    return merge(parts or [Statistics.empty(binning, n_candidates, n_channels)])


class _Counter:
    """Accumulators for each engine, dtype and thread, created on first use and shared by all fields."""

    def __init__(
        self,
        binning: Binning,
        n_candidates: int,
        n_channels: int,
        device: torch.device | None,
        threads: int | None,
        say: Callable[[str], object],
    ) -> None:
        self.shape, self.say = (binning, n_candidates, n_channels), say
        self.is_dense = binning.n_bins**n_candidates * n_channels * n_moments(n_candidates) <= DENSE_SUMS
        on_device = self.is_dense and device is not None and device.type != "cpu"
        self.device = device if on_device else None
        self.threads = 1 if on_device else threads or n_threads()
        self.free: dict[tuple[str, np.dtype[Any]], list[Accumulator]] = {}
        self.made: list[Accumulator] = []

    def blocks(self, field: Field) -> Iterator[Block]:
        limit = BLOCK_PIXELS["compiled" if self.device is None else "torch"]
        if not self.is_dense:
            limit = max(2**12, min(limit, 2**23 // n_moments(self.shape[1])))
        dtype = field.dtype
        for slices in block_slices(field.shape, limit, workers=self.threads):
            yield field, dtype, slices

    def count(self, block: Block) -> None:
        field, dtype, slices = block
        if self.device is None:
            self._add(field, dtype, slices)
            return
        run_within_memory(
            lambda part, device: self._add(field, dtype, part, device),
            slices,
            field.shape,
            self.device,
            self.say,
        )

    def _add(
        self, field: Field, dtype: np.dtype[Any], slices: Slices, device: torch.device | None = None
    ) -> None:
        n_values = len(field.arrays) * block_size(field.shape, slices)
        engine = choose_engine("count", dtype, n_values, device) if self.is_dense else "numpy"
        free = self.free.setdefault((engine, dtype), [])
        try:
            accumulator = free.pop()
        except IndexError:  # asking first would leave time for another thread to take the last one
            accumulator = self._make(engine, dtype)
        try:
            accumulator.add(field, slices)
        finally:
            free.append(accumulator)

    def _make(self, engine: str, dtype: np.dtype[Any]) -> Accumulator:
        quantization = Quantization(*self.shape, dtype)
        made: Accumulator
        if engine == "torch":
            made = TorchAccumulator(quantization, self.device)
        elif engine == "compiled":
            made = CompiledAccumulator(quantization)
        else:
            made = (NumpyAccumulator if self.is_dense else SortedAccumulator)(quantization)
        self.made.append(made)
        return made


def is_lazy(field: Field) -> bool:
    """Return whether at least one array of a field is a dask array."""
    return any(is_dask(array) for array in field.arrays)


def collect_chunks(
    field: Field,
    binning: Binning,
    n_channels: int,
    device: torch.device | None = None,
    report: Report = lambda pixels: None,
) -> Statistics:
    """Return the statistics of a field of dask arrays.

    Parameters
    ----------
    field
        Arrays that are not dask arrays are split into the chunks of the last dask array.
    binning, n_channels
        As for :func:`collect`.
    device
        Device to count on. A worker without such a device counts on its CPU, with the same result.
    report
        Called with the number of pixels of every finished chunk.
    """
    name = None if device is None else str(device)
    count = partial(_count_chunk, binning, n_channels, field.channel_axis, name)
    statistics: Statistics = reduce_chunks(field, count, merge, report)
    return statistics


def collect_bands(
    field: Field,
    edges: Sequence[int],
    axis: int,
    binning: Binning,
    n_channels: int,
    device: torch.device | None = None,
    report: Report = lambda pixels: None,
) -> list[Statistics]:
    """Return the statistics of each band of a field of dask arrays, reading every chunk once.

    Parameters
    ----------
    field, binning, n_channels, device, report
        As for :func:`collect_chunks`.
    edges : B + 1 indices along ``axis``
        Limits of the B bands.
    axis : int
        Any axis except the channel axis.
    """
    name = None if device is None else str(device)
    count = partial(_count_chunk, binning, n_channels, field.channel_axis, name)
    # The indices along the axis are read like one more image, so that a chunk's position is known.
    located = replace(field, candidates=field.arrays, truth=_Indices(field.shape, axis))
    statistics: list[Statistics] = reduce_chunks(
        located, partial(_count_bands, count, tuple(edges), axis, field.channel_axis), _merge_bands, report
    )
    return statistics


class _Indices:
    """Array whose values are the indices along one axis; it takes no memory."""

    dtype = np.dtype(np.int64)

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.shape, self.ndim, self.axis = shape, len(shape), axis

    def __getitem__(self, key: Any) -> NDArray[np.int64]:
        shape = [-1 if a == self.axis else 1 for a in range(self.ndim)]
        indices = np.arange(self.shape[self.axis]).reshape(shape)
        return np.asarray(np.broadcast_to(indices, self.shape)[key])


def reduce_chunks(field: Field, leaf: Callable[..., Any], join: Callable[..., Any], report: Report) -> Any:
    """Compute a result for every chunk of a field of dask arrays, and combine the results in a tree.

    The tasks run on the workers of the active distributed client or, without one, on threads of this process.

    Parameters
    ----------
    field
    leaf
        Called with (arrays, mask, first channel) of a chunk. Picklable, like ``join``.
    join
        Combines a list of results; must be associative.
    report
        Called with the number of pixels of every finished chunk.
    """
    from dask.delayed import delayed

    leaves, sizes = _leaves(field, leaf)
    layer = leaves
    while len(layer) > 1:
        groups = [layer[i : i + FAN_IN] for i in range(0, len(layer), FAN_IN)]
        layer = [
            group[0] if len(group) == 1 else delayed(_join_boxes, pure=False)(join, group) for group in groups
        ]
    pixels = {part.key: size for part, size in zip(leaves, sizes, strict=True)}
    run = _run_on_threads if (client := active_client()) is None else partial(_run_on_workers, client)
    return run(layer[0], leaves, pixels, report).item()


def active_client() -> Any:
    """Return the active distributed client of this process, or None."""
    if "distributed" not in sys.modules:  # no client without the import
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


# -- tasks --


def _count_bands(
    count: Callable[..., Statistics],
    edges: tuple[int, ...],
    axis: int,
    channel_axis: int | None,
    arrays: Sequence[NDArray[Any]],
    mask: Any,
    first_channel: int,
) -> list[Statistics]:
    *images, indices = arrays
    start = int(indices.flat[0])
    stop = start + indices.shape[axis]
    chunk = Field(tuple(images[:-1]), images[-1], mask, channel_axis)
    found = []
    for low, high in pairwise(edges):
        first = min(max(low, start), stop)
        cut = [slice(None)] * indices.ndim
        cut[axis] = slice(first - start, max(first, min(high, stop)) - start)
        part = chunk.part(tuple(cut))
        found.append(count(part.arrays, part.mask, first_channel))
    return found


def _merge_bands(parts: Sequence[list[Statistics]]) -> list[Statistics]:
    return [merge(bands) for bands in zip(*parts, strict=True)]


def _count_chunk(
    binning: Binning,
    n_channels: int,
    axis: int | None,
    device: str | None,
    arrays: Sequence[NDArray[Any]],
    mask: Any,
    first_channel: int,
) -> Statistics:
    part = Field(tuple(arrays[:-1]), arrays[-1], mask, axis)
    here = _local_device(device)
    counted = collect([part], binning, len(arrays) - 1, part.n_channels, here, threads=1)
    rows = counted.rows.copy()
    rows[:, -1] += first_channel
    return replace(counted, rows=rows, n_channels=n_channels)


def _local_device(name: str | None) -> torch.device | None:
    """Return the device of this name; None, for the CPU, if this worker does not have it."""
    try:
        return None if name is None else resolve_device(name)
    except EnsembleError:
        return None


def _leaves(field: Field, leaf: Callable[..., Any]) -> tuple[list[Any], list[int]]:
    """Return a delayed result for every chunk, and the number of pixels of every chunk."""
    import dask.array as da

    arrays, axis, ndim = field.arrays, field.channel_axis, len(field.shape)
    first = next(array for array in reversed(arrays) if is_dask(array))
    axes = tuple(range(ndim))
    operands: list[Any] = [operand for array in arrays for operand in (as_dask(array, first.chunks), axes)]
    if field.mask is not None:
        here = axes if axis is None or len(field.mask.shape) == ndim else axes[:axis] + axes[axis + 1 :]
        operands += [as_dask(field.mask, tuple(first.chunks[i] for i in here)), here]
    if axis is not None:
        starts = np.cumsum([0, *first.chunks[axis][:-1]])
        operands += [da.from_array(starts, chunks=1), (axis,)]
    boxes = da.blockwise(
        _run_leaf,
        axes,
        *operands,
        leaf=leaf,
        layout=(len(arrays), field.mask is not None, axis is not None),
        adjust_chunks=dict.fromkeys(axes, 1),
        align_arrays=False,
        dtype=object,
        meta=np.empty((0,) * ndim, object),
    )
    sizes: Any = reduce(np.multiply.outer, first.chunks, np.ones((), np.int64))
    # Optimized as an array: a chunk is read and counted in one task, so no pixels move between workers.
    return list(boxes.to_delayed(optimize_graph=True).ravel()), sizes.ravel().tolist()


def _run_leaf(*blocks: Any, leaf: Callable[..., Any], layout: tuple[int, bool, bool]) -> NDArray[Any]:
    n_arrays, has_mask, has_channels = layout
    arrays = [np.asarray(block) for block in blocks[:n_arrays]]
    mask = np.asarray(blocks[n_arrays], bool) if has_mask else None
    first_channel = int(blocks[-1][0]) if has_channels else 0
    return _box(leaf(arrays, mask, first_channel), arrays[0].ndim)


def _join_boxes(join: Callable[..., Any], boxes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return _box(join([box.item() for box in boxes]), 0)


def _box(content: Any, ndim: int) -> NDArray[Any]:
    """Wrap an object in an array of shape (1, ..., 1), because chunks of dask arrays are arrays."""
    box = np.empty((1,) * ndim, object)
    box[(0,) * ndim] = content
    return box


# -- schedulers --


def _run_on_threads(root: Any, leaves: list[Any], pixels: dict[Any, int], report: Report) -> NDArray[Any]:
    from dask.callbacks import Callback
    from dask.threaded import get

    def finished(key: Any, *_: Any) -> None:
        if key in pixels:
            report(pixels[key])

    with Callback(posttask=finished):
        result: NDArray[Any] = get(dict(root.__dask_graph__()), root.key, num_workers=n_threads())
    return result


def _run_on_workers(
    client: Any, root: Any, leaves: list[Any], pixels: dict[Any, int], report: Report
) -> NDArray[Any]:
    from distributed import as_completed

    has_one_chunk = root.key in pixels
    whole, *parts = client.compute([root] if has_one_chunk else [root, *leaves], optimize_graph=False)
    try:
        waiting = as_completed(parts)
        del parts  # so that workers release each part once it is merged
        for part in waiting:
            if part.status == "error":
                break  # the root fails with the same error
            report(pixels.get(part.key, 0))
            part.release()
        result: NDArray[Any] = whole.result()
        if has_one_chunk:
            report(pixels[root.key])
    except BaseException:
        client.cancel([whole])
        raise
    return result

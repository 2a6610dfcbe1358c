"""Dask arrays to statistics, chunk by chunk: on this machine's threads, or on a cluster's workers.

A chunk of every array is read and counted in one task, and what it leaves behind are its statistics. They are
merged in a tree, a few at a time, so neither an image nor a pile of statistics is ever held, and between
workers only counts travel. Counts are whole numbers: the sum is the same, bit for bit, for any chunks, any
order and any number of workers, and a task that is run again after its worker died changes nothing.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.blocks import block_size, block_slices, cut_like, is_dask
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads, sparing_memory
from napari_ensir.ensemble.engines import BLOCK_PIXELS, compiled_loops
from napari_ensir.ensemble.statistics.accumulate import CompiledTally, Scale, SparseTally, Tally, TorchTally
from napari_ensir.ensemble.statistics.statistics import Statistics, merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.statistics.binning import Binning

    Block = tuple[Field, np.dtype[Any], Slices]
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Report = Callable[[int], object]
    """Called with the number of pixels just finished; what it raises stops the work."""

__all__ = [
    "DENSE_SUMS",
    "active_client",
    "collect_bands",
    "collect_chunks",
    "count_fields",
    "has_chunks",
    "measure_chunks",
    "reduce_chunks",
]


DENSE_SUMS = 2**22
"""Most sums (bin sets times moments) kept as one table over all bin sets that there can be."""


def count_fields(
    fields: Iterable[Field],
    binning: Binning,
    n_candidates: int,
    n_channels: int,
    device: torch.device | None = None,
    *,
    threads: int | None = None,
    report: Callable[[int], object] = lambda pixels: None,
    say: Callable[[str], object] = lambda text: None,
) -> Statistics:
    """Statistics of the pixels of all fields.

    Parameters
    ----------
    fields
        Taken as threads become free, so there may be any number of them.
    binning, n_candidates, n_channels, device, threads
        As for :func:`napari_ensir.ensemble.statistics.collect.collect`.
    report
        Called with the number of pixels just counted; what it raises stops the work.
    say
        Told, in a few words, when the CPU steps in for an accelerator.
    """
    counter = _Counter(binning, n_candidates, n_channels, device, threads, say)
    for_each(
        counter.blocks(fields),
        counter.count,
        lambda block: report(block_size(block[0].shape, block[2])),
        counter.threads,
    )
    return counter.statistics()


class _Counter:
    """Tallies, one for each thread and dtype, made when first needed and kept from field to field."""

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
        self.device = None if device is None or device.type == "cpu" else device
        self.threads = 1 if self.device is not None else threads or n_threads()
        self.is_dense = binning.n_bins**n_candidates * n_channels * n_moments(n_candidates) <= DENSE_SUMS
        self.free: dict[np.dtype[Any], SimpleQueue[Tally]] = {}
        self.spare: dict[np.dtype[Any], Tally] = {}
        self.made: list[Tally] = []

    def blocks(self, fields: Iterable[Field]) -> Iterator[Block]:
        kind = "gpu" if self.device is not None else "cpu" if compiled_loops() is None else "compiled"
        limit = BLOCK_PIXELS[kind]
        if not self.is_dense:
            limit = max(2**12, min(limit, 2**23 // n_moments(self.shape[1])))
        for field in fields:
            dtype = field.dtype
            if dtype not in self.free:
                self.free[dtype] = SimpleQueue()
                for _ in range(self.threads):
                    self.free[dtype].put(self._tally(dtype, self.device))
            for slices in block_slices(field.shape, limit, workers=self.threads):
                yield field, dtype, slices

    def _tally(self, dtype: np.dtype[Any], device: torch.device | None) -> Tally:
        scale = Scale(*self.shape, dtype)
        loops = compiled_loops() if device is None else None
        tally: Tally
        if not self.is_dense:
            tally = SparseTally(scale, device)
        elif loops is not None:
            tally = CompiledTally(scale, loops)
        else:
            tally = TorchTally(scale, device)
        self.made.append(tally)
        return tally

    def count(self, block: Block) -> None:
        field, dtype, slices = block
        tally = self.free[dtype].get()
        try:
            if self.device is None:
                tally.add(field, slices)
            else:
                sparing_memory(
                    lambda part, device: self._on(device, tally, dtype).add(field, part),
                    slices,
                    field.shape,
                    self.device,
                    self.say,
                )
        finally:
            self.free[dtype].put(tally)

    def _on(self, device: torch.device, tally: Tally, dtype: np.dtype[Any]) -> Tally:
        """The accelerator's tally, or the one of the CPU, which counts what the former has no room for."""
        if device.type != "cpu":
            return tally
        if dtype not in self.spare:
            self.spare[dtype] = self._tally(dtype, None)
        return self.spare[dtype]

    def statistics(self) -> Statistics:
        parts = [tally.statistics() for tally in self.made]
        return merge(parts) if parts else Statistics.empty(*self.shape)


FAN_IN = 8
"""Parts merged by one task."""


def has_chunks(field: Field) -> bool:
    """Whether one of a field's arrays is a dask array."""
    return any(is_dask(array) for array in field.arrays)


def active_client() -> Any:
    """The distributed client that is active in this process, or None."""
    if "distributed" not in sys.modules:  # nobody can have made one
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def collect_chunks(
    field: Field,
    binning: Binning,
    n_channels: int,
    device: torch.device | None = None,
    report: Report | None = None,
) -> Statistics:
    """Statistics of a field of dask arrays; see :func:`napari_ensir.ensemble.statistics.collect.collect`.

    Parameters
    ----------
    field
        Arrays other than dask ones are cut as the ground truth is.
    binning, n_channels
        As for ``collect``.
    device
        Where to count. A worker without such a device counts on its CPU, to the same numbers.
    report
        Called with the pixels of every chunk that is done.
    """
    count = _Count(binning, n_channels, field.channel_axis, None if device is None else str(device))
    statistics: Statistics = reduce_chunks(field, count, merge, report)
    return statistics


def collect_bands(
    field: Field,
    edges: Sequence[int],
    axis: int,
    binning: Binning,
    n_channels: int,
    device: torch.device | None = None,
    report: Report | None = None,
) -> list[Statistics]:
    """Statistics of bands of a field of dask arrays; each chunk is read once, also where a band ends in it.

    Parameters
    ----------
    field, binning, n_channels, device, report
        As for :func:`collect_chunks`.
    edges : B + 1 places along ``axis``
        Where the B bands begin and end.
    axis : int
        Not the channel axis.
    """
    count = _Count(binning, n_channels, field.channel_axis, None if device is None else str(device))
    located = replace(field, candidates=field.arrays, truth=_Places(field.shape, axis))
    found: list[Statistics] = reduce_chunks(
        located, _BandCount(count, tuple(edges), axis), _merge_bands, report
    )
    return found


class _Places:
    """An array whose values are their own places along one axis; it takes no memory."""

    dtype = np.dtype(np.int64)

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.shape, self.ndim, self.axis = shape, len(shape), axis

    def __getitem__(self, key: Any) -> NDArray[np.int64]:
        along = np.arange(self.shape[self.axis]).reshape(
            [-1 if a == self.axis else 1 for a in range(self.ndim)]
        )
        places: NDArray[np.int64] = np.broadcast_to(along, self.shape)[key]
        return places


class _BandCount:
    """Counts each band of one chunk; small, so that it can be sent to where the chunk is read."""

    def __init__(self, count: _Count, edges: tuple[int, ...], axis: int) -> None:
        self.count, self.edges, self.axis = count, edges, axis

    def __call__(self, arrays: Sequence[NDArray[Any]], mask: Any, first_channel: int) -> list[Statistics]:
        *images, places = arrays
        start = int(places.flat[0])
        stop = start + places.shape[self.axis]
        chunk = Field(tuple(images[:-1]), images[-1], mask, self.count.axis)
        found = []
        for low, high in pairwise(self.edges):
            cut = slice(max(low, start) - start, max(max(low, start), min(high, stop)) - start)
            part = chunk.part(
                (*(slice(None),) * self.axis, cut, *(slice(None),) * (places.ndim - self.axis - 1))
            )
            found.append(self.count(part.arrays, part.mask, first_channel))
        return found


def _merge_bands(parts: Sequence[list[Statistics]]) -> list[Statistics]:
    return [merge(each) for each in zip(*parts, strict=True)]


def measure_chunks(
    field: Field,
    measure: Callable[[NDArray[Any]], Any],
    join: Callable[[Sequence[Any]], Any],
    report: Report | None = None,
) -> Any:
    """Measure every array of a field of dask arrays, chunk by chunk.

    Parameters
    ----------
    field
    measure
        Given a flat array of the field's dtype.
    join
        Makes one result of several, in any order and grouping. Both must be fit to be sent to workers.
    report
        Called with the pixels of every chunk that is done.
    """
    return reduce_chunks(field, _Measure(field.dtype, measure, join), join, report)


# -- what a task does ---------------------------------------------------------------------------------


class _Count:
    """Counts one chunk; small, so that it can be sent to where the chunk is read."""

    def __init__(self, binning: Binning, n_channels: int, axis: int | None, device: str | None) -> None:
        self.binning, self.n_channels, self.axis, self.device = binning, n_channels, axis, device

    def __call__(self, arrays: Sequence[NDArray[Any]], mask: Any, first_channel: int) -> Statistics:
        part = Field(tuple(arrays[:-1]), arrays[-1], mask, self.axis)
        counted = count_fields(
            [part], self.binning, len(arrays) - 1, part.n_channels, _device_here(self.device), threads=1
        )
        rows = counted.rows.copy()
        rows[:, -1] += first_channel
        return replace(counted, rows=rows, n_channels=self.n_channels)


def _device_here(name: str | None) -> torch.device | None:
    try:
        return None if name is None else resolve_device(name)
    except EnsembleError:
        return None


class _Measure:
    """Measures one chunk of every array."""

    def __init__(self, dtype: np.dtype[Any], measure: Any, join: Any) -> None:
        self.dtype, self.measure, self.join = dtype, measure, join

    def __call__(self, arrays: Sequence[NDArray[Any]], mask: Any, first_channel: int) -> Any:
        return self.join([self.measure(array.reshape(-1).astype(self.dtype)) for array in arrays])


# -- the tree -----------------------------------------------------------------------------------------


def reduce_chunks(
    field: Field, leaf: Callable[..., Any], join: Callable[..., Any], report: Report | None
) -> Any:
    """One result of every chunk of a field of dask arrays, joined in a tree.

    Parameters
    ----------
    field
    leaf
        Given (arrays, mask, first channel) of one chunk; fit to be sent to workers, as is the other.
    join
        Makes one result of several, in any grouping.
    report
        Called with the pixels of every chunk that is done.
    """
    leaves, sizes = _leaves(field, leaf)
    layer = leaves
    while len(layer) > 1:
        layer = [_joining(join, layer[i : i + FAN_IN]) for i in range(0, len(layer), FAN_IN)]
    pixels = {part.key: size for part, size in zip(leaves, sizes, strict=True)}
    client = active_client()
    run = _run_here if client is None else _run_on_workers
    return run(client, layer[0], leaves, pixels, report).item()


def _joining(join: Callable[..., Any], parts: list[Any]) -> Any:
    from dask.delayed import delayed

    return parts[0] if len(parts) == 1 else delayed(_join_boxes, pure=False)(join, parts)


def _join_boxes(join: Callable[..., Any], boxes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return _boxed(join([box.item() for box in boxes]), 0)


def _boxed(content: Any, ndim: int) -> NDArray[Any]:
    """One object as an array of shape (1, ..., 1): the only thing that dask takes for a chunk."""
    box = np.empty((1,) * ndim, object)
    box[(0,) * ndim] = content
    return box


def _leaves(field: Field, leaf: Callable[..., Any]) -> tuple[list[Any], list[int]]:
    """A delayed result for every chunk, and the chunks' numbers of pixels."""
    import dask.array as da

    arrays, axis, ndim = field.arrays, field.channel_axis, len(field.shape)
    first = next(array for array in reversed(arrays) if is_dask(array))
    axes = tuple(range(ndim))
    operands: list[Any] = [operand for array in arrays for operand in (cut_like(array, first.chunks), axes)]
    if field.mask is not None:
        here = axes if axis is None or len(field.mask.shape) == ndim else axes[:axis] + axes[axis + 1 :]
        operands += [cut_like(field.mask, tuple(first.chunks[i] for i in here)), here]
    if axis is not None:
        starts = np.cumsum([0, *first.chunks[axis][:-1]])
        operands += [da.from_array(starts, chunks=1), (axis,)]
    boxes = da.blockwise(
        _leaf_task,
        axes,
        *operands,
        leaf=leaf,
        layout=(len(arrays), field.mask is not None, axis is not None),
        adjust_chunks=dict.fromkeys(axes, 1),
        align_arrays=False,
        dtype=object,
        meta=np.empty((0,) * ndim, object),
    )
    sizes: Any = np.ones((), np.int64)
    for chunk in first.chunks:
        sizes = np.multiply.outer(sizes, chunk)
    # Optimised as an array: reading and counting a chunk become one task, and no pixel leaves it.
    return list(boxes.to_delayed(optimize_graph=True).ravel()), sizes.ravel().tolist()


def _leaf_task(*blocks: Any, leaf: Callable[..., Any], layout: tuple[int, bool, bool]) -> NDArray[Any]:
    n_arrays, has_mask, has_channels = layout
    arrays = [np.asarray(block) for block in blocks[:n_arrays]]
    mask = np.asarray(blocks[n_arrays], bool) if has_mask else None
    first_channel = int(blocks[-1][0]) if has_channels else 0
    return _boxed(leaf(arrays, mask, first_channel), arrays[0].ndim)


# -- where it runs ------------------------------------------------------------------------------------


def _run_here(
    _client: None, root: Any, leaves: list[Any], pixels: dict[Any, int], report: Report | None
) -> NDArray[Any]:
    from dask.callbacks import Callback
    from dask.threaded import get

    def finished(key: Any, *_: Any) -> None:
        if report is not None and key in pixels:
            report(pixels[key])

    with Callback(posttask=finished):
        result: NDArray[Any] = get(dict(root.__dask_graph__()), root.key, num_workers=n_threads())
    return result


def _run_on_workers(
    client: Any, root: Any, leaves: list[Any], pixels: dict[Any, int], report: Report | None
) -> NDArray[Any]:
    from distributed import as_completed

    alone = root.key in pixels  # one chunk: nothing to merge
    whole, *parts = client.compute([root] if alone else [root, *leaves], optimize_graph=False)
    try:
        waiting = as_completed(parts)
        # From here on nobody but the tree keeps a part: once merged, its worker forgets it.
        del parts
        for part in waiting:
            if part.status == "error":
                break  # the root fails for the same reason, and says it
            if report is not None:
                report(pixels.get(part.key, 0))
            part.release()
        result: NDArray[Any] = whole.result()
        if alone and report is not None:
            report(pixels[root.key])
    except BaseException:
        client.cancel([whole])
        raise
    return result

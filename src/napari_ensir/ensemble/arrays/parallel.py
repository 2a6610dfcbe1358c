"""What to do when an accelerator has no memory left: less at once, then the CPU. Knows no pixels."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from napari_ensir.ensemble.arrays.blocks import block_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from napari_ensir.ensemble.arrays.blocks import Slices

    Item = TypeVar("Item")

__all__ = ["for_each", "n_threads", "sparing_memory"]


SMALLEST = 2**16
"""Pixels of a block that is not halved any more: without room for these the accelerator is of no use."""


def sparing_memory(
    work: Callable[[Slices, torch.device], object],
    slices: Slices,
    shape: tuple[int, ...],
    device: torch.device,
    say: Callable[[str], object],
) -> None:
    """Work on a block; where the device's memory does not suffice, on its halves, at last on the CPU.

    Parameters
    ----------
    work
        Called with a block and a device. It must leave nothing behind when it raises.
    slices, shape
        The block, and the shape of the field it lies in.
    device : torch.device
    say
        Told, in a few words, when the CPU steps in.
    """
    import torch

    try:
        work(slices, device)
        return
    except torch.OutOfMemoryError:
        if device.type == "cpu":
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if block_size(shape, slices) <= SMALLEST:
        say(f"{device} is out of memory: the CPU takes over")
        work(slices, torch.device("cpu"))
        return
    for half in _halves(slices, shape):
        sparing_memory(work, half, shape, device, say)


def _halves(slices: Slices, shape: tuple[int, ...]) -> tuple[Slices, Slices]:
    """The block cut in two across its first axis that has a length: each part is contiguous again."""
    for axis, (part, size) in enumerate(zip(slices, shape, strict=True)):
        start, stop, _ = part.indices(size)
        if stop - start > 1:
            middle = (start + stop) // 2
            return (
                (*slices[:axis], slice(start, middle), *slices[axis + 1 :]),
                (*slices[:axis], slice(middle, stop), *slices[axis + 1 :]),
            )
    raise ValueError("a single pixel cannot be halved")


def n_threads() -> int:
    """CPU threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def for_each(
    items: Iterable[Item],
    work: Callable[[Item], object],
    done: Callable[[Item], object] | None = None,
    threads: int | None = None,
) -> None:
    """Call ``work`` on each item, on several threads; ``done`` afterwards, on the calling thread, in order.

    The first exception, be it of ``work`` or of ``done``, stops the rest and is raised here, once no thread
    is working any more. Items are taken as threads become free, so there may be any number of them.
    """
    threads = n_threads() if threads is None else threads
    source = iter(items)
    head = list(islice(source, 2))
    source = chain(head, source)
    if threads <= 1 or len(head) < 2:  # one item is done sooner than a thread has begun
        for item in source:
            work(item)
            if done is not None:
                done(item)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="napari-ensir") as pool:
        waiting: deque[tuple[Item, object]] = deque()
        try:
            for item in source:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= 2 * threads:
                    _finish(waiting, done)
            while waiting:
                _finish(waiting, done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _finish(waiting: deque, done: Callable | None) -> None:  # type: ignore[type-arg]
    item, future = waiting.popleft()
    future.result()
    if done is not None:
        done(item)

"""Run work on several threads, within an accelerator's memory, and report its progress."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from napari_ensir.ensemble.arrays.blocks import block_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from napari_ensir.ensemble.arrays.blocks import Slices
    from napari_ensir.ensemble.arrays.image_set import Progress

    Report = Callable[..., object]
    """Called with a number of pixels just finished, and a text if another than usual."""
    Item = TypeVar("Item")
    Result = TypeVar("Result")

SMALLEST = 2**16
"""Blocks of at most this many pixels are not halved but processed on the CPU."""


def run_within_memory(
    work: Callable[[Slices, torch.device], object],
    slices: Slices,
    shape: tuple[int, ...],
    device: torch.device,
    say: Callable[[str], object],
) -> None:
    """Process a block; if the device runs out of memory, process its halves, finally on the CPU.

    Parameters
    ----------
    work
        Called with a block and a device. It must have no effect if it raises.
    slices, shape
        The block, and the shape of its field.
    device : torch.device
    say
        Called with a message when the CPU takes over.
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
        run_within_memory(work, half, shape, device, say)


def _halves(slices: Slices, shape: tuple[int, ...]) -> tuple[Slices, Slices]:
    """Halve a block along its first axis longer than one; both halves are contiguous."""
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
    """Return the number of CPU threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def for_each(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    done: Callable[[Item, Result], object] = lambda item, result: None,
    threads: int | None = None,
) -> None:
    """Call ``work`` on each item, on several threads, and ``done`` with its result, on this thread, in order.

    The first exception of ``work`` or ``done`` stops the rest; it is raised when all threads have stopped.
    Items are taken as threads become free, so the iterable may be of any length.
    """
    threads = n_threads() if threads is None else threads
    source = iter(items)
    head = list(islice(source, 2))
    source = chain(head, source)
    if threads <= 1 or len(head) < 2:  # starting a thread takes longer than one item
        for item in source:
            done(item, work(item))
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="napari-ensir") as pool:
        waiting: deque[Any] = deque()

        def finish() -> None:
            item, future = waiting.popleft()
            done(item, future.result())

        try:
            for item in source:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= 2 * threads:
                    finish()
            while waiting:
                finish()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def running_progress(progress: Progress | None, total: int | None, text: str) -> Report:
    """Return a callback that adds up the pixels that it is called with, and reports them.

    Parameters
    ----------
    progress
        Called with (pixels done, pixels, text); an exception that it raises stops the work.
    total
        Number of pixels; None: unknown.
    text

    Examples
    --------
    >>> report = running_progress(print, 100, "counting")
    >>> report(30), report(20, "counting on the CPU")
    30 100 counting
    50 100 counting on the CPU
    (None, None)
    """
    done = 0

    def report(pixels: int, text: str = text) -> None:
        nonlocal done
        done += pixels
        if progress is not None:
            progress(done, max(done, total or 0), text)

    return report


def scaled_progress(
    progress: Progress | None, part: int, n_parts: int, size: int = 1, suffix: str = ""
) -> Progress | None:
    """Return a callback that reports the progress of a part of the work as progress of the whole.

    Parameters
    ----------
    progress
        Callback of the whole, or None.
    part, n_parts
        Index of the part, and number of parts.
    size
        Number of parts that the work spans.
    suffix
        Appended to the text.

    Examples
    --------
    >>> scaled_progress(print, 1, 4, suffix=", part 2 of 4")(5, 10, "counting")
    15 40 counting, part 2 of 4
    """
    if progress is None:
        return None
    return lambda done, total, text: progress(
        part * max(total, 1) + size * done, n_parts * max(total, 1), text + suffix
    )

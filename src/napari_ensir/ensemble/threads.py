"""Runs work on blocks over the CPU's threads, with progress and prompt cancelling."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Item = TypeVar("Item")

__all__ = ["for_each", "n_threads"]


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

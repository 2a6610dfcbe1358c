"""Timing of calls, and the name of the processor."""

from __future__ import annotations

import contextlib
import platform
import random
import statistics
import time
from pathlib import Path


def median_time(work, repeats, *, warm=True):
    """Return median and minimum wall-clock time of a call and its minimum processor time, in seconds.

    The processor time, over all threads, hardly depends on other load.
    """
    if warm:
        work()
    times, busy = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        work()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    return statistics.median(times), min(times), min(busy)


def side_by_side(works, repeats):
    """Time several calls that take turns, so that they meet the same load.

    The order is random in each round, because a call depends on the memory and
    threads that the previous one leaves.
    """
    found = {name: ([], []) for name in works}
    for work in works.values():
        work()
    turns, order = list(works.items()), random.Random(0)
    for _ in range(repeats):
        order.shuffle(turns)
        for name, work in turns:
            start, used = time.perf_counter(), time.process_time()
            work()
            found[name][0].append(time.perf_counter() - start)
            found[name][1].append(time.process_time() - used)
    return {name: (statistics.median(times), min(times), min(busy)) for name, (times, busy) in found.items()}


def processor():
    """Return the name of the processor, if known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

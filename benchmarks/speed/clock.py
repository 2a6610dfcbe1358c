"""Times calls, and says on which machine."""

from __future__ import annotations

import contextlib
import platform
import random
import statistics
import time
from pathlib import Path


def median_time(work, repeats, *, warm=True):
    """Median and least wall-clock time of a call and its least processor time, in seconds.

    The processor time, over all threads, hardly notices what else runs on the machine.
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
    """The same of several calls that take turns, so that all of them meet the same machine.

    In an order drawn anew each time: a call pays for the memory and the threads that the one before it left.
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
    """The processor's name, as far as the machine tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

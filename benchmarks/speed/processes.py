"""Measurements in separate processes: import, first calls, peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from speed.images import synthetic
from speed.report import Report, shown, table


def time_first_calls():
    """Time the first fit and the first image, without and with a cache of compiled loops."""
    code = (
        "import sys, time, numpy as np; from napari_ensir import fit_lut; "
        "y = np.arange(4096, dtype=sys.argv[1]).reshape(64, 64) % 250; c = [y + 1, y + 2, y + 3]; "
        "t = time.process_time(); lut = fit_lut([(c, y)], data_range=(0, 255), device='cpu'); "
        "lut.apply(c, device='cpu'); print(time.process_time() - t)"
    )
    rows = []
    for dtype in ("uint8", "uint16", "float32"):
        with tempfile.TemporaryDirectory() as cache:
            took = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", code, dtype],
                        check=True,
                        capture_output=True,
                        text=True,
                        env={**os.environ, "NUMBA_CACHE_DIR": cache},
                    ).stdout
                )
                for _ in range(2)
            ]
        rows.append([dtype, *map(shown, took)])
    table(
        "First fit and first image of a session, M = 3, processor time",
        ["dtype", "loops not yet compiled on this machine", "compiled before"],
        rows,
    )


def time_import(repeats):
    code = "import time; t = time.perf_counter(); import napari_ensir; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    code = "import sys, napari_ensir; print('torch' in sys.modules, 'numpy' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    table(
        "`import napari_ensir`",
        ["median (least)", "torch, numpy loaded by it"],
        [[f"{shown(statistics.median(times))} ({shown(min(times))})", loaded.strip()]],
    )


def peak():
    """Return peak memory in kilobytes; that of getrusage starts at the parent's."""
    with open("/proc/self/status") as file:
        return int(file.read().partition("VmHWM:")[2].split()[0])


def measure_memory():
    """Return the growth of peak memory by applying a table to a 200-megapixel stack of uint8."""
    from napari_ensir import fit_lut

    few = synthetic((4, 1000, 1000), np.uint8, 255, 1)
    lut = fit_lut([few], device="cpu")
    lut.apply(few[0], device="cpu")
    # Repeated planes, because generating a stack of noise takes eighty times its memory.
    candidates = [np.tile(candidate, (50, 1, 1)) for candidate in few[0]]
    before = peak()
    # Fill memory up to the previous peak first.
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    filler = np.ones(max(0, before - now) * 1024, np.uint8)
    image = lut.apply(candidates, device="cpu")
    grown = (peak() - before) / 1024
    sizes = [sum(c.nbytes for c in candidates) / 2**20, image.nbytes / 2**20, grown]
    print(" | ".join([*(f"{size:.0f} MiB" for size in sizes), f"{grown - sizes[1]:.1f} MiB"]))
    del filler


def show_memory(script):
    """Print the result of :func:`measure_memory` in a new process.

    ``script`` calls it if given ``--memory-only``.
    """
    command = [sys.executable, script, "--memory-only"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        lines = found.stderr.strip().splitlines()
        said = (
            lines[-1] if lines else "the machine ran out of memory" if found.returncode == -9 else "no word"
        )
        Report.say(f"\nThe peak memory was not measured: the process ended with {found.returncode}, {said}.")
        return
    table(
        "Peak memory of apply, 200 x 1000 x 1000 uint8, M = 3",
        ["inputs", "output", "growth of the peak beside the inputs", "of it not the output"],
        [found.stdout.strip().split(" | ")],
    )

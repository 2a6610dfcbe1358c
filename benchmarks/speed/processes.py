"""Measurements in separate processes: import, first calls, peak memory."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from speed.images import MODELS, synthetic
from speed.report import Report, shown, table

LIBRARIES = ("numba", "scipy", "skimage", "torch", "dask", "zarr", "tifffile", "rich", "PIL", "safetensors")

COMMAND = f"""
import sys, time
from napari_ensir.cli.app import app
try:
    app()
finally:
    print(time.process_time(), *[name for name in {LIBRARIES} if name in sys.modules], file=sys.stderr)
"""


def time_commands(images, repeats):
    """Time commands on ten 512 x 384 RGB images in PNG files, with their imports, in new processes."""
    from napari_ensir.files import write_image

    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name, "cache")
        for number, (candidates, truth) in enumerate(images):
            for model, image in zip((*MODELS, "truth"), (*candidates, truth), strict=True):
                (folder / model).mkdir(exist_ok=True)
                write_image(folder / model / f"{number}.png", image[:384, :512])
        given = [part for model in MODELS for part in ("-c", f"{model}={folder / model}")]
        learned, lut = ["-t", str(folder / "truth")], str(folder / "t.lut.safetensors")
        commands = {
            "fit": ["fit", *given, *learned, "-o", lut, "--overwrite", "-q"],
            "fit --without-errors": [
                "fit",
                *given,
                *learned,
                "-o",
                lut,
                "--overwrite",
                "-q",
                "--without-errors",
            ],
            "apply": ["apply", *given, "--lut", lut, "-o", str(folder / "out"), "--overwrite", "-q"],
            "evaluate": ["evaluate", *given, *learned, "--lut", lut, "-q"],
            "compare": ["compare", *given, *learned, "-q"],
            "info": ["info", lut, "-q"],
        }
        took = {key: [] for title in commands for key in ((title, True), (title, False))}
        libraries = {}
        run_command(commands["fit"], None)
        for _ in range(repeats):
            for key in random.sample(list(took), len(took)):
                title, compiled = key
                shutil.rmtree(cache, ignore_errors=True)
                seconds, libraries[title] = run_command(commands[title], None if compiled else cache)
                took[key].append(seconds)
    for compiled, wanted, when in ((True, "2 s", "compiled before"), (False, "5 s", "nothing compiled")):
        times = statistics.median(took["fit", compiled]), min(took["fit", compiled])
        Report.aim(f"`napari-ensir fit`, ten 512 x 384 RGB, {when}, processor time", wanted, times)
    table(
        "Commands on ten 512 x 384 RGB images, M = 3, processor time of the process, median (least)",
        ["command", "compiled before", "nothing compiled on this machine", "libraries that it imports"],
        [
            [
                f"`{title}`",
                *(
                    f"{statistics.median(t):.2f} s ({min(t):.2f})"
                    for t in (took[title, True], took[title, False])
                ),
                ", ".join(libraries[title]),
            ]
            for title in commands
        ],
    )


def run_command(arguments, cache):
    """Return the processor seconds of a command, and the libraries that it imported."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)} if cache else None
    command = [sys.executable, "-c", COMMAND, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    seconds, *libraries = done.stderr.splitlines()[-1].split()
    return float(seconds), libraries


def time_first_calls():
    """Time the first fit and the first image, without and with a cache of compiled loops."""
    code = (
        "import sys, time, numpy as np; from napari_ensir import fit_lut; "
        "rng = np.random.default_rng(0); y = rng.uniform(0, 250, (512, 512, 3)).astype(sys.argv[1]); "
        "c = [np.clip(y + rng.normal(0, n, y.shape), 0, 255).astype(y.dtype) for n in (2, 4, 6)]; "
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
        "First fit and first image of a session, 512 x 512 RGB, M = 3, processor time",
        ["dtype", "nothing compiled on this machine", "the same again"],
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

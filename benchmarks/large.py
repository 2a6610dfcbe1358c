"""Memory and time on data larger than memory, for benchmarks/large.md.

    python benchmarks/large.py memory --gigabytes 4 40
    python benchmarks/large.py growth --gigabytes 1 2 4 --workers 1 2
    python benchmarks/large.py files --pairs 1000 10000

Each figure is measured in a separate process. The data are two candidates and a ground truth, uint16, in Zarr
arrays of 1024 x 1024 chunks: eight different chunks each, the others are hard links to them. Readers still
read the full size. ``files`` measures the command line on folders of PNG files of 16 x 16, made the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

SIDE, PLANE, DISTINCT = 1024, 4096, 8
NAMES = ("near", "far", "truth")


def make(folder: Path, gigabytes: float) -> None:
    """Make candidates and truth of this total size, in decimal gigabytes."""
    import zarr

    planes = max(1, round(gigabytes * 1e9 / (len(NAMES) * PLANE * PLANE * 2)))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for name, noise in zip(NAMES, (60, 180, 0), strict=True):
        array = zarr.create_array(
            str(folder / f"{name}.zarr"), shape=(planes, PLANE, PLANE), chunks=(1, SIDE, SIDE), dtype="uint16"
        )
        files = []
        for number in range(DISTINCT):
            truth = 2000 + 1500 * np.sin((3 + number) * x) * np.cos((2 + number) * y) + 3000 * (x * y > 0.5)
            noisy = truth + rng.normal(0, noise, truth.shape) * np.sqrt(truth / 2000) if noise else truth
            place = np.unravel_index(number, array.cdata_shape)
            array.blocks[place] = np.rint(np.clip(noisy, 0, 65535)).astype(np.uint16)[None]
            files.append(folder / f"{name}.zarr" / "c" / "/".join(map(str, place)))
        for number, place in enumerate(product(*map(range, array.cdata_shape))):
            target = folder / f"{name}.zarr" / "c" / "/".join(map(str, place))
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(files[number % DISTINCT], target)


class Nowhere:
    """Target that discards blocks, so that the disk is not measured."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


def received(dask_worker: Any) -> int:
    """Return the bytes that a worker received from other workers."""
    return sum(each["total"] for each in dask_worker.transfer_incoming_log)


def one(folder: Path, task: str, workers: int) -> dict[str, object]:
    """Run one task and measure it."""
    import dask.array as da

    from napari_ensir import fit_lut
    from napari_ensir.ensemble.precompile import warm_up
    from napari_ensir.files import read_image

    near, far, truth = (read_image(folder / f"{name}.zarr") for name in NAMES)
    size = near.nbytes + far.nbytes + truth.nbytes
    crop = (slice(1), slice(SIDE), slice(SIDE))

    def fit(part: tuple = (), **how: object):
        arrays = [array[part] for array in (near, far, truth)]
        return fit_lut([(arrays[:2], arrays[2])], NAMES[:2], method="least-squares", device="cpu", **how)

    warm_up([np.uint16])
    small = fit(crop)  # apply uses this table
    cluster = None
    if workers:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
        fit((slice(workers), slice(None), slice(None)))
        before = sum(client.run(time.process_time).values())
        moved = sum(client.run(received).values()) / 1e6
    start = time.perf_counter()
    result: dict[str, object] = {}
    if task == "fit":
        lut = fit()
        result["statistics_bytes"] = lut.report["statistics_bytes"]
        result["bin_sets"] = len(lut.rows)
        # The data repeat, so the weights must not depend on their size.
        result["weights"] = np.round(lut.weights[np.argsort(lut.counts)[-3:]], 6).tolist()
    elif task == "apply":
        da.store(small.apply([near, far], device="cpu"), Nowhere(), lock=False)
    else:
        da.store(small.weight_maps([near, far], device="cpu"), Nowhere(), lock=False)
    result |= {
        "task": task,
        "workers": workers,
        "gigabytes": round(size / 1e9, 2),
        "gigavoxels": near.size / 1e9,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if cluster is not None:
        result["processor_seconds"] = round(sum(client.run(time.process_time).values()) - before, 1)
        result["moved_mb"] = round(sum(client.run(received).values()) / 1e6 - moved, 2)
        client.close()
        cluster.close()
    return result


def measured(folder: Path, task: str, workers: int = 0) -> dict[str, object]:
    command = [sys.executable, __file__, "one", str(folder), task, str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def make_files(folder: Path, n: int) -> None:
    """Make folders of small 8-bit images: fifty different ones, and hard links to them."""
    from skimage.io import imsave

    rng = np.random.default_rng(0)
    for name, noise in zip(NAMES, (3, 9, 0), strict=True):
        (folder / name).mkdir()
        for number in range(n):
            path = folder / name / f"{number:05d}.png"
            if number >= 50:
                os.link(folder / name / f"{number % 50:05d}.png", path)
                continue
            truth = (np.add.outer(np.arange(16), np.arange(16)) * 6 + number) % 200
            noisy = truth + rng.normal(0, noise, truth.shape)
            imsave(path, np.clip(noisy, 0, 255).astype(np.uint8), check_contrast=False)


def files(numbers: list[int]) -> None:
    print(
        "| command | pairs of files | seconds | processor seconds | peak memory, MB |\n|---|---|---|---|---|"
    )
    for n in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_files(folder, n)
            candidates = [part for one in NAMES[:2] for part in ("-c", f"{one}={folder / one}")]
            table, learned = str(folder / "t.lut.safetensors"), ["-t", str(folder / "truth")]
            for label, arguments in {
                "fit --without-errors": ["fit", *learned, "--without-errors", "--out", table],
                "fit": ["fit", *learned, "--overwrite", "--out", table],
                "apply": ["apply", "--lut", table, "--out", str(folder / "out")],
            }.items():
                print(f"| `{label}` | {n:,} | {command_line([*arguments, *candidates])} |", flush=True)


def command_line(arguments: list[str]) -> str:
    """Return seconds, processor seconds and peak memory of a command, as cells of a table."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_ensir.cli", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"napari-ensir {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}.")
    seconds = time.perf_counter() - start
    return f"{seconds:.1f} | {used.ru_utime + used.ru_stime:.1f} | {used.ru_maxrss / 1024:.0f}"


def memory(sizes: list[float]) -> None:
    print("| task | data, GB | seconds | peak memory, MB | statistics, MB |\n|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), size)
            for task in ("fit", "apply", "weight maps"):
                row = measured(Path(name), task)
                kept = f"{row['statistics_bytes'] / 1e6:.2f}" if task == "fit" else ""
                print(
                    f"| {task} | {row['gigabytes']} | {row['seconds']} | {row['peak_mb']} | {kept} |",
                    flush=True,
                )


def growth(sizes: list[float], workers: list[int], plot: Path | None) -> None:
    print(
        "| worker processes | data, GB | seconds to fit | seconds per gigavoxel "
        "| processor seconds per gigavoxel | MB between workers |\n|---|---|---|---|---|---|"
    )
    lines: dict[int, list[tuple[float, float]]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), size)
            for n in workers:
                row = measured(Path(name), "fit", n)
                gigabytes, seconds = float(row["gigabytes"]), float(row["seconds"])
                lines.setdefault(n, []).append((gigabytes, float(row["processor_seconds"])))
                each = (f"{value / float(row['gigavoxels']):.0f}" for value in (seconds, lines[n][-1][1]))
                cells = map(str, (n, gigabytes, seconds, *each, row["moved_mb"]))
                print(f"| {' | '.join(cells)} |", flush=True)
    if plot is not None:
        draw(lines, plot)


def draw(lines: dict[int, list[tuple[float, float]]], plot: Path) -> None:
    """Plot processor time, which other load on the machine hardly changes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for n, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{n} worker{'s' * (n > 1)}")
    axes.set(xlabel="data, GB", ylabel="processor seconds to fit", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.savefig(plot, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("memory", "growth"):
        command = commands.add_parser(name)
        command.add_argument(
            "--gigabytes", type=float, nargs="+", default=[4, 40] if name == "memory" else [1, 2, 4]
        )
        if name == "growth":
            command.add_argument("--workers", type=int, nargs="+", default=[1, 2])
            command.add_argument("--plot", type=Path)
    commands.add_parser("files").add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000])
    single = commands.add_parser("one")
    single.add_argument("folder", type=Path)
    single.add_argument("task")
    single.add_argument("workers", type=int)
    chosen = parser.parse_args()
    if chosen.command == "one":
        print(json.dumps(one(chosen.folder, chosen.task, chosen.workers)))
    elif chosen.command == "files":
        files(chosen.pairs)
    elif chosen.command == "memory":
        memory(chosen.gigabytes)
    else:
        growth(chosen.gigabytes, chosen.workers, chosen.plot)


if __name__ == "__main__":
    main()

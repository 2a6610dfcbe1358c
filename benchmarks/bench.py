"""Times of the numerical core, beside the EnsIR authors' own functions where a checkout of them is given.

    python benchmarks/bench.py [AUTHORS_CHECKOUT] [--reference FOLDER] [--repeats N]

Prints markdown tables to paste into ``benchmarks/README.md``. The images are the deraining set of the
reference folder, tiled to 1280 x 720; synthetic ones of that size where the folder is absent. Nothing of the
authors' code is part of this script: their modules are imported from the checkout, with stand-ins for the
drawing and image-reading libraries that the functions timed here do not use.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from datetime import date
from pathlib import Path

import numpy as np

TIMES = "median (least; processor)"
MODELS = ("MPRNet", "MAXIM", "Restormer")


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


def reference_images(folder):
    """Ten RGB images of 1280 x 720 with the predictions of three models."""
    if folder is None or not (folder / "deraining" / "gt").is_dir():
        print("The reference data is absent: synthetic images instead.\n")
        return [synthetic((720, 1280, 3), np.uint8, 255, seed) for seed in range(10)]
    from skimage.io import imread

    def read(kind, stem):
        image = imread(next((folder / "deraining" / kind).glob(f"{stem}.*")))
        return np.tile(image, (2, 3, 1))[:720, :1280].copy()

    stems = sorted(path.stem for path in (folder / "deraining" / "gt").iterdir())
    return [([read(model, stem) for model in MODELS], read("gt", stem)) for stem in stems]


def synthetic(shape, dtype, high, seed):
    """A smooth truth and three candidates with noise of their own."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    sigma = [8 if size > 8 else 0 for size in shape]
    truth = gaussian_filter(rng.normal(size=shape).astype(np.float32), sigma)
    truth = (truth - truth.min()) / (truth.max() - truth.min()) * 0.7 * high + 0.05 * high
    noisy = [truth + rng.normal(0, scale * high, shape) for scale in (0.005, 0.01, 0.02)]
    *candidates, truth = (np.rint(image).clip(0, high).astype(dtype) for image in (*noisy, truth))
    return candidates, truth


def average_of(candidates):
    """Plain averaging of three uint8 candidates into float32, without temporaries beside the result."""
    total = np.add(candidates[0], candidates[1], dtype=np.float32)
    for candidate in candidates[2:]:
        np.add(total, candidate, out=total)
    return np.multiply(total, np.float32(1 / len(candidates)), out=total)


class Authors:
    """The EnsIR authors' functions, on the tensors that they expect."""

    def __init__(self, checkout):
        for name in ("cv2", "matplotlib", "matplotlib.pyplot", "torchvision", "torchvision.transforms"):
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
        metrics = types.ModuleType("compute_psnr")
        metrics.compute_metrics = None
        sys.modules.setdefault("compute_psnr", metrics)
        sys.path.insert(0, str(checkout))
        import ensemble_util

        self.code = ensemble_util

    @staticmethod
    def tensor(images):
        """Candidates as the float tensor that they expect."""
        import torch

        return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32))

    def fit(self, images, width):
        """Their table for a reference set."""
        stacks = [np.stack([*c, t]).transpose(0, 3, 1, 2).reshape(4, 3, -1) for c, t in images]
        import torch

        stack = torch.from_numpy(np.concatenate(stacks, axis=-1)).float()
        with tempfile.TemporaryDirectory() as folder:
            return self.code.compute_ensemble_weight(
                stack[:-1], stack[-1:], str(Path(folder) / "w.pth"), width, False
            )

    def apply(self, weights, candidates, width):
        """Their ensemble of one image."""
        return self.code.ensemble_single(weights, candidates, width)


@contextlib.contextmanager
def torch_engine():
    """Compute without the compiled loops, as where numba is not installed."""
    from napari_ensir.ensemble import apply, counting, em

    kept = counting.compiled_loops
    for module in (apply, counting, em):
        module.compiled_loops = lambda: None
    try:
        yield
    finally:
        for module in (apply, counting, em):
            module.compiled_loops = kept


def table(title, header, rows):
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def both(times):
    return f"{shown(times[0])} ({shown(times[1])}; {shown(times[2])})"


def ratio(times, to):
    return f"{times[0] / to[0]:.3g} ({times[1] / to[1]:.3g}; {times[2] / to[2]:.3g})"


def time_fit(images, authors, repeats):
    from napari_ensir import fit_lut

    def fit(method="em"):
        return fit_lut(images, MODELS, method, bin_width=32, channel_axis=-1, device="cpu")

    ours = median_time(fit, repeats)
    rows = [["em, compiled loops", both(ours), ""]]
    rows.append(["em-released", both(median_time(lambda: fit("em-released"), repeats)), ""])
    rows.append(["least-squares", both(median_time(lambda: fit("least-squares"), repeats)), ""])
    with torch_engine():
        rows.append(["em, torch alone", both(median_time(fit, 1)), ""])
    weights = []
    if authors is not None:
        theirs = median_time(lambda: weights.append(authors.fit(images, 32)), 1, warm=False)
        rows.append(["the authors' code, once", both(theirs), ratio(theirs, ours) + " x em"])
    table("Fit, ten 1280 x 720 RGB images, M = 3, b = 32", ["what", TIMES, "ratio"], rows)
    return weights[0] if weights else None


def time_apply(images, authors, weights, repeats):
    from napari_ensir import fit_lut

    candidates = images[0][0]
    average = median_time(lambda: average_of(candidates), repeats)
    rows = [["plain averaging of the candidates", both(average), "1", ""]]
    for width in (32, 16, 8):
        lut = fit_lut(images[:4], MODELS, bin_width=width, channel_axis=-1, device="cpu")
        ours = median_time(lambda lut=lut: lut.apply(candidates, device="cpu"), repeats)
        row = [f"ensemble, b = {width}", both(ours), ratio(ours, average), ""]
        if authors is not None and width == 32:
            tensor = authors.tensor(candidates)
            theirs = median_time(lambda t=tensor: authors.apply(weights, t, 32), 3)
            row[3] = f"{both(theirs)}: {ratio(theirs, ours)} x ours"
        rows.append(row)
        if width == 32:
            maps = median_time(lambda lut=lut: lut.weight_maps(candidates, device="cpu"), repeats)
            rows.append(["weight maps, b = 32", both(maps), ratio(maps, average), ""])
            with torch_engine():
                slow = median_time(lambda lut=lut: lut.apply(candidates, device="cpu"), 3)
            rows.append(["ensemble, b = 32, torch alone", both(slow), ratio(slow, average), ""])
    table(
        "Apply, one 1280 x 720 RGB image, M = 3",
        ["what", TIMES, "averagings", "the authors' code"],
        rows,
    )


def time_refit(images, repeats):
    from napari_ensir.ensemble.bins import choose_binning
    from napari_ensir.ensemble.fit import collect_reference, estimate_lut

    candidates, truth = images[0]
    square = [np.tile(image, (2, 1, 1))[:1000, :1000].copy() for image in (*candidates, truth)]
    kept = collect_reference(
        [(square[:-1], square[-1])], MODELS, bin_width=32, channel_axis=-1, device="cpu", refine=4
    )
    rows = []
    for method in ("em", "em-released", "least-squares"):
        times = []
        for width in (8, 16, 32, 64):
            binning = choose_binning(np.uint8, (0, 255), width)
            work = median_time(lambda b=binning, m=method: estimate_lut(kept, m, binning=b), repeats)
            times.append(both(work))
        rows.append([method, *times])
    table(
        "Change of method or width after a fit, 1 megapixel RGB, from statistics kept at b = 8",
        ["method", "b = 8", "b = 16", "b = 32", "b = 64"],
        rows,
    )


def time_sixteen_bit(repeats):
    from napari_ensir import fit_lut

    candidates, truth = synthetic((3200, 3200), np.uint16, 60000, 0)
    image = median_time(lambda: fit_lut([(candidates, truth)], device="cpu"), repeats)
    lut = fit_lut([(candidates, truth)], device="cpu")
    applied = median_time(lambda: lut.apply(candidates, device="cpu"), repeats)
    floats = [c.astype(np.float32) for c in candidates], truth.astype(np.float32)
    wide = median_time(lambda: fit_lut([floats], device="cpu"), 1)
    average = median_time(lambda: average_of(candidates), repeats)
    table(
        "One 3200 x 3200 field (10.2 megapixels), M = 3, 8 bins",
        ["what", TIMES],
        [
            ["fit, em, uint16", both(image)],
            ["fit, em, float32", both(wide)],
            ["apply, uint16", both(applied)],
            ["plain averaging, uint16", both(average)],
        ],
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


def measure_memory():
    """Growth of the peak resident size over an apply of a 200-megapixel stack of uint8."""
    from napari_ensir import fit_lut

    candidates, truth = synthetic((200, 1000, 1000), np.uint8, 255, 1)
    lut = fit_lut([([c[:4] for c in candidates], truth[:4])], device="cpu")
    lut.apply([c[:4] for c in candidates], device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The peak may lie behind us: fill up to it first.
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    filler = np.ones(max(0, before - now) * 1024, np.uint8)
    image = lut.apply(candidates, device="cpu")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    table(
        "Peak memory of apply, 200 x 1000 x 1000 uint8, M = 3",
        ["inputs", "output", "growth of the peak beside the inputs", "of it not the output"],
        [
            [
                f"{sum(c.nbytes for c in candidates) / 2**20:.0f} MiB",
                f"{image.nbytes / 2**20:.0f} MiB",
                f"{grown:.0f} MiB",
                f"{grown - image.nbytes / 2**20:.1f} MiB",
            ]
        ],
    )
    del filler


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("authors", nargs="?", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--reference", type=Path, default=os.environ.get("NAPARI_ENSIR_REFERENCE"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--memory-only", action="store_true", help="only the peak memory, in a process of its own"
    )
    options = parser.parse_args()
    if options.memory_only:
        measure_memory()
        return
    here = Path(__file__).resolve().parents[1]
    reference = Path(options.reference) if options.reference else here.parent / "shared" / "reference"
    import torch

    print(f"Date: {date.today().isoformat()}  ")
    print(
        f"Machine: {platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, ", end=""
    )
    print(f"numpy {np.__version__}, torch {torch.__version__}  ")
    print(f"Command: `python benchmarks/bench.py{' AUTHORS_CHECKOUT' if options.authors else ''}`")
    images = reference_images(reference)
    authors = Authors(options.authors) if options.authors else None
    time_import(5)
    weights = time_fit(images, authors, max(3, options.repeats // 3))
    time_apply(images, authors, weights, options.repeats)
    time_refit(images, max(3, options.repeats // 3))
    time_sixteen_bit(max(1, options.repeats // 5))
    memory = subprocess.run(
        [sys.executable, __file__, "--memory-only"], check=True, capture_output=True, text=True
    )
    print(memory.stdout, end="")


if __name__ == "__main__":
    main()

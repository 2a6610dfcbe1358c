"""Times of the numerical core, beside the EnsIR authors' own functions where a checkout of them is given.

    python benchmarks/bench.py [AUTHORS_CHECKOUT] [--reference FOLDER] [--repeats N] [--write]

Prints markdown tables; ``--write`` puts them into ``benchmarks/README.md`` as well, between its two marks,
with machine, date and what was aimed at. The images are the deraining set of the
reference folder, tiled to 1280 x 720; synthetic ones of that size where the folder is absent. Nothing of the
authors' code is part of this script: their modules are imported from the checkout, with stand-ins for the
drawing and image-reading libraries that the functions timed here do not use.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np

TIMES = "median (least; processor)"
PAGE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- bench.py writes from here -->\n", "<!-- to here -->\n"
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
    from napari_ensir.ensemble import apply, counting, data_range, em

    modules = (apply, counting, data_range, em)
    kept = counting.compiled_loops
    for module in modules:
        module.compiled_loops = lambda: None
    try:
        yield
    finally:
        for module in modules:
            module.compiled_loops = kept


class Report:
    """What is printed, kept to be written, and what of it was aimed at."""

    lines: ClassVar[list[str]] = []
    aims: ClassVar[list[list[str]]] = []

    @classmethod
    def say(cls, text):
        """Print a line and keep it."""
        print(text, flush=True)
        cls.lines.append(text)

    @classmethod
    def aim(cls, work, wanted, times, as_ratio_to=None):
        """Keep a figure that something was aimed at: seconds, or a ratio, of median and least time."""
        found = both_of(times) if as_ratio_to is None else ratio(times, as_ratio_to)
        cls.aims.append([work, wanted, found])


def table(title, header, rows):
    Report.say(f"\n### {title}\n")
    Report.say("| " + " | ".join(header) + " |")
    Report.say("|" + "---|" * len(header))
    for row in rows:
        Report.say("| " + " | ".join(row) + " |")


def write_page(page, text):
    """Put a text between a page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{page} has no lines {BEGIN.strip()!r} and {END.strip()!r}; nothing was written.")
    page.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


def processor():
    """The processor's name, as far as the machine tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def both_of(times):
    """Median and least alone."""
    return f"{shown(times[0])} ({shown(times[1])})"


def both(times):
    return f"{shown(times[0])} ({shown(times[1])}; {shown(times[2])})"


def ratio(times, to):
    return f"{times[0] / to[0]:.3g} ({times[1] / to[1]:.3g}; {times[2] / to[2]:.3g})"


def time_fit(images, authors, repeats):
    from napari_ensir import fit_lut

    def fit(method="em"):
        return fit_lut(images, MODELS, method, bin_width=32, channel_axis=-1, device="cpu")

    methods = {"em, compiled loops": "em", "em-released": "em-released", "least-squares": "least-squares"}
    times = side_by_side({name: lambda m=m: fit(m) for name, m in methods.items()}, repeats)
    rows = [[name, both(took), ""] for name, took in times.items()]
    with torch_engine():
        alone = median_time(fit, max(2, repeats // 3))
    rows.append(["em, torch alone", both(alone), ""])
    Report.aim("fit of the ten, torch alone", "0.8 s", alone)
    weights = []
    if authors is not None:
        theirs = median_time(lambda: weights.append(authors.fit(images, 32)), 1, warm=False)
        ours = times["em, compiled loops"]
        rows.append(["the authors' code, once", both(theirs), ratio(theirs, ours) + " x em"])
        Report.aim("fit of the ten, em, times as fast as the authors' code", "600", theirs, ours)
    table("Fit, ten 1280 x 720 RGB images, M = 3, b = 32", ["what", TIMES, "ratio"], rows)
    return weights[0] if weights else None


def time_apply(images, authors, weights, repeats):
    import torch

    from napari_ensir import fit_lut

    candidates = images[0][0]
    stack = torch.from_numpy(np.stack(candidates))
    luts = {
        width: fit_lut(images[:4], MODELS, bin_width=width, channel_axis=-1, device="cpu")
        for width in (32, 16, 8)
    }
    works = {"averaging, torch": lambda: stack.to(torch.float32).mean(0)}
    works["averaging, numpy"] = lambda: average_of(candidates)
    for width, lut in luts.items():
        works[f"ensemble, b = {width}"] = lambda lut=lut: lut.apply(candidates, device="cpu")
    works["weight maps, b = 32"] = lambda: luts[32].weight_maps(candidates, device="cpu")
    times = side_by_side(works, repeats)
    with torch_engine():
        times["ensemble, b = 32, torch alone"] = median_time(
            lambda: luts[32].apply(candidates, device="cpu"), max(3, repeats // 3)
        )
    average = times["averaging, torch"]
    for width in luts:
        Report.aim(
            f"apply, b = {width}, of torch's averaging", "1.3", times[f"ensemble, b = {width}"], average
        )
    Report.aim("weight maps, of torch's averaging", "2", times["weight maps, b = 32"], average)
    Report.aim("apply, torch alone", "25 ms", times["ensemble, b = 32, torch alone"])
    rows = [[name, both(took), ratio(took, average), ""] for name, took in times.items()]
    if authors is not None:
        tensor = authors.tensor(candidates)
        theirs = median_time(lambda: authors.apply(weights, tensor, 32), 3)
        rows[2][3] = f"{both(theirs)}: {ratio(theirs, times['ensemble, b = 32'])} x ours"
    table(
        "Apply, one 1280 x 720 RGB image, M = 3",
        ["what", TIMES, "of torch's averaging", "the authors' code"],
        rows,
    )


def time_refit(images, repeats):
    from napari_ensir.ensemble.bins import choose_binning
    from napari_ensir.ensemble.reference import collect_reference
    from napari_ensir.ensemble.tabulate import estimate_lut

    kept = collect_reference(images, MODELS, bin_width=32, channel_axis=-1, device="cpu", refine=4)
    rows = []
    for method in ("em", "em-released", "least-squares"):
        times = []
        for width in (8, 16, 32, 64):
            binning = choose_binning(np.uint8, (0, 255), width)
            work = median_time(lambda b=binning, m=method: estimate_lut(kept, m, binning=b), repeats)
            times.append(both(work))
            if (method, width) == ("em", 8):
                Report.aim("b = 8, em, from statistics kept", "50 ms", work)
        rows.append([method, *times])
    sets = [len(kept.statistics.coarsened(factor).rows) for factor in (1, 2, 4, 8)]
    table(
        "Change of method or width after a fit of the ten images, from statistics kept at b = 8",
        ["method", *(f"b = {8 * 2**k}, {n:,} bin sets" for k, n in enumerate(sets))],
        rows,
    )


def time_sixteen_bit(repeats):
    from napari_ensir import fit_lut

    candidates, truth = synthetic((3200, 3200), np.uint16, 60000, 0)
    floats = [c.astype(np.float32) for c in candidates], truth.astype(np.float32)
    lut = fit_lut([(candidates, truth)], device="cpu")
    times = side_by_side(
        {
            "averaging, uint16, numpy": lambda: average_of(candidates),
            "apply, uint16": lambda: lut.apply(candidates, device="cpu"),
            "apply, float32": lambda: lut.apply(floats[0], device="cpu"),
            "fit, em, uint16": lambda: fit_lut([(candidates, truth)], device="cpu"),
            "fit, em, float32": lambda: fit_lut([floats], device="cpu"),
        },
        repeats,
    )
    average = times["averaging, uint16, numpy"]
    Report.aim("apply, uint16, 10 megapixels, of numpy's averaging", "0.6", times["apply, uint16"], average)
    Report.aim("fit, uint16, 10 megapixels", "0.15 s", times["fit, em, uint16"])
    Report.aim("fit, float32, 10 megapixels", "0.3 s", times["fit, em, float32"])
    table(
        "One 3200 x 3200 field (10.2 megapixels), M = 3, 8 bins",
        ["what", TIMES, "of the averaging"],
        [[name, both(took), ratio(took, average)] for name, took in times.items()],
    )


def time_small_images(repeats):
    from napari_ensir import fit_lut

    rng = np.random.default_rng(0)
    rows = []
    for dtype in (np.uint8, np.uint16):
        stack = rng.integers(0, 250, (10_000, 4, 8, 8)).astype(dtype)
        pairs = [(list(images[:3]), images[3]) for images in stack]
        for n in (1000, 10_000):
            took = median_time(lambda n=n, p=pairs: fit_lut(p[:n], device="cpu"), repeats)
            rows.append([f"{n:,} pairs, {np.dtype(dtype)}", both(took), f"{took[0] / n * 1e3:.2f} ms"])
    table("Fit of many images of 8 x 8, M = 3", ["what", TIMES, "each"], rows)


def time_ssim(repeats):
    from skimage.metrics import structural_similarity

    from napari_ensir.ensemble.metrics import evenly_spaced_planes, ssim

    (image, *_), truth = synthetic((1024, 1024), np.uint16, 60000, 0)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    wide = truth.astype(np.float64), image.astype(np.float64)
    values = structural_similarity(*wide, data_range=60000, **window), ssim(truth, image, 60000)
    times = side_by_side(
        {
            "scikit-image": lambda: structural_similarity(*wide, data_range=60000, **window),
            "ours": lambda: ssim(truth, image, 60000),
        },
        repeats,
    )
    ours = times["ours"]
    planes = len(evenly_spaced_planes((100, 1024, 1024)))
    Report.say(f"\nOf 100 planes of 1024 x 1024, {planes} are scored where a stack is judged by its planes.")
    table(
        "SSIM of one 1024 x 1024 plane, uint16",
        ["what", TIMES, "of ours", "value"],
        [
            [name, both(took), ratio(took, ours), f"{value:.12f}"]
            for (name, took), value in zip(times.items(), values, strict=True)
        ],
    )


def time_first_calls():
    """Seconds that the first fit and the first image take, loops not yet compiled and compiled before."""
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


def measure_memory():
    """Growth of the peak resident size over an apply of a 200-megapixel stack of uint8."""
    from napari_ensir import fit_lut

    few = synthetic((4, 1000, 1000), np.uint8, 255, 1)
    lut = fit_lut([few], device="cpu")
    lut.apply(few[0], device="cpu")
    # The same planes again and again: making a stack of noise takes eighty times the memory of the stack.
    candidates = [np.tile(candidate, (50, 1, 1)) for candidate in few[0]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The peak may lie behind us: fill up to it first.
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    filler = np.ones(max(0, before - now) * 1024, np.uint8)
    image = lut.apply(candidates, device="cpu")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    sizes = [sum(c.nbytes for c in candidates) / 2**20, image.nbytes / 2**20, grown]
    print(" | ".join([*(f"{size:.0f} MiB" for size in sizes), f"{grown - sizes[1]:.1f} MiB"]))
    del filler


def show_memory():
    """What :func:`measure_memory` finds in a process of its own, where nothing else lies about."""
    command = [sys.executable, __file__, "--memory-only"]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("authors", nargs="?", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--reference", type=Path, default=os.environ.get("NAPARI_ENSIR_REFERENCE"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name} as well")
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

    began = time.perf_counter()
    head = (
        f"Machine: {os.cpu_count()} cores, {processor()}; Python {platform.python_version()}, numpy "
        f"{np.__version__}, torch {torch.__version__} (CPU). Date: {date.today().isoformat()}."
    )
    print(head)
    images = reference_images(reference)
    authors = Authors(options.authors) if options.authors else None
    time_import(5)
    weights = time_fit(images, authors, max(3, options.repeats // 3))
    time_apply(images, authors, weights, options.repeats)
    time_refit(images, max(3, options.repeats // 3))
    time_sixteen_bit(max(3, options.repeats // 3))
    time_small_images(max(1, options.repeats // 5))
    time_ssim(max(3, options.repeats // 3))
    time_first_calls()
    show_memory()
    found, Report.lines = Report.lines, []
    table("What was aimed at", ["work", "aim", "median (least)"], Report.aims)
    print(f"\nTook {time.perf_counter() - began:.0f} s.")
    if options.write:
        write_page(PAGE, "\n".join([f"\n{head}", *Report.lines, *found, "", ""]))


if __name__ == "__main__":
    main()

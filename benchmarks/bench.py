"""Times of the numerical core, and of the EnsIR authors' functions if a checkout is given.

    python benchmarks/bench.py [AUTHORS_CHECKOUT] [--reference FOLDER] [--repeats N] [--write]
    python benchmarks/bench.py --device cuda

Prints Markdown tables; with ``--device``, those of this device beside the CPU and nothing else; ``--write``
also writes them into ``benchmarks/README.md``, between its two markers, with machine, date and targets. The
images are the deraining set of the reference folder, tiled to 1280 x 720, or synthetic if there is no such
folder. This script contains no code of the authors: their modules are imported from the checkout, with stubs
for plotting and image-reading libraries, which the timed functions do not use.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
from speed.authors import Authors
from speed.clock import processor
from speed.combining import time_apply, time_fit, time_refit
from speed.device import time_device
from speed.images import reference_images
from speed.other_images import time_sixteen_bit, time_small_images, time_ssim
from speed.processes import measure_memory, show_memory, time_commands, time_first_calls, time_import
from speed.report import Report, table, write_page

PAGE = Path(__file__).with_name("README.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("authors", nargs="?", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--reference", type=Path, default=os.environ.get("NAPARI_ENSIR_REFERENCE"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name} as well")
    parser.add_argument(
        "--memory-only", action="store_true", help="only the peak memory, in a process of its own"
    )
    parser.add_argument("--device", help="compare this torch device with the CPU, such as cuda")
    options = parser.parse_args()
    if options.memory_only:
        measure_memory()
        return
    here = Path(__file__).resolve().parents[1]
    reference = Path(options.reference) if options.reference else here.parent / "shared" / "reference"
    import torch

    began = time.perf_counter()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    idle = "idle" if load < 0.5 else f"busy: {load:.1f} other processes on average"
    head = (
        f"Machine: {os.cpu_count()} cores, {processor()}; Python {platform.python_version()}, numpy "
        f"{np.__version__}, torch {torch.__version__} (CPU). Date: {date.today().isoformat()}. "
        f"The machine was {idle}."
    )
    print(head)
    images = reference_images(reference)
    if options.device:
        time_device(images, options.device, options.repeats)
        return
    authors = Authors(options.authors) if options.authors else None
    time_import(5)
    weights = time_fit(images, authors, max(3, options.repeats // 3))
    time_apply(images, authors, weights, options.repeats)
    time_refit(images, max(3, options.repeats // 3))
    time_sixteen_bit(max(3, options.repeats // 3))
    time_small_images(max(1, options.repeats // 5))
    time_ssim(max(3, options.repeats // 3))
    time_first_calls()
    time_commands(images, max(2, options.repeats // 5))
    show_memory(__file__)
    found, Report.lines = Report.lines, []
    table("Targets", ["work", "target", "median (minimum)"], Report.aims)
    print(f"\nTook {time.perf_counter() - began:.0f} s.")
    if options.write:
        write_page(PAGE, "\n".join([f"\n{head}", *Report.lines, *found, "", ""]))


if __name__ == "__main__":
    main()

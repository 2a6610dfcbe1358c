"""Bin width and iteration limit of EM, the two ablations of the EnsIR paper, on held-out images.

    python benchmarks/ablations.py bin-width  --data DERAINING
    python benchmarks/ablations.py iterations --data DERAINING

DERAINING has one folder of images for each of MPRNet, MAXIM, Restormer and gt. Even and odd images are held
out in turn; one table per colour channel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_ensir import compare
from napari_ensir.ensemble.compare.baselines import BinSets
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.files import Part, References, open_set

MODELS = ("MPRNet", "MAXIM", "Restormer")
BIN_WIDTHS = (4, 8, 16, 32, 64, 96, 128, 256)
LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
PLACE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "deraining"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", choices=("bin-width", "iterations"))
    parser.add_argument("--data", type=Path, default=PLACE)
    chosen = parser.parse_args()
    candidates = {name: chosen.data / name for name in MODELS}
    images = References(open_set(candidates, {Part.TRUTH: chosen.data / "gt"}))
    every = {"data_range": (0.0, 255.0), "channel_axis": -1}
    if chosen.ablation == "bin-width":
        rows = [
            BinSets(key, f"{method.title}, bin width {width}", bin_width=width, **every)
            for key, method in METHODS.items()
            for width in BIN_WIDTHS
        ]
    else:
        rows = [
            BinSets(key, f"{METHODS[key].title}, at most {n} iterations", bin_width=32, max_iter=n, **every)
            for key in ("em", "em-released")
            for n in LIMITS
        ]
    print(compare(images, MODELS, channel_axis=-1, methods=rows).to_markdown(), end="")


if __name__ == "__main__":
    main()

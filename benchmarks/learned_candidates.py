"""Effect of IR-CM and DP-IR as candidates beside the regression, on held-out images.

    python benchmarks/restorers.py FOLDER --held-out 5 --save CHECKPOINTS
    python benchmarks/learned_candidates.py FOLDER CHECKPOINTS [--held-out 5]

The restorers are trained on the other images. Each held-out image is combined by weights learned from the
other held-out ones. Candidates are rounded to 8 bit. Prints a Markdown table of PSNR over RGB.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from restorers import read_pairs

from napari_ensir import compare
from napari_ensir.files.image import as_dtype
from napari_ensir.restorers import CLASSICAL, load_restorer

COMBINED = ["average", "em", "least-squares"]
SETS = [
    ["regression", "IR-CM"],
    ["regression", "DP-IR"],
    ["regression", "IR-CM", "DP-IR"],
    ["regression", "total-variation", "median"],
    ["regression", "total-variation", "median", "IR-CM"],
    ["regression", "total-variation", "median", "DP-IR"],
    ["regression", "total-variation", "median", "IR-CM", "DP-IR"],
]


def restorers_in(folder: Path) -> dict[str, object]:
    """Return the restorers by name, with the settings to measure."""

    def trained(name: str, **settings: object) -> object:
        return replace(load_restorer(folder / f"{name}.safetensors"), channel_axis=-1, **settings)

    found = {"regression": trained("regression")}
    found |= {name: CLASSICAL[name](channel_axis=-1) for name in ("total-variation", "median")}
    return found | {"IR-CM": trained("ir-cm", steps=2), "DP-IR": trained("dp-ir", tau=5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("--held-out", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    held_out = read_pairs(arguments.folder)[-arguments.held_out :]
    restored = {
        name: [as_dtype(restorer(image), np.dtype(np.uint8)) for image, _ in held_out]
        for name, restorer in restorers_in(arguments.checkpoints).items()
    }
    restored["input"] = [image for image, _ in held_out]

    def psnr(names: list[str], methods: list[str]) -> list[float]:
        pairs = [([restored[name][at] for name in names], held_out[at][1]) for at in range(len(held_out))]
        return [
            row.psnr
            for row in compare(
                pairs, names, folds=len(pairs), channel_axis=-1, methods=methods, data_range=(0, 255)
            ).rows
        ]

    names = list(restored)
    print("| restorer alone | PSNR, dB |\n|---|---|")
    for name, value in zip(names, psnr(names, names), strict=True):
        print(f"| {name} | {value:.3f} |")
    print(f"\n| combined | {' | '.join(COMBINED)} |\n|---|{'---|' * len(COMBINED)}")
    for names in SETS:
        values = " | ".join(f"{value:.3f}" for value in psnr(names, COMBINED))
        print(f"| {', '.join(names)} | {values} |", flush=True)


if __name__ == "__main__":
    main()

"""Ablations on held-out images: bin width, iterations, shrinkage, reference images, candidates, regressors.

    python benchmarks/ablations.py bin-width  --data DERAINING
    python benchmarks/ablations.py iterations --data DERAINING
    python benchmarks/ablations.py shrinkage  --data DERAINING
    python benchmarks/ablations.py images     --data DERAINING
    python benchmarks/ablations.py candidates --data DERAINING
    python benchmarks/ablations.py regressors --data DERAINING
    python benchmarks/ablations.py distinct   --data DERAINING

DERAINING has one folder of images for each of MPRNet, MAXIM, Restormer and gt. For the deblurring images, add
`--candidates MPRNet DGUNet Restormer`. Even and odd images are held out in turn; one table per channel.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir import compare
from napari_ensir.ensemble.compare.baselines import (
    Average,
    BinSets,
    Combiner,
    GlobalLeastSquares,
    OneCandidate,
    Regression,
)
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.files import Part, References, open_set

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BIN_WIDTHS = (4, 8, 16, 32, 64, 96, 128, 256)
LIMITS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
WIDTHS = (32, 8)  # for the shrinkage
SIZES = (1, 2, 3, 4, 5)  # numbers of reference images
SHRINKAGES = (0, 10, 100, 1000, 10_000, 100_000, 1_000_000)
PLACE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "deraining"
COLOUR: dict[str, Any] = {"data_range": (0.0, 255.0), "channel_axis": -1}


@dataclass
class FirstImages:
    """A method that learns from the first images of its reference set only."""

    method: Combiner
    n_images: int
    note: str = ""

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.method.name}, {self.n_images} image{'s' * (self.n_images > 1)}"

    def fit(self, reference: Sequence[Any]) -> None:
        """Fit the method to the first images."""
        self.method.fit(list(reference)[: self.n_images])

    def predict(self, candidates: Sequence[Any], low_resolution: Any = None) -> Any:
        """Predict by the method."""
        return self.method.predict(candidates, low_resolution)


class Combined(Regression):
    """Stacking, voting and extra trees of scikit-learn, as a user would take them."""

    def make_model(self) -> Any:
        """Return the regressor, not fitted."""
        from sklearn.ensemble import (
            ExtraTreesRegressor,
            HistGradientBoostingRegressor,
            StackingRegressor,
            VotingRegressor,
        )
        from sklearn.linear_model import LinearRegression

        if self.name == "ExtraTrees":
            return ExtraTreesRegressor()
        parts = [("linear", LinearRegression()), ("boosting", HistGradientBoostingRegressor(random_state=0))]
        return {"Stacking": StackingRegressor, "Voting": VotingRegressor}[self.name](parts)


def rows(ablation: str) -> list[Combiner]:
    """Methods of an ablation that has all candidates."""
    least_squares = BinSets("least-squares", "Least squares", bin_width=32, **COLOUR)
    if ablation == "bin-width":
        return [
            BinSets(key, f"{method.title}, bin width {width}", bin_width=width, **COLOUR)
            for key, method in METHODS.items()
            for width in BIN_WIDTHS
        ]
    if ablation == "iterations":
        return [
            BinSets(key, f"{METHODS[key].title}, at most {n} iterations", bin_width=32, max_iter=n, **COLOUR)
            for key in ("em", "em-released")
            for n in LIMITS
        ]
    if ablation == "shrinkage":
        return [
            BinSets(
                "least-squares",
                f"Least squares, bin width {width}, {n:,} px",
                bin_width=width,
                shrinkage=n,
                **COLOUR,
            )
            for width in WIDTHS
            for n in SHRINKAGES
        ]
    if ablation == "images":
        tables = [BinSets(key, METHODS[key].title, bin_width=32, **COLOUR) for key in METHODS]
        return [FirstImages(method, n) for method in (*tables, GlobalLeastSquares()) for n in SIZES]
    return [least_squares, *(Combined(name) for name in ("ExtraTrees", "Stacking", "Voting"))]


def print_psnr(first: str, columns: Sequence[object], rows: Sequence[object], psnr: Any) -> None:
    """Print a Markdown table of PSNR; ``first`` is the title of the column with the names of the rows."""
    print(f"| {first} | {' | '.join(map(str, columns))} |\n|{'---|' * (len(columns) + 1)}")
    for row, values in zip(rows, np.reshape(psnr, (len(rows), len(columns))), strict=True):
        print(f"| {row} | {' | '.join(f'{value:.3f}' for value in values)} |")


def subsets(names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Indices of all sets of two or more candidates."""
    for size in range(2, len(names) + 1):
        yield from combinations(range(len(names)), size)


def main() -> None:
    ablations = ("bin-width", "iterations", "shrinkage", "images", "candidates", "regressors", "distinct")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", choices=ablations)
    parser.add_argument("--data", type=Path, default=PLACE)
    parser.add_argument("--candidates", nargs="+", default=["MPRNet", "MAXIM", "Restormer"])
    chosen = parser.parse_args()
    names = chosen.candidates
    images = References(open_set({n: chosen.data / n for n in names}, {Part.TRUTH: chosen.data / "gt"}))
    if chosen.ablation == "distinct":
        pairs: list[Any] = []
        for candidates, truth in images:
            if not any(np.array_equal(truth, other) for _, other in pairs):
                pairs.append((candidates, truth))
        methods = [*names, "average", "global least squares", *METHODS]
        table = compare(pairs, names, channel_axis=-1, bin_width=32, methods=methods)
        print(f"{len(pairs)} images\n\n{table.to_markdown()}", end="")
        return
    if chosen.ablation != "candidates":
        table = compare(images, names, channel_axis=-1, methods=rows(chosen.ablation))
        psnr = [row.psnr for row in table.rows]
        if chosen.ablation == "shrinkage":
            print_psnr("bin width", [f"{n:,}" for n in SHRINKAGES], WIDTHS, psnr)
        elif chosen.ablation == "images":
            titles = [*(method.title for method in METHODS.values()), GlobalLeastSquares().name]
            print_psnr("method", SIZES, titles, psnr)
        else:
            print(table.to_markdown(), end="")
        return
    titles, psnr = [], []
    for picked in subsets(names):
        some = [names[m] for m in picked]
        pairs = [([candidates[m] for m in picked], truth) for candidates, truth in images]
        methods = [
            *(OneCandidate(m, name) for m, name in enumerate(some)),
            Average(),
            GlobalLeastSquares(),
            *(BinSets(key, METHODS[key].title, bin_width=32, **COLOUR) for key in METHODS),
        ]
        found = [row.psnr for row in compare(pairs, some, channel_axis=-1, methods=methods).rows]
        titles.append(", ".join(some))
        psnr += [max(found[: len(some)]), *found[len(some) :]]
    print_psnr(
        "candidates", ["best candidate", *(method.name for method in methods[len(some) :])], titles, psnr
    )


if __name__ == "__main__":
    main()

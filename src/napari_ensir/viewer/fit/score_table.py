"""A table of scores: the best of each column marked, the method shown marked, another chosen by a click.

Computes none of them.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor

from napari_ensir.files.atomic import whole_file
from napari_ensir.settings import METHODS
from napari_ensir.viewer.controls.table import STAR, PlainTable, plus_minus
from napari_ensir.viewer.results.layers import PALETTE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_ensir.ensemble.fit import FitScore

__all__ = ["ScoreTable"]

_COLUMNS = {
    "psnr": ("PSNR", 2, "dB, on the very pixels that the weights were learned from: it flatters."),
    "held_out": (
        "held out",
        2,
        "PSNR in dB on what was not learned from: all outside the mask and the planes, where there are such, "
        "else parts left out in turn. –: too few places to leave any out, or not worked out yet.",
    ),
    "ssim": (
        "SSIM",
        3,
        "Pixels learned from are included. "
        "–: not worked out yet, or the image is smaller than its window of 11 pixels.",
    ),
}
"""Heading, decimals and explanation by the score's attribute."""

_NOISY = {
    "difference": (
        "error to average",
        3,
        "Mean squared error less that of the candidates' average, squared intensity units, ± its standard "
        f"error; less is better. On parts held out. {STAR}: surely the best.",
    ),
    "psnr": ("PSNR", 2, "dB, the noise of the ground truth taken off. –: not known, or below the noise."),
}
"""The same where the ground truth is noisy; the difference has as many digits as its standard error says."""


class ScoreTable(PlainTable):
    """A row for each image scored; a click on a method's row emits ``chosen`` with the method's key.

    Rows are selected to be copied (Ctrl+C), and :meth:`export` writes all of them.

    Parameters
    ----------
    columns
        Attributes of a score to show.
    """

    chosen = Signal(str)

    def __init__(self, columns: Sequence[str] = tuple(_COLUMNS), **kwargs: Any) -> None:
        self._columns = tuple(columns)
        self.scores: tuple[FitScore, ...] = ()
        self._colours: dict[str, str] = {}
        super().__init__(190, **kwargs)
        self.native.cellClicked.connect(self._clicked)
        self.show_scores((), "")

    def show_scores(
        self, scores: Sequence[FitScore], method: str, candidates: Sequence[str] = (), of_ssim: str = ""
    ) -> None:
        """Fill the table anew; each candidate bears the colour of its curve and of its label.

        Parameters
        ----------
        scores
            One for each row.
        method
            Key of the method that is shown.
        candidates
            Their names in the table's order, which their colours follow.
        of_ssim
            What SSIM was computed on, in a sentence, for its tooltip.
        """
        self.scores = tuple(scores)
        self._colours = dict(zip(candidates, [*PALETTE, *[PALETTE[-1]] * len(candidates)], strict=False))
        begun = {"ssim": f"{of_ssim or 'Structural similarity.'} "}
        texts = {
            title: (self._texts(key, digits), begun.get(key, "") + tip)
            for key, (title, digits, tip) in self._shown().items()
        }
        self.fill([_name(score, method) for score in scores], texts)
        for row, score in enumerate(self.scores):
            first = self.native.item(row, 0)
            first.setToolTip(_explanation(score, method))
            if score.role == "candidate" and score.name in self._colours:
                first.setData(Qt.ItemDataRole.DecorationRole, QColor(self._colours[score.name]))
            if score.method == method != "":
                self.embolden(row, 0)

    def _shown(self) -> dict[str, tuple[str, int, str]]:
        if any(not np.isnan(score.difference) for score in self.scores):
            known = any(not np.isnan(score.psnr) for score in self.scores)
            return {key: column for key, column in _NOISY.items() if known or key != "psnr"}
        return {key: _COLUMNS[key] for key in self._columns}

    def _texts(self, key: str, digits: int) -> list[str]:
        if key == "difference":
            return [_difference(score) for score in self.scores]
        values = np.array([getattr(score, key) for score in self.scores], float)
        best = np.nanmax(values) if np.isfinite(values).any() else np.inf
        best = np.inf if "difference" in self._shown() else best  # the star is the difference's
        texts = ["–" if np.isnan(value) else f"{value:.{digits}f}" for value in values]
        return [
            f"{STAR} {text}" if value == best else text for text, value in zip(texts, values, strict=True)
        ]

    def _clicked(self, row: int, _: int) -> None:
        if row < len(self.scores) and self.scores[row].method:
            self.chosen.emit(self.scores[row].method)

    def rows(self) -> list[list[str]]:
        """What is scored, in full precision: a heading, then a row for each image."""
        shown = self._shown()
        keys, titles = list(shown), [_unit(key, title) for key, (title, *_) in shown.items()]
        if "difference" in shown:
            keys, titles = [*keys, "spread"], [*titles, "standard error (squared intensity)"]
        return [["image", "kind", *titles]] + [
            [score.name, score.role, *(f"{getattr(score, key):.6f}" for key in keys)] for score in self.scores
        ]

    def export(self, path: Path) -> None:
        """Write the table as CSV, whole or not at all; a file that is there is replaced.

        Raises
        ------
        EnsembleError
            If the file cannot be written.
        """
        with whole_file(path, overwrite=True) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.rows())


def _unit(key: str, title: str) -> str:
    if key == "ssim":
        return title
    return f"{title} (squared intensity)" if key == "difference" else f"{title} (dB)"


def _difference(score: FitScore) -> str:
    if np.isnan(score.difference):
        return "–"
    if score.role == "average":
        return "0"
    return f"{STAR} " * score.best + plus_minus(score.difference, score.spread)


def _name(score: FitScore, method: str) -> str:
    if score.role != "method":
        return score.name
    return f"{'●' if score.method == method else '○'} {score.name}"


def _explanation(score: FitScore, method: str) -> str:
    if score.role == "candidate":
        return f"{score.name}, alone"
    if score.role == "average":
        return "The plain average of the candidates."
    if score.role == "zzpm":
        return "A weighted average: each candidate by its distance to the candidates' mean."
    shown = "This is the method shown." if score.method == method else "Click to show this method."
    return f"{METHODS[score.method][1]}. {shown}"

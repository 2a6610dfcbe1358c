"""Table of the scores of a fit, in which a click on a method shows its ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor

from napari_ensir.ensemble.scoring.score_table import DIFFERENCE, PSNR, Column, ScoreRow, ScoreTable
from napari_ensir.settings import METHODS
from napari_ensir.viewer.results.layers import PALETTE
from napari_ensir.viewer.results.score_view import ScoreView

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MethodScores"]

_COLUMNS = {
    "psnr": PSNR._replace(
        decimals=2,
        description="PSNR in dB on the pixels that the weights were learned from, which is too optimistic.",
    ),
    "held_out": Column(
        "held_out",
        "held out",
        "dB",
        2,
        description="PSNR in dB on pixels that the weights were not learned from: those outside the mask and "
        "the planes, if there are any, else by cross-validation. –: not computed yet, or too few pixels.",
    ),
    "ssim": Column(
        "ssim",
        "SSIM",
        description="{about} Includes the pixels learned from. –: not computed yet, or the image is smaller "
        "than the window of 11 pixels.",
    ),
}
_NOISY_PSNR = _COLUMNS["psnr"]._replace(
    description="PSNR in dB, corrected for the noise of the ground truth. –: below the noise."
)


class MethodScores(ScoreView):
    """Table of the scores of candidates and methods; a click on a method emits ``chosen`` with its key.

    Parameters
    ----------
    columns
        Attributes of :class:`~napari_ensir.ensemble.scoring.score_table.ScoreRow` to show.
    """

    chosen = Signal(str)

    def __init__(self, columns: Sequence[str] = tuple(_COLUMNS), **kwargs: Any) -> None:
        self._columns = tuple(columns)
        super().__init__(190, **kwargs)
        self.clicked.connect(self._choose)
        self.show_scores((), "")

    @property
    def scores(self) -> tuple[ScoreRow, ...]:
        """The rows that are shown."""
        return self.table.rows

    def show_scores(
        self, scores: Sequence[ScoreRow], method: str, candidates: Sequence[str] = (), of_ssim: str = ""
    ) -> None:
        """Show scores.

        Parameters
        ----------
        scores
            Rows of the table.
        method
            Key of the method whose ensemble is shown.
        candidates
            Names of the candidates in the order of the table, which determines their colours.
        of_ssim
            Sentence about the images that SSIM was computed on.
        """
        columns = [_COLUMNS[key] for key in self._columns]
        if not all(np.isnan(row.difference) for row in scores):
            columns = [DIFFERENCE]
            if not all(np.isnan(row.psnr) for row in scores):
                columns.append(_NOISY_PSNR)
        about = of_ssim or "Structural similarity."
        columns = [each._replace(description=each.description.format(about=about)) for each in columns]
        table = ScoreTable(tuple(scores), tuple(columns))
        self.show_table(
            table, [_label(row, method) for row in scores], [_tooltip(row, method) for row in scores]
        )
        colours = dict(zip(candidates, [*PALETTE, *[PALETTE[-1]] * len(candidates)], strict=False))
        for index, row in enumerate(scores):
            if row.role == "candidate" and row.name in colours:
                colour = QColor(colours[row.name])
                self.native.item(index, 0).setData(Qt.ItemDataRole.DecorationRole, colour)
            if row.method == method != "":
                self.embolden(index, 0)

    def _choose(self, row: int) -> None:
        if self.scores[row].method:
            self.chosen.emit(self.scores[row].method)


def _label(row: ScoreRow, method: str) -> str:
    if row.role != "method":
        return row.name
    return f"{'●' if row.method == method else '○'} {row.name}"


def _tooltip(row: ScoreRow, method: str) -> str:
    if row.role == "candidate":
        return f"The candidate {row.name}."
    if row.role == "average":
        return "The average of the candidates."
    if row.role == "zzpm":
        return "A weighted average: each candidate by its distance from the mean of the candidates."
    action = "This method is shown." if row.method == method else "Click to show this method."
    return f"{METHODS[row.method][1]}. {action}"

"""Table of the scores of a fit, in which a click on a method shows its ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor

from napari_ensir.ensemble.scoring.metrics import OWN_METRICS
from napari_ensir.ensemble.scoring.score_table import DIFFERENCE, PSNR, Column, ScoreRow, ScoreTable
from napari_ensir.settings import METHODS
from napari_ensir.viewer.results.layers import colour_of
from napari_ensir.viewer.results.score_view import ScoreView

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = (
    PSNR._replace(
        decimals=2,
        description="PSNR in dB on the pixels that the weights were learned from, which is too optimistic.",
    ),
    Column(
        "held_out",
        "held out",
        "dB",
        2,
        description="PSNR in dB on pixels that the weights were not learned from: those outside the mask and "
        "the planes, if there are any, else by cross-validation. –: not computed yet, or too few pixels.",
    ),
    Column(
        "ssim",
        "SSIM",
        description="{about} Includes the pixels learned from. –: not computed yet, or the image is smaller "
        "than the window of 11 pixels.",
    ),
)
_NOISY_PSNR = _COLUMNS[0]._replace(
    description="PSNR in dB, corrected for the noise of the ground truth. –: below the noise."
)


_ROLES = {
    "candidate": "One of the candidates.",
    "average": "The average of the candidates.",
    "baseline": "A method to compare with; it makes no lookup table. {row.note}",
    "zzpm": "A weighted average: each candidate by its distance from the mean of the candidates.",
}
"""Tooltips of the rows that are no method with a lookup table."""


class MethodScores(ScoreView):
    """Table of the scores of candidates and methods; a click on a method emits ``chosen`` with its key."""

    chosen = Signal(str)

    def __init__(self, **kwargs: Any) -> None:
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
        columns = [
            each._replace(description=each.description.format(about=of_ssim or "Structural similarity."))
            for each in _COLUMNS
        ]
        if any(np.isfinite(row.difference) for row in scores):  # the ground truth is noisy
            columns = [DIFFERENCE, *[_NOISY_PSNR] * any(np.isfinite(row.psnr) for row in scores)]
        table = ScoreTable(tuple(scores), tuple(columns))
        about = [_tooltip(row, method) for row in scores]
        self.show_table(table, about, [_label(row, method) for row in scores])
        for index, row in enumerate(scores):
            if row.role == "candidate":
                colour = QColor(colour_of(candidates.index(row.name)))
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
    others = ", ".join(
        f"{each.column.title} {each.column.text(row)}"
        for each in OWN_METRICS.values()
        if each.column.key in row.metrics
    )
    return f"{_about(row, method)} {others}".strip()


def _about(row: ScoreRow, method: str) -> str:
    if row.role in _ROLES:
        return _ROLES[row.role].format(row=row)
    action = "This method is shown." if row.method == method else "Click to show this method."
    return f"{METHODS[row.method][1]}. {action}"

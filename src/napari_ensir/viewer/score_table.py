"""A table of scores, the best of each column marked. Computes none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_ensir.viewer.outputs import PALETTE
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_ensir.viewer.fitting import Score

__all__ = ["ScoreTable"]

_COLUMNS = (
    ("PSNR", "psnr", "{:.2f}", "dB, on the very pixels that the weights were learned from: it flatters."),
    (
        "held out",
        "held_out",
        "{:.2f}",
        "PSNR in dB on what was not learned from: parts left out in turn, or all outside the mask.",
    ),
    (
        "SSIM",
        "ssim",
        "{:.4f}",
        "Structural similarity over the whole image, the pixels learned from included.",
    ),
)


class ScoreTable(QTableWidget):
    """Rows: the candidates, their average, the ensemble; the best of each column in bold with a star."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS) + 1, parent)
        self.setHorizontalHeaderLabels(["", *(title for title, *_ in _COLUMNS)])
        for column, (_, _, _, tip) in enumerate(_COLUMNS, start=1):
            self.horizontalHeaderItem(column).setToolTip(tip)
        self.verticalHeader().hide()
        self.verticalHeader().setMinimumSectionSize(16)
        self.verticalHeader().setDefaultSectionSize(19)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setMinimumHeight(160)
        explain(self, "scores")

    def show_scores(self, scores: Sequence[Score]) -> None:
        """Fill the table anew; each candidate bears the colour of its curve and of its label."""
        self.setRowCount(len(scores))
        for row, score in enumerate(scores):
            self.setItem(row, 0, QTableWidgetItem(score.name))
            self.item(row, 0).setToolTip(score.name)
            if row < len(scores) - 2:  # the average and the ensemble come last
                colour = QColor(PALETTE[min(row, len(PALETTE) - 1)])
                self.item(row, 0).setData(Qt.ItemDataRole.DecorationRole, colour)
        for column, (_, key, form, _) in enumerate(_COLUMNS, start=1):
            values = np.array([getattr(score, key) for score in scores], float)
            best = np.nanmax(values) if np.isfinite(values).any() else np.inf
            for row, value in enumerate(values):
                is_best = bool(value == best)
                text = "–" if np.isnan(value) else form.format(value)
                item = QTableWidgetItem(f"★ {text}" if is_best else text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                font = item.font()
                font.setBold(is_best)
                item.setFont(font)
                self.setItem(row, column, item)

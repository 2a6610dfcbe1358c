"""Every method ranked on held-out parts, from the statistics of a fit. Reads no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_ensir.ensemble.estimate import METHODS, Settings
from napari_ensir.ensemble.validation import held_out_error, mean_squared_error, psnr_of
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.viewer.fitting import FitResult

__all__ = ["CompareDialog", "Row", "compare_methods"]


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes
    ----------
    name : str
    psnr : float
        dB on held-out parts.
    method : str
        Key of the method, or empty for what is no method to adopt.
    """

    name: str
    psnr: float
    method: str = ""


def compare_methods(result: FitResult, binning: Binning, progress: Progress | None = None) -> list[Row]:
    """Score everything on pixels that nothing was learned from; the best first.

    Raises
    ------
    EnsembleError
        If no part of the images can be held out.
    """
    reference = result.reference
    m = len(reference.names)
    total = reference.statistics.in_bins(binning)
    rows = []
    simple = [*zip(reference.names, np.eye(m), strict=True), ("average", np.full(m, 1 / m))]
    # ZZPM weighs a candidate by its distance to the candidates' mean; the truth cancels in it.
    spread = _distance_to_mean(total.error_gram.sum(axis=0)) / total.n_pixels
    if (spread > 0).all():
        simple.append(("ZZPM", (1 / spread) / (1 / spread).sum()))
    for name, weights in simple:
        rows.append(Row(name, psnr_of(mean_squared_error(total, weights), binning)))
    for number, (key, method) in enumerate(METHODS.items()):
        if progress is not None:
            progress(number, len(METHODS), method.title)
        settings = Settings(shrinkage=result.request.choices.shrinkage)
        error = held_out_error(reference, key, settings, binning)
        rows.append(Row(method.title, psnr_of(error, binning), key))
    return sorted(rows, key=lambda row: -row.psnr)


def _distance_to_mean(gram: np.ndarray) -> np.ndarray:
    """Sum of squares of each candidate minus the candidates' mean, from the sum of e e^T."""
    return np.maximum(np.diag(gram) - 2 * gram.mean(axis=1) + gram.mean(), 0)


class CompareDialog(QDialog):
    """The ranking, with one click to adopt the best method.

    Parameters
    ----------
    rows
        The best first.
    bin_width
        Of the methods' bins, in intensity units.
    adopt
        Called with a method's key.
    """

    def __init__(
        self, rows: list[Row], bin_width: float, adopt: Callable[[str], object], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Methods on held-out parts")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.best = next((row for row in rows if row.method), None)
        if self.best is None:
            raise EnsembleError("There is no method to compare.")
        self.table = QTableWidget(len(rows), 2)
        self.table.setHorizontalHeaderLabels(["", "PSNR, held out (dB)"])
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for number, row in enumerate(rows):
            self.table.setItem(number, 0, QTableWidgetItem(row.name))
            item = QTableWidgetItem(f"{row.psnr:.3f}")
            item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.table.setItem(number, 1, item)
        about = QLabel(
            f"Bins {bin_width:g} wide. Each part of the images was held out in turn, and the weights were "
            "learned from the others."
        )
        about.setWordWrap(True)
        self.adopt_button = QPushButton(f"Use {self.best.name}")
        self.adopt_button.clicked.connect(lambda: (adopt(self.best.method), self.close()))
        layout = QVBoxLayout(self)
        layout.addWidget(about)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.adopt_button)
        self.resize(380, 400)

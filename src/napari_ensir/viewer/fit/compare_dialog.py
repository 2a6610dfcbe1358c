"""All that was scored, ranked by what was held out, with one click to take the best. Scores nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fit.score_table import ScoreTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_ensir.ensemble.fit import FitScore

__all__ = ["CompareDialog"]


class CompareDialog(QDialog):
    """The ranking; it stays open beside the viewer.

    Parameters
    ----------
    scores
        The candidates in their order; those that could not be held out come last.
    method
        Key of the method that is shown.
    about
        What was held out, in a sentence.
    adopt
        Called with the key of the method to show.
    parent
        Whose window it belongs to.

    Raises
    ------
    EnsembleError
        If nothing could be held out.
    """

    def __init__(
        self,
        scores: Sequence[FitScore],
        method: str,
        about: str,
        adopt: Callable[[str], object],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Methods on what was held out")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        ranked = sorted(scores, key=_place)
        best = next((each for each in ranked if each.method and np.isfinite(_place(each))), None)
        if best is None:
            self.deleteLater()
            raise EnsembleError("No part of these images can be held out; there is nothing to compare.")
        self.best: FitScore = best
        self.table = ScoreTable(("held_out",), name="ranking", label="Ranking")
        named = [score.name for score in scores if score.role == "candidate"]
        self.table.show_scores(ranked, method, named)
        self.table.native.setAccessibleName("Ranking")
        self.table.chosen.connect(adopt)
        words = QLabel(about)
        words.setWordWrap(True)
        self.adopt_button = QPushButton(f"Use {best.name}")
        self.adopt_button.setAccessibleName(f"Use {best.name}")
        self.adopt_button.setToolTip("Show the ensemble by this method.")
        self.adopt_button.clicked.connect(lambda: (adopt(best.method), self.close()))
        layout = QVBoxLayout(self)
        layout.addWidget(words)
        layout.addWidget(self.table.native, 1)
        layout.addWidget(self.adopt_button)
        self.resize(380, 400)


def _place(score: FitScore) -> float:
    """Less is better: by the held-out PSNR, or by the difference where the ground truth is noisy."""
    return float(
        np.nan_to_num(-score.held_out if np.isnan(score.difference) else score.difference, nan=np.inf)
    )

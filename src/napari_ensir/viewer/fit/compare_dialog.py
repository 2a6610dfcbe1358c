"""Dialog that ranks candidates and methods by their held-out scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fit.score_table import MethodScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_ensir.ensemble.scoring.score_table import ScoreRow

__all__ = ["CompareDialog"]


class CompareDialog(QDialog):
    """Ranking of candidates and methods, with a button to use the best method.

    Parameters
    ----------
    scores
        Candidates in their order; images without a held-out score are ranked last.
    method
        Key of the method shown.
    about
        A sentence on the pixels held out.
    adopt
        Called with the key of the method to show.
    parent
        Parent of the dialog.

    Raises
    ------
    EnsembleError
        If no part of the images can be held out.
    """

    def __init__(
        self,
        scores: Sequence[ScoreRow],
        method: str,
        about: str,
        adopt: Callable[[str], object],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Held-out scores")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        ranked = sorted(scores, key=_place)
        best = next((each for each in ranked if each.method and np.isfinite(_place(each))), None)
        if best is None:
            self.deleteLater()
            raise EnsembleError("No part of these images can be held out; there is nothing to compare.")
        self.best: ScoreRow = best
        self.table = MethodScores(("held_out",), name="ranking", label="Ranking")
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


def _place(score: ScoreRow) -> float:
    """Sort key: the held-out PSNR, or the difference of errors if the ground truth is noisy."""
    return float(
        np.nan_to_num(-score.held_out if np.isnan(score.difference) else score.difference, nan=np.inf)
    )

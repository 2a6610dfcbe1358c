"""Table of restorers, ranked by their errors on a noisy image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_ensir.ensemble.scoring.scores import verdict
from napari_ensir.viewer.results.score_view import ScoreView

if TYPE_CHECKING:
    from napari_ensir.ensemble.scoring.scores import NoisyScores

__all__ = ["RankTable"]


class RankTable(ScoreView):
    """Table of restorers, the best first; hidden if it is empty.

    A click on a restorer emits ``chosen`` with its index in the scores.
    """

    chosen = Signal(int)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(130, **kwargs)
        self.scores: NoisyScores | None = None
        self.clicked.connect(self._choose)
        self.visible = False

    def show_scores(self, scores: NoisyScores | None) -> None:
        """Show scores; None clears the table."""
        self.scores = scores
        self.visible = scores is not None
        if scores is None:
            return
        table = scores.table(ranked=True)
        shown = {
            "average": "The average of all candidates.",
            "candidate": "Click to see its settings.",
            "ensemble": "The ensemble, scored on pixels that its weights were not learned from.",
            "input": "The noisy image itself.",
        }
        names = [row.name for row in table.rows]
        tooltips = [f"{row.name}. {shown.get(row.role, '')}".strip() for row in table.rows]
        self.show_table(table, names, tooltips)

    @property
    def best(self) -> int | None:
        """Index of the restorer with the smallest error; None if the table is empty."""
        scores = self.scores
        if scores is None:
            return None
        return next(index for index in scores.ranked if scores.roles[index] == "candidate")

    def in_words(self) -> str:
        """State the result in a sentence."""
        return "" if self.scores is None else verdict(self.scores)

    def _choose(self, row: int) -> None:
        scores = self.scores
        if scores is not None and scores.roles[index := scores.ranked[row]] == "candidate":
            self.chosen.emit(index)

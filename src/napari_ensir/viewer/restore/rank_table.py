"""Restorers in the order of their errors on a noisy image, as a table. Scores nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_ensir.viewer.controls.table import STAR, PlainTable, plus_minus

if TYPE_CHECKING:
    from napari_ensir.ensemble.scoring.scores import NoisyScores

__all__ = ["RankTable"]

_ALIKE = "≈"
"""Before what may be as good as the first."""

_HEADING = "error to average"
_TIP = (
    "Mean squared error less that of the plain average of all, squared intensity units, ± its standard "
    f"error; less is better. {STAR}: surely the best. {_ALIKE}: may be as good as the first."
)


class RankTable(PlainTable):
    """A row for each restorer, the best first; a click on one emits ``chosen`` with its place.

    Gone where there is nothing to show.
    """

    chosen = Signal(int)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(130, **kwargs)
        self.scores: NoisyScores | None = None
        self._places: tuple[int, ...] = ()
        self.native.cellClicked.connect(self._clicked)
        self.visible = False

    def show_scores(self, scores: NoisyScores | None) -> None:
        """Fill the table anew; None: clear it."""
        self.scores = scores
        self.visible = scores is not None
        if scores is None:
            self._places = ()
            return
        self._places = scores.ranked
        first = self._places[0]
        alike = {each for each in self._places[1:] if not scores.difference(each, first).is_real}
        names, texts = [], []
        for place in self._places:
            row = scores.rows[place]
            sign = STAR if row.best else _ALIKE if alike and place in {first, *alike} else ""
            names.append(row.name)
            value = "0" if row.role == "average" else plus_minus(row.difference, row.standard_error)
            texts.append(f"{sign} {value}".strip())
        self.fill(names, {_HEADING: (texts, _TIP)})
        for row_number, place in enumerate(self._places):
            what = "The plain average of all." if place == scores.baseline else "Click to see its settings."
            self.native.item(row_number, 0).setToolTip(f"{scores.names[place]}. {what}")

    @property
    def best(self) -> int | None:
        """Place of the restorer of least error, surely the best or not; None where none are ranked."""
        if self.scores is None:
            return None
        return next(place for place in self._places if self.scores.roles[place] == "candidate")

    def in_words(self) -> str:
        """Which is best, in a sentence."""
        scores, best = self.scores, self.best
        if scores is None or best is None:
            return ""
        others = [place for place in self._places if place != best and scores.roles[place] == "candidate"]
        alike = [scores.names[place] for place in others if not scores.difference(place, best).is_real]
        name = scores.names[best]
        if not alike:
            return f"Best by itself: {name}."
        return f"Best by itself: {name}; as good may be {', '.join(alike)}."

    def _clicked(self, row: int, _: int) -> None:
        if row < len(self._places) and self.scores is not None and self._places[row] != self.scores.baseline:
            self.chosen.emit(self._places[row])

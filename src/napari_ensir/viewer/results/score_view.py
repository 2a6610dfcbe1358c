"""Widget that shows a :class:`~napari_ensir.ensemble.scoring.score_table.ScoreTable`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_ensir.ensemble.scoring.score_table import ScoreTable
from napari_ensir.files.atomic import whole_file
from napari_ensir.viewer.controls.table import PlainTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ScoreView"]


class ScoreView(PlainTable):
    """Table of scores; a click on a row emits ``clicked`` with its index."""

    clicked = Signal(int)

    def __init__(self, height: int, **kwargs: Any) -> None:
        super().__init__(height, **kwargs)
        self.table = ScoreTable((), ())
        self.native.cellClicked.connect(self._emit)

    def show_table(self, table: ScoreTable, names: Sequence[str], tooltips: Sequence[str]) -> None:
        """Show a table.

        Parameters
        ----------
        table : ScoreTable
        names, tooltips
            Label and tooltip of each row.
        """
        self.table = table
        columns = {column.title: (table.texts(column), column.description) for column in table.columns}
        self.fill(names, columns)
        for index, tooltip in enumerate(tooltips):
            self.native.item(index, 0).setToolTip(tooltip)

    def export(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the table as CSV.

        Raises
        ------
        EnsembleError
            If the file exists and ``overwrite`` is off, or it cannot be written; nothing is then left behind.
        """
        with whole_file(path, overwrite=overwrite) as part:
            part.write_text(self.table.to_csv(), encoding="utf-8", newline="")

    def _emit(self, row: int, _: int) -> None:
        if row < len(self.table.rows):
            self.clicked.emit(row)

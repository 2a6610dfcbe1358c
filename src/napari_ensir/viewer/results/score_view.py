"""Widget that shows a :class:`~napari_ensir.ensemble.scoring.score_table.ScoreTable`."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Table
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate

from napari_ensir.ensemble.scoring.score_table import STAR, ScoreTable
from napari_ensir.files.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ScoreView(Table):
    """Read-only table of scores, with names in the first column; selected rows can be copied (Ctrl+C).

    Parameters
    ----------
    height : int
        Least height, pixels.
    """

    clicked = Signal(int)
    """Emitted with the index of a row that is clicked."""

    def __init__(self, height: int, **kwargs: Any) -> None:
        super().__init__(gui_only=True, **kwargs)
        self.table = ScoreTable((), ())
        self.read_only = True
        native = self.native
        native.setItemDelegate(QStyledItemDelegate(native))  # magicgui's formats text as numbers
        native.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        native.setSelectionMode(QAbstractItemView.SelectionMode.ContiguousSelection)
        native.verticalHeader().hide()
        native.verticalHeader().setMinimumSectionSize(16)
        native.verticalHeader().setDefaultSectionSize(19)
        native.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        native.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        native.setMinimumHeight(height)
        native.setMinimumWidth(200)
        native.cellClicked.connect(lambda row, _: self.clicked.emit(row))

    def show_table(self, table: ScoreTable, about: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        """Show a table; the best scores are bold.

        Parameters
        ----------
        table : ScoreTable
        about
            For each row, what follows its name in its tooltip.
        labels
            Label of each row; default: its name.
        """
        names = [each.name for each in table.rows]
        self.table = table
        with self.changed.blocked():
            scores = {each.title: table.texts(each) for each in table.columns}
            self.value = {"": list(labels or names), **scores}
        native, header = self.native, self.native.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column, each in enumerate(table.columns, start=1):
            native.horizontalHeaderItem(column).setToolTip(each.description)
        for row, (name, text) in enumerate(zip_longest(names, about, fillvalue="")):
            native.item(row, 0).setToolTip(f"{name}. {text}" if text else name)
            for column in range(1, len(table.columns) + 1):
                item = native.item(row, column)
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.embolden(row, column, item.text().startswith(STAR))

    def embolden(self, row: int, column: int, bold: bool = True) -> None:
        """Show a cell in bold, or not."""
        item = self.native.item(row, column)
        font = item.font()
        font.setBold(bold)
        item.setFont(font)

    def export(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the table as CSV.

        Raises
        ------
        EnsembleError
            If the file exists and ``overwrite`` is off, or it cannot be written; nothing is then left behind.
        """
        with whole_file(path, overwrite=overwrite) as part:
            part.write_text(self.table.to_csv(), encoding="utf-8", newline="")

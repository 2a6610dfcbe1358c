"""Read-only table of text that can be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Table
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate

from napari_ensir.ensemble.scoring.score_table import STAR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PlainTable"]


class PlainTable(Table):
    """Table with names in the first column; selected rows can be copied (Ctrl+C).

    Parameters
    ----------
    height : int
        Least height, pixels.
    """

    def __init__(self, height: int, **kwargs: Any) -> None:
        super().__init__(gui_only=True, **kwargs)
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

    def fill(self, names: Sequence[str], columns: Mapping[str, tuple[Sequence[str], str]]) -> None:
        """Show names and columns (title -> texts and tooltip); texts with a star are bold."""
        with self.changed.blocked():
            self.value = {"": list(names), **{title: list(texts) for title, (texts, _) in columns.items()}}
        native = self.native
        header = native.horizontalHeader()
        for column, (_, tip) in enumerate(columns.values(), start=1):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
            native.horizontalHeaderItem(column).setToolTip(tip)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for row in range(len(names)):
            for column in range(native.columnCount()):
                item = native.item(row, column)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.embolden(row, column, item.text().startswith(STAR))

    def embolden(self, row: int, column: int, bold: bool = True) -> None:
        """Show a cell in bold, or not."""
        item = self.native.item(row, column)
        font = item.font()
        font.setBold(bold)
        item.setFont(font)

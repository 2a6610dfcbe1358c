"""A table of text to be read and copied, its best entries bold. Computes nothing."""

from __future__ import annotations

from math import floor, isfinite, log10
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Table
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["STAR", "PlainTable", "plus_minus"]

STAR = "★"
"""Before what is best."""


def plus_minus(value: float, spread: float | None) -> str:
    """A signed number with its standard error, if any: as many digits as the latter's first two reach.

    Examples
    --------
    >>> plus_minus(2863.2, 104.4), plus_minus(-0.0123456, 0.00042), plus_minus(3.25e-7, 4.1e-8)
    ('+2860 ± 100', '\u22120.01235 ± 0.00042', '+3.25e-07 ± 4.1e-08')
    >>> plus_minus(12.345, None)
    '+12.3'
    """
    sign = "\u2212" if value < 0 else "+"
    if not spread or not isfinite(spread) or abs(value) >= 1e6 or max(abs(value), spread) < 1e-4:
        shown = f"{abs(value):.3g}" + (f" ± {spread:.2g}" if spread and isfinite(spread) else "")
        return f"{sign}{shown}"
    digits = 1 - floor(log10(spread))
    first, second = (f"{round(each, digits):.{max(digits, 0)}f}" for each in (abs(value), spread))
    return f"{sign}{first} ± {second}"


class PlainTable(Table):
    """Names in the first column, numbers as text in the others; rows are selected to be copied (Ctrl+C).

    Parameters
    ----------
    height : int
        Least height, pixels.
    """

    def __init__(self, height: int, **kwargs: Any) -> None:
        super().__init__(gui_only=True, **kwargs)
        self.read_only = True
        native = self.native
        native.setItemDelegate(QStyledItemDelegate(native))  # magicgui's own takes every text for a number
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
        """Show these names, and for each heading its texts and what it means."""
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
        """Let a cell be bold, or not."""
        item = self.native.item(row, column)
        font = item.font()
        font.setBold(bold)
        item.setFont(font)

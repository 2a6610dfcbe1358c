"""Checklist whose entries can be dragged into order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets.bases import ValuedContainerWidget
from psygnal import Signal
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Checklist"]

_KEY = Qt.ItemDataRole.UserRole
_TICKED, _UNTICKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class Checklist(ValuedContainerWidget[list]):
    """Checklist whose value is the list of the keys of the ticked entries, in order.

    Parameters
    ----------
    entries
        Key -> title and tooltip.
    value
        Keys that are ticked at first.
    """

    selected = Signal(str)
    """Emitted with the key of a row that is selected or ticked."""

    def __init__(
        self, entries: Mapping[str, tuple[str, str]] | None = None, value: Any = Undefined, **kwargs: Any
    ) -> None:
        self._emitted: list[str] = []
        self._rows = _Rows()
        super().__init__(widgets=[], layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().addWidget(self._rows, 1)
        self._rows.setAccessibleName(self.label)
        self._rows.setToolTip(self.tooltip or "")
        for key, (title, tip) in (entries or {}).items():
            self.add(key, title, tip)
        self._rows.itemChanged.connect(self._item_changed)
        self._rows.model().rowsMoved.connect(self._emit_changed)
        self._rows.currentItemChanged.connect(self._row_selected)
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[str]:
        """Return the ticked keys, from the top."""
        return [item.data(_KEY) for item in self._rows.items_in_order() if item.checkState() == _TICKED]

    def set_value(self, value: Iterable[str] | None) -> None:
        """Tick only these entries and move them to the top, in this order.

        Raises
        ------
        EnsembleError
            If a key does not exist.
        """
        keys = list(value or ())
        for key in keys:
            if key not in self.keys():
                raise EnsembleError(f"there is no entry {key!r}; choose from: {', '.join(self.keys())}.")
        self._rows.blockSignals(True)
        for target, key in enumerate(keys):
            row = self.keys().index(key)
            if row != target:
                self._rows.insertItem(target, self._rows.takeItem(row))
        for item in self._rows.items_in_order():
            item.setCheckState(_TICKED if item.data(_KEY) in keys else _UNTICKED)
        self._rows.blockSignals(False)
        self._emit_changed()
        if keys:
            self.select(keys[0])

    def keys(self) -> list[str]:
        """Return all keys, from the top."""
        return [item.data(_KEY) for item in self._rows.items_in_order()]

    def add(self, key: str, title: str, tip: str = "", *, ticked: bool = False) -> None:
        """Append an entry."""
        item = QListWidgetItem(title)
        item.setData(_KEY, key)
        item.setToolTip(tip)
        flags = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsDragEnabled | Qt.ItemFlag.ItemIsSelectable
        item.setFlags(flags | Qt.ItemFlag.ItemIsEnabled)
        item.setCheckState(_TICKED if ticked else _UNTICKED)
        self._rows.addItem(item)
        self._emit_changed()

    def select(self, key: str) -> None:
        """Select the row of an entry, whether ticked or not."""
        self._rows.setCurrentRow(self.keys().index(key))

    def title_of(self, key: str) -> str:
        """Return the title of an entry."""
        return self._rows.item(self.keys().index(key)).text()

    # -- slots ------------------------------------------------------------------------------------

    def _item_changed(self, item: QListWidgetItem) -> None:
        if item.checkState() == _TICKED:
            self._rows.setCurrentItem(item)  # show its settings
        self._emit_changed()

    def _row_selected(self, item: QListWidgetItem | None, _: object = None) -> None:
        if item is not None:
            self.selected.emit(item.data(_KEY))

    def _emit_changed(self, *_: object) -> None:
        value = self.get_value()
        if value != self._emitted:
            self._emitted = value
            self.changed.emit(value)


class _Rows(QListWidget):
    """List with check boxes and dragging, which magicgui lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(110)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        # napari's themes draw unchecked boxes in nearly the colour of the background.
        self.setStyleSheet("QListWidget::indicator:unchecked { border: 1px solid #8a9099; }")

    def sizeHint(self) -> QSize:
        """See Qt."""
        return QSize(260, 150)

    def items_in_order(self) -> list[QListWidgetItem]:
        """Return all rows."""
        return [self.item(row) for row in range(self.count())]

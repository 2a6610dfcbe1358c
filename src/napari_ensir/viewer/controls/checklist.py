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

_KEY = Qt.ItemDataRole.UserRole

ENABLED = (
    Qt.ItemFlag.ItemIsUserCheckable
    | Qt.ItemFlag.ItemIsDragEnabled
    | Qt.ItemFlag.ItemIsSelectable
    | Qt.ItemFlag.ItemIsEnabled
)
"""Flags of a row that can be ticked."""


class Checklist(ValuedContainerWidget[list]):
    """Checklist whose value is the list of the keys of the ticked entries, in order.

    Parameters
    ----------
    entries
        Key -> title and tooltip.
    value
        Keys that are ticked at first.
    **kwargs
        As for magicgui's container; ``widgets`` are shown above the list.
    """

    selected = Signal(object)
    """Emitted with the key of a row that is selected or ticked."""

    def __init__(
        self, entries: Mapping[Any, tuple[str, str]] | None = None, value: Any = Undefined, **kwargs: Any
    ) -> None:
        self._emitted: list[Any] = []
        self.rows = _Rows()
        super().__init__(**{"widgets": [], "layout": "vertical", "labels": False, **kwargs})
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(3)
        self.native.layout().addWidget(self.rows, 1)
        self.rows.setAccessibleName(self.label)
        self.rows.setToolTip(self.tooltip or "")
        for key, (title, tip) in (entries or {}).items():
            self.add(key, title, tip)
        self.rows.itemChanged.connect(self._item_changed)
        self.rows.model().rowsMoved.connect(self._rows_changed)
        self.rows.currentItemChanged.connect(self._row_selected)
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[Any]:
        """Return the ticked keys, from the top."""
        return [key_of(item) for item in self.items() if is_ticked(item)]

    def set_value(self, value: Iterable[Any] | None) -> None:
        """Tick only these entries and move them to the top, in this order.

        Raises
        ------
        EnsembleError
            If a key does not exist.
        """
        keys = list(value or ())
        for key in keys:
            if key not in self.keys():
                raise EnsembleError(self._unknown(key))
        self.rows.blockSignals(True)
        for target, key in enumerate(keys):
            self.rows.insertItem(target, self.rows.takeItem(self.keys().index(key)))
        for item in self.items():
            item.setCheckState(_state(key_of(item) in keys))
        self.rows.blockSignals(False)
        self._rows_changed()
        if keys:
            self.select(keys[0])

    def _unknown(self, key: Any) -> str:
        return f"there is no entry {key!r}; choose from: {', '.join(self.keys())}."

    # -- rows -------------------------------------------------------------------------------------

    def items(self) -> list[QListWidgetItem]:
        """Return all rows."""
        return [self.rows.item(row) for row in range(self.rows.count())]

    def keys(self) -> list[Any]:
        """Return all keys, from the top."""
        return [key_of(item) for item in self.items()]

    def texts(self) -> list[str]:
        """Return the texts of the rows."""
        return [item.text() for item in self.items()]

    def add(self, key: Any, title: str, tip: str = "", *, ticked: bool = False) -> None:
        """Append an entry."""
        item = QListWidgetItem(title)
        item.setData(_KEY, key)
        item.setToolTip(tip)
        item.setFlags(ENABLED)
        item.setCheckState(_state(ticked))
        self.rows.addItem(item)
        if ticked:
            self._rows_changed()

    def select(self, key: Any) -> None:
        """Select the row of an entry, whether ticked or not."""
        self.rows.setCurrentRow(self.keys().index(key))

    def title_of(self, key: Any) -> str:
        """Return the title of an entry."""
        return self.texts()[self.keys().index(key)]

    # -- slots ------------------------------------------------------------------------------------

    def _item_changed(self, item: QListWidgetItem) -> None:
        if is_ticked(item):
            self.rows.setCurrentItem(item)
        self._rows_changed()

    def _row_selected(self, item: QListWidgetItem | None, _: object = None) -> None:
        if item is not None:
            self.selected.emit(key_of(item))

    def _rows_changed(self, *_: object) -> None:
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
        self.setMinimumHeight(80)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        # napari's themes draw unchecked boxes in nearly the colour of the background.
        self.setStyleSheet("QListWidget::indicator:unchecked { border: 1px solid #8a9099; }")

    def sizeHint(self) -> QSize:
        """See Qt."""
        return QSize(300, 130)


def key_of(item: QListWidgetItem) -> Any:
    """Return the key of a row."""
    return item.data(_KEY)


def is_ticked(item: QListWidgetItem) -> bool:
    """Return whether a row is ticked."""
    return item.checkState() == Qt.CheckState.Checked


def _state(ticked: bool) -> Qt.CheckState:
    return Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked

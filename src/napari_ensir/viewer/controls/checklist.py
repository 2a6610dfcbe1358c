"""A list of named entries to tick and drag into order, as one value. Knows nothing of what they stand for."""

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

__all__ = ["TickList"]

_KEY = Qt.ItemDataRole.UserRole
_TICKED, _UNTICKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class TickList(ValuedContainerWidget[list]):
    """Some of several entries, in order; its value is the list of their keys.

    Parameters
    ----------
    entries
        Key to title and sentence.
    value
        Keys ticked at first.
    """

    selected = Signal(str)
    """Another row was selected, or one was ticked: its key."""

    def __init__(
        self, entries: Mapping[str, tuple[str, str]] | None = None, value: Any = Undefined, **kwargs: Any
    ) -> None:
        self._told: list[str] = []
        self._rows = _Rows()
        super().__init__(widgets=[], layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.native.layout().addWidget(self._rows, 1)
        self._rows.setAccessibleName(self.label)
        self._rows.setToolTip(self.tooltip or "")
        for key, (title, tip) in (entries or {}).items():
            self.add(key, title, tip)
        self._rows.itemChanged.connect(self._item_changed)
        self._rows.model().rowsMoved.connect(self._tell)
        self._rows.currentItemChanged.connect(self._row_selected)
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[str]:
        """The keys ticked, from the top."""
        return [item.data(_KEY) for item in self._rows.items_in_order() if item.checkState() == _TICKED]

    def set_value(self, value: Iterable[str] | None) -> None:
        """Tick these entries, in this order before all others, and no others.

        Raises
        ------
        EnsembleError
            If there is none of such a key.
        """
        keys = list(value or ())
        for key in keys:
            if key not in self.keys():
                raise EnsembleError(f"there is no {key!r} to tick; there are: {', '.join(self.keys())}.")
        self._rows.blockSignals(True)
        for place, key in enumerate(keys):
            row = self.keys().index(key)
            if row != place:
                self._rows.insertItem(place, self._rows.takeItem(row))
        for item in self._rows.items_in_order():
            item.setCheckState(_TICKED if item.data(_KEY) in keys else _UNTICKED)
        self._rows.blockSignals(False)
        self._tell()
        if keys:
            self.select(keys[0])

    def keys(self) -> list[str]:
        """All keys, from the top."""
        return [item.data(_KEY) for item in self._rows.items_in_order()]

    def add(self, key: str, title: str, tip: str = "", *, ticked: bool = False) -> None:
        """Offer one more entry, at the end."""
        item = QListWidgetItem(title)
        item.setData(_KEY, key)
        item.setToolTip(tip)
        flags = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsDragEnabled | Qt.ItemFlag.ItemIsSelectable
        item.setFlags(flags | Qt.ItemFlag.ItemIsEnabled)
        item.setCheckState(_TICKED if ticked else _UNTICKED)
        self._rows.addItem(item)
        self._tell()

    def select(self, key: str) -> None:
        """Put the selection on an entry, ticked or not."""
        self._rows.setCurrentRow(self.keys().index(key))

    def title_of(self, key: str) -> str:
        """What an entry is called."""
        return self._rows.item(self.keys().index(key)).text()

    # -- what the user does -----------------------------------------------------------------------

    def _item_changed(self, item: QListWidgetItem) -> None:
        if item.checkState() == _TICKED:
            self._rows.setCurrentItem(item)  # what was ticked is what one wants to see the settings of
        self._tell()

    def _row_selected(self, item: QListWidgetItem | None, _: object = None) -> None:
        if item is not None:
            self.selected.emit(item.data(_KEY))

    def _tell(self, *_: object) -> None:
        chosen = self.get_value()
        if chosen != self._told:
            self._told = chosen
            self.changed.emit(chosen)


class _Rows(QListWidget):
    """Ticks and drag: what magicgui has no widget for."""

    def __init__(self) -> None:
        super().__init__()
        self.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(110)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        # napari's own boxes cannot be told from the list where they are empty.
        self.setStyleSheet("QListWidget::indicator:unchecked { border: 1px solid #8a9099; }")

    def sizeHint(self) -> QSize:
        """A few rows high; the list scrolls and grows with the dock."""
        return QSize(260, 150)

    def items_in_order(self) -> list[QListWidgetItem]:
        """All rows, from the top."""
        return [self.item(place) for place in range(self.count())]

"""A list of image layers to tick and drag into order. Holds layers, not names; computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_ensir.viewer.layers import LayerWatcher, why_not
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["CandidatePicker"]

_LAYER = Qt.ItemDataRole.UserRole


class CandidatePicker(QWidget):
    """Chooses candidates among the viewer's layers.

    Rows are numbered in the order in which the lookup table's axes will follow. A layer that cannot join is
    greyed, with the reason behind its name.

    Parameters
    ----------
    viewer
        Whose layers to offer.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._truth: Layer | None = None
        self._list = QListWidget()
        self._list.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self._list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._list.setMinimumHeight(80)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        explain(self._list, "candidates")
        self._filter = QLineEdit()
        self._filter.setPlaceholderText("filter layers")
        self._filter.setClearButtonEnabled(True)
        explain(self._filter, "filter")
        buttons = QHBoxLayout()
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.addWidget(self._filter, 1)
        for text, key, slot in (
            ("All", "all", self.choose_all),
            ("None", "none", self.choose_none),
            ("Selected", "selected", self.choose_selected),
        ):
            button = QPushButton(text)
            explain(button, key)
            button.clicked.connect(slot)
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(buttons)
        layout.addWidget(self._list, 1)

        self._filter.textChanged.connect(self._apply_filter)
        self._list.itemChanged.connect(self._relabel)
        self._list.model().rowsMoved.connect(self._relabel)
        self._watcher = LayerWatcher(viewer, self._refresh)
        self.destroyed.connect(self._watcher.stop)
        self._refresh()

    def sizeHint(self) -> QSize:
        """A few rows high; the list scrolls and grows with the dock."""
        return QSize(280, 150)

    def layers(self) -> list[Layer]:
        """The chosen candidates, in order."""
        return [
            item.data(_LAYER)
            for item in self._items()
            if item.checkState() == Qt.CheckState.Checked and item.flags() & Qt.ItemFlag.ItemIsEnabled
        ]

    def choose(self, layers: list[Layer]) -> None:
        """Tick these layers, in this order before all others, and no others."""
        self._list.blockSignals(True)
        for place, layer in enumerate(layers):
            row = next((r for r, item in enumerate(self._items()) if item.data(_LAYER) is layer), None)
            if row is not None:
                self._list.insertItem(place, self._list.takeItem(row))
        for item in self._items():
            chosen = any(item.data(_LAYER) is layer for layer in layers)
            item.setCheckState(Qt.CheckState.Checked if chosen else Qt.CheckState.Unchecked)
        self._list.blockSignals(False)
        self._relabel()

    def choose_all(self) -> None:
        """Tick every layer that can join."""
        self.choose([item.data(_LAYER) for item in self._items() if item.flags() & Qt.ItemFlag.ItemIsEnabled])

    def choose_none(self) -> None:
        """Untick every layer."""
        self.choose([])

    def choose_selected(self) -> None:
        """Tick the layers selected in napari's own list."""
        chosen = self._viewer.layers.selection
        self.choose([item.data(_LAYER) for item in self._items() if item.data(_LAYER) in chosen])

    @property
    def truth(self) -> Layer | None:
        """The ground truth that candidates must match."""
        return self._truth

    def set_truth(self, truth: Layer | None) -> None:
        """Tell which layer is the ground truth: it cannot join, and the others must match it."""
        self._truth = truth
        self._refresh()

    def _items(self) -> list[QListWidgetItem]:
        return [self._list.item(row) for row in range(self._list.count())]

    def _refresh(self) -> None:
        """Follow the viewer's layers; keep the order and the ticks."""
        present = list(self._viewer.layers)
        self._list.blockSignals(True)
        for row in reversed(range(self._list.count())):
            if self._list.item(row).data(_LAYER) not in present:
                self._list.takeItem(row)
        held = [item.data(_LAYER) for item in self._items()]
        for layer in present:
            if layer not in held:
                item = QListWidgetItem()
                item.setData(_LAYER, layer)
                item.setCheckState(Qt.CheckState.Unchecked)
                self._list.addItem(item)
        self._list.blockSignals(False)
        self._relabel()

    def _relabel(self, *_: object) -> None:
        """Number the ticked rows and grey what cannot join, in place: this runs while Qt moves rows."""
        ticked = [item for item in self._items() if item.checkState() == Qt.CheckState.Checked]
        like = self._truth
        if like is None:
            like = next((item.data(_LAYER) for item in ticked if not why_not(item.data(_LAYER))), None)
        number = 0
        self._list.blockSignals(True)
        for item in self._items():
            layer = item.data(_LAYER)
            reason = why_not(layer, like, self._truth)
            flags = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsDragEnabled
            flags |= Qt.ItemFlag.ItemIsSelectable
            if reason:
                # It keeps its tick: it may be able to join again once another choice changes.
                item.setText(f"{layer.name}  ({reason})")
                item.setToolTip(f"{layer.name} cannot be a candidate: {reason}.")
            else:
                flags |= Qt.ItemFlag.ItemIsEnabled
                number += item in ticked
                item.setText(f"{number}  {layer.name}" if item in ticked else layer.name)
                item.setToolTip(layer.name)
            item.setFlags(flags)
        self._list.blockSignals(False)
        self._apply_filter()
        self.changed.emit()

    def _apply_filter(self, *_: object) -> None:
        wanted = self._filter.text().strip().lower()
        for item in self._items():
            item.setHidden(wanted not in item.data(_LAYER).name.lower())

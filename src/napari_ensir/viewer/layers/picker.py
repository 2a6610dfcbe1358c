"""Checklist of the image layers of a viewer, which can be dragged into order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
from magicgui.types import Undefined
from magicgui.widgets import LineEdit
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.forms import button, row, set_accessible_names
from napari_ensir.viewer.layers.layers import exclusion_reason, unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari.layers import Layer

__all__ = ["LayerPicker"]

_LAYER = Qt.ItemDataRole.UserRole
_TICKED, _UNTICKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class LayerPicker(ValuedContainerWidget[list]):
    """Checklist of layers whose value is the list of ticked candidates, in order.

    Ticked rows are numbered in the order of the lookup table's axes. Layers that cannot be candidates are
    greyed, with the reason after the name.

    Parameters
    ----------
    value
        Layers that are ticked at first.
    viewer
        Default: the current viewer when the widget is docked.
    """

    def __init__(self, value: Any = Undefined, *, viewer: napari.Viewer | None = None, **kwargs: Any) -> None:
        self._viewer = viewer
        self._truth: Layer | None = None
        self._emitted: list[Layer] = []
        self._rows = _Rows()
        self._filter = LineEdit(name="filter", tooltip="Show only layers whose name contains this text.")
        self._filter.native.setPlaceholderText("filter layers")
        self._filter.native.setClearButtonEnabled(True)
        self._filter.native.setMinimumWidth(40)
        self.all_button = button("All", "Tick every layer that can be a candidate.", "all")
        self.none_button = button("None", "Untick every layer.", "none")
        self.selected_button = button(
            "Selected", "Tick only the layers that are selected in the layer list.", "selected"
        )
        buttons = [self.all_button, self.none_button, self.selected_button]
        kwargs.pop("widget_type", None)
        kwargs.pop("nullable", None)
        super().__init__(
            widgets=[row(self._filter, *buttons, name="bar")], layout="vertical", labels=False, **kwargs
        )
        self.margins = (0, 0, 0, 0)
        self.native.layout().setSpacing(3)
        self.native.layout().addWidget(self._rows, 1)
        self._rows.setAccessibleName(self.label)
        self._rows.setToolTip(self.tooltip or "")
        set_accessible_names(self._filter, "Filter layers")
        self._rows.itemChanged.connect(self._relabel)
        self._rows.model().rowsMoved.connect(self._relabel)
        self._filter.changed.connect(self._apply_filter)
        self.all_button.changed.connect(self.choose_all)
        self.none_button.changed.connect(self.choose_none)
        self.selected_button.changed.connect(self.choose_selected)
        self.reset_choices()
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[Layer]:
        """Return the ticked candidates, in order."""
        return [
            item.data(_LAYER)
            for item in self._rows.items_in_order()
            if item.checkState() == _TICKED and item.flags() & Qt.ItemFlag.ItemIsEnabled
        ]

    def set_value(self, value: Iterable[Layer] | None) -> None:
        """Tick only these layers and move them to the top, in this order.

        Raises
        ------
        EnsembleError
            If one of them is not in the viewer.
        """
        chosen = [unwrap_proxy(layer) for layer in value or ()]
        offered = [item.data(_LAYER) for item in self._rows.items_in_order()]
        for layer in chosen:
            if not any(layer is each for each in offered):
                name = getattr(layer, "name", layer)
                raise EnsembleError(f'"{name}" is not a layer of this viewer; add it first.')
        self._rows.tick(chosen)
        self._relabel()

    def choose_all(self) -> None:
        """Tick every layer that can be a candidate."""
        items = self._rows.items_in_order()
        self.value = [item.data(_LAYER) for item in items if item.flags() & Qt.ItemFlag.ItemIsEnabled]

    def choose_none(self) -> None:
        """Untick every layer."""
        self.value = []

    def choose_selected(self) -> None:
        """Tick only the layers that are selected in the layer list."""
        chosen = (
            [] if self._viewer is None else [unwrap_proxy(each) for each in self._viewer.layers.selection]
        )
        self.value = [layer for layer in self.offered() if any(layer is each for each in chosen)]

    # -- rows -------------------------------------------------------------------------------------

    @property
    def truth(self) -> Layer | None:
        """The ground truth, whose shape candidates must have; it cannot be a candidate."""
        return self._truth

    @truth.setter
    def truth(self, layer: Layer | None) -> None:
        self._truth = unwrap_proxy(layer)
        self._relabel()

    def offered(self) -> list[Layer]:
        """Return all listed layers, in the order of the rows."""
        return [item.data(_LAYER) for item in self._rows.items_in_order()]

    def texts(self) -> list[str]:
        """Return the texts of the rows."""
        return [item.text() for item in self._rows.items_in_order()]

    def reset_choices(self, *_: object) -> None:
        """List the viewer's current layers; order and ticks are kept."""
        if self._viewer is None and self.native.parent() is not None:
            self._viewer = napari.current_viewer()
        self._rows.offer([] if self._viewer is None else [unwrap_proxy(each) for each in self._viewer.layers])
        self._relabel()

    def _relabel(self, *_: object) -> None:
        """Update the texts of the rows in place, since this is called while Qt moves rows."""
        self._rows.relabel(self._truth)
        self._apply_filter()
        chosen = self.get_value()
        if [id(layer) for layer in chosen] != [id(layer) for layer in self._emitted]:
            self._emitted = chosen
            self.changed.emit(chosen)

    def _apply_filter(self, *_: object) -> None:
        text = self._filter.value.strip().lower()
        for item in self._rows.items_in_order():
            item.setHidden(text not in item.data(_LAYER).name.lower())


class _Rows(QListWidget):
    """List with check boxes, dragging and greyed rows, which magicgui lacks."""

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
        return QSize(340, 120)

    def items_in_order(self) -> list[QListWidgetItem]:
        """Return all rows."""
        return [self.item(index) for index in range(self.count())]

    def tick(self, layers: Sequence[Layer]) -> None:
        """Tick only these layers and move them to the top, without signals."""
        self.blockSignals(True)
        for place, layer in enumerate(layers):
            row = next(r for r, item in enumerate(self.items_in_order()) if item.data(_LAYER) is layer)
            self.insertItem(place, self.takeItem(row))
        for item in self.items_in_order():
            chosen = any(item.data(_LAYER) is layer for layer in layers)
            item.setCheckState(_TICKED if chosen else _UNTICKED)
        self.blockSignals(False)

    def offer(self, layers: Sequence[Layer]) -> None:
        """List these layers without signals; known layers keep their rows and ticks."""
        self.blockSignals(True)
        for index in reversed(range(self.count())):
            if not any(self.item(index).data(_LAYER) is layer for layer in layers):
                self.takeItem(index)
        held = [item.data(_LAYER) for item in self.items_in_order()]
        for layer in layers:
            if not any(layer is each for each in held):
                item = QListWidgetItem()
                item.setData(_LAYER, layer)
                item.setCheckState(_UNTICKED)
                self.addItem(item)
        self.blockSignals(False)

    def relabel(self, truth: Layer | None) -> None:
        """Number the ticked rows and grey those that cannot be candidates, without signals."""
        ticked = [item for item in self.items_in_order() if item.checkState() == _TICKED]
        like = truth
        if like is None:
            like = next(
                (item.data(_LAYER) for item in ticked if not exclusion_reason(item.data(_LAYER))), None
            )
        number = 0
        self.blockSignals(True)
        for item in self.items_in_order():
            layer = item.data(_LAYER)
            reason = exclusion_reason(layer, like, truth)
            flags = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsDragEnabled
            flags |= Qt.ItemFlag.ItemIsSelectable
            if reason:
                # The tick is kept: another choice may make the layer a candidate again.
                item.setText(f"{layer.name}  ({reason})")
                item.setToolTip(f"{layer.name} cannot be a candidate: {reason}.")
            else:
                flags |= Qt.ItemFlag.ItemIsEnabled
                number += item in ticked
                item.setText(f"{number}  {layer.name}" if item in ticked else layer.name)
                item.setToolTip(layer.name)
            item.setFlags(flags)
        self.blockSignals(False)

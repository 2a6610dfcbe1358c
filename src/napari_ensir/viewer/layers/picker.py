"""Image layers to tick and drag into order, as one value. Holds layers, not names; computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
from magicgui.types import Undefined
from magicgui.widgets import LineEdit
from magicgui.widgets.bases import ValuedContainerWidget
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.forms import button, dress, row
from napari_ensir.viewer.layers.layers import unwrapped, why_not

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari.layers import Layer

__all__ = ["LayerPicker"]

_LAYER = Qt.ItemDataRole.UserRole
_TICKED, _UNTICKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class LayerPicker(ValuedContainerWidget[list]):
    """Chooses candidates among a viewer's layers; its value is the list of them, in order.

    Rows are numbered in the order in which the lookup table's axes will follow. A layer that cannot join is
    greyed, with the reason behind its name.

    Parameters
    ----------
    value
        Layers ticked at first.
    viewer
        Whose layers to offer; the current one when first docked, where it is not given.
    """

    def __init__(self, value: Any = Undefined, *, viewer: napari.Viewer | None = None, **kwargs: Any) -> None:
        self._viewer = viewer
        self._truth: Layer | None = None
        self._told: list[Layer] = []
        self._rows = _Rows()
        self._filter = LineEdit(name="filter", tooltip="Show only layers whose name contains this text.")
        self._filter.native.setPlaceholderText("filter layers")
        self._filter.native.setClearButtonEnabled(True)
        self._filter.native.setMinimumWidth(40)
        self.all_button = button("All", "Tick every layer that can join.", "all")
        self.none_button = button("None", "Untick every layer.", "none")
        self.selected_button = button(
            "Selected", "Tick the layers selected in napari's layer list, and no others.", "selected"
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
        dress(self._filter, "Filter layers")
        self._rows.itemChanged.connect(self._relabel)
        self._rows.model().rowsMoved.connect(self._relabel)
        self._filter.changed.connect(self._hide_others)
        self.all_button.changed.connect(self.choose_all)
        self.none_button.changed.connect(self.choose_none)
        self.selected_button.changed.connect(self.choose_selected)
        self.reset_choices()
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[Layer]:
        """The chosen candidates, in order."""
        return [
            item.data(_LAYER)
            for item in self._rows.items_in_order()
            if item.checkState() == _TICKED and item.flags() & Qt.ItemFlag.ItemIsEnabled
        ]

    def set_value(self, value: Iterable[Layer] | None) -> None:
        """Tick these layers, in this order before all others, and no others.

        Raises
        ------
        EnsembleError
            If one of them is not among the viewer's layers.
        """
        chosen = [unwrapped(layer) for layer in value or ()]
        offered = [item.data(_LAYER) for item in self._rows.items_in_order()]
        for layer in chosen:
            if not any(layer is each for each in offered):
                name = getattr(layer, "name", layer)
                raise EnsembleError(f'"{name}" is no layer of this viewer; add it first.')
        self._rows.tick(chosen)
        self._relabel()

    def choose_all(self) -> None:
        """Tick every layer that can join."""
        items = self._rows.items_in_order()
        self.value = [item.data(_LAYER) for item in items if item.flags() & Qt.ItemFlag.ItemIsEnabled]

    def choose_none(self) -> None:
        """Untick every layer."""
        self.value = []

    def choose_selected(self) -> None:
        """Tick the layers selected in napari's own list."""
        chosen = [] if self._viewer is None else [unwrapped(each) for each in self._viewer.layers.selection]
        self.value = [layer for layer in self.offered() if any(layer is each for each in chosen)]

    # -- what is offered --------------------------------------------------------------------------

    @property
    def truth(self) -> Layer | None:
        """The ground truth that candidates must match, and which is none of them."""
        return self._truth

    @truth.setter
    def truth(self, layer: Layer | None) -> None:
        self._truth = unwrapped(layer)
        self._relabel()

    def offered(self) -> list[Layer]:
        """All layers listed, in the order of the rows."""
        return [item.data(_LAYER) for item in self._rows.items_in_order()]

    def texts(self) -> list[str]:
        """What the rows say."""
        return [item.text() for item in self._rows.items_in_order()]

    def reset_choices(self, *_: object) -> None:
        """Follow the viewer's layers; order and ticks stay."""
        if self._viewer is None and self.native.parent() is not None:
            self._viewer = napari.current_viewer()
        self._rows.offer([] if self._viewer is None else [unwrapped(each) for each in self._viewer.layers])
        self._relabel()

    def _relabel(self, *_: object) -> None:
        """Number the ticked rows and grey what cannot join, in place: this runs while Qt moves rows."""
        self._rows.relabel(self._truth)
        self._hide_others()
        chosen = self.get_value()
        if [id(layer) for layer in chosen] != [id(layer) for layer in self._told]:
            self._told = chosen
            self.changed.emit(chosen)

    def _hide_others(self, *_: object) -> None:
        wanted = self._filter.value.strip().lower()
        for item in self._rows.items_in_order():
            item.setHidden(wanted not in item.data(_LAYER).name.lower())


class _Rows(QListWidget):
    """Ticks, drag and greyed rows: what magicgui has no widget for."""

    def __init__(self) -> None:
        super().__init__()
        self.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(80)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        # The viewer's themes draw an empty box in nearly the colour of what lies behind it.
        self.setStyleSheet("QListWidget::indicator:unchecked { border: 1px solid #8a9099; }")

    def sizeHint(self) -> QSize:
        """A few rows high; the list scrolls and grows with the dock."""
        return QSize(340, 120)

    def items_in_order(self) -> list[QListWidgetItem]:
        """All rows, from the top."""
        return [self.item(place) for place in range(self.count())]

    def tick(self, layers: Sequence[Layer]) -> None:
        """Tick these, before all others, and no others; emits nothing."""
        self.blockSignals(True)
        for place, layer in enumerate(layers):
            row = next(r for r, item in enumerate(self.items_in_order()) if item.data(_LAYER) is layer)
            self.insertItem(place, self.takeItem(row))
        for item in self.items_in_order():
            chosen = any(item.data(_LAYER) is layer for layer in layers)
            item.setCheckState(_TICKED if chosen else _UNTICKED)
        self.blockSignals(False)

    def offer(self, layers: Sequence[Layer]) -> None:
        """List these layers: those that were there keep their place and tick; emits nothing."""
        self.blockSignals(True)
        for place in reversed(range(self.count())):
            if not any(self.item(place).data(_LAYER) is layer for layer in layers):
                self.takeItem(place)
        held = [item.data(_LAYER) for item in self.items_in_order()]
        for layer in layers:
            if not any(layer is each for each in held):
                item = QListWidgetItem()
                item.setData(_LAYER, layer)
                item.setCheckState(_UNTICKED)
                self.addItem(item)
        self.blockSignals(False)

    def relabel(self, truth: Layer | None) -> None:
        """Number what is ticked, and grey what cannot join; emits nothing."""
        ticked = [item for item in self.items_in_order() if item.checkState() == _TICKED]
        like = truth
        if like is None:
            like = next((item.data(_LAYER) for item in ticked if not why_not(item.data(_LAYER))), None)
        number = 0
        self.blockSignals(True)
        for item in self.items_in_order():
            layer = item.data(_LAYER)
            reason = why_not(layer, like, truth)
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
        self.blockSignals(False)

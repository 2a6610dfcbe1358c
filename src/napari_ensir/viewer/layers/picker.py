"""Checklist of the image layers of a viewer, which can be dragged into order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
from magicgui.types import Undefined
from magicgui.widgets import LineEdit
from qtpy.QtCore import Qt

from napari_ensir.viewer.controls.checklist import ENABLED, Checklist, is_ticked, key_of
from napari_ensir.viewer.controls.forms import button, row, set_accessible_names
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, exclusion_reason, unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Layer


class LayerPicker(Checklist):
    """Checklist of layers whose value is the list of ticked candidates, in order.

    Layers that this package computed are not listed. Ticked rows are numbered in the order of the lookup
    table's axes. Layers that cannot be candidates are greyed, with the reason after the name.

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
        self.filter = LineEdit(name="filter", tooltip="Show only layers whose name contains this text.")
        self.filter.native.setPlaceholderText("filter layers")
        self.filter.native.setClearButtonEnabled(True)
        self.filter.native.setMinimumWidth(40)
        self.all_button = button("All", "Tick every layer that can be a candidate.", "all")
        self.none_button = button("None", "Untick every layer.", "none")
        self.selected_button = button(
            "Selected", "Tick only the layers that are selected in the layer list.", "selected"
        )
        bar = row(self.filter, self.all_button, self.none_button, self.selected_button, name="bar")
        for name in ("widget_type", "nullable"):  # from magicgui
            kwargs.pop(name, None)
        super().__init__(widgets=[bar], **kwargs)
        set_accessible_names(self.filter, "Filter layers")
        self.filter.changed.connect(self._apply_filter)
        self.all_button.changed.connect(self.choose_all)
        self.none_button.changed.connect(self.choose_none)
        self.selected_button.changed.connect(self.choose_selected)
        self.reset_choices()
        if value is not Undefined:
            self.value = value

    # -- the value --------------------------------------------------------------------------------

    def get_value(self) -> list[Layer]:
        """Return the ticked candidates, in order."""
        return [key_of(item) for item in self.items() if is_ticked(item) and item.flags() == ENABLED]

    def set_value(self, value: Iterable[Layer] | None) -> None:
        """See Checklist."""
        super().set_value([unwrap_proxy(layer) for layer in value or ()])

    def _unknown(self, key: Any) -> str:
        name = getattr(key, "name", key)
        if OUTPUT_KEY in getattr(key, "metadata", ()):
            return f'"{name}" was made by napari-ensir, so it cannot be a candidate.'
        return f'"{name}" is not a layer of this viewer; add it first.'

    def choose_all(self) -> None:
        """Tick every layer that can be a candidate."""
        self.value = [key_of(item) for item in self.items() if item.flags() == ENABLED]

    def choose_none(self) -> None:
        """Untick every layer."""
        self.value = []

    def choose_selected(self) -> None:
        """Tick only the layers that are selected in the layer list."""
        selected = [] if self._viewer is None else list(map(unwrap_proxy, self._viewer.layers.selection))
        self.value = [layer for layer in self.keys() if layer in selected]

    # -- rows -------------------------------------------------------------------------------------

    @property
    def truth(self) -> Layer | None:
        """The ground truth, whose shape candidates must have; it cannot be a candidate."""
        return self._truth

    @truth.setter
    def truth(self, layer: Layer | None) -> None:
        self._truth = unwrap_proxy(layer)
        self._rows_changed()

    def reset_choices(self, *_: object) -> None:
        """List the viewer's current layers; order and ticks are kept."""
        if self._viewer is None and self.native.parent() is not None:
            self._viewer = napari.current_viewer()
        every = [] if self._viewer is None else map(unwrap_proxy, self._viewer.layers)
        layers = [layer for layer in every if OUTPUT_KEY not in layer.metadata]
        self.rows.blockSignals(True)
        for item in self.items():
            if key_of(item) not in layers:
                self.rows.takeItem(self.rows.row(item))
        listed = self.keys()
        for layer in layers:
            if layer not in listed:
                self.add(layer, layer.name)
        self.rows.blockSignals(False)
        self._rows_changed()

    def _rows_changed(self, *_: object) -> None:
        """Update the texts of the rows in place, since this is called while Qt moves rows."""
        ticked = [item for item in self.items() if is_ticked(item)]
        candidates = [key_of(item) for item in ticked if not exclusion_reason(key_of(item))]
        like = self._truth if self._truth is not None else next(iter(candidates), None)
        number = 0
        self.rows.blockSignals(True)
        for item in self.items():
            layer = key_of(item)
            if reason := exclusion_reason(layer, like, self._truth):
                # The tick is kept: another choice may make the layer a candidate again.
                item.setText(f"{layer.name}  ({reason})")
                item.setToolTip(f"{layer.name} cannot be a candidate: {reason}.")
                item.setFlags(ENABLED & ~Qt.ItemFlag.ItemIsEnabled)
            else:
                number += item in ticked
                item.setText(f"{number}  {layer.name}" if item in ticked else layer.name)
                item.setToolTip(layer.name)
                item.setFlags(ENABLED)
        self.rows.blockSignals(False)
        self._apply_filter()
        super()._rows_changed()

    def _apply_filter(self, *_: object) -> None:
        text = self.filter.value.strip().lower()
        for item in self.items():
            item.setHidden(text not in key_of(item).name.lower())

"""Combo box of the layers of a viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt

from napari_ensir.viewer.controls.combo import elided_text, make_narrow
from napari_ensir.viewer.layers.layers import unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer

__all__ = ["LayerChoice"]


class LayerChoice(ComboBox):
    """Combo box whose value is a layer, or None.

    The value stays the same layer if layers are renamed or reordered; ``changed`` is emitted if another layer
    is chosen or the layer is removed. The owner calls :meth:`reset_choices` if the layers change, as napari
    does for docked widgets.

    Parameters
    ----------
    viewer
    admits
        Returns whether a layer is offered.
    nothing
        Text of the entry for no layer.
    choose_only
        Choose a layer whenever it is the only one that is offered.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        admits: Callable[[Layer], bool] = lambda layer: True,
        nothing: str = "choose a layer",
        value: Any = Undefined,
        *,
        choose_only: bool = False,
        **kwargs: Any,
    ) -> None:
        self._viewer, self._admits, self._choose_only = viewer, admits, choose_only
        self._shown: list[tuple[str, int]] | None = None
        self.null_string = nothing
        super().__init__(choices=self._offered, nullable=True, **kwargs)
        # Elided in the middle, since the names of layers often differ at the end.
        make_narrow(self.native, Qt.TextElideMode.ElideMiddle)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """The chosen layer, or None."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        ComboBox.value.fset(self, unwrap_proxy(value))

    def reset_choices(self, *_: Any) -> None:
        """Offer the viewer's current layers; the chosen layer stays if it is still offered."""
        offered = self._offered(self)
        shown = [(name, id(layer)) for name, layer in offered]
        if shown == self._shown:
            return
        self._shown = shown
        before = self.get_value()
        with self.changed.blocked():
            self.choices = ()  # otherwise magicgui would match old and new entries by their text
            self.choices = self._offered
            if any(before is layer for _, layer in offered):
                self.value = before
            elif self._choose_only and len(offered) == 1:
                self.value = offered[0][1]
        for index, (name, _) in enumerate(offered, start=1):
            self.native.setItemData(index, name, Qt.ItemDataRole.ToolTipRole)
        if self.get_value() is not before:
            self.changed.emit(self.get_value())

    def shown_text(self) -> str:
        """Return the text of the chosen entry as it is painted."""
        return elided_text(self.native, Qt.TextElideMode.ElideMiddle)

    def _offered(self, _: object) -> list[tuple[str, Layer]]:
        return [
            (layer.name, layer) for layer in map(unwrap_proxy, self._viewer.layers) if self._admits(layer)
        ]

"""A drop-down of layers: holds a layer, not its name. Offers, and does nothing with what is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt

from napari_ensir.viewer.controls.combo import elided_text, narrow
from napari_ensir.viewer.layers.layers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer

__all__ = ["LayerChoice"]


class LayerChoice(ComboBox):
    """One layer out of those that a rule admits, or None.

    It stays the same layer through renaming, reordering and exchange of names; ``changed`` tells when it is
    another one, or gone. Whoever holds the control calls :meth:`reset_choices` when layers come and go, as
    napari does for what is docked.

    Parameters
    ----------
    viewer
        Whose layers to offer.
    admits
        Says of a layer whether it is offered.
    nothing
        Text of the entry that stands for no layer.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        admits: Callable[[Layer], bool] = lambda layer: True,
        nothing: str = "choose a layer",
        value: Any = Undefined,
        **kwargs: Any,
    ) -> None:
        self._viewer, self._admits = viewer, admits
        self._shown: list[tuple[str, int]] | None = None
        self.null_string = nothing
        super().__init__(choices=self._offered, nullable=True, **kwargs)
        # Shortened in the middle: names often differ at the end.
        narrow(self.native, Qt.TextElideMode.ElideMiddle)
        if value is not Undefined:
            self.value = value

    @property
    def value(self) -> Any:
        """The layer chosen, or None."""
        return self.get_value()

    @value.setter
    def value(self, value: Any) -> None:
        ComboBox.value.fset(self, unwrapped(value))

    def reset_choices(self, *_: Any) -> None:
        """Follow the viewer's layers; the layer chosen stays if it is still offered."""
        offered = self._offered(self)
        shown = [(name, id(layer)) for name, layer in offered]
        if shown == self._shown:
            return
        self._shown = shown
        before = self.get_value()
        with self.changed.blocked():
            self.choices = ()  # or else magicgui would match old and new entries by their text
            self.choices = self._offered
            if any(before is layer for _, layer in offered):
                self.value = before
        for place, (name, _) in enumerate(offered, start=1):
            self.native.setItemData(place, name, Qt.ItemDataRole.ToolTipRole)
        if self.get_value() is not before:
            self.changed.emit(self.get_value())

    def shown_text(self) -> str:
        """The entry chosen as it is painted."""
        return elided_text(self.native, Qt.TextElideMode.ElideMiddle)

    def _offered(self, _: object) -> list[tuple[str, Layer]]:
        return [(layer.name, layer) for layer in map(unwrapped, self._viewer.layers) if self._admits(layer)]

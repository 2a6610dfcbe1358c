"""Combo box of the layers of a viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from qtpy.QtCore import Qt

from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.layers.layers import exclusion_reason, unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer


class LayerChoice(Choice):
    """Combo box whose value is a layer, or None.

    The value stays the same layer if layers are renamed or reordered; ``changed`` is emitted if another layer
    is chosen or the layer is removed. The owner calls :meth:`reset_choices` if the layers change, as napari
    does for docked widgets.

    Parameters
    ----------
    viewer
    admits
        Returns whether a layer is offered; default: whether it can be a candidate.
    nothing
        Text of the entry for no layer.
    choose_only
        Choose a layer whenever it is the only one that is offered.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        admits: Callable[[Layer], bool] = lambda layer: not exclusion_reason(layer),
        nothing: str = "choose a layer",
        value: Any = Undefined,
        *,
        choose_only: bool = False,
        **kwargs: Any,
    ) -> None:
        self._viewer, self._admits, self._choose_only = viewer, admits, choose_only
        self._nothing = nothing
        self._shown: dict[Any, tuple[str, str]] = {}
        # Elided in the middle, since the names of layers often differ at the end.
        super().__init__({}, value, elide=Qt.TextElideMode.ElideMiddle, **kwargs)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        super().set_value(unwrap_proxy(value))

    def reset_choices(self, *_: Any) -> None:
        """Offer the viewer's current layers; the chosen layer stays if it is still offered."""
        layers = [each for each in map(unwrap_proxy, self._viewer.layers) if self._admits(each)]
        entries = {None: (self._nothing, ""), **{layer: (layer.name, layer.name) for layer in layers}}
        if list(entries.items()) != list(self._shown.items()):
            self._shown = entries
            self.offer(entries, layers[0] if self._choose_only and len(layers) == 1 else Undefined)

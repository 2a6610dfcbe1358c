"""Combo box of the layers of a viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import Undefined
from qtpy.QtCore import Qt

from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.layers.layers import exclusion_reason, has_truth_name, unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Layer


def only_layer(layers: Sequence[Layer]) -> Layer | None:
    """Return the layer if there is only one."""
    return layers[0] if len(layers) == 1 else None


def likely_truth(layers: Sequence[Layer]) -> Layer | None:
    """Return the first layer whose name is a usual name of a ground truth."""
    return next(filter(has_truth_name, layers), None)


class LayerChoice(Choice):
    """Combo box whose value is a layer, or None.

    The value stays the same layer if layers are renamed or reordered; ``changed`` is emitted if another layer
    is chosen or the layer is removed. The owner calls :meth:`reset_choices` if the layers change, as napari
    does for docked widgets.

    Parameters
    ----------
    viewer
    name, label, tooltip
        See magicgui.
    nothing
        Text of the entry for no layer.
    admits
        Returns whether a layer is offered; default: whether it can be a candidate.
    guess
        Returns the layer to choose, or None, if no layer is chosen and the layers change; not called after
        the user has chosen none.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        name: str,
        label: str | None = None,
        tooltip: str | None = None,
        nothing: str = "choose a layer",
        *,
        admits: Callable[[Layer], bool] = lambda layer: not exclusion_reason(layer),
        guess: Callable[[Sequence[Layer]], Layer | None] = lambda layers: None,
        **kwargs: Any,
    ) -> None:
        self._viewer, self._admits, self._guess = viewer, admits, guess
        self._nothing = nothing
        self._has_chosen_none = False
        self._shown: dict[Any, tuple[str, str]] = {}
        # Elided in the middle, since the names of layers often differ at the end.
        middle = Qt.TextElideMode.ElideMiddle
        super().__init__({}, elide=middle, name=name, label=label, tooltip=tooltip, **kwargs)

    def set_value(self, value: Any) -> None:
        """See magicgui."""
        super().set_value(unwrap_proxy(value))

    def reset_choices(self, *_: Any) -> None:
        """Offer the viewer's current layers; the chosen layer stays if it is still offered."""
        layers = [each for each in map(unwrap_proxy, self._viewer.layers) if self._admits(each)]
        entries = {None: (self._nothing, ""), **{layer: (layer.name, layer.name) for layer in layers}}
        if list(entries.items()) != list(self._shown.items()):
            guesses = not self._has_chosen_none and self.value not in layers
            self._shown = entries
            self.offer(entries, self._guess(layers) if guesses else Undefined)
            self._has_chosen_none = not guesses and self.value is None

    def _on_value_change(self, value: Any = None) -> None:
        self._has_chosen_none = value is None
        super()._on_value_change(value)

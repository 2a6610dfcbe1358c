"""Names the candidate whose weights a slider shows, on the canvas. Touches no other text there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.viewer.layers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari
    from napari.layers import Layer

__all__ = ["name_slider_places"]


def name_slider_places(viewer: napari.Viewer, layer: Layer, names: Sequence[str]) -> None:
    """Show which candidate the slider stands at, as long as the layer is there and visible.

    Parameters
    ----------
    viewer
        Where the layer is.
    layer
        Weight maps, candidates along the first axis.
    names
        The candidates', counted as they are in the picker.
    """
    _Caption(unwrapped(viewer), layer, tuple(names))


class _Caption:
    """Lives through its connections, and goes when its layer goes."""

    def __init__(self, viewer: Any, layer: Layer, names: tuple[str, ...]) -> None:
        self._viewer, self._layer, self._names = viewer, layer, names
        self._text = ""
        self._before: tuple[str, bool] = ("", False)
        # Functions, which emitters hold on to; of methods they hold none.
        self._slots = [
            (viewer.dims.events.current_step, lambda event=None: self._follow()),
            (layer.events.visible, lambda event=None: self._follow()),
            (viewer.layers.events.removed, lambda event=None: self._removed()),
        ]
        for emitter, slot in self._slots:
            emitter.connect(slot)
        self._follow()

    def _overlay(self) -> Any:
        canvas = getattr(self._viewer, "canvas", None)  # napari 0.9; before, the viewer itself had it
        return canvas.overlays.text if canvas is not None else self._viewer.text_overlay

    def _follow(self) -> None:
        overlay = self._overlay()
        if not self._layer.visible:
            if self._text and overlay.text == self._text:
                overlay.text, overlay.visible = self._before
            self._text = ""
            return
        if not self._text:
            self._before = (overlay.text, overlay.visible)
        place = self._viewer.dims.point[self._viewer.dims.ndim - self._layer.ndim]
        number = min(max(round(place), 0), len(self._names) - 1)
        self._text = f"weight of {number + 1}  {self._names[number]}"
        overlay.text, overlay.visible = self._text, True

    def _removed(self) -> None:
        if self._layer in self._viewer.layers:
            return
        for emitter, slot in self._slots:
            emitter.disconnect(slot)
        overlay = self._overlay()
        if self._text and overlay.text == self._text:
            overlay.text, overlay.visible = self._before
        self._text = ""

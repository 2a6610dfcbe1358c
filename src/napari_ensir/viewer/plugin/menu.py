"""Entries of the Layers menu."""

from __future__ import annotations

import napari  # noqa: TC002 - the viewer is injected by its annotation


def open_fit(viewer: napari.Viewer) -> None:
    """Open the Fit panel with the selected image layers ticked."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble", tabify=True)
    if len(viewer.layers.selection) > 1:
        widget.candidates.choose_selected()


def open_apply(viewer: napari.Viewer) -> None:
    """Open the Apply panel."""
    viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table", tabify=True)


def open_inspect(viewer: napari.Viewer) -> None:
    """Open the Inspect panel."""
    viewer.window.add_plugin_dock_widget("napari-ensir", "Inspect lookup table", tabify=True)

"""Reader of lookup tables, which opens them in the Apply panel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.lut.load import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable


def get_reader(path: str | list[str]) -> Callable[[Any], list[tuple[None]]] | None:
    """Return a reader for ``*.lut.safetensors`` files, as npe2 requires; None for other files."""
    paths = path if isinstance(path, list) else [path]
    return _read if all(str(one).endswith(SUFFIX) for one in paths) else None


def _read(path: str | list[str]) -> list[tuple[None]]:
    import napari

    viewer = napari.current_viewer()
    paths = path if isinstance(path, list) else [path]
    if viewer is not None:
        _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
        for one in paths:
            widget.open(str(one))
    return [(None,)]

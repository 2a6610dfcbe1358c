"""Lookup tables and preferences that the panels of a viewer share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from psygnal import Signal

from napari_ensir.viewer.layers.layers import unique_name, unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.statistics import Statistics

MAX_TABLES = 50
"""Maximum number of tables that a session keeps; ensemble layers keep theirs as well."""

_DEFAULTS = {"device": "auto", "method": "auto", "weights": "layers"}
_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """Lookup tables that were fitted or opened in a viewer, the newest last.

    Attributes
    ----------
    tables : dict
        Title -> table.
    """

    changed = Signal()

    def __init__(self) -> None:
        self.tables: dict[str, WeightLUT] = {}
        self._sources: dict[str, Path] = {}
        self._learned: WeakKeyDictionary[WeightLUT, list[ref[Layer]]] = WeakKeyDictionary()
        self._combined: WeakKeyDictionary[WeightLUT, list[ref[Layer]]] = WeakKeyDictionary()
        self._statistics: WeakKeyDictionary[WeightLUT, ref[Statistics]] = WeakKeyDictionary()

    def keep(self, title: str, lut: WeightLUT, learned_on: Sequence[Layer] = ()) -> str:
        """Add a table and the layers that it was learned from and combines; return its title, made unique."""
        title = unique_name(title, self.tables)
        self.tables[title] = lut
        self._learned[lut] = self._combined[lut] = [ref(layer) for layer in learned_on]
        for oldest in list(self.tables)[:-MAX_TABLES]:
            del self.tables[oldest]
        self.changed.emit()
        return title

    def open(self, path: str | Path, lut: WeightLUT) -> str:
        """Add the table of a file, unless it has been opened before; return its title, the file's name."""
        source = Path(path).resolve()
        for title, known in self._sources.items():
            if known == source and title in self.tables:
                self.replace(title, lut)  # the file may have changed
                return title
        title = self.keep(source.name, lut)
        self._sources[title] = source
        return title

    def path_of(self, title: str) -> Path | None:
        """Return the lookup table file that a table was opened from; None if there is none."""
        source = self._sources.get(title)
        return source if source is not None and source.suffix == ".safetensors" else None

    def learned_on(self, lut: WeightLUT) -> list[Layer]:
        """Return the layers that a table was learned from, without deleted ones."""
        return [layer for each in self._learned.get(lut, []) if (layer := each()) is not None]

    def remember_statistics(self, lut: WeightLUT, statistics: Statistics) -> None:
        """Store which statistics a table was estimated from, without keeping them in memory."""
        self._statistics[lut] = ref(statistics)

    def statistics_of(self, lut: WeightLUT) -> Statistics | None:
        """Return the statistics that a table was estimated from; None if they are unknown or deleted."""
        known = self._statistics.get(lut)
        return None if known is None else known()

    def replace(self, title: str, lut: WeightLUT) -> None:
        """Replace the table of a title."""
        before = self.tables.get(title)
        if before is lut:
            return
        for layers in (self._combined, self._learned):
            if before is not None and before in layers:
                layers[lut] = layers[before]
        self.tables[title] = lut
        self.changed.emit()

    def remember_layers(self, lut: WeightLUT, layers: Sequence[Layer]) -> None:
        """Store which layers a table combines, in the order of its candidates."""
        self._combined[lut] = [ref(layer) for layer in layers]

    def layers_of(self, lut: WeightLUT, viewer: napari.Viewer) -> list[Layer | None]:
        """Return the layer of each candidate: the one combined last, else by name, else None."""
        used = [each() for each in self._combined.get(lut, [])] or [None] * lut.n_candidates
        by_name = {layer.name: layer for layer in viewer.layers}
        return [
            layer if layer in viewer.layers else by_name.get(name)
            for name, layer in zip(lut.names, used, strict=True)
        ]


def get_session(viewer: napari.Viewer) -> Session:
    """Return the session of a viewer, which is deleted with the viewer."""
    key = unwrap_proxy(viewer.layers)
    if key not in _SESSIONS:
        _SESSIONS[key] = Session()
    return _SESSIONS[key]


def preference(name: str) -> Any:
    """Return a setting from napari's preferences; the default if napari has no plugin settings."""
    try:
        from napari.settings import get_plugin_settings

        return getattr(get_plugin_settings("napari-ensir").ensemble, name)
    except Exception:  # napari before 0.9, or settings that it cannot read
        return _DEFAULTS[name]

"""What the widgets of one viewer share: the tables fitted in it, and preferences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from psygnal import Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.lut.lut import WeightLUT

__all__ = ["MOST_TABLES", "Session", "preference", "session_of"]

MOST_TABLES = 50
"""That a viewer keeps: a day of fits must not pile up. Ensembles remember the older ones."""

_DEFAULTS = {"device": "auto", "method": "auto", "weights": "slider"}
_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """The tables fitted or opened in one viewer, newest last."""

    changed = Signal()

    def __init__(self) -> None:
        self.tables: dict[str, WeightLUT] = {}
        self._sources: dict[str, Path] = {}
        self._learned: WeakKeyDictionary[WeightLUT, list[ref[Layer]]] = WeakKeyDictionary()
        self._combined: WeakKeyDictionary[WeightLUT, list[ref[Layer]]] = WeakKeyDictionary()

    def keep(self, title: str, lut: WeightLUT, learned_on: Sequence[Layer] = ()) -> str:
        """Keep a table, and which layers it was learned on; the title is made unique."""
        unique, number = title, 2
        while unique in self.tables:
            unique, number = f"{title} ({number})", number + 1
        self.tables[unique] = lut
        self._learned[lut] = [ref(layer) for layer in learned_on]
        for oldest in list(self.tables)[:-MOST_TABLES]:
            del self.tables[oldest]
        self.changed.emit()
        return unique

    def open(self, path: str | Path, lut: WeightLUT) -> str:
        """Keep a table from a file: once, however often the file is opened. The title is its name."""
        source = Path(path).resolve()
        for title, known in self._sources.items():
            if known == source and title in self.tables:
                if not _are_alike(self.tables[title], lut):  # the file has been written anew
                    self.replace(title, lut)
                return title
        title = self.keep(source.name, lut)
        self._sources[title] = source
        return title

    def path_of(self, title: str) -> Path | None:
        """The file that a table was opened from; None where it was fitted here."""
        return self._sources.get(title)

    def learned_on(self, lut: WeightLUT) -> list[Layer]:
        """The layers that a table was learned on in this viewer, those that still live."""
        return [layer for each in self._learned.get(lut, []) if (layer := each()) is not None]

    def replace(self, title: str, lut: WeightLUT) -> None:
        """Let a title stand for a newer table."""
        before = self.tables.get(title)
        if before is not None and before in self._combined:
            self._combined[lut] = self._combined[before]
        if before is not None and before in self._learned:
            self._learned[lut] = self._learned[before]
        self.tables[title] = lut
        self.changed.emit()

    def remember_layers(self, lut: WeightLUT, layers: Sequence[Layer]) -> None:
        """Remember which layers a table combines, in its order, for as long as they live."""
        self._combined[lut] = [ref(layer) for layer in layers]

    def layers_of(self, lut: WeightLUT, viewer: napari.Viewer) -> list[Layer | None]:
        """The layer for each candidate: the one combined last, else one of its name, else None."""
        used = [each() for each in self._combined.get(lut, [])] or [None] * lut.n_candidates
        by_name = {layer.name: layer for layer in viewer.layers}
        return [
            layer if layer in viewer.layers else by_name.get(name)
            for name, layer in zip(lut.names, used, strict=True)
        ]


def _are_alike(one: WeightLUT, other: WeightLUT) -> bool:
    """Whether two tables combine the same candidates in the same way."""
    numbers = ("rows", "weights", "counts", "fallback")
    plain = ("names", "method", "binning", "unseen", "channel_axis")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in numbers
    )


def session_of(viewer: napari.Viewer) -> Session:
    """The one session of a viewer; it goes when the viewer goes."""
    # Widgets get a proxy, which is another one at every access; what it wraps is the same for all.
    key = getattr(viewer.layers, "__wrapped__", viewer.layers)
    if key not in _SESSIONS:
        _SESSIONS[key] = Session()
    return _SESSIONS[key]


def preference(name: str) -> Any:
    """A choice from napari's Preferences; the built-in default on a napari without plugin settings."""
    try:
        from napari.settings import get_plugin_settings

        return getattr(get_plugin_settings("napari-ensir").ensemble, name)
    except Exception:  # an older napari, or settings that it could not read
        return _DEFAULTS[name]

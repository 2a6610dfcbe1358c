"""What the widgets of one viewer share: the tables fitted in it, and preferences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from psygnal import Signal

if TYPE_CHECKING:
    import napari

    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["MOST_TABLES", "Session", "preference", "session_of"]

MOST_TABLES = 50
"""That a viewer keeps: a day of fits must not pile up. Ensembles remember the older ones."""

_DEFAULTS = {"device": "auto", "method": "em", "weights": "slider"}
_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """The tables fitted or opened in one viewer, newest last."""

    changed = Signal()

    def __init__(self) -> None:
        self.tables: dict[str, WeightLUT] = {}

    def keep(self, title: str, lut: WeightLUT) -> str:
        """Keep a table for the other widgets; its title is made unique."""
        unique, number = title, 2
        while unique in self.tables:
            unique, number = f"{title} ({number})", number + 1
        self.tables[unique] = lut
        for oldest in list(self.tables)[:-MOST_TABLES]:
            del self.tables[oldest]
        self.changed.emit()
        return unique

    def replace(self, title: str, lut: WeightLUT) -> None:
        """Let a title stand for a newer table."""
        self.tables[title] = lut
        self.changed.emit()


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

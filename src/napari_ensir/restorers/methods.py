"""Restorers that need no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.training.from_image import Noise2VoidFromImage

if TYPE_CHECKING:
    from collections.abc import Mapping

RESTORERS: Mapping[str, type[Any]] = {**CLASSICAL, "noise2void": Noise2VoidFromImage}
"""Restorers by the keys that scripts and the command line use: the classical ones, and "noise2void".

Each class has a ``title`` and a ``description``; its settings are listed by
:func:`napari_ensir.settings.settings_of`."""

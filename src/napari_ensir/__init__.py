"""Combine several restorations of an image into one that is better than each.

Public names are imported on first use, so that importing the package is fast.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

_getattr, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-ensir")
    return _getattr(name)

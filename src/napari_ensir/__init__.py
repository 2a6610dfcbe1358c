"""Combine several restorations of an image into one that is better than each.

The public names are imported when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_ensir.ensemble.compare import compare
    from napari_ensir.ensemble.fit import fit_lut
    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.ensemble.lut_file import import_lut, load_lut
    from napari_ensir.errors import EnsembleError
    from napari_ensir.restorers.blind import learn_blind

_HOME = {
    "EnsembleError": "napari_ensir.errors",
    "WeightLUT": "napari_ensir.ensemble.lut",
    "compare": "napari_ensir.ensemble.compare",
    "fit_lut": "napari_ensir.ensemble.fit",
    "import_lut": "napari_ensir.ensemble.lut_file",
    "learn_blind": "napari_ensir.restorers.blind",
    "load_lut": "napari_ensir.ensemble.lut_file",
}

__all__ = ["EnsembleError", "WeightLUT", "compare", "fit_lut", "import_lut", "learn_blind", "load_lut"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        from napari_ensir.files.headers import package_version

        return package_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

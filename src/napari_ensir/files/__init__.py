"""Files in and out: images, Zarr arrays, sets of images, headers of tensors; written whole or not at all.

The names are imported when first used, so that importing the room costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_ensir.files.image import as_dtype, check_output, open_image, read_image, write_image
    from napari_ensir.files.sets import ImageSet, Part, References, open_set

_HOME = {
    "ImageSet": "sets",
    "Masks": "sets",
    "Part": "sets",
    "References": "sets",
    "as_dtype": "image",
    "check_output": "image",
    "open_image": "image",
    "open_set": "sets",
    "read_image": "image",
    "write_image": "image",
}

__all__ = [
    "ImageSet",
    "Masks",
    "Part",
    "References",
    "as_dtype",
    "check_output",
    "open_image",
    "open_set",
    "read_image",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Saving a layer as OME-TIFF or OME-Zarr, with axes, pixel sizes and where it came from. Asks nothing.

What a format has no place for is left out: in a TIFF, a layer's translation; in both, rotation and shear.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.files.png import write_file
from napari_ensir.files.tiff import TiffMetadata
from napari_ensir.files.zarr import ZarrImage, write_zarr
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, RECORD_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["record_of_layer", "write_layer"]

_LETTERS = {"candidate": "C", "channel": "C", "time": "T", **{letter.lower(): letter for letter in "TZCYX"}}
_UNITS = {"nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m"}
_TYPES = {"T": "time", "C": "channel"}


def write_layer(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Npe2 writer of one image or labels layer, whole or not at all; napari has asked about the name.

    Raises
    ------
    EnsembleError
        If it cannot be written.
    """
    target = Path(path)
    pixels = data[0] if attributes.get("multiscale") else data  # of a pyramid, full resolution
    rgb = bool(attributes.get("rgb", False))
    axes = _axes(attributes.get("axis_labels", ()), len(pixels.shape) - rgb)
    scale = [float(size) for size in attributes.get("scale", (1.0,) * len(axes))]
    units = [_UNITS.get(str(unit)) for unit in attributes.get("units") or (None,) * len(axes)]
    record = record_of_layer(attributes)
    if target.suffix.lower() == ".zarr":
        return [_write_zarr(target, pixels, _multiscale(axes, attributes, scale, rgb), record)]
    sizes: dict[str, Any] = {"Name": str(attributes.get("name", target.name))}
    for axis, size, unit in zip(axes, scale, units, strict=True):
        if axis in "XYZ" and unit is not None:  # in pixels, there is nothing to say
            sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    metadata = TiffMetadata("ome", axes + "S" * rgb, tuple(pixels.shape), sizes, None)
    array = np.asarray(pixels)
    write_file(target, array, is_colour=rgb, like=metadata, overwrite=True, record=record)
    return [str(target)]


def record_of_layer(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where a layer came from, as far as it knows: of our outputs and of restored images.

    Parameters
    ----------
    attributes
        Of a layer: ``metadata`` among them.
    """
    metadata = attributes.get("metadata") or {}
    if isinstance(kept := metadata.get(RECORD_KEY), dict):
        return kept
    made = metadata.get(OUTPUT_KEY)
    if not isinstance(made, dict) or made.get("lut") is None:
        return None
    return record_of(str(made.get("kind")), made["lut"], layer=str(attributes.get("name", "")))


def _axes(labels: Sequence[str], n: int) -> str:
    """A letter for each axis: by its label where all have one that is known, else by its place."""
    named = [_LETTERS.get(str(label).lower(), "") for label in labels]
    if len(named) == n and all(named) and len(set(named)) == n and named[-2:] == ["Y", "X"]:
        return "".join(named)
    return ["", "X", "YX", "ZYX", "TZYX", "TCZYX"][n] if n <= 5 else "Q" * (n - 5) + "TCZYX"


def _multiscale(
    axes: str, attributes: Mapping[str, Any], scale: Sequence[float], rgb: bool
) -> dict[str, Any]:
    """What OME-Zarr says of an image of one resolution."""
    units = [str(unit) for unit in attributes.get("units") or ()]
    described: list[dict[str, str]] = []
    for place, axis in enumerate(axes):
        kind = _TYPES.get(axis, "space")
        described.append({"name": axis.lower(), "type": kind})
        if kind == "space" and place < len(units) and units[place] in _UNITS:
            described[-1]["unit"] = units[place]
    described += [{"name": "c", "type": "channel"}] * rgb
    translation = [float(one) for one in attributes.get("translate", (0.0,) * len(axes))]
    transforms = [
        {"type": "scale", "scale": [*scale, *[1.0] * rgb]},
        {"type": "translation", "translation": [*translation, *[0.0] * rgb]},
    ]
    return {"axes": described, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}


def _write_zarr(target: Path, pixels: Any, ome: dict[str, Any], record: dict[str, Any] | None) -> str:
    import dask.array as da

    shape = tuple(pixels.shape)
    if hasattr(pixels, "dask"):
        array = pixels
    else:  # plane by plane: a view computes one at a time
        spatial = 3 if ome["axes"][-1]["type"] == "channel" else 2
        chunks = (1,) * max(0, len(shape) - spatial) + shape[-spatial:]
        array = da.from_array(pixels, chunks=chunks)
    like = ZarrImage(array, array.chunksize, ome)
    return str(write_zarr(target, array, like, overwrite=True, record=record))

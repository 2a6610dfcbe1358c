"""Writer of a layer as OME-TIFF or OME-Zarr, with axes, pixel sizes and provenance.

A TIFF cannot store a layer's translation; neither format stores rotation and shear.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.files.image import write_image
from napari_ensir.files.tiff import TiffMetadata
from napari_ensir.files.zarr import ZarrImage
from napari_ensir.viewer.layers.records import record_of_layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LETTERS = {"candidate": "C", "channel": "C", "time": "T", **{letter.lower(): letter for letter in "TZCYX"}}
_LENGTHS = {"nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m"}
_TIMES = {
    "nanosecond": "ns",
    "microsecond": "µs",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}
_TYPES = {"T": "time", "C": "channel"}


def write_layer(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write one image or labels layer atomically, as npe2 requires; napari has confirmed the name.

    Parameters
    ----------
    path : str
    data : array or list of array
        Of a multiscale layer, the full resolution is written.
    attributes : mapping
        Attributes of the layer.

    Returns
    -------
    list of str

    Raises
    ------
    EnsembleError
        If the file cannot be written.
    """
    target = Path(path)
    pixels = data[0] if attributes.get("multiscale") else data
    rgb = bool(attributes.get("rgb", False))
    axes = _axes(attributes.get("axis_labels", ()), len(pixels.shape) - rgb)
    scale = [float(size) for size in attributes.get("scale", (1.0,) * len(axes))]
    units = [str(unit) for unit in attributes.get("units") or ("",) * len(axes)]
    record = record_of_layer(attributes)
    if target.suffix.lower() == ".zarr":
        translation = [float(one) for one in attributes.get("translate", (0.0,) * len(axes))]
        ome = _multiscale(axes, scale, units, translation, rgb)
        return [_write_zarr(target, pixels, ome, record)]
    sizes: dict[str, Any] = {"Name": str(attributes.get("name", target.name))}
    for axis, size, unit in zip(axes, scale, units, strict=True):
        if axis in "XYZ" and unit in _LENGTHS:  # sizes in pixels are not physical
            sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": _LENGTHS[unit]}
        elif axis == "T" and unit in _TIMES:
            sizes |= {"TimeIncrement": size, "TimeIncrementUnit": _TIMES[unit]}
    metadata = TiffMetadata("ome", axes + "S" * rgb, tuple(pixels.shape), sizes, None)
    write_image(target, pixels, is_colour=rgb, like=metadata, overwrite=True, record=record)
    return [str(target)]


def _axes(labels: Sequence[str], n: int) -> str:
    """One letter per axis, from the axis labels if all are known, otherwise from the number of axes."""
    named = [_LETTERS.get(str(label).lower(), "") for label in labels]
    if len(named) == n and all(named) and len(set(named)) == n and named[-2:] == ["Y", "X"]:
        return "".join(named)
    return ["", "X", "YX", "ZYX", "TZYX", "TCZYX"][n] if n <= 5 else "Q" * (n - 5) + "TCZYX"


def _multiscale(
    axes: str, scale: Sequence[float], units: Sequence[str], translation: Sequence[float], rgb: bool
) -> dict[str, Any]:
    """OME-Zarr metadata of an image with one resolution."""
    described: list[dict[str, str]] = []
    for axis, unit in zip(axes, units, strict=True):
        kind = _TYPES.get(axis, "space")
        described.append({"name": axis.lower(), "type": kind})
        if unit in {"space": _LENGTHS, "time": _TIMES}.get(kind, ()):
            described[-1]["unit"] = unit
    described += [{"name": "c", "type": "channel"}] * rgb
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
    else:  # plane by plane, since a lazy array computes one plane at a time
        spatial = 3 if ome["axes"][-1]["type"] == "channel" else 2
        chunks = (1,) * max(0, len(shape) - spatial) + shape[-spatial:]
        array = da.from_array(pixels, chunks=chunks)
    like = ZarrImage(array, array.chunksize, ome)
    return str(write_image(target, array, like=like, overwrite=True, record=record))

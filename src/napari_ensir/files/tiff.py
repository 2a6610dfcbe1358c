"""TIFF, in and out: pixels with their axes, pixel sizes and names; OME, ImageJ or plain. Knows no other.

The library fills in zeros, or reads one page, where a file is cut short; here such files are refused. So are
those whose numbers are no intensities as they stand: palettes, and scales that run from white to black.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.metadata import KEY, record_in, text_of, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.files.metadata import Record

__all__ = [
    "TRANSPARENT",
    "TiffHeader",
    "TiffMetadata",
    "check_upright",
    "open_tiff",
    "read_tiff",
    "read_tiff_record",
    "write_tiff",
]

# What the library has to say of a damaged file is said here, in a sentence.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

TRANSPARENT = "has an alpha channel, and transparency is no intensity; save it without."
"""What is wrong with an image that has one."""

_MIN_IS_WHITE, _PALETTE, _ORIENTATION = 0, 3, 274
_OME_TYPES = ("i1", "i2", "i4", "u1", "u2", "u4", "f4", "f8")
_IMAGEJ_TYPES = ("u1", "u2", "f4")
_OME_KEYS = ("PhysicalSize{}", "PhysicalSize{}Unit")
_IMAGEJ_KEYS = ("unit", "spacing", "finterval", "Labels", "min", "max")


@dataclass(frozen=True)
class TiffMetadata:
    """What a TIFF says of its pixels beside their numbers.

    Attributes
    ----------
    kind : str
        ``"ome"``, ``"imagej"``, or ``"plain"``.
    axes : str
        One letter an axis, such as ``"TZCYX"``; S is colour, Q what is not known.
    shape : tuple of int
        Sizes along them.
    described : dict
        Pixel sizes, units and names, as the library takes them.
    resolution : tuple of (float, float, unit) or None
        Pixels per unit along X and Y, and the number of the unit.
    """

    kind: str
    axes: str
    shape: tuple[int, ...]
    described: Mapping[str, Any]
    resolution: tuple[float, float, int] | None

    def enlarged(self, shape: tuple[int, ...]) -> TiffMetadata:
        """The same for an image of another size of the same field: its pixels are as much smaller."""
        if len(shape) != len(self.shape) or shape == self.shape:
            return self
        factor = {axis: new / old for axis, new, old in zip(self.axes, shape, self.shape, strict=True)}
        described = dict(self.described)
        for axis in "XYZ":
            if f"PhysicalSize{axis}" in described:
                described[f"PhysicalSize{axis}"] /= factor.get(axis, 1)
        x, y, unit = self.resolution or (0.0, 0.0, 1)
        resolution = (x * factor.get("X", 1), y * factor.get("Y", 1), unit) if self.resolution else None
        return TiffMetadata(self.kind, self.axes, shape, described, resolution)


@dataclass(frozen=True)
class TiffHeader:
    """A TIFF before its pixels are read: shape, dtype, whether the last axis is RGB, and the rest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_colour: bool
    metadata: TiffMetadata


def check_upright(path: Path, orientation: int) -> None:
    """Refuse what other programs would turn: it is not known which of them a candidate came through.

    Parameters
    ----------
    path
        Named in the message.
    orientation
        As in EXIF and TIFF: 1 is upright.

    Raises
    ------
    EnsembleError
        If it is not.
    """
    if orientation not in (0, 1):
        raise EnsembleError(
            f"{path} lies on its side (orientation {orientation}), which some programs turn upright and "
            "others do not; save it upright."
        )


def open_tiff(path: Path) -> TiffHeader:
    """Look at a TIFF's pages and what they say of themselves.

    Raises
    ------
    EnsembleError
        If it is truncated, makes no one stack, or holds no intensities.
    """
    with _one_series(path) as (file, series):
        page = file.pages.first
        colour = series.axes.endswith("S")
        if page.extrasamples or (colour and series.shape[-1] in (2, 4)):
            raise EnsembleError(f"{path} {TRANSPARENT}")
        if series.dtype is None or series.dtype.kind not in "iuf":
            raise EnsembleError(f"{path} has pixels of dtype {series.dtype}; it must hold intensities.")
        if page.photometric == _PALETTE and not file.is_imagej:  # ImageJ's are for showing only
            raise EnsembleError(
                f"{path} has a palette: its numbers are no intensities; save it as grey or RGB."
            )
        if page.photometric == _MIN_IS_WHITE:
            raise EnsembleError(f"{path} runs from white to black (MinIsWhite); save it with 0 as black.")
        orientation = page.tags.get(_ORIENTATION)
        check_upright(path, 1 if orientation is None else int(orientation.value))
        shape = tuple(series.shape)
        return TiffHeader(shape, series.dtype.newbyteorder("="), colour, _metadata(file, series))


def read_tiff(path: Path) -> NDArray[Any]:
    """All pixels.

    Raises
    ------
    EnsembleError
        If it is truncated.
    """
    with _one_series(path) as (_, series):
        pixels: NDArray[Any] = series.asarray()
        return pixels


@contextmanager
def _one_series(path: Path) -> Iterator[tuple[Any, Any]]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if not file.series:
            raise EnsembleError(f"{path} holds no image.")
        series = file.series[0]
        if not _is_whole(file, series):
            raise EnsembleError(f"{path} could not be read: it is truncated or damaged.")
        if len(file.series) > 1:
            raise EnsembleError(
                f"{path} holds {len(file.series)} images that make no one stack; save each as a file."
            )
        if any(page is None or page.parent is not file for page in series.pages):
            raise EnsembleError(f"{path} is one of several files of an image; save the image as one file.")
        yield file, series


def _is_whole(file: Any, series: Any) -> bool:
    """Whether all pages are there that the file speaks of, and all their pixels."""
    handle = file.filehandle
    if file.pages.next_page_offset is not None:  # where the place of one more page would stand
        handle.seek(file.pages.next_page_offset)
        if handle.read(file.tiff.offsetsize).strip(b"\0") or handle.tell() > handle.size:
            return False
    kinds = {"ome": file.is_ome, "imagej": file.is_imagej, "shaped": file.is_shaped}
    told = [kind for kind, is_so in kinds.items() if is_so]
    if told and series.kind not in told:  # the library gave up on what the file says
        return False
    ends = [
        offset + count
        for page in series.pages
        if page is not None and page.parent is file
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    if series.dataoffset is not None:
        ends.append(series.dataoffset + series.nbytes)
    return bool(max(ends, default=0) <= handle.size)


def _metadata(file: Any, series: Any) -> TiffMetadata:
    kind = series.kind if series.kind in ("ome", "imagej") else "plain"
    described: dict[str, Any] = {}
    if kind == "ome":
        described = _ome_description(file.ome_metadata)
    elif kind == "imagej":
        found = file.imagej_metadata or {}
        described = {key: found[key] for key in _IMAGEJ_KEYS if key in found}
    tags = [file.pages.first.tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
    resolution = None
    if kind != "ome" and tags[0] is not None and tags[1] is not None:
        x, y = (float(np.divide(*tag.value)) if tag.value[1] else 0.0 for tag in tags[:2])
        unit = 1 if tags[2] is None else int(tags[2].value)
        resolution = (x, y, unit) if x > 0 and y > 0 else None
    return TiffMetadata(kind, series.axes, tuple(series.shape), described, resolution)


def _ome_description(text: str) -> dict[str, Any]:
    """Pixel sizes, time between frames and names of an OME-XML's image."""
    import tifffile

    image = tifffile.xml2dict(text)["OME"]["Image"]
    image = image[0] if isinstance(image, list | tuple) else image
    pixels = image["Pixels"]
    keys = [key.format(axis) for axis in "XYZ" for key in _OME_KEYS] + ["TimeIncrement", "TimeIncrementUnit"]
    found = {key: pixels[key] for key in keys if key in pixels}
    found |= {key: str(image[key]) for key in ("Name", "Description") if key in image}
    channels = pixels.get("Channel", [])
    names = [each.get("Name") for each in (channels if isinstance(channels, list | tuple) else [channels])]
    if names and None not in names:
        found["Channel"] = {"Name": [str(name) for name in names]}
    return found


def write_tiff(
    path: Path,
    pixels: NDArray[Any],
    *,
    is_colour: bool,
    like: TiffMetadata | None = None,
    as_ome: bool = False,
    record: Record | None = None,
) -> None:
    """Write a TIFF, as OME-TIFF or for ImageJ where another one was and the pixels allow it.

    Parameters
    ----------
    like
        Of the image that these pixels were made from; they may have one axis more, in front.
    as_ome
        Whether it is to be an OME-TIFF even so.
    record
        Where it came from: a map annotation of OME, ImageJ's *Info*, else an entry of the JSON that the
        library keeps in the image's description.
    """
    import tifffile

    axes, described, kind = _written_as(pixels.shape, is_colour, like)
    kind = "ome" if as_ome else kind
    name = pixels.dtype.str[1:]
    known = set(axes) <= set("TZCYXS") and len(set(axes)) == len(axes)
    options: dict[str, Any] = {"photometric": "rgb" if is_colour else "minisblack", "compression": "zlib"}
    if like is not None and like.resolution is not None:
        x, y, options["resolutionunit"] = like.resolution
        options["resolution"] = (x, y)
    if kind == "ome" and known and name in _OME_TYPES:
        options |= {"ome": True}
        described |= {} if record is None else {"MapAnnotation": _annotation(record)}
    elif kind == "imagej" and known and name in _IMAGEJ_TYPES and _is_sorted(axes):
        options |= {"imagej": True, "compression": None}  # not every version of ImageJ unpacks
        described |= {} if record is None else {"Info": f"{KEY} = {text_of(record)}\n"}
    else:
        options |= {"ome": False}
        described |= {} if record is None else {KEY: text_of(record)}
    tifffile.imwrite(path, pixels, metadata={"axes": axes, **described}, **options)


def _annotation(record: Record) -> dict[str, Any]:
    """A map annotation in a namespace of ours: a few words for whoever lists pairs, and all of it."""
    return {"Namespace": KEY, "Value": {**told(record), "record": text_of(record)}}


def read_tiff_record(path: Path) -> dict[str, Any] | None:
    """The record that :func:`write_tiff` put in; None where there is none."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.is_ome:
            return _annotated(file.ome_metadata or "")
        if file.is_imagej:
            lines = str((file.imagej_metadata or {}).get("Info", "")).splitlines()
            found = (line.removeprefix(f"{KEY} = ") for line in lines if line.startswith(f"{KEY} = "))
            return record_in(next(found, None))
        shaped: Any = file.shaped_metadata or ({},)
        return record_in(shaped[0].get(KEY))


def _annotated(text: str) -> dict[str, Any] | None:
    """The record in an OME-XML's annotations."""
    import tifffile

    annotations = tifffile.xml2dict(text)["OME"].get("StructuredAnnotations")
    for one in _several(annotations.get("MapAnnotation") if isinstance(annotations, dict) else None):
        if not isinstance(one, dict) or one.get("Namespace") != KEY or not isinstance(one.get("Value"), dict):
            continue
        for pair in _several(one["Value"].get("M")):
            if isinstance(pair, dict) and pair.get("K") == "record":
                return record_in(pair.get("value"))
    return None


def _several(found: Any) -> list[Any]:
    """What XML has once, several times or not at all."""
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _written_as(
    shape: tuple[int, ...], is_colour: bool, like: TiffMetadata | None
) -> tuple[str, dict[str, Any], str]:
    """Axes, description and kind of what is written."""
    plain = ("Q" * len(shape) + ("YXS" if is_colour else "YX"))[-len(shape) :]
    if like is None:
        return plain, {}, "plain"
    described = dict(like.described)
    if len(shape) == len(like.axes):
        return like.axes, described, like.kind
    if len(shape) == len(like.axes) + 1:  # one plane for each candidate
        described = {key: value for key, value in described.items() if key not in ("Channel", "Labels")}
        return ("Q" if "C" in like.axes else "C") + like.axes, described, like.kind
    return plain, {}, "plain"


def _is_sorted(axes: str) -> bool:
    """Whether axes come in the order that ImageJ knows."""
    places = ["TZCYXS".index(axis) for axis in axes]
    return places == sorted(places)

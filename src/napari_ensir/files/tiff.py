"""Reading and writing of TIFF (OME, ImageJ or plain) with axes, pixel sizes and names."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.metadata import KEY, record_in, summarize_record, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.files.metadata import Record

# Damaged files are reported by our exceptions, not by tifffile's log messages.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

TRANSPARENT = "has an alpha channel, which is not an intensity; save it without transparency."
"""End of the message about an image with an alpha channel."""

_MAX_PAGES = 100_000
_MAX_COMPRESSION = 2**17  # times; more than zstd and LZMA reach
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_NO_COMPRESSION, _JPEG = 1, (6, 7, 33007)
_ORIENTATION = 274
_TIFF_HEADER = 8  # bytes
_OME_TYPES = ("i1", "i2", "i4", "u1", "u2", "u4", "f4", "f8")
_IMAGEJ_TYPES = ("u1", "u2", "f4")
_ORDER = "TZCYXS"  # of the axes of ImageJ
_OME_KEYS = ("PhysicalSize{}", "PhysicalSize{}Unit")
_IMAGEJ_KEYS = ("unit", "spacing", "finterval", "Labels", "min", "max")


@dataclass(frozen=True)
class TiffMetadata:
    """Metadata of a TIFF: axes, pixel sizes and names.

    Attributes
    ----------
    kind : str
        ``"ome"``, ``"imagej"``, or ``"plain"``.
    axes : str
        One letter per axis, such as ``"TZCYX"``; S is colour, Q is unknown.
    shape : tuple of int
        Sizes along the axes.
    described : dict
        Pixel sizes, units and names, in the form that tifffile writes.
    resolution : tuple of (float, float, int) or None
        Pixels per unit along X and Y, and TIFF's number of the unit.
    """

    kind: str
    axes: str
    shape: tuple[int, ...]
    described: Mapping[str, Any]
    resolution: tuple[float, float, int] | None

    def enlarged(self, shape: tuple[int, ...]) -> TiffMetadata:
        """Metadata of an enlarged image of the same field, whose pixels are smaller by the same factor."""
        if len(shape) != len(self.shape) or shape == self.shape:
            return self
        factor = {axis: new / old for axis, new, old in zip(self.axes, shape, self.shape, strict=True)}
        sizes = {f"PhysicalSize{axis}": times for axis, times in factor.items()}
        described = {key: each / sizes[key] if key in sizes else each for key, each in self.described.items()}
        resolution = self.resolution
        if resolution is not None:
            x, y, unit = resolution
            resolution = (x * factor.get("X", 1), y * factor.get("Y", 1), unit)
        return replace(self, shape=shape, described=described, resolution=resolution)


def check_upright(path: Path, orientation: int) -> None:
    """Refuse rotated or mirrored images, since only some programs apply the orientation tag.

    Parameters
    ----------
    path : Path
        Named in the message.
    orientation : int
        Value of the EXIF or TIFF tag; 1 is upright.

    Raises
    ------
    EnsembleError
        If the image is not upright.
    """
    if orientation not in (0, 1):
        raise EnsembleError(
            f"{path} lies on its side (orientation {orientation}), which some programs turn upright and "
            "others do not; save it upright."
        )


def open_tiff(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], bool, TiffMetadata, bool]:
    """Read the metadata of a TIFF: shape, dtype, whether the last axis is RGB, axes and names, any alpha.

    Raises
    ------
    EnsembleError
        If the file is incomplete, does not hold exactly one stack, or its pixels are not intensities.
    """
    with _open_series(path) as (file, series):
        page = file.pages.first
        colour = series.axes.endswith("S")
        alpha = bool(page.extrasamples) or (colour and series.shape[-1] in (2, 4))
        if alpha and not _is_opaque(series):
            raise EnsembleError(f"{path} {TRANSPARENT}")
        if series.dtype is None or series.dtype.kind not in "iuf":
            raise EnsembleError(f"{path} has pixels of dtype {series.dtype}; it must hold intensities.")
        _check_photometric(path, page, file.is_imagej)
        check_upright(path, int(page.tags.valueof(_ORIENTATION, 1)))
        shape = (*series.shape[:-1], 3) if alpha else tuple(series.shape)
        metadata = replace(_metadata(file, series), shape=shape)
        return shape, series.dtype.newbyteorder("="), colour, metadata, alpha


def _is_opaque(series: Any) -> bool:
    """Whether the image is RGB with an alpha channel that is opaque everywhere."""
    if series.axes[-1] != "S" or series.shape[-1] != 4 or series.dtype.kind != "u":
        return False
    return bool((series.asarray()[..., 3] == np.iinfo(series.dtype).max).all())


def _check_photometric(path: Path, page: Any, is_imagej: bool) -> None:
    kind = int(page.photometric)
    decoded = kind == _YCBCR and page.compression in _JPEG  # to RGB
    if kind in (_MIN_IS_BLACK, _RGB) or decoded or (kind == _PALETTE and is_imagej):  # only for display
        return
    wrong = (
        f"has pixels of the colour space {getattr(page.photometric, 'name', kind)}; save it as grey or RGB."
    )
    if kind == _PALETTE:
        wrong = "has a palette: its numbers are not intensities; save it as grey or RGB."
    elif kind == _MIN_IS_WHITE:
        wrong = "stores white as 0 (MinIsWhite); save it with black as 0."
    raise EnsembleError(f"{path} {wrong}")


def read_tiff(path: Path) -> NDArray[Any]:
    """Read all pixels.

    Raises
    ------
    EnsembleError
        If the file is incomplete.
    """
    with _open_series(path) as (_, series):
        pixels: NDArray[Any] = series.asarray()
        return pixels[..., :3] if series.axes[-1] == "S" else pixels


@contextmanager
def _open_series(path: Path) -> Iterator[tuple[Any, Any]]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            # These formats consist of several files; here, a file is read by itself.
            file.is_mmstack = file.is_ndtiff = False
            _check_stated_sizes(path, file)
            if not file.series:
                raise EnsembleError(f"{path} holds no image.")
            series = file.series[0]
            if not _is_complete(file, series):
                raise _incomplete(path)
            if len(file.series) > 1:
                raise EnsembleError(
                    f"{path} holds {len(file.series)} images of different kinds; save each as a file."
                )
            yield file, series
    except (KeyError, ValueError) as error:
        if "imagecodecs" in str(error):
            raise EnsembleError(
                f"{path} has a compression that needs the package imagecodecs; install it with: "
                'pip install "napari-ensir[large]".'
            ) from error
        raise


def _incomplete(path: Path, reason: str = "") -> EnsembleError:
    return EnsembleError(f"{path} could not be read: it is truncated or damaged{reason and f' ({reason})'}.")


def _check_stated_sizes(path: Path, file: Any) -> None:
    """Refuse metadata that state more than the file can hold, before tifffile allocates memory for it."""
    n_pages = len(file.pages)
    if n_pages > _MAX_PAGES:
        raise EnsembleError(
            f"{path} has {n_pages} pages; at most {_MAX_PAGES} are read. Save it as Zarr or in several files."
        )
    if n_pages == 0:
        return
    page, size = file.pages.first, file.filehandle.size
    if any(tag.valuebytecount > size for tag in page.tags):
        raise _incomplete(path, "a tag is larger than the file")
    ratio = 8 if page.compression == _NO_COMPRESSION else _MAX_COMPRESSION  # 8: pixels of one bit
    if page.nbytes > ratio * size:
        raise _incomplete(path, f"it states a page of {page.shape}, for which it is too small")
    if file.is_ome:
        _check_ome_sizes(path, file, n_pages)


def _check_ome_sizes(path: Path, file: Any, n_pages: int) -> None:
    root = ElementTree.fromstring(file.ome_metadata)
    available = n_pages * file.pages.first.size
    stated: float
    for element in root.iter():
        kind, given = element.tag.rpartition("}")[2], element.attrib
        if kind == "Pixels":
            stated = prod(int(value) for key, value in given.items() if key.startswith("Size"))
        elif kind == "TiffData":
            stated = max((int(given.get(key, 0)) for key in ("IFD", "NumPlanes", "PlaneCount")), default=0)
            if stated > n_pages:
                stated = available + 1
        elif kind.startswith("ModuloAlong") and "Start" in given:
            first, last, step = (float(given.get(key, 1)) for key in ("Start", "End", "Step"))
            stated = (last - first) / step
        else:
            if kind == "UUID" and _names_other_file(element, root, file):
                raise EnsembleError(
                    f"{path} is one of several files of an image; save the image as one file."
                )
            continue
        if not stated <= available:
            raise EnsembleError(
                f"{path} states more pixels than it holds: it is truncated, damaged or one of several "
                "files of an image; save the image as one file."
            )


def _names_other_file(uuid: Any, root: Any, file: Any) -> bool:
    if uuid.get("FileName", "").lower() == file.filename.lower():
        return False
    return uuid.text is None or uuid.text != root.get("UUID")


def _is_complete(file: Any, series: Any) -> bool:
    """Whether the file has all pages and pixels that it states."""
    handle = file.filehandle
    if file.pages.next_page_offset is not None:  # where the offset of one more page would stand
        handle.seek(file.pages.next_page_offset)
        if handle.read(file.tiff.offsetsize).strip(b"\0") or handle.tell() > handle.size:
            return False
    kinds = [kind for kind in ("ome", "imagej", "shaped") if getattr(file, f"is_{kind}")]
    if kinds and series.kind not in kinds:  # tifffile could not follow the metadata
        return False
    if series.dataoffset is not None:
        return bool(series.dataoffset >= _TIFF_HEADER and series.dataoffset + series.nbytes <= handle.size)
    if len(series.pages) * series.keyframe.size != series.size:
        return False
    for page in series.pages:
        if page is None or page.parent is not file:
            return False
        # Segments without an offset or bytes were never written; tifffile would fill in zeros.
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if not segments or any(
            start < _TIFF_HEADER or count <= 0 or start + count > handle.size for start, count in segments
        ):
            return False
    return True


def _metadata(file: Any, series: Any) -> TiffMetadata:
    kind = series.kind if series.kind in ("ome", "imagej") else "plain"
    described: dict[str, Any] = {}
    if kind == "ome":
        described = _ome_description(file.ome_metadata)
    elif kind == "imagej":
        found = file.imagej_metadata or {}
        described = {key: found[key] for key in _IMAGEJ_KEYS if key in found}
    tags = file.pages.first.tags
    across, down = (tags.valueof(f"{axis}Resolution", (0, 1)) for axis in "XY")
    resolution = None
    if kind != "ome" and all(across) and all(down):
        unit = int(tags.valueof("ResolutionUnit", 1))
        resolution = float(np.divide(*across)), float(np.divide(*down)), unit
    return TiffMetadata(kind, series.axes, tuple(series.shape), described, resolution)


def _ome_description(text: str) -> dict[str, Any]:
    """Pixel sizes, time increment and names in OME-XML."""
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
    """Write a TIFF: an OME-TIFF or ImageJ TIFF after one of that kind, if the pixels allow it.

    Parameters
    ----------
    path : Path
    pixels : ndarray
    is_colour : bool
        Whether the last axis is RGB.
    like : TiffMetadata, optional
        Metadata of the image that the pixels were computed from; they may have one more axis in front.
    as_ome : bool
        Write an OME-TIFF in any case.
    record : mapping, optional
        Provenance: stored as a map annotation of OME, in ImageJ's *Info*, or in the JSON that tifffile keeps
        in the image description.
    """
    import tifffile

    axes, described, kind = _layout(pixels.shape, is_colour, like)
    kind = "ome" if as_ome else kind
    name = pixels.dtype.str[1:]
    known = set(axes) <= set(_ORDER) and len(set(axes)) == len(axes)
    by = None if record is None else text_of(record)
    options: dict[str, Any] = {"photometric": "rgb" if is_colour else "minisblack", "compression": "zlib"}
    if like is not None and like.resolution is not None:
        x, y, options["resolutionunit"] = like.resolution
        options["resolution"] = (x, y)
    if kind == "ome" and known and name in _OME_TYPES:
        options |= {"ome": True}
        # A summary for other programs, and the whole record.
        value = {**summarize_record(record or {}), "record": by}
        noted: dict[str, Any] = {"MapAnnotation": {"Namespace": KEY, "Value": value}}
    elif (
        kind == "imagej" and known and name in _IMAGEJ_TYPES and list(axes) == sorted(axes, key=_ORDER.index)
    ):
        options |= {"imagej": True, "compression": None}  # some versions of ImageJ cannot decompress
        noted = {"Info": f"{KEY} = {by}\n"}
    else:
        options |= {"ome": False}
        noted = {KEY: by}
    metadata = {"axes": axes, **described, **({} if record is None else noted)}
    tifffile.imwrite(path, pixels, metadata=metadata, **options)


def read_tiff_record(path: Path) -> dict[str, Any] | None:
    """Read the provenance that :func:`write_tiff` stored; None if there is none."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if file.is_ome:
            return _annotated_record(file.ome_metadata or "")
        if file.is_imagej:
            lines = str((file.imagej_metadata or {}).get("Info", "")).splitlines()
            found = (line.removeprefix(f"{KEY} = ") for line in lines if line.startswith(f"{KEY} = "))
            return record_in(next(found, None))
        shaped: Any = file.shaped_metadata or ({},)
        return record_in(shaped[0].get(KEY))


def _annotated_record(text: str) -> dict[str, Any] | None:
    """The provenance in the annotations of OME-XML."""
    annotations = [one for one in ElementTree.fromstring(text).iter() if one.get("Namespace") == KEY]
    texts = [pair.text for one in annotations for pair in one.iter() if pair.get("K") == "record"]
    return record_in(texts[0]) if texts else None


def _layout(
    shape: tuple[int, ...], is_colour: bool, like: TiffMetadata | None
) -> tuple[str, dict[str, Any], str]:
    """Axes, description and kind of the file to write."""
    added = None if like is None else len(shape) - len(like.axes)
    if like is None or added not in (0, 1):
        return ("Q" * len(shape) + ("YXS" if is_colour else "YX"))[-len(shape) :], {}, "plain"
    if added == 0:
        return like.axes, dict(like.described), like.kind
    # One plane for each candidate.
    described = {key: value for key, value in like.described.items() if key not in ("Channel", "Labels")}
    return ("Q" if "C" in like.axes else "C") + like.axes, described, like.kind

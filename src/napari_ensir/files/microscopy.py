"""Reading of CZI, ND2 and LIF files, lazily through the readers of bioio."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError, ensemble_errors, extra_needed
from napari_ensir.files.zarr import ZarrImage, lazy_array

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_FORMATS = {
    ".czi": ("bioio_czi", b"ZISRAWFILE"),
    ".nd2": ("bioio_nd2", b"\xda\xce\xbe\x0a"),
    ".lif": ("bioio_lif", b"\x70\x00\x00\x00"),
}
"""Reader and first bytes of each format. Readers choose by content, so that others must not reach them."""

MICROSCOPY_SUFFIXES = tuple(_FORMATS)
"""Suffixes of these files, in lower case."""

_MAX_COMPRESSION = 1000  # times
_MAX_PLANE = 2**31  # bytes, since a plane is read as a whole
_CZI_DEPTH = 4  # bytes; most pixels have fewer
_ORDER = "TCZYXS"  # S: samples, red, green and blue
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def open_microscopy(path: Path, scene: str | None = None) -> ZarrImage:
    """Open an image of a file; its axes are T, C, Z, Y, X, S, without those of length 1 apart from Y and X.

    The sizes that the file states are checked before its reader makes anything of that size.

    Parameters
    ----------
    path : Path
    scene : str, optional
        Name of the image, as in :func:`scenes_in`; None if there is only one.

    Raises
    ------
    EnsembleError
        If the reader is not installed, the file is damaged or has another format, there is no such image, or
        its sizes cannot be processed.
    """
    reader = _open(path)
    with _reading(path):
        names = _scene_names(reader)
        if scene is None and len(names) > 1:
            raise EnsembleError(
                f"{path} holds {len(names)} images; give the path of one of them, such as {path}/{names[0]}."
            )
        if scene is not None and scene not in names:
            raise EnsembleError(f"{path} holds no image {scene!r}; it holds {', '.join(names[:20])}.")
        reader.set_scene(names.index(scene) if scene is not None else 0)
        sizes = dict(zip(reader.dims.order, reader.shape, strict=True))
        axes = [axis for axis in _ORDER if sizes.get(axis, 1) > 1 or axis in "YX"]
        if others := [axis for axis, size in sizes.items() if size > 1 and axis not in axes]:
            raise EnsembleError(f"{path} has an axis {others[0]}; save it as TIFF or OME-Zarr.")
        lazy = _LazyImage(path, reader, "".join(axes), tuple(int(sizes[axis]) for axis in axes))
    if lazy.dtype.kind not in "iuf":
        raise EnsembleError(f"{path} has pixels of dtype {lazy.dtype}; it must hold intensities.")
    plane = tuple(size if axis in "YXS" else 1 for axis, size in zip(axes, lazy.shape, strict=True))
    return ZarrImage(lazy_array(lazy, plane, path), plane, None if "S" in axes else _metadata(reader, axes))


def split_scene(path: Path) -> tuple[Path, str | None] | None:
    """Split the path of an image in a CZI, ND2 or LIF file, such as ``a.lif/Image 1``.

    Returns
    -------
    tuple of (Path, str or None) or None
        The file, and the name of the image if the path has one. None for other paths.
    """
    for file in (path, *path.parents):
        if file.suffix.lower() in MICROSCOPY_SUFFIXES and file.is_file():
            return file, path.relative_to(file).as_posix() if path != file else None
    return None


def scenes_in(path: Path) -> list[str]:
    """Return the names of the images in a file.

    Raises
    ------
    EnsembleError
        As :func:`open_microscopy`.
    """
    reader = _open(path)
    with _reading(path):
        return _scene_names(reader)


def _reading(path: Path) -> AbstractContextManager[None]:
    hint = "it is damaged or of an unsupported kind; save it as TIFF"
    return ensemble_errors(f"{path} could not be read", hint)


def _scene_names(reader: Any) -> list[str]:
    """Names of the images, or their numbers if the names cannot be the end of a path."""
    names = [str(name) for name in reader.scenes]
    plain = all(name not in ("", ".") and PurePosixPath(name).as_posix() == name for name in names)
    if plain and len(set(names)) == len(names) and not any(name[0] == "/" for name in names):
        return names
    return [str(number) for number in range(len(names))]


def _open(path: Path) -> Any:
    """Open the reader of a file, after checking the file and the sizes that it states."""
    kind = path.suffix[1:].upper()
    module, signature = _FORMATS[path.suffix.lower()]
    if "::" in str(path) or "://" in str(path):  # the readers would take it for an address
        raise EnsembleError(f"{path} has :: or :// in its path, which cannot be read; rename it.")
    with _reading(path):
        with path.open("rb") as file:
            if file.read(len(signature)) != signature:
                raise EnsembleError(f"{path} is not a {kind} file, or one of an old version.")
        with extra_needed("bioio", f"{kind} files need {module.replace('_', '-')}"):
            reader = import_module(module).Reader
            images = _stated_sizes(path)
        most = _MAX_COMPRESSION * path.stat().st_size
        for sizes, depth in images:
            plane = depth * prod(sizes.get(axis, 1) for axis in "YXS")
            if min(sizes.values()) < 1 or plane > _MAX_PLANE or depth * prod(sizes.values()) > most:
                raise EnsembleError(f"{path} states the sizes {sizes}, which cannot be read; crop it.")
        return reader(str(path.resolve()))


def _stated_sizes(path: Path) -> list[tuple[dict[str, int], int]]:
    """Sizes along the axes of each image, and bytes of a pixel."""
    suffix = path.suffix.lower()
    if suffix == ".czi":
        from pylibCZIrw.czi import open_czi

        with open_czi(str(path)) as file:
            box = {axis: end - start for axis, (start, end) in file.total_bounding_box_no_pyramid.items()}
            scenes = file.scenes_bounding_rectangle_no_pyramid.values()
            return [(box | {"X": each.w, "Y": each.h}, _CZI_DEPTH) for each in scenes] or [(box, _CZI_DEPTH)]
    if suffix == ".nd2":
        from nd2 import ND2File

        with ND2File(path) as file:
            return [(dict(file.sizes), file.dtype.itemsize)]
    from liffile import LifFile

    with LifFile(path) as file:
        return [(dict(each.sizes), each.dtype.itemsize) for each in file.images]


def _metadata(reader: Any, axes: list[str]) -> dict[str, Any]:
    """Axes and pixel sizes as in OME-Zarr."""
    scale = [1.0] * len(axes)
    units: dict[str, dict[str, str]] = {}
    with suppress(Exception):  # readers fail in many ways on metadata that images do not need
        for axis, size in reader.physical_pixel_sizes._asdict().items():
            if size and axis in axes:
                scale[axes.index(axis)] = float(size)
                units[axis] = {"unit": "micrometer"}
    return {
        "axes": [{"name": axis.lower(), "type": _TYPES[axis], **units.get(axis, {})} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
    }


class _LazyImage:
    """An image whose pixels are read when it is sliced."""

    def __init__(self, path: Path, reader: Any, axes: str, shape: tuple[int, ...]) -> None:
        self.path, self.reader, self.axes = path, reader, axes
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(reader.dtype)

    def __getitem__(self, key: Any) -> Any:
        read: dict[str, slice] = {}
        rest: list[Any] = []
        for axis, each in zip(self.axes, key, strict=True):
            whole = slice(each, each + 1) if isinstance(each, int) else slice(None)
            read[axis] = each if isinstance(each, slice) else whole
            rest.append(slice(None) if isinstance(each, slice) else 0 if isinstance(each, int) else each)
        with _reading(self.path):
            return self.reader.get_image_data(self.axes, **read)[tuple(rest)]

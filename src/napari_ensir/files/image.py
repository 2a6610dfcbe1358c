"""Reading and writing of one image in any supported format."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.files.microscopy import MICROSCOPY_SUFFIXES, open_microscopy, scenes_in, split_scene
from napari_ensir.files.paths import expand_path
from napari_ensir.files.png import SUFFIXES, FileImage, encode_png, is_tiff, open_file
from napari_ensir.files.tiff import TiffMetadata, write_tiff
from napari_ensir.files.zarr import (
    ZarrImage,
    check_replaceable,
    images_in_group,
    is_zarr,
    open_zarr,
    write_zarr,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.files.metadata import Record


IMAGE_SUFFIXES = SUFFIXES + MICROSCOPY_SUFFIXES
"""Suffixes of files that are read, in lower case."""


def open_image(path: str | Path) -> FileImage | ZarrImage:
    """Open one image without reading its pixels.

    Raises
    ------
    EnsembleError
        If the file does not exist, is damaged or has an unsupported format.
    """
    path = expand_path(path)
    if found := split_scene(path):
        return open_microscopy(*found)
    if path.is_dir() and not is_zarr(path):
        raise EnsembleError(f"{path} is a folder, not an image or a Zarr array; give one image.")
    if not path.exists():
        raise EnsembleError(f"there is no {path}; give an image, a folder of images or a Zarr array.")
    if not (path.is_file() or path.is_dir()):
        raise EnsembleError(f"{path} is a pipe or a device, not a file; give an image.")
    return open_zarr(path) if path.is_dir() else open_file(path)


def images_in(path: Path) -> dict[str, Path]:
    """Return the images of an OME-Zarr plate or well, or of a CZI, ND2 or LIF file with several, by name.

    Empty if the path leads to one image.

    Raises
    ------
    EnsembleError
        If it is damaged.
    """
    if path.is_dir():
        return images_in_group(path) if is_zarr(path) else {}
    found = split_scene(path)
    names = [] if found is None or found[1] is not None else scenes_in(path)
    return {re.sub(r'[\\/:*?"<>|]', "_", name): path / name for name in names} if len(names) > 1 else {}


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Read the provenance that :func:`write_image` stored in an image.

    Parameters
    ----------
    path : str or Path
        An image file, or a Zarr array or OME-Zarr image.

    Returns
    -------
    dict or None
        Plain numbers, strings, lists and dicts; None if the image has no record of this package.

    Raises
    ------
    EnsembleError
        As :func:`open_image`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_image(Path(folder) / "a.png", np.eye(4, dtype=np.uint8), record={"kind": "ensemble"})
    ...     print(read_record(path))
    {'kind': 'ensemble'}
    """
    return open_image(path).record


def read_image(path: str | Path) -> Any:
    """Read the pixels of an image.

    Parameters
    ----------
    path : str or Path
        A PNG, JPEG or TIFF file, a Zarr array or an OME-Zarr image; with the extra ``bioio``, also a CZI, ND2
        or LIF file, or an image in one, such as ``a.lif/Image 1``.

    Returns
    -------
    numpy or dask array
        A lazy dask array for Zarr, CZI, ND2 and LIF.

    Raises
    ------
    EnsembleError
        As :func:`open_image`, and if the file is truncated.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_image(Path(folder) / "deep.png", np.full((2, 3, 3), 40000, np.uint16))
    ...     print(read_image(path).max(), read_image(path).dtype)
    40000 uint16
    """
    image = open_image(path)
    return image.pixels if isinstance(image, FileImage) else image.array


def as_dtype(image: Any, dtype: np.dtype[Any]) -> Any:
    """Convert an image to a dtype: rounded and clipped for integers, lazily for dask.

    Examples
    --------
    >>> as_dtype(np.array([-3.0, 7.5, 254.6, 999.0], np.float32), np.dtype(np.uint8))
    array([  0,   8, 255, 255], dtype=uint8)
    """
    if hasattr(image, "map_blocks"):
        return image.map_blocks(as_dtype, dtype, dtype=dtype, meta=np.empty((0,) * image.ndim, dtype))
    if dtype.kind not in "iu":
        return image.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    whole: NDArray[Any] = np.rint(np.nan_to_num(image, nan=0.0).astype(np.float64))
    # The largest 64-bit integers are not floats; stay below the value that would wrap around.
    top = np.nextafter(2.0**63, 0) if dtype.itemsize == 8 else limits.max
    return np.clip(whole, limits.min, top).astype(dtype)


def check_output(path: Path, dtype: np.dtype[Any], ndim: int, is_colour: bool) -> None:
    """Check before any work that the format of an output can hold it.

    Raises
    ------
    EnsembleError
        If it cannot, or a Zarr would replace something that is not a Zarr.
    """
    suffix = path.suffix.lower()
    wrong = ""
    if suffix == ".zarr":
        check_replaceable(path)
    elif suffix in (".jpg", ".jpeg"):
        wrong = "would lose detail as JPEG; choose a name that ends in .png or .tif."
    elif suffix not in (".png", ".tif", ".tiff"):
        wrong = "has an unsupported format; choose a name that ends in .png, .tif or .zarr."
    elif suffix == ".png" and (dtype not in (np.uint8, np.uint16) or ndim != 2 + is_colour):
        wrong = f"cannot hold {dtype} pixels with {ndim} axes: PNG takes 8 or 16 bits, grey or RGB. "
        wrong += "Choose a name that ends in .tif."
    if wrong:
        raise EnsembleError(f"{path} {wrong}")


def write_image(
    path: str | Path,
    pixels: Any,
    *,
    is_colour: bool | None = None,
    like: FileImage | ZarrImage | TiffMetadata | None = None,
    overwrite: bool = False,
    record: Record | None = None,
) -> Path:
    """Write an image file or a Zarr array, atomically.

    Parameters
    ----------
    path : str or Path
        Its suffix chooses the format: ``.png``, ``.tif``, ``.tiff`` or ``.zarr``.
    pixels : numpy or dask array
    is_colour : bool, optional
        Whether the last axis is red, green and blue. By default, if it is the third axis and has length 3.
    like : FileImage, ZarrImage or TiffMetadata, optional
        The image that this one was computed from, or its metadata. A Zarr takes the chunks and axes of a
        Zarr, a TIFF the axes, pixel sizes and names of a TIFF.
    overwrite : bool
        Replace an existing file, or an existing Zarr.
    record : mapping, optional
        Provenance, which :func:`read_record` reads: a map annotation of an OME-TIFF, an attribute
        ``napari-ensir`` of a Zarr, or an entry in the description of other TIFFs or in the text of a PNG.

    Returns
    -------
    Path

    Raises
    ------
    EnsembleError
        If the format cannot hold the image, the name is taken, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder) / "dark.tif", np.zeros((4, 4), np.uint16)).name
    'dark.tif'
    """
    path = expand_path(path)
    if path.suffix.lower() == ".zarr":
        import dask.array as da

        array = pixels if hasattr(pixels, "dask") else da.from_array(pixels, "auto")
        return write_zarr(
            path, array, like if isinstance(like, ZarrImage) else None, overwrite=overwrite, record=record
        )
    colour = (pixels.ndim == 3 and pixels.shape[-1] == 3) if is_colour is None else is_colour
    check_output(path, pixels.dtype, pixels.ndim, colour)
    tiff = like.tiff if isinstance(like, FileImage) else like if isinstance(like, TiffMetadata) else None
    array = np.asarray(pixels)
    with whole_file(path, overwrite) as part:
        if is_tiff(path):
            as_ome = path.stem.lower().endswith(".ome")
            write_tiff(part, array, is_colour=colour, like=tiff, as_ome=as_ome, record=record)
        else:
            part.write_bytes(encode_png(array, record))
    return path

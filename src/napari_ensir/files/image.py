"""Reading and writing of one image: PNG, JPEG, TIFF, Zarr, CZI, ND2 and LIF, without loss of bits."""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError, ensemble_errors
from napari_ensir.files.atomic import whole_file
from napari_ensir.files.metadata import KEY, record_in, text_of
from napari_ensir.files.microscopy import MICROSCOPY_SUFFIXES, open_microscopy, scenes_in, split_scene
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tiff import (
    TRANSPARENT,
    TiffMetadata,
    check_upright,
    open_tiff,
    read_tiff,
    read_tiff_record,
    write_tiff,
)
from napari_ensir.files.zarr import (
    ZarrImage,
    check_replaceable,
    images_in_group,
    is_zarr,
    open_zarr,
    write_zarr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from napari_ensir.files.metadata import Record

_TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", *_TIFF_SUFFIXES, *MICROSCOPY_SUFFIXES)
"""Suffixes of files that are read, in lower case."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
_ALPHA = {"RGBA": "RGB", "LA": "L"}
"""Modes with an alpha channel, and those without it."""


@dataclass(frozen=True, eq=False)
class FileImage:
    """An image file whose pixels are read on first access.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (Y, X), or (Y, X, 3) for colour; the axes of a stack come first.
    dtype : numpy dtype
    is_colour : bool
        Whether the last axis is red, green and blue.
    tiff : TiffMetadata or None
        Axes, pixel sizes and names of a TIFF.
    has_alpha : bool
        Whether the file has an alpha channel, which is opaque and left out.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_colour: bool
    tiff: TiffMetadata | None = None
    has_alpha: bool = False

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def array(self) -> FileImage:
        """The image itself, which is read when it is sliced; as of a ZarrImage."""
        return self

    @cached_property
    def pixels(self) -> NDArray[Any]:
        """All pixels.

        Raises
        ------
        EnsembleError
            If the file is truncated or damaged.
        """
        with _reading(self.path):
            pixels = read_tiff(self.path) if _is_tiff(self.path) else _read_with_pillow(self.path)
        if pixels.shape != self.shape or pixels.dtype.newbyteorder("=") != self.dtype:
            raise EnsembleError(
                f"{self.path} could not be read: its header states {self.shape} of {self.dtype}, but its "
                f"pixels are {pixels.shape} of {pixels.dtype}."
            )
        return np.asarray(pixels, self.dtype)

    @property
    def record(self) -> dict[str, Any] | None:
        """Provenance in the file; None if there is none.

        Raises
        ------
        EnsembleError
            If the file is damaged.
        """
        with _reading(self.path):
            if _is_tiff(self.path):
                return read_tiff_record(self.path)
            with _opened(self.path) as image:
                return record_in(image.info.get(KEY))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self.pixels[key]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # numpy 1 has no `copy=None`.
        return np.array(self.pixels, dtype=dtype) if copy else np.asarray(self.pixels, dtype=dtype)


def open_image(path: str | Path) -> FileImage | ZarrImage:
    """Open one image without reading its pixels.

    Raises
    ------
    EnsembleError
        If the file does not exist, is damaged, is transparent or has an unsupported format, or its pixels are
        not intensities.
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
    if path.is_dir():
        return open_zarr(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise EnsembleError(
            f"{path} has an unsupported format; give a PNG, JPEG, TIFF, CZI, ND2 or LIF file, or a Zarr "
            "array."
        )
    with _reading(path):
        return FileImage(path, *open_tiff(path)) if _is_tiff(path) else _open_with_pillow(path)


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
        if _is_tiff(path):
            as_ome = path.stem.lower().endswith(".ome")
            write_tiff(part, array, is_colour=colour, like=tiff, as_ome=as_ome, record=record)
        else:
            part.write_bytes(_encode_png(array, record))
    return path


def _reading(path: Path) -> AbstractContextManager[None]:
    return ensemble_errors(f"{path} could not be read", "the file is truncated, damaged or not an image")


def _is_tiff(path: Path) -> bool:
    """Whether the suffix is that of a TIFF."""
    return path.suffix.lower() in _TIFF_SUFFIXES


# -- PNG and JPEG -------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[ImageFile]:
    """Open with the PNG and JPEG decoders only: others start programs (EPS) or read 16 bits as 8 (PGM)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path if content is None else BytesIO(content), formats=("PNG", "JPEG")) as image:
            yield image
    except UnidentifiedImageError:
        raise EnsembleError(
            f"{path} could not be read: it is truncated, damaged or not a PNG or JPEG image; give files of "
            "other formats their own suffix, such as .tif."
        ) from None


def _open_with_pillow(path: Path) -> FileImage:
    with _opened(path) as image:
        pages = getattr(image, "n_frames", 1) if image.format == "PNG" else 1
        dtype, alpha = np.dtype(np.uint16 if _is_deep(image) else np.uint8), image.mode in _ALPHA
        opaque = alpha and dtype == np.uint8 and image.getchannel("A").getextrema() == (255, 255)
        wrong = ""
        if alpha or {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
            wrong = "" if opaque else TRANSPARENT
        elif image.mode == "1":
            wrong = "is a black and white mask; it must hold intensities."
        elif image.mode not in ("L", "P", "RGB") and not image.mode.startswith("I"):
            wrong = f"has pixels of mode {image.mode}; save it as grey or RGB."
        elif pages > 1:
            wrong = f"is animated ({pages} pages); save one page, or a TIFF stack."
        if wrong:
            raise EnsembleError(f"{path} {wrong}")
        if image.format != "PNG" or "exif" in image.info:  # otherwise Pillow reads all pixels to find it
            check_upright(path, image.getexif().get(_ORIENTATION, 1))
        colour = image.mode in ("P", "RGB", "RGBA")
        shape = (image.height, image.width) + ((3,) if colour else ())
        return FileImage(path, shape, dtype, colour, has_alpha=alpha)


def _is_deep(image: ImageFile) -> bool:
    """Whether the decoder found 16 bits per channel."""
    return image.mode.startswith("I") or str(image.tile[0][3]).endswith("16B")


def _read_with_pillow(path: Path) -> NDArray[Any]:
    content = path.read_bytes()  # once: both bytes of each number must come from the same file
    with _opened(path, content) as image:
        deep = _is_deep(image)
        image.load()
        check_upright(path, image.getexif().get(_ORIENTATION, 1))
        if image.mode == "RGB" and deep:
            return np.asarray(image, np.uint16) << 8 | _low_bytes(path, content)
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16, casting="same_kind" if image.mode != "I" else "unsafe")
        plain = {"P": "RGB"} | _ALPHA
        return np.asarray(image.convert(plain[image.mode]) if image.mode in plain else image)


def _low_bytes(path: Path, content: bytes) -> NDArray[np.uint16]:
    """Low bytes of a 16-bit colour PNG: those that Pillow keeps if the byte order is swapped."""
    with _opened(path, content) as image:
        tiles: Any = image.tile
        if not tiles or tiles[0][3] != "RGB;16B":
            raise EnsembleError(f"{path} stores 16 bits per channel in an unsupported way; save it as TIFF.")
        swapped: Any = (*tiles[0][:3], "RGB;16L")
        image.tile = [swapped if type(tiles[0]) is tuple else type(tiles[0])(*swapped)]  # tuple before 11
        image.load()
        return np.asarray(image, np.uint16)


def _encode_png(pixels: NDArray[Any], record: Record | None) -> bytes:
    """Encode pixels of 8 or 16 bits, shape (Y, X) or (Y, X, 3); Pillow cannot encode colours of 16 bits."""
    if pixels.dtype == np.uint8:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        info, content = PngInfo(), BytesIO()
        if record is not None:
            info.add_text(KEY, text_of(record))
        Image.fromarray(pixels).save(content, format="PNG", pnginfo=info)
        return content.getvalue()
    height, width, *colours = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)  # the filter "Up" on each row
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.uint8(0))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if colours else 0, 0, 0, 0))]
    if record is not None:
        parts.append((b"tEXt", f"{KEY}\0{text_of(record)}".encode("ascii")))
    parts += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )

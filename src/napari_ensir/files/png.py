"""PNG, JPEG and TIFF files without loss of bits, including 16-bit colour PNG."""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError, ensemble_errors
from napari_ensir.files.metadata import KEY, record_in, text_of
from napari_ensir.files.tiff import (
    TRANSPARENT,
    TiffMetadata,
    check_upright,
    open_tiff,
    read_tiff,
    read_tiff_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from napari_ensir.files.metadata import Record

_PIL_SUFFIXES = (".png", ".jpg", ".jpeg")
_TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = _PIL_SUFFIXES + _TIFF_SUFFIXES
"""Suffixes of image files, in lower case."""

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
            pixels = read_tiff(self.path) if is_tiff(self.path) else _read_with_pillow(self.path)
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
            if is_tiff(self.path):
                return read_tiff_record(self.path)
            with _opened(self.path) as image:
                return record_in(image.info.get(KEY))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self.pixels[key]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # numpy 1 has no `copy=None`.
        return np.array(self.pixels, dtype=dtype) if copy else np.asarray(self.pixels, dtype=dtype)


def open_file(path: Path) -> FileImage:
    """Read the header of an image file.

    Raises
    ------
    EnsembleError
        If it is not a PNG, JPEG or TIFF, is damaged, is transparent, or its pixels are not intensities.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise EnsembleError(
            f"{path} has an unsupported format; give a PNG, JPEG, TIFF, CZI, ND2 or LIF file, or a Zarr "
            "array."
        )
    with _reading(path):
        return FileImage(path, *open_tiff(path)) if is_tiff(path) else _open_with_pillow(path)


def _reading(path: Path) -> AbstractContextManager[None]:
    return ensemble_errors(f"{path} could not be read", "the file is truncated, damaged or not an image")


def is_tiff(path: Path) -> bool:
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


def encode_png(pixels: NDArray[Any], record: Record | None) -> bytes:
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

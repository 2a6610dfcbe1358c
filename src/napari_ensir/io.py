"""Paths to images that belong together: single ones, folders matched by stem, Zarr arrays.

A *role* is what a path stands for: a candidate's name, or the ground truth. Pixels are read only when
somebody asks for them, so a set may hold more than fits into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.image_files import SUFFIXES, FileImage, check_format, open_file, write_file
from napari_ensir.zarr_files import ZarrImage, is_zarr, open_zarr, write_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "TRUTH",
    "ImageSet",
    "References",
    "as_dtype",
    "check_output",
    "open_image",
    "open_set",
    "read_image",
    "write_image",
]

TRUTH = "the ground truth"
"""The role that is no candidate."""


def open_image(path: str | Path) -> FileImage | ZarrImage:
    """Open one image without reading its pixels.

    Raises
    ------
    EnsembleError
        If there is none, or it is damaged or of no known kind.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if is_zarr(path):
            return open_zarr(path)
        raise EnsembleError(f"{path} is a folder, not an image or a Zarr array; give one image.")
    if not path.exists():
        raise EnsembleError(f"there is no {path}; give an image, a folder of images or a Zarr array.")
    return open_file(path)


def read_image(path: str | Path) -> Any:
    """An image's pixels: a numpy array, or a dask array for Zarr, of which nothing is read yet.

    Raises
    ------
    EnsembleError
        As :func:`open_image`, and if the file is truncated.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_image(Path(folder) / "deep.png", np.full((2, 3, 3), 40000, np.uint16))
    ...     print(read_image(path).max(), read_image(path).dtype)
    40000 uint16
    """
    image = open_image(path)
    return image.pixels if isinstance(image, FileImage) else image.array


# -- sets ---------------------------------------------------------------------------------------------


def _stem(path: Path) -> str:
    """What files of one field have in common: the name up to the format's endings."""
    name = path.stem if path.suffix.lower() in (*SUFFIXES, ".zarr") else path.name
    return name.removesuffix(".ome")


def _images_of(folder: Path, role: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (
            path.suffix.lower() in SUFFIXES or (path.is_dir() and is_zarr(path))
        ):
            continue
        stem = _stem(path)
        if stem in found:
            raise EnsembleError(
                f"{folder} holds both {found[stem].name} and {path.name}; it is not clear which is the image "
                f"{stem} of {_spoken(role)}. Keep one."
            )
        found[stem] = path
    if not found:
        raise EnsembleError(
            f"{folder} ({_spoken(role)}) holds no image; give a folder of {', '.join(SUFFIXES)} files."
        )
    return found


def _spoken(role: str) -> str:
    return role if role == TRUTH else f'candidate "{role}"'


@dataclass(frozen=True)
class ImageSet:
    """Images that show the same fields in several roles.

    Attributes
    ----------
    roles : tuple of str
    fields : tuple of (stem, paths by role), sorted by stem
    from_folders : bool
        Whether the paths given were folders, so that an output is a folder too.
    crop : bool
        Whether unlike sizes are cut to what they have in common, at the top left.
    """

    roles: tuple[str, ...]
    fields: tuple[tuple[str, dict[str, Path]], ...]
    from_folders: bool
    crop: bool

    def __len__(self) -> int:
        return len(self.fields)

    def open(self, number: int) -> dict[str, FileImage | ZarrImage]:
        """The images of one field by role, their headers read and checked against each other.

        Raises
        ------
        EnsembleError
            If one is damaged, grey is mixed with RGB, or sizes differ and ``crop`` is off.
        """
        stem, paths = self.fields[number]
        images = {role: open_image(path) for role, path in paths.items()}
        place = f"image {stem}: " if self.from_folders else ""
        first = self.roles[0]
        for role, image in images.items():
            _check_alike(place, (first, images[first]), (role, image), self.crop)
        return images

    def load(self, number: int) -> dict[str, Any]:
        """The arrays of one field by role, cut to one size if that is allowed; read when they are sliced.

        Raises
        ------
        EnsembleError
            As :meth:`open`.
        """
        arrays = {role: _array(image) for role, image in self.open(number).items()}
        sizes = {tuple(array.shape) for array in arrays.values()}
        if len(sizes) > 1:
            common = tuple(slice(min(size)) for size in zip(*sizes, strict=True))
            arrays = {role: array[common] for role, array in arrays.items()}
        return arrays


def _array(image: FileImage | ZarrImage) -> Any:
    return image if isinstance(image, FileImage) else image.array


def _check_alike(
    place: str, first: tuple[str, FileImage | ZarrImage], other: tuple[str, FileImage | ZarrImage], crop: bool
) -> None:
    (role_a, a), (role_b, b) = first, other
    if isinstance(a, FileImage) and isinstance(b, FileImage) and a.is_colour != b.is_colour:
        grey, colour = (role_b, role_a) if a.is_colour else (role_a, role_b)
        raise EnsembleError(
            f"{place}{_spoken(grey)} is grey but {_spoken(colour)} is RGB; convert one, so that both show "
            "the same channels."
        )
    shape_a, shape_b = tuple(_array(a).shape), tuple(_array(b).shape)
    if shape_a == shape_b:
        return
    if len(shape_a) == len(shape_b) and crop:
        return
    way_out = " Cut them alike, or allow it with --crop (top left)." if len(shape_a) == len(shape_b) else ""
    raise EnsembleError(
        f"{place}{_spoken(role_b)} has shape {shape_b} but {_spoken(role_a)} has {shape_a}; they must show "
        f"the same pixels.{way_out}"
    )


def open_set(paths: Mapping[str, str | Path], *, crop: bool = False) -> ImageSet:
    """Match the images that paths lead to.

    Parameters
    ----------
    paths
        Path of each role: all images or Zarr arrays, or all folders of them.
    crop
        Allow unlike sizes, cut at the top left.

    Raises
    ------
    EnsembleError
        If a path leads nowhere, folders are mixed with images, a folder is empty, or an image is missing in
        one of them.
    """
    given = {role: Path(path).expanduser() for role, path in paths.items()}
    for role, path in given.items():
        if not path.exists():
            raise EnsembleError(
                f"there is no {path} ({_spoken(role)}); give an image, a folder or a Zarr array."
            )
    places: dict[Path, str] = {}
    for role, path in given.items():
        twin = places.setdefault(path.resolve(), role)
        if twin != role:
            raise EnsembleError(f"{path} is given twice: as {_spoken(twin)} and as {_spoken(role)}.")
    is_folder = {role: path.is_dir() and not is_zarr(path) for role, path in given.items()}
    roles = tuple(given)
    if not any(is_folder.values()):
        stem = _stem(next(iter(given.values())))
        return ImageSet(roles, ((stem, given),), False, crop)
    if not all(is_folder.values()):
        folder, image = (next(r for r in roles if is_folder[r] is wanted) for wanted in (True, False))
        raise EnsembleError(
            f"{given[folder]} ({_spoken(folder)}) is a folder but {given[image]} ({_spoken(image)}) is one "
            "image; give folders everywhere, or single images everywhere."
        )
    found = {role: _images_of(path, role) for role, path in given.items()}
    stems = sorted(set().union(*found.values()))
    for role, images in found.items():
        missing = [stem for stem in stems if stem not in images]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise EnsembleError(
                f"{given[role]} ({_spoken(role)}) has no image {shown}, which other folders have; add it, or "
                "take it out there."
            )
    fields = tuple((stem, {role: found[role][stem] for role in roles}) for stem in stems)
    return ImageSet(roles, fields, True, crop)


class References(Sequence[tuple[list[Any], Any]]):
    """A set with ground truth as a reference set: each image is read when its turn comes, then let go."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        arrays = self.images.load(range(len(self))[number])
        truth = arrays.pop(TRUTH)
        return list(arrays.values()), truth


# -- out ----------------------------------------------------------------------------------------------


def as_dtype(image: Any, dtype: np.dtype[Any]) -> Any:
    """Convert an ensemble to a dtype: rounded and clipped for integers; lazily for dask.

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
    # The greatest 64-bit integers have no float of their own: stay below what would wrap around.
    top = np.nextafter(2.0**63, 0) if dtype.itemsize == 8 else limits.max
    return np.clip(whole, limits.min, top).astype(dtype)


def check_output(path: Path, dtype: np.dtype[Any], ndim: int, is_colour: bool) -> None:
    """Find out before any work whether an output's name fits what it will hold.

    Raises
    ------
    EnsembleError
        If it does not.
    """
    if path.suffix.lower() != ".zarr":
        check_format(path, dtype, ndim, is_colour)


def write_image(
    path: str | Path,
    pixels: Any,
    *,
    is_colour: bool | None = None,
    like: ZarrImage | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an image or a Zarr array, whole or not at all, in the format that its name says.

    Parameters
    ----------
    pixels : numpy or dask array
    is_colour
        Whether the last axis is red, green and blue; None: where it is the third and has three places.
    like
        A Zarr whose chunks and axes a Zarr output takes.
    overwrite
        Replace what bears the name.

    Raises
    ------
    EnsembleError
        If the name does not fit, is taken, or cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == ".zarr":
        import dask.array as da

        array = pixels if hasattr(pixels, "dask") else da.from_array(pixels, "auto")
        return write_zarr(path, array, like, overwrite=overwrite)
    colour = (pixels.ndim == 3 and pixels.shape[-1] == 3) if is_colour is None else is_colour
    return write_file(path, np.asarray(pixels), is_colour=colour, overwrite=overwrite)

"""Paths to images that belong together: single ones, folders matched by stem, Zarr arrays.

A *role* is what a path stands for: a candidate, by its name, or a :class:`Part`, which is no string, so that
a candidate may be called whatever its owner likes. Pixels are read only when somebody asks for them, so a
set may hold more than fits into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import open_image
from napari_ensir.files.png import SUFFIXES, FileImage
from napari_ensir.files.zarr import ZarrImage, is_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["ImageSet", "Masks", "Part", "References", "Role", "check_stems", "open_set"]


class Part(Enum):
    """What a path can stand for beside a candidate; the value is how a message speaks of it."""

    TRUTH = "the ground truth"
    MASK = "the mask"
    IMAGE = "the image"
    LOW_RESOLUTION = "the low-resolution input"


Role = str | Part
"""A candidate's name, or another part."""


def _stem(path: Path) -> str:
    """What files of one field have in common: the name up to the format's endings."""
    name = path.stem if path.suffix.lower() in (*SUFFIXES, ".zarr") else path.name
    return name.removesuffix(".ome")


def _images_of(folder: Path, role: Role) -> dict[str, Path]:
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


def _spoken(role: Role) -> str:
    return role.value if isinstance(role, Part) else f'candidate "{role}"'


@dataclass(frozen=True)
class ImageSet:
    """Images that show the same fields in several roles.

    Attributes
    ----------
    roles : tuple of (str or Part)
    fields : tuple of (stem, paths by role), sorted by stem
    from_folders : bool
        Whether the paths given were folders, so that an output is a folder too.
    crop : bool
        Whether unlike sizes are cut to what they have in common, at the top left.
    """

    roles: tuple[Role, ...]
    fields: tuple[tuple[str, dict[Role, Path]], ...]
    from_folders: bool
    crop: bool

    def __len__(self) -> int:
        return len(self.fields)

    def open(self, number: int) -> dict[Role, FileImage | ZarrImage]:
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

    def array(self, number: int, role: Role) -> Any:
        """One array of one field, as it is in its file; read when it is sliced.

        Raises
        ------
        EnsembleError
            If it is damaged.
        """
        return _array(open_image(self.fields[number][1][role]))

    def load(self, number: int) -> dict[Role, Any]:
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
    place: str,
    first: tuple[Role, FileImage | ZarrImage],
    other: tuple[Role, FileImage | ZarrImage],
    crop: bool,
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


def open_set(
    candidates: Mapping[str, str | Path],
    others: Mapping[Part, str | Path] | None = None,
    *,
    crop: bool = False,
) -> ImageSet:
    """Match the images that paths lead to: all images or Zarr arrays, or all folders of them.

    Parameters
    ----------
    candidates
        Path of each candidate, by its name.
    others
        Path of each other part, such as ``{Part.TRUTH: path}``.
    crop
        Allow unlike sizes, cut at the top left.

    Raises
    ------
    EnsembleError
        If a path leads nowhere, folders are mixed with images, a folder is empty, or an image is missing in
        one of them.
    """
    paths: list[tuple[Role, str | Path]] = [*candidates.items(), *(others or {}).items()]
    given = {role: Path(path).expanduser() for role, path in paths}
    for role, path in given.items():
        if not path.exists():
            raise EnsembleError(
                f"there is no {path} ({_spoken(role)}); give an image, a folder or a Zarr array."
            )
    places: dict[Path, Role] = {}
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

    @property
    def labels(self) -> list[str]:
        """Names of the images, for messages."""
        return [stem for stem, _ in self.images.fields]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        arrays = self.images.load(range(len(self))[number])
        truth = arrays.pop(Part.TRUTH)
        return list(arrays.values()), truth


class Masks(Sequence["NDArray[np.bool_]"]):
    """For each image of a set, where its mask is not zero; each is read when its turn comes.

    Parameters
    ----------
    images
        The set.
    masks
        Grey images under the same stems.

    Raises
    ------
    EnsembleError
        If an image has no mask, or a mask no image.
    """

    def __init__(self, images: ImageSet, masks: ImageSet) -> None:
        self.images, self.masks = images, masks
        check_stems(images, masks, Part.MASK)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        place = range(len(self))[number]
        image = self.masks.open(place)[Part.MASK]
        first = next(iter(self.images.open(place).values()))
        mask = np.asarray(_array(image))
        mask = mask if mask.dtype.kind == "f" else mask != 0  # probabilities are reported by the fit
        if isinstance(first, FileImage) and first.is_colour and mask.ndim == len(first.shape) - 1:
            return np.broadcast_to(mask[..., np.newaxis], (*mask.shape, first.shape[-1]))
        return mask


def check_stems(images: ImageSet, others: ImageSet, part: Part) -> None:
    """Check that another set belongs to the same fields.

    Raises
    ------
    EnsembleError
        If it does not.
    """
    wanted, present = ([stem for stem, _ in one.fields] for one in (images, others))
    if len(wanted) != len(present) or (images.from_folders and wanted != present):
        different = sorted(set(wanted) ^ set(present))[:5] or wanted[:5]
        raise EnsembleError(
            f"there is not one of {part.value} for each image: they differ in {', '.join(different)}; give "
            "both under the same names."
        )

"""Sets of images that show the same fields: single images, folders matched by stem, or Zarr arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from glob import escape, glob
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import IMAGE_SUFFIXES, FileImage, images_in, open_image
from napari_ensir.files.microscopy import split_scene
from napari_ensir.files.paths import expand_path
from napari_ensir.files.zarr import ZarrImage, is_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray


KEPT_BYTES, OVERHEAD = 2**28, 2**16
"""Most bytes of images kept in memory for a later pass over a set, and bytes counted for each image besides
its pixels, which limits the number of small images."""


class Part(Enum):
    """Role of an image that is not a candidate; the value is used in messages.

    Not a string, so that no candidate's name is mistaken for a part.
    """

    TRUTH = "the ground truth"
    MASK = "the mask"
    IMAGE = "the image"
    LOW_RESOLUTION = "the low-resolution input"


Role = str | Part
"""Name of a candidate, or a part."""


def stem_of(path: Path) -> str:
    """Return the file name without the suffixes of the format."""
    name = path.stem if path.suffix.lower() in (*IMAGE_SUFFIXES, ".zarr") else path.name
    return name.removesuffix(".ome")


def is_pattern(path: Path) -> bool:
    """Whether a path stands for all images whose names match, such as ``restored/*_care.tif``."""
    return "{stem}" in str(path) or path.name.count("*") == 1


def _find_images(paths: Sequence[Path], role: Role) -> dict[str, Path]:
    """Return the images of a folder, plate, pattern or several paths by stem; nothing for one image."""
    path, given, place = paths[0], str(paths[0]), f"{paths[0]} ({_describe(role)})"
    none = f"{place} holds no image; give a folder of {', '.join(IMAGE_SUFFIXES)} files."
    images: Iterable[tuple[str, Path]]
    if len(paths) > 1:
        images, given = ((stem_of(each), each) for each in paths), "the command"
    elif is_pattern(path) and not path.exists():
        images = _matching(path)
        none = f"{place} matches no image; {{stem}} or * stands for the name of an image."
    elif not path.exists() and split_scene(path) is None:
        raise EnsembleError(f"there is no {place}; give an image, a folder or a Zarr array.")
    elif not path.is_dir() or is_zarr(path):
        images, none = images_in(path).items(), ""
    else:
        images = ((stem_of(each), each) for each in sorted(path.iterdir()) if is_image(each))
    found: dict[str, Path] = {}
    for stem, image in images:
        if stem in found:
            raise EnsembleError(
                f"{given} holds both {found[stem].name} and {image.name}, so the image {stem} of "
                f"{_describe(role)} is ambiguous. Keep one."
            )
        found[stem] = image
    if not found and none:
        raise EnsembleError(none)
    return found


def _matching(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the stem and the path of each image that matches a pattern."""
    text = str(path) if "{stem}" in str(path) else str(path.with_name(path.name.replace("*", "{stem}")))
    before, *after = (re.escape(part) for part in text.split("{stem}"))
    pattern = re.compile(before + r"(?P<stem>[^/\\]+)" + "(?P=stem)".join(after))
    for name in sorted(glob(escape(text).replace("{stem}", "*"))):
        if (match := pattern.fullmatch(name)) and is_image(Path(name)):
            yield stem_of(Path(match["stem"])), Path(name)


def is_image(path: Path) -> bool:
    """Return whether a path has the name of an image, or is a Zarr; hidden files do not count."""
    is_file = path.suffix.lower() in IMAGE_SUFFIXES
    return not path.name.startswith(".") and (is_file or (path.is_dir() and is_zarr(path)))


def folders_in(path: Path) -> list[Path]:
    """Return the folders in a folder that holds no image itself, such as one for each candidate."""
    held = sorted(path.iterdir()) if path.is_dir() and not is_zarr(path) else []
    if any(map(is_image, held)):
        return []
    return [each for each in held if each.is_dir() and not each.name.startswith(".")]


def _describe(role: Role) -> str:
    return role.value if isinstance(role, Part) else f'candidate "{role}"'


@dataclass(frozen=True)
class ImageSet:
    """Images that show the same fields in several roles; pixels are read when they are needed.

    Attributes
    ----------
    roles : tuple of (str or Part)
    fields : tuple of (stem, paths by role), sorted by stem
    from_folders : bool
        Whether the paths are folders, so that outputs are folders too.
    crop : bool
        Whether images of different sizes are cropped to their common size at the top left.
    squeeze : bool
        Whether axes of length 1 are dropped.
    """

    roles: tuple[Role, ...]
    fields: tuple[tuple[str, dict[Role, Path]], ...]
    from_folders: bool
    crop: bool
    squeeze: bool = False

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return tuple(role for role in self.roles if isinstance(role, str))

    def open(self, number: int) -> dict[Role, FileImage | ZarrImage]:
        """Open the images of one field by role, and compare their shapes.

        Raises
        ------
        EnsembleError
            If an image is damaged, grey is mixed with RGB, or sizes differ and ``crop`` is off.
        """
        stem, paths = self.fields[number]
        images = {role: open_image(path) for role, path in paths.items()}
        place = f"image {stem}: " if self.from_folders else ""
        first, *others = images.items()
        for other in others:
            self._check_equal_size(place, first, other)
        return images

    def first_readable(self) -> dict[Role, FileImage | ZarrImage]:
        """Open the first field that can be opened; the errors of others are reported when they are read."""
        for number in range(len(self)):
            with suppress(EnsembleError):
                return self.open(number)
        return {}

    def named_channel_axis(self) -> int | None:
        """Return the axis that ImageJ, OME-TIFF or OME-Zarr files name C, if it holds several channels."""
        image = next(iter(self.first_readable().values()), None)
        axes: list[str] = []
        if isinstance(image, FileImage):
            axes = list(image.tiff.axes) if image.tiff and image.tiff.kind != "plain" else []
        elif image is not None and image.ome is not None:
            axes = [str(each["name"]).upper() for each in image.ome["axes"]]
        sizes = [] if image is None else image.array.shape
        kept = [
            axis
            for axis, size in zip(axes, sizes, strict=False)
            if size > 1 or (axis != "C" and not self.squeeze)
        ]
        return kept.index("C") if "C" in kept else None

    def choose_channel_axis(self, given: int | None = None, *, pool: bool = False) -> int | None:
        """Return the given axis; if it is None, -1 for colour files, or the axis that the files name C.

        Parameters
        ----------
        given : int, optional
        pool : bool
            Whether named channels are no channels.
        """
        if given is None and any(image.is_colour for image in self.first_readable().values()):
            return -1
        return self.named_channel_axis() if given is None and not pool else given

    def shape_of(self, image: FileImage | ZarrImage) -> tuple[int, ...]:
        """Return the shape of an image, without axes of length 1 if ``squeeze`` is on."""
        return tuple(size for size in image.array.shape if size != 1 or not self.squeeze)

    def array(self, number: int, role: Role) -> Any:
        """One array of one field, not cropped; read when it is sliced.

        Raises
        ------
        EnsembleError
            If the image is damaged.
        """
        return open_image(self.fields[number][1][role]).array

    def load(self, number: int) -> dict[Role, Any]:
        """The arrays of one field by role, cropped to one size if ``crop`` is on; read when they are sliced.

        Raises
        ------
        EnsembleError
            As :meth:`open`.
        """
        arrays = {role: self._array(image) for role, image in self.open(number).items()}
        sizes = {tuple(array.shape) for array in arrays.values()}
        if len(sizes) > 1:
            common = tuple(slice(min(size)) for size in zip(*sizes, strict=True))
            arrays = {role: array[common] for role, array in arrays.items()}
        return arrays

    def _array(self, image: FileImage | ZarrImage) -> Any:
        shape = self.shape_of(image)
        if shape == tuple(image.array.shape):
            return image.array
        return (np.asarray(image) if isinstance(image, FileImage) else image.array).reshape(shape)

    def _check_equal_size(self, place: str, *pair: tuple[Role, FileImage | ZarrImage]) -> None:
        """Refuse grey files beside RGB files, and images of different sizes unless they can be cropped."""
        (one, a), (other, b) = ((_describe(role), image) for role, image in pair)
        if isinstance(a, FileImage) and isinstance(b, FileImage) and a.is_colour != b.is_colour:
            grey, colour = (other, one) if a.is_colour else (one, other)
            raise EnsembleError(f"{place}{grey} is grey but {colour} is RGB; convert one of them.")
        shapes = self.shape_of(a), self.shape_of(b)
        like = len(shapes[0]) == len(shapes[1])
        if shapes[0] == shapes[1] or (like and self.crop):
            return
        long = [[size for size in shape if size != 1] for shape in shapes]
        fix = " Drop the axes of length 1 with --squeeze." if long[0] == long[1] else ""
        fix = " Crop them to one size, or use --crop (top left)." if like else fix
        raise EnsembleError(
            f"{place}{other} has shape {shapes[1]} but {one} has {shapes[0]}; they must show the same "
            f"pixels.{fix}"
        )


def open_set(
    candidates: Mapping[str, str | Path],
    others: Mapping[Part, str | Path | Sequence[Path]] | None = None,
    *,
    crop: bool = False,
    squeeze: bool = False,
) -> ImageSet:
    """Match images by their paths: single images or Zarr arrays, or folders of them.

    A path may also be a pattern such as ``out/{stem}_SwinIR.png`` or ``out/*_SwinIR.png``; ``{stem}``, or the
    only ``*``, stands for the name of the image.

    Parameters
    ----------
    candidates : mapping of str to path
        Path of each candidate, by name.
    others : mapping of Part to path, optional
        Path of each other part, or several paths, such as ``{Part.TRUTH: path}``.
    crop : bool
        Crop images of different sizes at the top left.
    squeeze : bool
        Drop axes of length 1.

    Raises
    ------
    EnsembleError
        If a path does not exist, folders are mixed with images, a folder is empty, or an image is missing in
        one of them.
    """
    given: dict[Role, Path] = {}
    found: dict[Role, dict[str, Path]] = {}
    places: dict[Path, Role] = {}
    stated: list[tuple[Role, str | Path | Sequence[Path]]] = [*candidates.items(), *(others or {}).items()]
    for role, name in stated:
        paths = [expand_path(one) for one in ([name] if isinstance(name, str | Path) else name)]
        path = given[role] = paths[0]
        if images := _find_images(paths, role):
            found[role] = images
        twin = places.setdefault(path.resolve(), role)
        if twin != role:
            raise EnsembleError(f"{path} is given twice: as {_describe(twin)} and as {_describe(role)}.")
    if not found:
        stem = stem_of(next(iter(given.values())))
        return ImageSet(tuple(given), ((stem, given),), False, crop, squeeze)
    if single := [role for role in given if role not in found]:
        folder = next(iter(found))
        raise EnsembleError(
            f"{given[folder]} ({_describe(folder)}) is a folder but {given[single[0]]} "
            f"({_describe(single[0])}) is one image; give folders everywhere, or single images everywhere."
        )
    # With {stem}.png beside {stem}_out.png, x_out.png is the image x of the latter only.
    stems_of: dict[Path, int] = {}
    for images in found.values():
        for stem, path in images.items():
            stems_of[path] = min(len(stem), stems_of.get(path, len(stem)))
    for role, images in found.items():
        found[role] = {stem: path for stem, path in images.items() if len(stem) == stems_of[path]}
    stems = sorted(set().union(*found.values()))
    for role, images in found.items():
        missing = [stem for stem in stems if stem not in images]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise EnsembleError(
                f"{given[role]} ({_describe(role)}) has no image {shown}, which other folders have; add it, "
                "or remove it there."
            )
    fields = tuple((stem, {role: found[role][stem] for role in given}) for stem in stems)
    return ImageSet(tuple(given), fields, True, crop, squeeze)


class References(Sequence[tuple[list[Any], Any]]):
    """A set with ground truth as a sequence of (candidates, truth); images are opened when indexed.

    The first images, of up to :data:`KEPT_BYTES`, are kept, so that several passes read their files once.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._kept: dict[int, tuple[list[Any], Any]] = {}
        self._free = KEPT_BYTES

    @property
    def labels(self) -> list[str]:
        """Names of the images, for messages."""
        return [stem for stem, _ in self.images.fields]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        place = range(len(self))[number]
        if place in self._kept:
            candidates, truth = self._kept[place]
            return [*candidates], truth
        arrays = self.images.load(place)
        size = sum(prod(array.shape) * array.dtype.itemsize + OVERHEAD for array in arrays.values())
        truth = arrays.pop(Part.TRUTH)
        if size <= self._free:
            self._free -= size
            self._kept[place] = [*arrays.values()], truth
        return [*arrays.values()], truth


class Masks(Sequence["NDArray[np.bool_]"]):
    """Boolean masks for the images of a set, True where a mask is not zero; read when indexed.

    Parameters
    ----------
    images : ImageSet
    masks : ImageSet
        Grey images with the same stems.

    Raises
    ------
    EnsembleError
        If an image has no mask, or a mask has no image.
    """

    def __init__(self, images: ImageSet, masks: ImageSet) -> None:
        self.images, self.masks = images, masks
        check_stems(images, masks, Part.MASK)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        place = range(len(self))[number]
        mask = np.asarray(self.masks.open(place)[Part.MASK].array)
        first = next(iter(self.images.open(place).values()))
        mask = mask if mask.dtype.kind == "f" else mask != 0  # probabilities are reported by the fit
        if first.is_colour and mask.ndim == first.array.ndim - 1:
            return np.broadcast_to(mask[..., np.newaxis], (*mask.shape, first.array.shape[-1]))
        return mask


def check_stems(images: ImageSet, others: ImageSet, part: Part) -> None:
    """Check that another set shows the same fields.

    Raises
    ------
    EnsembleError
        If it does not.
    """
    wanted, present = ([stem for stem, _ in one.fields] for one in (images, others))
    if len(wanted) != len(present) or (images.from_folders and wanted != present):
        different = sorted(set(wanted) ^ set(present))[:5] or wanted[:5]
        raise EnsembleError(
            f"{part.value} and the images do not match: they differ in {', '.join(different)}; give both "
            "the same file names."
        )

"""What several commands share: the loop over images, output files, and a dask cluster."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from napari_ensir.cli import terminal
from napari_ensir.cli.corrections import CorrectedSet, recorded_gains
from napari_ensir.ensemble.lut.format import SUFFIX
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.files.image import as_dtype, check_output, write_image
from napari_ensir.files.output_paths import Place, check_output_paths
from napari_ensir.files.paths import expand_path
from napari_ensir.files.png import FileImage
from napari_ensir.files.sets import Part, is_image, open_set, stem_of
from napari_ensir.files.zarr import is_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    from napari_ensir.cli.app import ApplyOptions, CompareOptions, EvaluateOptions, FitOptions
    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.sets import ImageSet, Role
    from napari_ensir.files.zarr import ZarrImage

__all__ = [
    "Batch",
    "OutputImage",
    "check_outputs",
    "first_readable",
    "lut_target",
    "named_channel_axis",
    "note_alpha",
    "on_cluster",
    "open_candidates",
    "suffix_like",
]


def open_candidates(
    options: FitOptions | ApplyOptions | EvaluateOptions | CompareOptions, lut: WeightLUT | None = None
) -> CorrectedSet:
    """Open the candidates, in the order of a table, and the ground truth if there is one.

    Raises
    ------
    typer.BadParameter
        If a candidate is not NAME=PATH, or a name is repeated.
    EnsembleError
        If the candidates are not those of the table, or cannot be read.
    """
    truth = getattr(options, "truth", None)
    paths: dict[str, Path] = {}
    for text in options.candidates.candidate:
        for name, path in _named_paths(text, truth, lut):
            if name in paths:
                raise typer.BadParameter(f"the name {name!r} is given twice", param_hint="--candidate")
            paths[name] = path
    if lut is not None:
        missing = [name for name in lut.names if name not in paths]
        unknown = [name for name in paths if name not in lut.names]
        if missing or unknown:
            wrong = [f"{', '.join(missing)} is missing"] if missing else []
            wrong += [f"{', '.join(unknown)} is unknown"] if unknown else []
            raise EnsembleError(
                f"the LUT combines {', '.join(lut.names)}; of the given candidates, {' and '.join(wrong)}. "
                "Give each as NAME=PATH."
            )
        paths = {name: paths[name] for name in lut.names}
    given, axis = options.candidates, options.settings.channel_axis
    others = {} if truth is None else {Part.TRUTH: truth}
    images = open_set(paths, others, crop=given.reading.crop, squeeze=given.squeeze)
    if axis is None and truth is None and lut is not None:
        axis = lut.channel_axis
    elif axis is None and not getattr(options, "pool_channels", True):
        axis = named_channel_axis(images)
        if axis is not None and not options.output.quiet:
            terminal.error(f"axis {axis} holds the channels, as the files state; see --pool-channels.")
    note_alpha(images, options.output)
    return CorrectedSet(
        **vars(images),
        actions=("align",) * given.align + ("match-intensities",) * (options.match and truth is not None),
        channel_axis=axis,
        gains=recorded_gains(lut.report) if lut is not None and options.match and truth is None else {},
    )


def _named_paths(text: str, truth: Path | None, lut: WeightLUT | None) -> Iterator[tuple[str, Path]]:
    """Yield name and path of NAME=PATH, of a path, or of each folder in a folder but that of the truth."""
    path = Path(text)
    if not os.path.exists(path):
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value):
            raise typer.BadParameter(f"{text!r} is not NAME=PATH", param_hint="--candidate")
        yield name, Path(value)
        return
    held = sorted(path.iterdir()) if path.is_dir() and not is_zarr(path) else []
    if not held or any(map(is_image, held)):
        yield path.resolve().name if held else stem_of(path), path
        return
    for folder in held:
        is_truth = truth is not None and folder.resolve() == truth.resolve()
        known = lut is None or folder.name in lut.names
        if folder.is_dir() and known and not is_truth and not folder.name.startswith("."):
            yield folder.name, folder


def first_readable(images: ImageSet) -> dict[Role, FileImage | ZarrImage]:
    """Open the first field that can be opened; the errors of others are reported when they are read."""
    for number in range(len(images)):
        with suppress(EnsembleError):
            return images.open(number)
    return {}


def named_channel_axis(images: ImageSet) -> int | None:
    """Return the axis that the ImageJ, OME-TIFF or OME-Zarr files name C, if it holds several channels."""
    image = next(iter(first_readable(images).values()), None)
    axes: list[str] = []
    if isinstance(image, FileImage):
        axes = list(image.tiff.axes) if image.tiff and image.tiff.kind != "plain" else []
    elif image is not None and image.ome is not None:
        axes = [str(each["name"]).upper() for each in image.ome["axes"]]
    sizes = [] if image is None else image.array.shape
    kept = [
        axis
        for axis, size in zip(axes, sizes, strict=False)
        if size > 1 or (axis != "C" and not images.squeeze)
    ]
    return kept.index("C") if "C" in kept else None


def note_alpha(images: ImageSet, output: Output) -> None:
    """Print a note if the first images have an alpha channel, which is left out."""
    for image in first_readable(images).values():
        if isinstance(image, FileImage) and image.has_alpha and not output.quiet:
            terminal.error(f"the alpha channel of {image.path} is opaque and is left out.")


class Batch:
    """The images of a command, and the errors of those that failed, by stem."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.names = tuple(role for role in images.roles if isinstance(role, str))
        self.stems = [stem for stem, _ in images.fields]
        self.failed: dict[str, str] = {}

    def each(
        self, work: Callable[[int, str], object], text: str = "", progress: Progress | None = None
    ) -> None:
        """Call a function with the number and the stem of each image that has not failed.

        If there are several images, the error of one does not stop the others.
        """
        for number, stem in enumerate(self.stems):
            if stem not in self.failed:
                try:
                    work(number, stem)
                except EnsembleError as error:
                    if not self.images.from_folders:
                        raise
                    self.failed[stem] = str(error)
            if progress is not None:
                progress(number + 1, len(self.stems), text)

    def check_any(self, found: Sized) -> None:
        """Raise the first error if there is no result."""
        if not found and self.failed:
            raise EnsembleError(f"no image could be read; first error: {next(iter(self.failed.values()))}")

    def label(self, stem: str) -> str:
        """Return the stem if messages must tell images apart, else an empty string."""
        return stem if len(self.stems) > 1 else ""

    def file_names(self, number: int) -> dict[str, str]:
        """Return the file names of one field, by candidate."""
        return {str(role): path.name for role, path in self.images.fields[number][1].items()}


@dataclass(frozen=True)
class OutputImage:
    """An image to be written.

    Attributes
    ----------
    option : str
        Command-line option that gave the path.
    path : Path
    dtype : numpy dtype
    ndim : int
    is_colour : bool
    like : FileImage or ZarrImage or None
        Source of axes, pixel sizes and chunks.
    """

    option: str
    path: Path
    dtype: np.dtype[Any]
    ndim: int
    is_colour: bool
    like: FileImage | ZarrImage | None

    def write(self, pixels: Any, record: dict[str, Any], overwrite: bool) -> None:
        """Write the pixels, converted to the dtype."""
        write_image(
            self.path,
            as_dtype(pixels, self.dtype),
            is_colour=self.is_colour,
            like=self.like,
            overwrite=overwrite,
            record=record,
        )


def check_outputs(
    images: ImageSet,
    outputs: Sequence[OutputImage],
    output: Output,
    *,
    in_folders: bool = False,
    others: Sequence[Place] = (),
    read: Sequence[Path | None] = (),
) -> None:
    """Check before any work that all outputs can be written, and create their folders.

    Parameters
    ----------
    images
        No output may overwrite one of them.
    outputs
    output
        Its JSON file is an output, too.
    in_folders
        Whether the outputs are in folders that are created.
    others
        Further outputs.
    read
        Further files that no output may overwrite.

    Raises
    ------
    EnsembleError
        If an output cannot be written, or two paths clash.
    """
    folders = {(each.option, each.path.parent): None for each in outputs if in_folders}
    places = [Place(option, folder, gathers=True) for option, folder in sorted(folders)]
    places += [Place(each.option, each.path) for each in outputs]
    sources = [path for _, paths in images.fields for path in paths.values()]
    inputs = [Place("an image", path) for path in sources]
    if images.from_folders:
        parents = dict.fromkeys(path.parent for path in sources)
        inputs += [Place("a folder of images", folder, gathers=True) for folder in parents]
    inputs += [Place("a file", path) for path in read if path is not None]
    check_output_paths([*places, *others, *output.places], inputs)
    for _, folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnsembleError(
                f"the folder {folder} could not be made: {error.strerror}; choose another output folder."
            ) from error
    output.check()
    for each in outputs:
        check_output(each.path, each.dtype, each.ndim, each.is_colour)
        check_target(each.path, output.overwrite)


def lut_target(out: Path, overwrite: bool) -> Path:
    """Return the path of a table, with its suffix, after checking that it can be written."""
    name = out.name
    if name in ("", ".."):
        raise EnsembleError(f"--out: {out} is a folder; give the name of a file.")
    if not name.endswith(SUFFIX):
        name = name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX
    target = expand_path(out).with_name(name)
    check_target(target, overwrite)
    return target


def suffix_like(source: Path, dtype: np.dtype[Any], spatial: int, like: FileImage | ZarrImage) -> str:
    """Return the suffix of an output: that of the input, if its format can hold the dtype."""
    if not isinstance(like, FileImage):
        return ".ome.zarr" if like.ome is not None else ".zarr"
    if source.suffix.lower() in (".tif", ".tiff"):
        return (".ome" if source.stem.lower().endswith(".ome") else "") + source.suffix
    return ".png" if dtype in (np.uint8, np.uint16) and spatial == 2 else ".tif"


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Compute with the workers of a dask.distributed scheduler, if its address is given."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise EnsembleError(
            '--scheduler needs dask.distributed; install it with: pip install "napari-ensir[large]".'
        ) from error
    try:
        client = Client(address, timeout="5s")
    except (OSError, ValueError, TimeoutError) as error:
        raise EnsembleError(
            f"there is no dask scheduler at {address} ({type(error).__name__}); start one with "
            '"dask scheduler" and give the address that it prints.'
        ) from error
    with client:
        try:
            yield
        except (EnsembleError, OSError):
            raise
        except Exception as error:  # such as KilledWorker
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else repr(error)
            raise EnsembleError(
                f"the cluster at {address} failed ({reason}). Its scheduler and workers need the same "
                "version of napari-ensir as this machine, and access to the same paths."
            ) from error

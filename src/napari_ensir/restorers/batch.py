"""Restoring and combining many images one at a time, for the command line and the viewer."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import nan, prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.checks.exposure import matched
from napari_ensir.ensemble.checks.images import ApplyChecks
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.ensemble.scoring.score_table import DIFFERENCE, PSNR, ScoreRow, ScoreTable
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import FileImage, as_dtype, check_output, open_image, write_image
from napari_ensir.files.metadata import plain
from napari_ensir.files.paths import Place, check_output_paths
from napari_ensir.files.sets import Part
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    enlarged_transform,
    format_notes,
    input_warnings_of,
    learns_from_images,
    notes_of,
    restorer_record,
    trained_on,
    warnings_of,
    with_channel_axis,
)
from napari_ensir.restorers.self_supervised.j_invariant import restore_each
from napari_ensir.restorers.self_supervised.learn import CorrelatedNoiseWarning, blind_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.checks.diagnostic import Diagnostic
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.files.zarr import ZarrImage
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.settings import ApplySettings, BlindSettings


MAX_LEARNED = 2**25
"""Maximum number of pixels that a table is learned from without a ground truth; those of more images are not
kept in memory."""

TABLE_IS_OLDER = (
    "the lookup table was learned before images changed; to learn it anew, choose another place for it and "
    "its outputs."
)
"""Warning of a run that was resumed."""


def first_of(messages: Iterable[str], most: int = 5) -> list[str]:
    """Return the first messages, and how many more there are.

    Examples
    --------
    >>> first_of(["a", "b", "c"], most=1)
    ['a', 'And 2 more.']
    """
    lines = list(messages)
    return [*lines[:most], f"And {len(lines) - most} more."] if len(lines) > most else lines


def suffix_like(source: Path, dtype: np.dtype[Any], spatial: int, like: FileImage | ZarrImage) -> str:
    """Return the suffix of an output: that of the input, if its format can hold the dtype."""
    if not isinstance(like, FileImage):
        return ".ome.zarr" if like.ome is not None else ".zarr"
    if source.suffix.lower() in (".tif", ".tiff"):
        return (".ome" if source.stem.lower().endswith(".ome") else "") + source.suffix
    return ".png" if dtype in (np.uint8, np.uint16) and spatial == 2 else ".tif"


@dataclass(frozen=True)
class OutputImage:
    """An image to be written.

    Attributes
    ----------
    option : str
        What gave the path, for messages, such as ``"--out"``.
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

    def changed_inputs(self, record: Mapping[str, Any]) -> list[str] | None:
        """Return the inputs that changed since the image was written; None if it does not exist.

        Raises
        ------
        EnsembleError
            If another image has its name, or it was made from other images or with other settings.
        """
        if not self.path.exists():
            return None
        image = open_image(self.path)
        found, wanted = _comparable(image.record or {}), _comparable(plain(record))
        before, now = found.pop("input_files", None), wanted.pop("input_files", {})
        if found != wanted or image.array.dtype != self.dtype:
            raise EnsembleError(
                f"{self.path} exists, and was made from other images, or with other restorers or settings; "
                "choose another output folder."
            )
        return [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("date", "versions")}


def file_state(path: Path) -> dict[str, Any]:
    """Return the size and the time of the last change of a file, or of all files of a Zarr.

    For an image in a file, such as ``a.lif/Image 1``, those of the file.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.tif"
    ...     _ = path.write_text("pixels")
    ...     os.utime(path, ns=(0, 0))
    ...     file_state(path)
    {'bytes': 6, 'modified': '1970-01-01T00:00:00.000000000'}
    """
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    size = newest = 0
    path = next(each for each in (path, *path.parents) if each.exists())
    for each in files if path.is_dir() else [path]:
        with suppress(OSError):  # reported when it is read
            found = each.stat()
            size, newest = size + found.st_size, max(newest, found.st_mtime_ns)
    return {"bytes": size, "modified": str(np.datetime64(newest, "ns"))}


class Batch:
    """Images that are processed one at a time, and what became of each.

    Parameters
    ----------
    images : ImageSet

    Attributes
    ----------
    in_folders : bool
        Whether the outputs are in folders that are created.
    names : tuple of str
        Names of the candidates.
    stems : list of str
    outputs : dict
        The outputs to write, by stem and name.
    written : dict
        Paths of the outputs by stem and name.
    kept : dict
        The same for outputs that existed already.
    redone : dict
        Inputs that changed since an output was written, which was then made anew, by stem.
    failed : dict
        Messages by stem.
    notes : dict
        Stems of the images of each note of a restorer, by its name and the note.
    warnings : dict
        As keys in order.
    networks : dict
        Sizes and times of the files of the restorers, by name, for records.
    """

    def __init__(self, images: ImageSet, networks: Iterable[Path] = ()) -> None:
        self.images, self.in_folders = images, images.from_folders
        self.names = images.names
        self.stems = [stem for stem, _ in images.fields]
        self.outputs: dict[str, dict[str, OutputImage]] = {stem: {} for stem in self.stems}
        self.written: dict[str, dict[str, str]] = {}
        self.kept: dict[str, dict[str, str]] = {}
        self.redone: dict[str, list[str]] = {}
        self.failed: dict[str, str] = {}
        self.networks = {path.name: file_state(path) for path in networks}
        self.notes: dict[tuple[str, str], list[str]] = {}
        self.warnings: dict[str, None] = {}

    def each(
        self, work: Callable[[int, str], object], text: str = "", progress: Progress | None = None
    ) -> None:
        """Call a function with the number and the stem of each image that has not failed.

        In a set from folders, the error of one image does not stop the others.
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
                progress(number + 1, len(self.stems), text or stem)

    def warn(self, stem: str, warnings: Iterable[str]) -> None:
        """Add warnings about an image; empty ones are ignored."""
        before = f"{stem}: " if self.images.from_folders else ""
        self.warnings |= {f"{before}{each}": None for each in warnings if each}

    @property
    def all_outputs(self) -> list[OutputImage]:
        """The outputs of all images."""
        return [output for outputs in self.outputs.values() for output in outputs.values()]

    def check_outputs(self, others: Sequence[Place] = (), read: Sequence[Path | None] = ()) -> None:
        """Check before any work that the outputs can be written, and create their folders.

        Parameters
        ----------
        others
            Further outputs.
        read
            Files besides the images that no output may overwrite.

        Raises
        ------
        EnsembleError
            If an output cannot be written, or two paths clash.
        """
        outputs, images = self.all_outputs, self.images
        folders = {(each.option, each.path.parent): None for each in outputs if self.in_folders}
        places = [Place(option, folder, gathers=True) for option, folder in sorted(folders)]
        places += [Place(each.option, each.path) for each in outputs]
        sources = [path for _, paths in images.fields for path in paths.values()]
        inputs = [Place("an image", path) for path in sources]
        if images.from_folders:
            parents = dict.fromkeys(path.parent for path in sources)
            inputs += [Place("a folder of images", folder, gathers=True) for folder in parents]
        inputs += [Place("a file", path) for path in read if path is not None]
        check_output_paths([*places, *others], inputs)
        for _, folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EnsembleError(
                    f"the folder {folder} could not be made: {error.strerror}; choose another output folder."
                ) from error
        for each in outputs:
            check_output(each.path, each.dtype, each.ndim, each.is_colour)

    def write(
        self,
        stem: str,
        name: str,
        record: Mapping[str, Any],
        make: Callable[[], tuple[Any, FileImage | ZarrImage | None]],
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Write an output, whose pixels and metadata ``make`` returns.

        An output that exists is replaced if ``overwrite``, or kept if ``resume`` and it was made in the same
        way.
        """
        output = self.outputs[stem][name]
        try:
            changed = output.changed_inputs(record) if resume else None
        except EnsembleError:
            if not overwrite:
                raise
            changed = None
        if changed == []:
            self.kept.setdefault(stem, {})[name] = str(output.path)
            return
        pixels, like = make()
        write_image(
            output.path,
            as_dtype(pixels, output.dtype),
            is_colour=output.is_colour,
            like=like,
            overwrite=overwrite or changed is not None,
            record=record,
        )
        self.written.setdefault(stem, {})[name] = str(output.path)
        if changed:
            self.redone[stem] = changed

    def label(self, stem: str) -> str:
        """Return the stem if messages must tell images apart, else an empty string."""
        return stem if len(self.stems) > 1 else ""

    def sources(self, number: int) -> dict[str, Any]:
        """Return what records state about files: those of one field by candidate, and those of restorers."""
        paths = {
            role if isinstance(role, str) else role.name.lower(): path
            for role, path in self.images.fields[number][1].items()
        }
        return {
            "inputs": {name: path.name for name, path in paths.items()},
            "input_files": {name: file_state(path) for name, path in paths.items()},
            **({"networks": self.networks} if self.networks else {}),
        }

    def describe_notes(self) -> list[str]:
        """Return the notes as sentences, with the images that they are about unless they are about all."""

        def where(stems: list[str]) -> str:
            few = [*stems[:3], *([f"{len(stems) - 3} more"] if len(stems) > 3 else [])]
            return "" if len(stems) in (0, len(self.stems)) else f" ({', '.join(few)})"

        return format_notes((name, note + where(stems)) for (name, note), stems in self.notes.items())

    def describe_resumption(self) -> list[str]:
        """Return sentences about outputs that were there already, and those that were made anew."""
        sentences = []
        if n := sum(stem not in self.written for stem in self.kept):
            sentences.append(f"{n} {'was' if n == 1 else 'were'} there already.")
        if n := len(self.redone):
            named = [f"{stem} ({' and '.join(changed)})" for stem, changed in self.redone.items()]
            named[5:] = [f"{n - 5} more"] if n > 5 else []
            verb = "was" if n == 1 else "were"
            sentences.append(f"{n} {verb} made anew, because an input changed: {', '.join(named)}.")
        return sentences


class RestoreBatch(Batch):
    """Restorations of images: one output for each image and each name.

    Parameters
    ----------
    images : ImageSet
        With the role ``Part.IMAGE``.
    names : sequence of str
        Names of the outputs of each image, such as those of restorers.
    out : Path
        Output of a single name: an image, or a folder if the images are from a folder. A folder of these if
        there are several names.
    as_float : bool
        Whether outputs are float32.
    folder : bool
        Whether a single name gets a folder, as several names do.
    networks : iterable of Path
        Files of the restorers.
    """

    def __init__(
        self,
        images: ImageSet,
        names: Sequence[str],
        out: Path,
        *,
        as_float: bool,
        folder: bool = False,
        networks: Iterable[Path] = (),
    ) -> None:
        super().__init__(images, networks)
        self._trained: dict[str, Restorer] = {}
        self.in_folders = folder or len(names) > 1 or images.from_folders
        several = folder or len(names) > 1

        def plan(number: int, stem: str) -> None:
            path, source = images.fields[number][1][Part.IMAGE], images.open(number)[Part.IMAGE]
            ndim, colour = source.array.ndim, source.is_colour
            dtype = np.dtype(np.float32 if as_float else source.array.dtype)
            suffix = suffix_like(path, dtype, ndim - colour, source)
            for name in names:
                target = out / name if several else out
                if images.from_folders:
                    target = target / f"{stem}{suffix}"
                elif several:
                    target = target.with_name(name + suffix)
                self.outputs[stem][name] = OutputImage("--out", target, dtype, ndim, colour, source)

        self.each(plan)

    def channel_axis(self, given: int | None) -> int | None:
        """Return the given axis; if it is None and the files are colour images, -1."""
        first = next((stem for stem in self.stems if stem not in self.failed), None)
        colour = first is not None and any(each.is_colour for each in self.outputs[first].values())
        return -1 if given is None and colour else given

    def sample(self) -> dict[str, NDArray[Any]]:
        """Read the images by stem; evenly spaced ones, if all have more than :data:`MAX_LEARNED` pixels.

        Raises
        ------
        EnsembleError
            If no image can be read.
        """
        arrays: dict[str, NDArray[Any]] = {}
        n, size = len(self.stems), 0

        def read(number: int, stem: str) -> None:
            nonlocal size
            array = self.images.open(number)[Part.IMAGE].array
            size = size or prod(array.shape)
            if number % max(1, -(-n * size // MAX_LEARNED)) == 0:
                arrays[stem] = np.asarray(array)

        self.each(read)
        if not arrays:
            raise EnsembleError(f"no image could be read: {next(iter(self.failed.values()))}")
        return arrays

    def trained(self, name: str, restorer: Restorer, progress: Progress | None = None) -> Restorer:
        """Train a restorer that learns from the images that it restores, once on the :meth:`sample`.

        Other restorers are returned unchanged, as is each if there is one image.

        Parameters
        ----------
        name
            Name of the output; later calls with it return the same restorer.
        restorer
            With the channel axis of the images.
        progress
        """
        if len(self.stems) == 1 or not learns_from_images(restorer):
            return restorer
        if name not in self._trained:
            arrays = list(self.sample().values())
            self._trained[name] = trained_on(restorer, arrays, progress)
            note = f"was trained once, on {len(arrays)} of the {len(self.stems)} images"
            self.notes[restorer.name, note] = []
        return self._trained[name]

    def run(
        self,
        restorer_of: Callable[[str, str], Restorer],
        channel_axis: int | None,
        *,
        record: Callable[..., dict[str, Any]] | None = None,
        progress: Progress | None = None,
        **how: bool,
    ) -> None:
        """Restore and write every image.

        Parameters
        ----------
        restorer_of
            Called with the stem of an image and a name; returns the restorer.
        channel_axis : int or None
        record
            Called with the restorer and the entries of :meth:`sources`; returns the record of an output.
        progress
        **how
            ``overwrite`` and ``resume``; see :meth:`write`.
        """
        record = record or (lambda each, **of: record_of("restored", restorer=restorer_record(each), **of))
        n = len(self.stems)

        def restore(number: int, stem: str) -> None:
            suffix = f", {stem} ({number + 1} of {n})" if n > 1 else ""
            part = scaled_progress(progress, number, n, suffix=suffix)
            sources = self.sources(number)
            for place, (name, output) in enumerate(self.outputs[stem].items()):
                axis = -1 if channel_axis is None and output.is_colour else channel_axis
                restorer = with_channel_axis(restorer_of(stem, name), axis)
                piece = scaled_progress(part, place, len(self.outputs[stem]))
                make = partial(self._restore, number, stem, name, restorer, piece)
                self.write(stem, name, record(restorer, **sources), make, **how)

        self.each(restore, "", progress)

    def _restore(
        self, number: int, stem: str, name: str, restorer: Restorer, progress: Progress | None
    ) -> tuple[NDArray[np.float32], FileImage | ZarrImage]:
        """Restore an image, and return its metadata too."""
        restorer = self.trained(name, restorer, progress)
        source = self.images.open(number)[Part.IMAGE]  # anew, so that no other image stays in memory
        image = np.asarray(source.array)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfamiliarImageWarning)  # among the warnings
            restored = restorer(image, progress=progress)
        self.warn(stem, warnings_of(restorer, image, restored))
        for note in notes_of(restorer, image):
            self.notes.setdefault(note, []).append(stem)
        return restored, _enlarged(source, restored.shape)


def _enlarged(source: FileImage | ZarrImage, shape: tuple[int, ...]) -> FileImage | ZarrImage:
    """Return the metadata of the source with the pixel size adapted to an output of this shape."""
    if isinstance(source, FileImage):
        return source if source.tiff is None else replace(source, tiff=source.tiff.enlarged(shape))
    if source.ome is None or shape == source.array.shape:
        return source
    first, *others = source.ome["datasets"]
    given = {each.get("type"): each.get(each.get("type")) for each in first["coordinateTransformations"]}
    factor = [large // small for small, large in zip(source.array.shape, shape, strict=True)]
    scale = given.get("scale", [1.0] * len(shape))
    scale, translation = enlarged_transform(scale, given.get("translation", [0.0] * len(shape)), factor)
    transforms = [
        {"type": "scale", "scale": scale.tolist()},
        {"type": "translation", "translation": translation.tolist()},
    ]
    datasets = [{**first, "coordinateTransformations": transforms}, *others]
    return replace(source, ome={**source.ome, "datasets": datasets})


class BlindBatch(RestoreBatch):
    """Ensembles of restorations, combined by one table that is learned from the images.

    Parameters
    ----------
    images, out, as_float, networks
        As for :class:`RestoreBatch`.
    restorers : mapping
        Restorers by name.
    settings : BlindSettings
    """

    def __init__(
        self,
        images: ImageSet,
        restorers: Mapping[str, Restorer],
        out: Path,
        settings: BlindSettings,
        *,
        as_float: bool,
        networks: Iterable[Path] = (),
    ) -> None:
        super().__init__(images, ("ensemble",), out, as_float=as_float, networks=networks)
        self.settings = settings
        self.axis = self.channel_axis(settings.channel_axis)
        self.restorers = {name: with_channel_axis(each, self.axis) for name, each in restorers.items()}
        self._candidates: dict[str, tuple[NDArray[np.float32], ...]] = {}

    @property
    def made_with(self) -> dict[str, Any]:
        """Settings, restorers and their files, as plain values."""
        described = {name: restorer_record(each) for name, each in self.restorers.items()}
        found = {"settings": plain(self.settings.keywords()), "restorers": plain(described)}
        return found | ({"networks": self.networks} if self.networks else {})

    def trained_restorers(self, progress: Progress | None = None) -> tuple[Restorer, ...]:
        """Return the restorers, after training those that learn from the images; see :meth:`trained`."""
        return tuple(self.trained(name, each, progress) for name, each in self.restorers.items())

    def learn(self, progress: Progress | None = None) -> WeightLUT:
        """Learn a table from the :meth:`sample`; its report has the scores.

        Raises
        ------
        EnsembleError
            If no image can be read, or the images cannot be used.
        """
        restorers = self.trained_restorers(progress)
        arrays = self.sample()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CorrelatedNoiseWarning)  # also in the report
            warnings.simplefilter("ignore", UnfamiliarImageWarning)  # among the warnings
            reference = blind_reference(
                list(arrays.values()),
                restorers,
                tuple(self.restorers),
                keep_restored=True,
                progress=progress,
                settings=self.settings,
            )
            lut = reference.learn()
        self._candidates = dict(zip(arrays, reference.restored, strict=True))
        return replace(lut, report=lut.report | {"made_with": self.made_with})

    def open_table(
        self,
        path: Path | None,
        progress: Progress | None = None,
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> WeightLUT:
        """Learn a table and save it; to resume, open the one that an earlier run learned in the same way.

        Raises
        ------
        EnsembleError
            If it was learned with other restorers or settings.
        """
        if path is None:
            return self.learn(progress)
        if not (resume and path.exists()):
            self.learn(progress).save(path, overwrite=overwrite)
        lut = load_lut(path)
        if lut.report.get("made_with") != self.made_with:
            raise EnsembleError(
                f"the lookup table {path.name} was learned with other restorers or settings; choose another "
                "place for it and its outputs."
            )
        return lut

    def combine(self, lut: WeightLUT, **how: Any) -> None:
        """Restore and combine every image; ``how`` is as for :meth:`RestoreBatch.run`."""
        self.warnings |= dict.fromkeys(lut.report["warnings"])
        made_with = self.made_with
        self.run(
            lambda stem, _: _Ensemble(self, lut, self._candidates.pop(stem, None)),
            self.axis,
            record=lambda _, **of: record_of("ensemble", lut, **(made_with | of)),
            **how,
        )
        if self.redone:
            self.warnings[TABLE_IS_OLDER] = None


def blind_scores(lut: WeightLUT) -> ScoreTable:
    """Return the scores in the report of a table that was learned without a ground truth."""
    scores = lut.report["scores"]
    rows: list[dict[str, Any]] = [
        {key: nan if value is None else value for key, value in row.items()} for row in scores["rows"]
    ]
    psnr = PSNR._replace(decimals=2, error="psnr_error")
    columns = (DIFFERENCE,) if scores["truth_noise"] == "unknown" else (DIFFERENCE, psnr)
    rows.sort(key=lambda each: each["role"] != "input")
    return ScoreTable(
        tuple(ScoreRow(**each) for each in rows), columns, tuple(scores["notes"]), scores["summary"]
    )


@dataclass
class _Ensemble:
    """Restorer that combines other restorers by a table."""

    batch: BlindBatch
    lut: WeightLUT
    candidates: Sequence[NDArray[np.float32]] | None
    name: str = "ensemble"

    def __call__(self, image: NDArray[Any], *, progress: Progress | None = None) -> NDArray[np.float32]:
        restorers = self.batch.trained_restorers
        candidates = self.candidates or restore_each(image, restorers(progress), progress)
        return np.asarray(self.lut.apply(candidates, self.batch.settings.device, check=False))

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        restorers = self.batch.restorers.values()
        return [warning for each in restorers for warning in input_warnings_of(each, image)]


class CombineBatch(Batch):
    """Candidates that are combined with a table.

    Parameters
    ----------
    images : ImageSet
        The candidates, in the order of the table.
    lut : WeightLUT
    outs : mapping
        Places of the outputs: "ensemble", and optionally "weight maps" and "expected error". Folders, if the
        images are from folders.
    as_float : bool
    """

    def __init__(
        self, images: ImageSet, lut: WeightLUT, outs: Mapping[str, Place], *, as_float: bool
    ) -> None:
        super().__init__(images)
        self.lut = lut
        self.diagnostics: list[Diagnostic] = []
        self.expected: dict[str, float] = {}
        """Root mean square of the expected errors that were written, in intensity units, by stem."""

        def plan(number: int, stem: str) -> None:
            opened = images.open(number)
            first = opened[images.roles[0]]
            shape, colour, single = images.shape_of(first), first.is_colour, np.dtype(np.float32)
            same = first if shape == tuple(first.array.shape) else None
            common = np.result_type(*(each.array.dtype for each in opened.values()))
            for kind, out in outs.items():
                dtype = common if kind == "ensemble" and not as_float else single
                # The chunks of a Zarr array lack an axis.
                like = None if kind == "weight maps" and not isinstance(first, FileImage) else same
                path = out.path
                if images.from_folders:
                    source = images.fields[number][1][images.roles[0]]
                    beside = ".tif" if isinstance(first, FileImage) else ".zarr"
                    fitting = suffix_like(source, dtype, len(shape) - colour, first)
                    path = path / (stem + (fitting if kind == "ensemble" else beside))
                axes = len(shape) + (kind == "weight maps")
                self.outputs[stem][kind] = OutputImage(out.name, path, dtype, axes, colour, like)

        self.each(plan)

    def _checks(self) -> ApplyChecks:
        return ApplyChecks(self.lut.report, self.lut.binning, self.lut.names)

    def match(self) -> None:
        """Rescale the table to the exposure of the images.

        Raises
        ------
        EnsembleError
            If the exposure is not known.
        """
        sampled, checks = Batch(self.images), self._checks()
        sampled.failed |= self.failed  # other errors are reported when the images are combined
        sampled.each(lambda number, _: checks.look(self.lut.field(self.images.load(number).values())))
        self.lut = self.lut.rescaled(*matched(checks.exposure))

    def run(
        self,
        settings: ApplySettings,
        *,
        lut_file: str | None = None,
        details: Mapping[str, Any] = MappingProxyType({}),
        progress: Progress | None = None,
        **writing: bool,
    ) -> None:
        """Combine and write every image.

        Parameters
        ----------
        settings : ApplySettings
        lut_file : str, optional
            Name of the table's file, for records.
        details : mapping
            Further entries of the records.
        progress, **writing
            As for :meth:`RestoreBatch.run`.
        """
        lut, checks, how = self.lut, self._checks(), settings.keywords()
        compute: dict[str, Callable[..., Any]] = {
            "ensemble": partial(lut.apply, check=False),
            "weight maps": lut.weight_maps,
            "expected error": lut.expected_error,
        }

        def make(stem: str, kind: str, arrays: Sequence[Any]) -> tuple[Any, Any]:
            if kind == "ensemble":
                checks.look(lut.field(arrays), self.label(stem))
            image = compute[kind](arrays, **how)
            if kind == "expected error" and isinstance(image, np.ndarray):
                self.expected[stem] = float(np.sqrt(np.nanmean(np.square(image, dtype=np.float64))))
            return image, self.outputs[stem][kind].like

        def combine(number: int, stem: str) -> None:
            sources = self.sources(number)
            arrays = list(self.images.load(number).values())
            for kind in self.outputs[stem]:
                record = record_of(kind, lut, settings=how, lut_file=lut_file, **sources, **details)
                self.write(stem, kind, record, partial(make, stem, kind, arrays), **writing)

        self.each(combine, "combining images", progress)
        self.diagnostics = checks.diagnostics()
        self.warnings |= {each.message: None for each in self.diagnostics}

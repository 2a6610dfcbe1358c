"""The command ``restore``, and output handling shared with ``blind`` and ``sweep``."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import keep_message, make_folder, read_by, suffix_like
from napari_ensir.cli.options import parse_restorer_options, with_restorer_options
from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.files.image import as_dtype, check_output, write_image
from napari_ensir.files.output_paths import Place, check_output_paths
from napari_ensir.files.png import FileImage
from napari_ensir.files.sets import Part, open_set
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    format_notes,
    input_warnings_of,
    intensity_warning,
    notes_of,
    restorer_record,
    sample_block,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.files.zarr import ZarrImage
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.settings import RestoreSettings

__all__ = ["Outputs", "channel_axis_of", "choose_restorers", "restore"]


def choose_restorers(
    methods: Sequence[str],
    networks: Sequence[Path],
    settings: RestoreSettings,
    ir: Path | None = None,
    own: Sequence[str] = (),
    denoiser: str | None = None,
) -> dict[str, Restorer]:
    """Return the requested restorers by output name: the key of a method, or the file name of a network.

    Parameters
    ----------
    methods
        Keys of :data:`napari_ensir.restorers.RESTORERS`.
    networks
        Files, or folders of files; see :func:`napari_ensir.restorers.open_restorer`.
    settings
        Settings for all restorers that have them. None keeps the value of the restorer.
    ir
        File of the inner restorer of a DP-IR checkpoint, if the checkpoint does not contain it.
    own
        Settings of individual restorers, as ``RESTORER.SETTING=VALUE``.
    denoiser
        Key of a method, or file, that replaces the denoiser of DP-IR.

    Raises
    ------
    EnsembleError
        If there is no restorer, a name is unknown or repeated, or a file is invalid.
    typer.BadParameter
        If a setting in ``own`` is invalid.
    """
    from napari_ensir.restorers import RESTORERS, SelfEnsemble, open_restorer
    from napari_ensir.restorers.base import with_settings

    given_own = parse_restorer_options(own)
    resolve_device(settings.device)
    given = {name: value for name, value in settings.keywords().items() if value is not None}
    if not methods and not networks:
        raise EnsembleError("there is no restorer; give --method NAME or --network FILE.")
    if unknown := [name for name in methods if name not in RESTORERS]:
        raise EnsembleError(f"there is no method {unknown[0]!r}; choose from {', '.join(RESTORERS)}.")
    named: list[tuple[str, Restorer]] = [(name, RESTORERS[name]()) for name in methods]
    around = None if ir is None else open_restorer(ir)
    inside = (
        None
        if denoiser is None
        else RESTORERS[denoiser]()
        if denoiser in RESTORERS
        else open_restorer(denoiser)
    )
    for path in networks:
        named += [(name.partition(".")[0], each) for name, each in _opened(path, around, inside)]
    found: dict[str, Restorer] = {}
    for name, restorer in named:
        if name in found:
            raise EnsembleError(
                f"two restorers are named {name}; give each restorer once, and rename files with equal names."
            )
        if not is_dataclass(restorer):
            raise EnsembleError(f"{restorer.name} has no settings and cannot be used here.")
        found[name] = with_settings(restorer, **given)
    found = with_restorer_options(found, given_own)
    if settings.self_ensemble:
        return {name: SelfEnsemble(restorer=each) for name, each in found.items()}
    return found


def _opened(path: Path, around: Restorer | None, denoiser: Restorer | None) -> list[tuple[str, Restorer]]:
    """Open a network, or all networks of a folder; return them with their file names."""
    from napari_ensir.restorers import open_restorer, open_restorers

    if not path.is_dir():
        return [(path.name, open_restorer(path, ir=around, denoiser=denoiser))]
    opened, failed = open_restorers(path, ir=around)
    for error in failed.values():
        raise error
    return list(opened.items())


def channel_axis_of(images: ImageSet, given: int | None) -> int | None:
    """Return the given axis; if it is None and the files are colour images, -1."""
    first = images.open(0)[Part.IMAGE]
    return -1 if given is None and bool(getattr(first, "is_colour", False)) else given


def restore(
    image: Path,
    restorers: Mapping[str, Restorer],
    out: Path,
    *,
    channel_axis: int | None,
    as_float: bool,
    output: Output,
    read: Sequence[Path] = (),
) -> dict[str, str]:
    """Restore images; return the errors of images that failed, by stem.

    The output of one restorer is ``out``. With several restorers, ``out`` is a folder with one output per
    restorer. ``read`` are files of the restorers, which no output may overwrite.
    """
    planned = Outputs.planned(image, tuple(restorers), out, as_float=as_float, output=output, read=read)
    return planned.write(lambda _, name: restorers[name], channel_axis)


def _restored(restorer: Restorer, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of a restoration."""
    return record_of("restored", inputs=inputs, restorer=restorer_record(restorer))


@dataclass(frozen=True)
class Outputs:
    """Outputs of a command, checked before anything is computed.

    Attributes
    ----------
    images : ImageSet
    failed : dict
        Errors of invalid images, by stem.
    """

    images: ImageSet
    failed: dict[str, str]
    out: Path
    output: Output
    plans: tuple[_RestorationPlan, ...]

    @classmethod
    def planned(
        cls,
        image: Path,
        names: Sequence[str],
        out: Path,
        *,
        as_float: bool,
        output: Output,
        folder: bool = False,
        others: Sequence[Place] = (),
        read: Sequence[Path | None] = (),
    ) -> Outputs:
        """Plan an output for each image and each name.

        The output of a single name is ``out``. With several names or ``folder``, ``out`` is a folder.
        ``others`` are further outputs of the command. ``read`` are files that no output may overwrite.

        Raises
        ------
        EnsembleError
            If an output cannot be written, or would overwrite a protected file.
        """
        images = open_set({}, {Part.IMAGE: image})
        several = folder or len(names) > 1
        failed: dict[str, str] = {}
        plans: list[_RestorationPlan] = []
        for number, (stem, _) in enumerate(images.fields):
            with keep_message(failed, stem) if images.from_folders else nullcontext():
                plans += [
                    _RestorationPlan.of(
                        images, number, (name, out if not several else out / name), several, as_float
                    )
                    for name in names
                ]
        folders = {plan.target.parent for plan in plans} if several or images.from_folders else set()
        places = [Place("--out", each, gathers=True) for each in sorted(folders)]
        places += [Place("--out", plan.target) for plan in plans]
        check_output_paths([*places, *output.places, *others], read_by(images, *read))
        for each in folders:
            make_folder(each)
        output.check()
        for plan in plans:
            plan.check(output.overwrite)
        return cls(images, failed, out, output, tuple(plans))

    def warnings(self, restorers: Sequence[Restorer], arrays: Sequence[NDArray[Any]]) -> list[str]:
        """Return the warnings of these restorers about the images, whose pixels are ``arrays``."""
        return [
            self._of_image(stem, warning)
            for (stem, _), array in zip(self.images.fields, arrays, strict=True)
            for restorer in restorers
            for warning in input_warnings_of(restorer, array)
        ]

    def _of_image(self, stem: str, sentence: str) -> str:
        return f"{stem}: {sentence}" if self.images.from_folders else sentence

    def write(
        self,
        restorer_of: Callable[[str, str], Restorer],
        channel_axis: int | None,
        *,
        record: Callable[..., dict[str, Any]] = _restored,
        more_warnings: Sequence[str] = (),
        more: Mapping[str, Any] | None = None,
        show: Callable[[int], object] | None = None,
    ) -> dict[str, str]:
        """Restore and write; return the errors of images that failed, by stem.

        Parameters
        ----------
        restorer_of
            Called with the stem of an image and a name; returns the restorer.
        channel_axis : int or None
        record
            Called with the restorer and the keyword ``inputs``; returns the record of an output.
        more_warnings
            Warnings to print besides those of the restorations.
        more
            Additional entries of the JSON output.
        show
            Called with the number of written files to print the result.
        """
        written: dict[str, dict[str, str]] = {}
        notes: list[tuple[str, str]] = []
        found: list[str] = [*more_warnings]
        from_folders, failed, output = self.images.from_folders, self.failed, self.output
        with output.progress() as progress:
            for done, plan in enumerate(self.plans):
                if plan.stem in failed:
                    continue
                with keep_message(failed, plan.stem) if from_folders else nullcontext():
                    restorer = restorer_of(plan.stem, plan.name)
                    new_notes, new_warnings = plan.carry_out(
                        restorer,
                        channel_axis,
                        scaled_progress(progress, done, len(self.plans)),
                        output,
                        partial(record, restorer),
                    )
                    notes += new_notes
                    found += [self._of_image(plan.stem, each) for each in new_warnings]
                    written.setdefault(plan.stem, {})[plan.name] = str(plan.target)
        count = sum(map(len, written.values()))

        def say() -> None:
            terminal.say(f"{count} written to {self.out}")

        for note in format_notes([] if output.quiet else notes):
            terminal.error(note)
        warned = terminal.warn(dict.fromkeys(found))
        results = {"written": written, "failed": failed, "warnings": warned, **(more or {})}
        output.finish(results, say if show is None else lambda: show(count))
        return failed


def _enlarged(source: FileImage | ZarrImage, shape: tuple[int, ...]) -> FileImage | ZarrImage:
    """Return the metadata of the source with the pixel size adapted to an output of this shape."""
    from napari_ensir.restorers.base import enlarged_transform

    if isinstance(source, FileImage):
        return source if source.tiff is None else replace(source, tiff=source.tiff.enlarged(shape))
    if source.ome is None or shape == source.array.shape:
        return source
    first, *others = source.ome["datasets"]
    given = {each.get("type"): each.get(each.get("type")) for each in first["coordinateTransformations"]}
    factor = [large // small for small, large in zip(source.array.shape, shape, strict=True)]
    whole = [1.0] * len(shape), [0.0] * len(shape)
    scale, translation = enlarged_transform(
        given.get("scale", whole[0]), given.get("translation", whole[1]), factor
    )
    transforms = [
        {"type": "scale", "scale": scale.tolist()},
        {"type": "translation", "translation": translation.tolist()},
    ]
    datasets = [{**first, "coordinateTransformations": transforms}, *others]
    return replace(source, ome={**source.ome, "datasets": datasets})


@dataclass(frozen=True)
class _RestorationPlan:
    """Output of one restorer for one image."""

    stem: str
    name: str
    source: FileImage | ZarrImage
    source_name: str
    target: Path
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls, images: ImageSet, number: int, to: tuple[str, Path], several: bool, as_float: bool
    ) -> _RestorationPlan:
        stem, paths = images.fields[number]
        source = images.open(number)[Part.IMAGE]
        pixels = source if isinstance(source, FileImage) else source.array
        dtype = np.dtype(np.float32 if as_float else pixels.dtype)
        name, target = to
        if several or images.from_folders:
            spatial = pixels.ndim - (isinstance(source, FileImage) and source.is_colour)
            suffix = suffix_like(paths[Part.IMAGE], dtype, spatial, source)
            target = target / f"{stem}{suffix}" if images.from_folders else target.with_name(name + suffix)
        return cls(stem, name, source, paths[Part.IMAGE].name, target, dtype)

    @property
    def is_colour(self) -> bool:
        return isinstance(self.source, FileImage) and self.source.is_colour

    def check(self, overwrite: bool) -> None:
        """Check that the output can be written, before any work starts."""
        pixels = self.source if isinstance(self.source, FileImage) else self.source.array
        check_output(self.target, self.dtype, pixels.ndim, self.is_colour)
        check_target(self.target, overwrite)

    def carry_out(
        self,
        restorer: Restorer,
        channel_axis: int | None,
        progress: Progress | None,
        output: Output,
        record: Callable[..., dict[str, Any]],
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Restore the image and write it; return the notes of the restorer and the warnings."""
        from napari_ensir.restorers import with_channel_axis

        axis = -1 if channel_axis is None and self.is_colour else channel_axis
        image = np.asarray(self.source.pixels if isinstance(self.source, FileImage) else self.source.array)
        restorer = with_channel_axis(restorer, axis)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnfamiliarImageWarning)  # returned below
            restored = restorer(image, progress=progress)
        found = input_warnings_of(restorer, image) or [
            intensity_warning(restorer.name, sample_block(image), sample_block(restored))
        ]
        like = _enlarged(self.source, restored.shape)
        write_image(
            self.target,
            as_dtype(restored, self.dtype),
            is_colour=self.is_colour,
            like=like,
            overwrite=output.overwrite,
            record=record(inputs={"image": self.source_name}),
        )
        return notes_of(restorer, image), [*filter(None, found)]

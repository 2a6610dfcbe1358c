"""The commands ``restore`` and ``restorers``, and what ``blind`` and ``sweep`` share with them."""

from __future__ import annotations

import warnings
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import (
    Batch,
    OutputImage,
    check_outputs,
    first_readable,
    named_channel_axis,
    note_alpha,
    suffix_like,
)
from napari_ensir.cli.options import metavar, with_restorer_options
from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.png import FileImage
from napari_ensir.files.sets import Part, open_set
from napari_ensir.restorers import (
    RESTORERS,
    SelfEnsemble,
    open_restorer,
    open_restorers,
    with_channel_axis,
)
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    enlarged_transform,
    format_notes,
    input_warnings_of,
    intensity_warning,
    notes_of,
    restorer_record,
    sample_block,
    with_settings,
)
from napari_ensir.settings import RestoreSettings, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.app import (
        BlindOptions,
        RestoreOptions,
        RestorerOptions,
        RestorersOptions,
        SweepOptions,
    )
    from napari_ensir.files.output_paths import Place
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.files.zarr import ZarrImage
    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

__all__ = ["Restorations", "channel_axis_of", "choose_restorers", "open_named", "restore", "restorers"]


def choose_restorers(
    options: RestorerOptions, settings: RestoreSettings, denoiser: str | None = None
) -> dict[str, Restorer]:
    """Return the requested restorers by output name: the key of a method, or the file name of a network.

    Parameters
    ----------
    options
    settings
        Settings for all restorers that have them. None keeps the value of the restorer.
    denoiser
        Key of a method, or file, that replaces the denoiser of DP-IR.

    Raises
    ------
    EnsembleError
        If there is no restorer, a name is unknown or repeated, or a file is invalid.
    typer.BadParameter
        If a setting of a single restorer is invalid.
    """
    resolve_device(settings.device)
    given = {name: value for name, value in settings.keywords().items() if value is not None}
    if not options.method and not options.network:
        raise EnsembleError("there is no restorer; give --method NAME or --network FILE.")
    if unknown := [name for name in options.method if name not in RESTORERS]:
        raise EnsembleError(f"there is no method {unknown[0]!r}; choose from {', '.join(RESTORERS)}.")
    named: list[tuple[str, Restorer]] = [(name, RESTORERS[name]()) for name in options.method]
    parts = {"ir": open_named(options.ir), "denoiser": open_named(denoiser)}
    for path in options.network:
        named += [(name.partition(".")[0], each) for name, each in _open_networks(path, **parts).items()]
    found: dict[str, Restorer] = {}
    for name, restorer in named:
        if name in found:
            raise EnsembleError(
                f"two restorers are named {name}; give each restorer once, and rename files with equal names."
            )
        if not is_dataclass(restorer):
            raise EnsembleError(f"{restorer.name} has no settings and cannot be used here.")
        found[name] = with_settings(restorer, **given)
    found = with_restorer_options(found, options.own)
    if settings.self_ensemble:
        return {name: SelfEnsemble(restorer=each) for name, each in found.items()}
    return found


def open_named(name: Path | str | None) -> Restorer | None:
    """Return the restorer of this name, or open the file."""
    if name is None:
        return None
    return RESTORERS[str(name)]() if str(name) in RESTORERS else open_restorer(name)


def _open_networks(path: Path, ir: Restorer | None, denoiser: Restorer | None) -> dict[str, Restorer]:
    """Open a network, or all networks of a folder, by file name."""
    if not path.is_dir():
        return {path.name: open_restorer(path, ir=ir, denoiser=denoiser)}
    opened, failed = open_restorers(path, ir=ir)
    for error in failed.values():
        raise error
    return opened


def restorers(options: RestorersOptions) -> None:
    """List restorers and their settings."""
    options.output.check()
    chosen = options.restorers
    if not chosen.method and not chosen.network:
        chosen = replace(chosen, method=list(RESTORERS))
    rows, results = [], {}
    for name, restorer in choose_restorers(chosen, RestoreSettings()).items():
        results[name] = {each.name: getattr(restorer, each.name) for each in settings_of(restorer)}
        rows += [_setting_row(name, each, results[name][each.name]) for each in settings_of(restorer)]
        if not results[name]:
            rows.append((name, "", "", "has no settings"))
    options.output.finish(results, terminal.table(("", "values", "current", ""), rows))


def _setting_row(name: str, setting: Setting, current: Any) -> tuple[str, str, str, str]:
    values = metavar(setting)
    if setting.none is not None and "none" not in values.split("|"):
        values += "|none"
    description = setting.description
    if setting.kind in ("integer", "number") and (setting.minimum, setting.maximum) != (None, None):
        allowed = setting.allowed()
        description += f" {allowed[:1].upper()}{allowed[1:]}."
    shown = terminal.plain(setting.none if current is None else current)
    return f"{name}.{setting.name}", values, shown, description


def restore(options: RestoreOptions) -> dict[str, str]:
    """Restore images; return the errors of images that failed, by stem.

    The output of one restorer is a single image; with several restorers, it is a folder with one image each.
    """
    restorers = choose_restorers(options.restorers, options.settings, options.denoiser)
    planned = Restorations(options, tuple(restorers), options.out)
    axis = channel_axis_of(planned.images, options.settings.channel_axis, options.pool_channels)
    return planned.write(lambda _, name: restorers[name], axis)


def channel_axis_of(images: ImageSet, given: int | None, pool: bool = False) -> int | None:
    """Return the given axis; if it is None, -1 for colour files, or the axis that the files name C."""
    if given is None and any(image.is_colour for image in first_readable(images).values()):
        return -1
    return named_channel_axis(images) if given is None and not pool else given


def _restored(restorer: Restorer, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of a restoration."""
    return record_of("restored", inputs=inputs, restorer=restorer_record(restorer))


class Restorations:
    """Outputs of a command that restores images, checked before anything is computed.

    Parameters
    ----------
    options
        Of the command.
    names
        Names of the restorers.
    out
        Output path of a single name; a folder if there are several.
    folder
        Whether the output path is a folder in any case.
    others
        Further outputs of the command.

    Raises
    ------
    EnsembleError
        If an output cannot be written, or would overwrite a file that is read.
    """

    def __init__(
        self,
        options: RestoreOptions | BlindOptions | SweepOptions,
        names: Sequence[str],
        out: Path,
        *,
        folder: bool = False,
        others: Sequence[Place] = (),
    ) -> None:
        self.output, self.names, self.out = options.output, names, out
        self.images = open_set({}, {Part.IMAGE: options.image})
        note_alpha(self.images, self.output)
        self.batch = Batch(self.images)
        self.outputs: dict[str, dict[str, OutputImage]] = {}
        several = folder or len(names) > 1

        def plan(number: int, stem: str) -> None:
            made = [self._plan(number, name, several, options.writing.as_float) for name in names]
            self.outputs[stem] = dict(zip(names, made, strict=True))

        self.batch.each(plan)
        check_outputs(
            self.images,
            [image for outputs in self.outputs.values() for image in outputs.values()],
            self.output,
            in_folders=several or self.images.from_folders,
            others=others,
            read=[*options.restorers.network, options.restorers.ir],
        )

    def _plan(self, number: int, name: str, several: bool, as_float: bool) -> OutputImage:
        stem, paths = self.images.fields[number]
        source = self.images.open(number)[Part.IMAGE]
        pixels, colour = source.array, source.is_colour
        dtype = np.dtype(np.float32 if as_float else pixels.dtype)
        target = self.out / name if several else self.out
        if several or self.images.from_folders:
            suffix = suffix_like(paths[Part.IMAGE], dtype, pixels.ndim - colour, source)
            in_folder = self.images.from_folders
            target = target / f"{stem}{suffix}" if in_folder else target.with_name(name + suffix)
        return OutputImage("--out", target, dtype, pixels.ndim, colour, source)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Read the pixels of all images, by stem.

        Raises
        ------
        EnsembleError
            If none can be read.
        """
        found: dict[str, NDArray[Any]] = {}

        def read(number: int, stem: str) -> None:
            found[stem] = np.asarray(self.images.load(number)[Part.IMAGE])

        self.batch.each(read)
        self.batch.check_any(found)
        return found

    def warnings(self, restorers: Sequence[Restorer], arrays: Mapping[str, NDArray[Any]]) -> list[str]:
        """Return the warnings of these restorers about the images, whose pixels are ``arrays``."""
        return [
            self._of_image(stem, warning)
            for stem, array in arrays.items()
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
        text: str = "",
        also: str = "",
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
        text
            Text to print before the number of files written.
        also
            Other files written.
        """
        written: dict[str, dict[str, str]] = {}
        notes: list[tuple[str, str]] = []
        found: list[str] = [*more_warnings]
        output, total = self.output, len(self.batch.stems) * len(self.names)

        def write(number: int, stem: str) -> None:
            source = self.images.open(number)[Part.IMAGE]
            image = np.asarray(source.array)
            axis = -1 if channel_axis is None and source.is_colour else channel_axis
            for place, (name, target) in enumerate(self.outputs[stem].items()):
                chosen = restorer_of(stem, name)
                restorer = with_channel_axis(chosen, axis)
                part = scaled_progress(progress, number * len(self.names) + place, total)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UnfamiliarImageWarning)  # printed below
                    restored = restorer(image, progress=part)
                inputs = {"image": self.images.fields[number][1][Part.IMAGE].name}
                target = replace(target, like=_enlarged(source, restored.shape))
                target.write(restored, record(chosen, inputs=inputs), output.overwrite)
                warned = input_warnings_of(restorer, image) or [
                    intensity_warning(restorer.name, sample_block(image), sample_block(restored))
                ]
                found.extend(self._of_image(stem, each) for each in warned if each)
                notes.extend(notes_of(restorer, image))
                written.setdefault(stem, {})[name] = str(target.path)

        with output.progress() as progress:
            self.batch.each(write)
        for note in format_notes([] if output.quiet else notes):
            terminal.error(note)
        warned = terminal.warn(dict.fromkeys(found))
        results = {"written": written, "failed": self.batch.failed, "warnings": warned, **(more or {})}
        count = f"{sum(map(len, written.values()))} written to {self.out}{also}"
        output.finish(results, "\n".join(filter(None, [text, count if self.names else ""])))
        return self.batch.failed


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

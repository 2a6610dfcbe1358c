"""What several commands share: the loop over images, output files, and a dask cluster."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_ensir.cli import terminal
from napari_ensir.cli.corrections import CorrectedSet, recorded_gains
from napari_ensir.ensemble.lut.format import table_path
from napari_ensir.errors import EnsembleError, ensemble_errors, extra_needed
from napari_ensir.files.atomic import check_target
from napari_ensir.files.image import FileImage
from napari_ensir.files.sets import Part, folders_in, open_set, stem_of
from napari_ensir.restorers.batch import first_of

KEEP = " With --resume, outputs that were made in the same way are kept."
"""End of the message about an output that exists."""

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from napari_ensir.cli.app import ApplyOptions, CompareOptions, EvaluateOptions, FitOptions
    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.files.paths import Place
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.restorers.batch import Batch


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
    images = open_set(paths, others, crop=given.crop, squeeze=given.squeeze)
    if axis is None and truth is None and lut is not None:
        axis = lut.channel_axis
    elif axis is None and not getattr(options, "pool_channels", True):
        axis = images.named_channel_axis()
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
    folders = folders_in(path)
    if not folders:
        yield stem_of(path.resolve()), path
    for folder in folders:
        is_truth = truth is not None and folder.resolve() == truth.resolve()
        if not is_truth and (lut is None or folder.name in lut.names):
            yield folder.name, folder


def note_alpha(images: ImageSet, output: Output) -> None:
    """Print a note if the first images have an alpha channel, which is left out."""
    for image in images.first_readable().values():
        if isinstance(image, FileImage) and image.has_alpha and not output.quiet:
            terminal.error(f"the alpha channel of {image.path} is opaque and is left out.")


def check_before(
    batch: Batch,
    output: Output,
    *,
    others: Sequence[Place] = (),
    read: Sequence[Path | None] = (),
    resume: bool | None = None,
) -> None:
    """Check before any work that all outputs can be written; see :meth:`Batch.check_outputs`.

    ``resume`` is None for a command without that option.
    """
    batch.check_outputs([*others, *output.places], read)
    output.check()
    for each in batch.all_outputs:
        check_target(each.path, bool(output.overwrite or resume), "" if resume is None else KEEP)


def check_any(batch: Batch, found: Sized) -> None:
    """Raise the first error if there is no result."""
    if not found and batch.failed:
        raise EnsembleError(f"no image could be read; first error: {next(iter(batch.failed.values()))}")


def report(batch: Batch, output: Output, text: str, *, resume: bool = False, **more: Any) -> dict[str, str]:
    """Print notes and warnings, write the JSON, print the text; return the errors of images, by stem."""
    text = "\n".join([text, *batch.describe_resumption()])
    more |= {"kept": batch.kept, "redone": batch.redone} if resume else {}
    notes = [] if output.quiet else batch.describe_notes()
    for note in notes if output.verbose else first_of(notes):
        terminal.error(note)
    warned = terminal.warn(batch.warnings)
    output.finish({"written": batch.written, "failed": batch.failed, "warnings": warned, **more}, text)
    return batch.failed


def lut_target(out: Path, overwrite: bool, hint: str = "") -> Path:
    """Return the path of a table, with its suffix, after checking that it can be written."""
    target = table_path(out)
    check_target(target, overwrite, hint)
    return target


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Compute with the workers of a dask.distributed scheduler, if its address is given."""
    if address is None:
        yield
        return
    with extra_needed("large", "--scheduler needs dask.distributed"):
        from distributed import Client
    hint = 'start one with "dask scheduler" and give the address that it prints'
    with ensemble_errors(f"there is no dask scheduler at {address}", hint):
        client = Client(address, timeout="5s")
    hint = (
        "its scheduler and workers need the same version of napari-ensir as this machine, and access to the "
    )
    hint += "same paths"
    with client, ensemble_errors(f"the cluster at {address} failed", hint):  # such as KilledWorker
        yield

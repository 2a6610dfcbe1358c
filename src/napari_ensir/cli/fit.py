"""The commands ``fit`` and ``import``: learn a lookup table, or convert one of the authors'."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_ensir.cli import terminal
from napari_ensir.ensemble.lut.load import import_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.ensemble.statistics.reference import named_report
from napari_ensir.errors import EnsembleWarning
from napari_ensir.files.atomic import many_files
from napari_ensir.files.output_paths import Place, check_places
from napari_ensir.files.sets import Masks, Part, References, open_set

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_ensir.cli.terminal import Output
    from napari_ensir.settings import FitSettings

from napari_ensir.cli.batch import lut_target, on_cluster, read_by

__all__ = ["fit", "import_table"]


def fit(
    candidates: Mapping[str, Path],
    truth: Path,
    out: Path,
    mask: Path | None = None,
    *,
    settings: FitSettings,
    with_errors: bool = True,
    crop: bool,
    scheduler: str | None,
    output: Output,
) -> None:
    """Learn a table; ``settings`` go to :func:`napari_ensir.fit_lut`."""
    from napari_ensir.ensemble.fit import fit_lut

    target = lut_target(out, output.overwrite)
    images = open_set(candidates, {Part.TRUTH: truth}, crop=crop)
    check_places([Place("--out", target), *output.places], read_by(images, mask))
    output.check()
    masks = None if mask is None else Masks(images, open_set({}, {Part.MASK: mask}))
    with many_files(), on_cluster(scheduler), terminal.progress(output.quiet) as progress:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnsembleWarning)  # printed from the report
            lut = fit_lut(
                References(images), tuple(candidates), mask=masks, progress=progress, **settings.keywords()
            )
        if with_errors and settings.truth_noise != "unknown":
            lut = lut.calibrated(References(images), masks, settings.device, progress, planes=settings.planes)
    files = [[path.name for path in paths.values()] for _, paths in images.fields]
    lut = replace(lut, report=named_report(lut.report, files))
    lut.save(target)
    said = terminal.warn(lut.report["warnings"])
    results = {"lut": str(target), **table_of(lut), "warnings": said}
    output.finish(results, lambda: terminal.say(f"{target}: {lut!r}"))


def import_table(
    weights: Path, out: Path, names: list[str] | None, bin_width: float | None, *, output: Output
) -> None:
    """Turn a table of the EnsIR authors' code into one of this package."""
    target = lut_target(out, output.overwrite)
    check_places([Place("--out", target), *output.places], [Place("a file", weights)])
    output.check()
    lut = import_lut(weights, names, bin_width)
    lut.save(target)
    output.finish({"lut": str(target), **table_of(lut)}, lambda: terminal.say(f"{target}: {lut!r}"))

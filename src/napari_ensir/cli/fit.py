"""The commands ``fit`` and ``import``, which learn a lookup table and convert one of the EnsIR authors'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.cli import terminal
from napari_ensir.ensemble.lut.load import import_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.files.output_paths import Place, check_output_paths
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
    """Learn a table and write it to ``out``."""
    from napari_ensir.ensemble.fit import FitSession

    target = lut_target(out, output.overwrite)
    images = open_set(candidates, {Part.TRUTH: truth}, crop=crop)
    check_output_paths([Place("--out", target), *output.places], read_by(images, mask))
    output.check()
    masks = None if mask is None else Masks(images, open_set({}, {Part.MASK: mask}))
    names, references = tuple(candidates), References(images)
    with on_cluster(scheduler), output.progress() as progress:
        session = FitSession(
            references,
            names,
            mask=masks,
            settings=settings,
            input_names=[[path.name for path in paths.values()] for _, paths in images.fields],
            progress=progress,
        )
        session.collect(fine=False)
        lut = session.estimate()
        if with_errors and settings.truth_noise != "unknown":
            lut = session.calibrate()
    lut.save(target, overwrite=output.overwrite)
    said = terminal.warn(lut.report["warnings"])
    results = {"lut": str(target), **table_of(lut), "warnings": said}
    choice = lut.report.get("method_choice")
    output.finish(
        results,
        lambda: terminal.say(f"{target}: {lut!r}" + (f"\nMethod: {choice['summary']}." if choice else "")),
    )


def import_table(
    weights: Path, out: Path, names: list[str] | None, bin_width: float | None, *, output: Output
) -> None:
    """Convert a table of the EnsIR authors' code and write it to ``out``."""
    target = lut_target(out, output.overwrite)
    check_output_paths([Place("--out", target), *output.places], [Place("a file", weights)])
    output.check()
    lut = import_lut(weights, names, bin_width)
    lut.save(target, overwrite=output.overwrite)
    output.finish({"lut": str(target), **table_of(lut)}, lambda: terminal.say(f"{target}: {lut!r}"))

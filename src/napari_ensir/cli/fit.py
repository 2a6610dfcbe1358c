"""The commands ``fit`` and ``import``, which learn a lookup table and convert one of the EnsIR authors'."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import check_before, lut_target, on_cluster, open_candidates
from napari_ensir.cli.corrections import describe_corrections, messages_of
from napari_ensir.ensemble.checks.diagnostic import Diagnostic
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.lut.load import import_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.files.output_paths import Place, check_output_paths
from napari_ensir.files.sets import Masks, Part, References, open_set
from napari_ensir.restorers.batch import Batch

if TYPE_CHECKING:
    from napari_ensir.cli.app import FitOptions, ImportOptions


def fit(options: FitOptions) -> None:
    """Learn a table and write it."""
    settings, output = options.settings, options.output
    target = lut_target(options.out, output.overwrite)
    images = open_candidates(options)
    settings = replace(settings, channel_axis=images.channel_axis)
    check_before(Batch(images), output, others=[Place("--out", target)], read=[options.mask])
    masks = None if options.mask is None else Masks(images, open_set({}, {Part.MASK: options.mask}))
    with on_cluster(options.scheduler), output.progress() as progress:
        session = FitSession(
            References(images),
            images.names,
            mask=masks,
            settings=settings,
            input_names=[[path.name for path in paths.values()] for _, paths in images.fields],
            progress=progress,
        )
        session.collect(fine=False)
        lut = session.estimate()
        if not options.without_errors and settings.truth_noise != "unknown":
            lut = session.calibrate()
    if images.record:
        lut = replace(lut, report=FitReport({**lut.report, "corrections": images.record}))
    lut.save(target, overwrite=output.overwrite)
    said = terminal.warn(messages_of(Diagnostic(**each) for each in lut.report["diagnostics"]))
    results = {"lut": str(target), **table_of(lut), "warnings": said}
    choice = lut.report.get("method_choice")
    lines = [f"{target}: {lut!r}", *describe_corrections(images.record, len(images))]
    lines += [f"Method: {choice['summary']}."] if choice else []
    output.finish(results, "\n".join(lines))


def import_(options: ImportOptions) -> None:
    """Convert a table of the EnsIR authors' code and write it."""
    output = options.output
    target = lut_target(options.out, output.overwrite)
    check_output_paths([Place("--out", target), *output.places], [Place("a file", options.weights)])
    output.check()
    lut = import_lut(options.weights, options.name or None, options.bin_width)
    lut.save(target, overwrite=output.overwrite)
    output.finish({"lut": str(target), **table_of(lut)}, f"{target}: {lut!r}")

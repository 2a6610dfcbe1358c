"""The commands ``fit``, ``apply`` and ``import``, which learn, apply and convert lookup tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import check_before, lut_target, on_cluster, open_candidates, report
from napari_ensir.cli.corrections import describe_corrections, messages_of, missing_corrections
from napari_ensir.ensemble.checks.diagnostic import Diagnostic
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.lut.load import import_lut, load_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.errors import EnsembleError
from napari_ensir.files.paths import Place, check_output_paths
from napari_ensir.files.sets import Masks, Part, References, open_set
from napari_ensir.restorers.batch import Batch, CombineBatch

if TYPE_CHECKING:
    from napari_ensir.cli.app import ApplyOptions, FitOptions, ImportOptions


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


def apply(options: ApplyOptions) -> dict[str, str]:
    """Combine candidates; return the errors of images that failed, by stem."""
    lut, output = load_lut(options.lut), options.output
    if options.expected_error is not None and lut.errors is None:
        raise EnsembleError(f"{options.lut} has no expected errors; fit again without --without-errors.")
    images = open_candidates(options, lut)
    given = {
        "ensemble": ("--out", options.out),
        "weight maps": ("--weight-maps", options.weight_maps),
        "expected error": ("--expected-error", options.expected_error),
    }
    outs = {kind: Place(option, path) for kind, (option, path) in given.items() if path is not None}
    batch = CombineBatch(images, lut, outs, as_float=output.as_float)
    check_before(batch, output, read=[options.lut], resume=options.resume)
    corrections = images.actions + ("match-intensities",) * options.match
    batch.warnings |= dict.fromkeys(missing_corrections(lut.report, corrections))
    with on_cluster(options.scheduler), output.progress() as progress:
        if options.match:
            batch.match()
        batch.run(
            options.settings,
            lut_file=None if options.match else options.lut.name,  # the matched table is in no file
            details=images.reading,
            overwrite=output.overwrite,
            resume=options.resume,
            progress=progress,
        )
    more = {"rescaled": batch.lut.report["rescaled"]} if options.match else {}
    written = {stem: each["ensemble"] for stem, each in batch.written.items()}
    lines = [f"{len(written)} written to {options.out}", *describe_corrections(images.record, len(images))]
    return report(batch, output, "\n".join(lines), resume=options.resume, written=written, **more)


def import_(options: ImportOptions) -> None:
    """Convert a table of the EnsIR authors' code and write it."""
    output = options.output
    target = lut_target(options.out, output.overwrite)
    check_output_paths([Place("--out", target), *output.places], [Place("a file", options.weights)])
    output.check()
    lut = import_lut(options.weights, options.name or None, options.bin_width)
    lut.save(target, overwrite=output.overwrite)
    output.finish({"lut": str(target), **table_of(lut)}, f"{target}: {lut!r}")

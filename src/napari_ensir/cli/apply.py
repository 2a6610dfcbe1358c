"""The command ``apply``: combine candidates with a lookup table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.cli.batch import check_before, on_cluster, open_candidates, report
from napari_ensir.cli.corrections import describe_corrections, missing_corrections
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.errors import EnsembleError
from napari_ensir.files.output_paths import Place
from napari_ensir.restorers.batch import CombineBatch

if TYPE_CHECKING:
    from napari_ensir.cli.app import ApplyOptions


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
    batch = CombineBatch(images, lut, outs, as_float=options.writing.as_float)
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

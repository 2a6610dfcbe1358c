"""The command ``blind``: restore and combine noisy images without ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_ensir.cli.batch import KEEP, check_before, lut_target, report
from napari_ensir.cli.restore import choose_restorers, open_images, written_text
from napari_ensir.errors import EnsembleError
from napari_ensir.files.output_paths import Place
from napari_ensir.restorers.batch import BlindBatch, blind_scores
from napari_ensir.settings import RestoreSettings

if TYPE_CHECKING:
    from napari_ensir.cli.app import BlindOptions


def blind(options: BlindOptions) -> dict[str, str]:
    """Learn one table from all images and write their ensembles; return the errors of images that failed."""
    settings, output = options.settings, options.output
    given = RestoreSettings(
        device=settings.device, data_range=settings.data_range, self_ensemble=options.self_ensemble
    )
    chosen = choose_restorers(options.restorers, given)
    if options.resume and options.save_lut is None:
        raise EnsembleError("--resume needs --save-lut, because it uses the lookup table of the earlier run.")
    target = None
    if options.save_lut is not None:
        target = lut_target(options.save_lut, output.overwrite or options.resume, KEEP)
    images = open_images(options.image, output)
    axis = images.choose_channel_axis(settings.channel_axis, pool=options.pool_channels)
    settings = replace(settings, channel_axis=axis)
    batch = BlindBatch(
        images,
        chosen,
        options.out,
        settings,
        as_float=options.writing.as_float,
        networks=options.restorers.files,
    )
    others = [] if target is None else [Place("--save-lut", target)]
    check_before(batch, output, others=others, read=options.restorers.files, resume=options.resume)
    with output.progress() as progress:
        lut = batch.open_table(target, progress, overwrite=output.overwrite, resume=options.resume)
        batch.combine(lut, overwrite=output.overwrite, resume=options.resume, progress=progress)
    reason = lut.report["blind"]["reason"]
    text = f"{blind_scores(lut)}\n{reason}\n{written_text(batch, options.out)}"
    text += f"\n{target}: {lut!r}" if target else ""
    saved = None if target is None else str(target)
    return report(batch, output, text, resume=options.resume, scores=lut.report["scores"], lut=saved)

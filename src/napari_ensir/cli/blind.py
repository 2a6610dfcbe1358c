"""The command ``blind``: restore and combine noisy images without ground truth."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from napari_ensir.cli.batch import lut_target
from napari_ensir.cli.restore import Restorations, channel_axis_of, choose_restorers
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.files.output_paths import Place
from napari_ensir.restorers import with_channel_axis
from napari_ensir.restorers.base import FunctionRestorer, UnfamiliarImageWarning, restorer_record
from napari_ensir.restorers.self_supervised.reference import (
    LEARN_KEYWORDS,
    REFERENCE_KEYWORDS,
    CorrelatedNoiseWarning,
    blind_reference,
)
from napari_ensir.settings import RestoreSettings

if TYPE_CHECKING:
    from napari_ensir.cli.app import BlindOptions

__all__ = ["blind"]


def blind(options: BlindOptions) -> dict[str, str]:
    """Learn one table from all images and write their ensembles; return the errors of images that failed."""
    settings, output = options.settings, options.output
    given = RestoreSettings(
        device=settings.device, data_range=settings.data_range, self_ensemble=options.self_ensemble
    )
    chosen = choose_restorers(options.restorers, given)
    target = None if options.save_lut is None else lut_target(options.save_lut, output.overwrite)
    others = [] if target is None else [Place("--save-lut", target)]
    outputs = Restorations(options, ("ensemble",), options.out, others=others)
    axis = channel_axis_of(outputs.images, settings.channel_axis, options.pool_channels)
    restorers = tuple(with_channel_axis(each, axis) for each in chosen.values())
    arrays = outputs.arrays()
    with output.progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorrelatedNoiseWarning)  # also in the report
        warnings.simplefilter("ignore", UnfamiliarImageWarning)  # printed below
        keywords = settings.keywords(*REFERENCE_KEYWORDS)
        reference = blind_reference(
            list(arrays.values()), restorers, tuple(chosen), keep_restored=True, progress=progress, **keywords
        )
        lut, scores = reference.learn_with_scores(**settings.keywords(*LEARN_KEYWORDS))
    if target is not None:
        lut.save(target, overwrite=output.overwrite)
    candidates = dict(zip(arrays, reference.restored, strict=True))
    described = {name: restorer_record(each) for name, each in zip(chosen, restorers, strict=True)}
    return outputs.write(
        lambda stem, _: FunctionRestorer(
            lambda _: lut.apply(candidates.pop(stem), settings.device, check=False), "ensemble"
        ),
        axis,
        record=lambda _, **of: record_of(
            "ensemble", lut, settings=settings.keywords(), restorers=described, **of
        ),
        more_warnings=[*outputs.warnings(restorers, arrays), *lut.report["warnings"]],
        more={"scores": lut.report["scores"], "lut": None if target is None else str(target)},
        text=f"{scores}\n{reference.reason}",
        also=f", {target}: {lut!r}" if target else "",
    )

"""The command ``blind``: restore and combine noisy images without ground truth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import lut_target
from napari_ensir.cli.restore import Outputs, channel_axis_of, choose_restorers
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.files.output_paths import Place
from napari_ensir.files.sets import Part
from napari_ensir.restorers import with_channel_axis
from napari_ensir.restorers.base import UnfamiliarImageWarning, restorer_record
from napari_ensir.restorers.self_supervised.reference import (
    LEARN_KEYWORDS,
    REFERENCE_KEYWORDS,
    CorrelatedNoiseWarning,
    blind_reference,
)
from napari_ensir.settings import RestoreSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.restorers import Progress
    from napari_ensir.settings import BlindSettings

__all__ = ["blind"]


@dataclass(frozen=True)
class _Ensemble:
    """Ensemble of the candidates of one image, in the form of a restorer."""

    candidates: tuple[NDArray[np.float32], ...]
    lut: WeightLUT
    device: str
    name: str = "ensemble"

    def __call__(self, image: NDArray[Any], *, progress: Progress | None = None) -> NDArray[np.float32]:
        return np.asarray(self.lut.apply(self.candidates, self.device, check=False))


def blind(
    image: Path,
    methods: Sequence[str],
    networks: Sequence[Path],
    ir: Path | None,
    out: Path,
    save_lut: Path | None,
    own: Sequence[str] = (),
    *,
    self_ensemble: bool = False,
    settings: BlindSettings,
    as_float: bool,
    output: Output,
) -> dict[str, str]:
    """Learn one table from all images and write their ensembles; return the errors of images that failed."""
    given = RestoreSettings(
        device=settings.device, data_range=settings.data_range, self_ensemble=self_ensemble
    )
    chosen = choose_restorers(methods, networks, given, ir, own)
    target = None if save_lut is None else lut_target(save_lut, output.overwrite)
    others = [] if target is None else [Place("--save-lut", target)]
    outputs = Outputs.planned(
        image, ("ensemble",), out, as_float=as_float, output=output, others=others, read=[*networks, ir]
    )
    images = outputs.images
    axis = channel_axis_of(images, settings.channel_axis)
    restorers = tuple(with_channel_axis(each, axis) for each in chosen.values())
    arrays = [np.asarray(images.load(number)[Part.IMAGE]) for number in range(len(images))]
    with output.progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorrelatedNoiseWarning)  # also in the report
        warnings.simplefilter("ignore", UnfamiliarImageWarning)  # printed below
        keywords = settings.keywords(*REFERENCE_KEYWORDS)
        reference = blind_reference(
            arrays, restorers, tuple(chosen), keep_restored=True, progress=progress, **keywords
        )
        lut, scores = reference.learn_with_scores(**settings.keywords(*LEARN_KEYWORDS))
    if target is not None:
        lut.save(target, overwrite=output.overwrite)

    def show(count: int) -> None:
        terminal.say(str(scores))
        terminal.say(reference.reason)
        terminal.say(f"{count} written to {out}" + (f", {target}: {lut!r}" if target else ""))

    candidates = dict(zip((stem for stem, _ in images.fields), reference.restored, strict=True))
    described = {name: restorer_record(each) for name, each in zip(chosen, restorers, strict=True)}
    return outputs.write(
        lambda stem, _: _Ensemble(candidates.pop(stem), lut, settings.device),
        axis,
        record=lambda _, **of: record_of(
            "ensemble", lut, settings=settings.keywords(), restorers=described, **of
        ),
        more_warnings=[*outputs.warnings(restorers, arrays), *lut.report["warnings"]],
        more={"scores": lut.report["scores"], "lut": None if target is None else str(target)},
        show=show,
    )

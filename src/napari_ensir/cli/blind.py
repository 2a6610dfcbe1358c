"""What ``napari-ensir blind`` does: noisy images in, ensembles and a table out. Needs no ground truth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.jobs import lut_target, read_by
from napari_ensir.cli.restoring import choose_restorers, restore
from napari_ensir.ensemble.record import record_of
from napari_ensir.files.sets import Part, open_set
from napari_ensir.files.targets import Place, check_places
from napari_ensir.files.whole import check_target
from napari_ensir.restorers import with_channel_axis
from napari_ensir.restorers.base import UnfamiliarImageWarning
from napari_ensir.restorers.blind_pairs import (
    HIDING,
    LEARNING,
    CorrelatedNoiseWarning,
    blind_reference,
    share_of,
)
from napari_ensir.restorers.remarks import doubts_of, told_of
from napari_ensir.settings import RestoreSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.restorers import Progress, Restorer
    from napari_ensir.settings import BlindSettings

__all__ = ["blind"]


@dataclass(frozen=True)
class _Ensemble:
    """Restorers and a table of theirs, as one restorer."""

    restorers: tuple[Restorer, ...]
    lut: WeightLUT
    device: str
    name: str = "ensemble"

    def __call__(self, image: NDArray[Any], *, progress: Progress | None = None) -> NDArray[np.float32]:
        candidates = [
            each(image, progress=share_of(progress, place, len(self.restorers)))
            for place, each in enumerate(self.restorers)
        ]
        return np.asarray(self.lut.apply(candidates, self.device))


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
    """Learn one table from all images, and write each one's ensemble; the messages of images that failed."""
    target = None if save_lut is None else lut_target(save_lut, output.overwrite)
    images = open_set({}, {Part.IMAGE: image})
    places = [Place("--out", out, gathers=images.from_folders), *output.places]
    places += [] if target is None else [Place("--save-lut", target)]
    check_places(places, read_by(images, *networks, ir))
    if not images.from_folders:
        check_target(out, output.overwrite)
    output.check()
    first = images.open(0)[Part.IMAGE]
    is_colour = bool(getattr(first, "is_colour", False))
    axis = -1 if is_colour and settings.channel_axis is None else settings.channel_axis
    given = RestoreSettings(
        device=settings.device, data_range=settings.data_range, self_ensemble=self_ensemble
    )
    chosen = choose_restorers(methods, networks, given, ir, own)
    restorers = tuple(with_channel_axis(each, axis) for each in chosen.values())
    arrays = [np.asarray(images.load(number)[Part.IMAGE]) for number in range(len(images))]
    hiding = settings.keywords(*HIDING)
    with terminal.progress(output.quiet) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorrelatedNoiseWarning)  # told from the report
        warnings.simplefilter("ignore", UnfamiliarImageWarning)  # told below
        reference = blind_reference(arrays, restorers, tuple(chosen), progress=progress, **hiding)
        lut = reference.learn(**settings.keywords(*LEARNING))
    scores = reference.scores()
    if target is not None:
        lut.save(target)
    odd = [doubt for array in arrays for each in restorers for doubt in doubts_of(each, array)]
    said = terminal.warn([*dict.fromkeys(odd), *lut.report["warnings"]])

    def show(count: int) -> None:
        terminal.say(scores.to_markdown())
        terminal.say("\n".join(scores.notes))
        terminal.say(f"{count} written to {out}" + (f", {target}: {lut!r}" if target else ""))

    more = {"scores": scores.to_dict(), "warnings": said, "lut": None if target is None else str(target)}
    ensemble = _Ensemble(restorers, lut, settings.device)
    told = {name: told_of(each) for name, each in zip(chosen, restorers, strict=True)}
    tell = partial(record_of, "ensemble", lut, settings=settings.keywords(), restorers=told)
    return restore(
        image,
        {"ensemble": ensemble},
        out,
        channel_axis=axis,
        as_float=as_float,
        output=output,
        more=more,
        show=show,
        record=tell,
    )

"""The commands ``evaluate`` and ``compare``: score images against ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.apply import OutsideRange, in_table_order
from napari_ensir.cli.batch import noted, read_by
from napari_ensir.ensemble.arrays.intensity_range import widest
from napari_ensir.ensemble.checks.alignment import check_reference
from napari_ensir.ensemble.checks.exposure import check_drift
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.scoring.metrics import Scoring, exclusion_note, finite_everywhere
from napari_ensir.ensemble.scoring.resolution import resolution
from napari_ensir.ensemble.scoring.score_range import TruthRange, known_range
from napari_ensir.ensemble.scoring.score_table import PSNR, RESOLUTION, SSIM, ScoreRow, ScoreTable
from napari_ensir.ensemble.scoring.scores import NoisyScores, block_errors
from napari_ensir.errors import EnsembleError
from napari_ensir.files.output_paths import check_output_paths
from napari_ensir.files.sets import Part, References, check_stems, open_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.arrays.intensity_range import Range
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.metrics import ImageScore
    from napari_ensir.ensemble.scoring.score_range import ScoreRange
    from napari_ensir.files.sets import ImageSet, Role
    from napari_ensir.settings import EvaluateSettings

__all__ = ["compare", "evaluate"]


def evaluate(
    candidates: Mapping[str, Path],
    truth: Path,
    lut_path: Path | None,
    *,
    settings: EvaluateSettings,
    crop: bool,
    output: Output,
) -> dict[str, str]:
    """Score candidates and, with a table, their ensemble; return the errors of failed images by stem."""
    lut = None if lut_path is None else load_lut(lut_path)
    named = dict(candidates) if lut is None else in_table_order(lut, candidates)
    images = open_set(named, {Part.TRUTH: truth}, crop=crop)
    check_output_paths(output.places, read_by(images, lut_path))
    output.check()
    failed: dict[str, str] = {}
    scale = _score_range(images, settings.data_range, failed)
    limits = (scale.low, scale.high)
    score = Scoring(limits, settings.y_channel, settings.crop_border, settings.channel_axis)
    if settings.truth_noise is not None:
        return _evaluate_noisy(images, lut, list(named), score, failed, settings, output)
    scores: dict[str, list[ImageScore]] = {}
    resolutions: list[list[float]] = []
    not_finite = 0
    outside = None if lut is None else OutsideRange(lut)
    with output.progress() as progress:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    arrays = images.load(number)
                    if outside is not None:
                        outside.look([arrays[name] for name in named], stem if len(images) > 1 else "")
                    true, shown, valid = _shown(arrays, lut, settings.device)
                    scored = [score(true, image, valid) for image in shown]
                    if settings.frc:
                        axis = score.channels_of(true.shape)
                        resolutions.append([resolution(true, image, axis) for image in shown])
                    scores[stem] = scored
                    not_finite += int(valid.size - valid.sum())
            if progress is not None:
                progress(number + 1, len(images), "scoring images")
    stems = [stem for stem, _ in images.fields]
    places = [number for number, stem in enumerate(stems) if stem in scores]
    found = check_reference(References(images), tuple(named), settings.channel_axis, stems, places)
    warnings = [one.message for one in found]
    warnings += [] if outside is None else outside.warnings.values()
    rows = [ScoreRow(name, "candidate") for name in named]
    if lut_path is not None:
        rows.append(ScoreRow("ensemble", "ensemble", note=f"by {lut_path.name}"))
    for index, row in enumerate(rows):
        own = [one[index] for one in scores.values()]
        rows[index] = replace(
            row,
            psnr=_mean(one.psnr for one in own),
            ssim=_mean(one.ssim for one in own),
            resolution=_mean(each[index] for each in resolutions),
        )
    notes = (f"The peak of PSNR is {scale}.", *exclusion_note(not_finite))
    results = {
        "settings": settings.keywords() | scale.to_dict() | {"images": len(scores), "not_finite": not_finite},
        "rows": [
            row.to_dict("name", "role", "psnr", "ssim", *["resolution"] * settings.frc)
            | {"images": {stem: one[index]._asdict() for stem, one in scores.items()}}
            for index, row in enumerate(rows)
        ],
        "notes": list(notes),
        "failed": failed,
        "warnings": terminal.warn(warnings),
    }
    table = ScoreTable(tuple(rows), (PSNR, SSIM, *[RESOLUTION] * settings.frc), notes)
    output.finish(results, lambda: terminal.say(str(table)))
    return failed


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([*values] or [np.nan]))


def _evaluate_noisy(
    images: ImageSet,
    lut: WeightLUT | None,
    names: list[str],
    score: Scoring,
    failed: dict[str, str],
    settings: EvaluateSettings,
    output: Output,
) -> dict[str, str]:
    """Score against a noisy ground truth, without SSIM and the Y channel."""
    if settings.y_channel:
        raise EnsembleError("y_channel is set, but the noise of Y is unknown; score all channels.")
    assert settings.truth_noise is not None
    parts, drifts, resolutions = [], [], []
    with output.progress() as progress:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    arrays = {role: np.asarray(one) for role, one in images.load(number).items()}
                    truth = arrays.pop(Part.TRUTH)
                    candidates = list(arrays.values())
                    label = stem if len(images) > 1 else ""
                    drifts += check_drift(candidates, truth, score.channels_of(truth.shape), label)
                    shown = [*candidates, np.mean(candidates, axis=0)]
                    shown += [] if lut is None else [lut.apply(candidates, settings.device, check=False)]
                    cut, axis = score.inside(truth.shape), score.channels_of(truth.shape)
                    blocks = block_errors(truth[cut], [one[cut] for one in shown], channel_axis=axis)
                    if settings.frc:
                        resolutions.append([resolution(truth, image, axis) for image in shown])
                    parts.append(blocks)
            if progress is not None:
                progress(number + 1, len(images), "scoring images")
    others = [] if lut is None else [("ensemble", "ensemble")]
    scores = NoisyScores.of(
        names, parts, score.data_range[1] - score.data_range[0], settings.truth_noise, others
    )
    scoring = settings.keywords() | {"images": len(parts)}
    warnings = terminal.warn([one.message for one in drifts])
    results = {"settings": scoring, **scores.to_dict(), "failed": failed, "warnings": warnings}
    table = scores.table()
    if settings.frc:
        means = [_mean(each) for each in zip(*resolutions, strict=True)]
        rows = [replace(row, resolution=mean) for row, mean in zip(table.rows, means, strict=True)]
        table = replace(table, rows=tuple(rows), columns=(*table.columns, RESOLUTION))
        results["resolutions"] = [row.to_dict("name", "resolution") for row in rows]
    output.finish(results, lambda: terminal.say(str(table)))
    return failed


def _score_range(images: ImageSet, given: tuple[float, float] | None, failed: dict[str, str]) -> ScoreRange:
    """Find the range for scores from all ground truths that can be read."""

    def for_each(do: Callable[[Any], object]) -> None:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    do(images.array(number, Part.TRUTH))

    dtypes: list[np.dtype[Any]] = []
    if given is None:
        for_each(lambda truth: dtypes.append(np.dtype(truth.dtype)))
        if not dtypes:
            raise EnsembleError(f"no image could be read; first error: {next(iter(failed.values()))}")
    known = known_range(dtypes, given)
    if known is not None:
        return known
    shown = TruthRange(dtypes)
    for_each(shown.add)

    def ends_within(ends: Range) -> Range:
        found: list[Range] = []
        for_each(lambda truth: found.append(shown.ends(truth, ends)))
        return widest(found)

    return shown.found(ends_within)


def _shown(
    arrays: dict[Role, Any], lut: WeightLUT | None, device: str
) -> tuple[NDArray[Any], list[NDArray[Any]], NDArray[np.bool_]]:
    """Return the ground truth, the candidates with their ensemble if there is a table, and a mask."""
    pixels = {role: np.asarray(array) for role, array in arrays.items()}
    valid = finite_everywhere(list(pixels.values()))
    truth = pixels.pop(Part.TRUTH)
    images = list(pixels.values())
    if lut is not None:
        images.append(lut.apply(images, device, check=False))
    return truth, images, valid


def compare(
    candidates: Mapping[str, Path],
    truth: Path,
    low_resolution: Path | None,
    *,
    settings: dict[str, Any],
    crop: bool,
    output: Output,
) -> None:
    """Compare methods; ``settings`` are arguments of :func:`napari_ensir.compare`."""
    from napari_ensir.ensemble.compare.compare import compare as compare_methods

    images = open_set(candidates, {Part.TRUTH: truth}, crop=crop)
    check_output_paths(output.places, read_by(images, low_resolution))
    output.check()
    small = None
    if low_resolution is not None:
        inputs = open_set({}, {Part.LOW_RESOLUTION: low_resolution})
        check_stems(images, inputs, Part.LOW_RESOLUTION)
        small = [np.asarray(inputs.load(number)[Part.LOW_RESOLUTION]) for number in range(len(inputs))]
    with output.progress() as progress:
        found = compare_methods(
            References(images), tuple(candidates), low_resolution=small, progress=progress, **settings
        )
    stems = [stem for stem, _ in images.fields]
    odd = check_reference(References(images), tuple(candidates), settings["channel_axis"], stems)
    results = found.to_dict() | {"stems": stems, "warnings": terminal.warn([one.message for one in odd])}
    output.finish(results, lambda: terminal.say(str(found)))

"""What ``napari-ensir evaluate`` and ``compare`` do: images in, tables of scores out. Writes no image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.apply import OutsideRange, in_table_order
from napari_ensir.cli.batch import noted, read_by
from napari_ensir.ensemble.arrays.intensity_range import widest
from napari_ensir.ensemble.checks.alignment import check_reference
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.scoring.scores import (
    NoisyScores,
    Scoring,
    TruthRange,
    block_errors,
    finite_everywhere,
    known_range,
    left_out,
)
from napari_ensir.errors import EnsembleError
from napari_ensir.files.output_paths import check_places
from napari_ensir.files.sets import Part, References, check_stems, open_set

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_ensir.cli.terminal import Output
    from napari_ensir.ensemble.arrays.intensity_range import Ends
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import Score, ScoreRange
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
    """Score candidates and, with a table, their ensemble; the messages of images that failed."""
    lut = None if lut_path is None else load_lut(lut_path)
    named = dict(candidates) if lut is None else in_table_order(lut, candidates)
    images = open_set(named, {Part.TRUTH: truth}, crop=crop)
    check_places(output.places, read_by(images, lut_path))
    output.check()
    failed: dict[str, str] = {}
    scale = _score_range(images, settings.data_range, failed)
    limits = (scale.low, scale.high)
    score = Scoring(limits, settings.y_channel, settings.crop_border, settings.channel_axis)
    if settings.truth_noise is not None:
        return _evaluate_noisy(images, lut, list(named), score, failed, settings, output)
    scores: dict[str, list[Score]] = {}
    not_finite = 0
    outside = None if lut is None else OutsideRange(lut)
    with terminal.progress(output.quiet) as progress:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    arrays = images.load(number)
                    if outside is not None:
                        outside.look([arrays[name] for name in named], stem if len(images) > 1 else "")
                    scores[stem], missing = _scores_of(arrays, lut, score, settings.device)
                    not_finite += missing
            if progress is not None:
                progress(number + 1, len(images), "scoring images")
    stems = [stem for stem, _ in images.fields]
    scored = [number for number, stem in enumerate(stems) if stem in scores]
    found = check_reference(References(images), tuple(named), settings.channel_axis, stems, scored)
    warnings = [one.message for one in found]
    warnings += [] if outside is None else outside.said.values()
    shown = [(name, "candidate", "") for name in named]
    if lut_path is not None:
        shown.append(("ensemble", "ensemble", f"by {lut_path.name}"))
    rows = [
        {"name": name, "role": role, **_mean_scores(place, scores)}
        for place, (name, role, _) in enumerate(shown)
    ]
    notes = [f"PSNR's peak is {scale}.", *left_out(not_finite)]
    scoring = settings.keywords() | scale.to_dict() | {"images": len(scores), "not_finite": not_finite}
    table = [
        (name, f"{row['psnr']:.3f}", f"{row['ssim']:.4f}", note)
        for (name, _, note), row in zip(shown, rows, strict=True)
    ]

    def show() -> None:
        terminal.table(("", "PSNR, dB", "SSIM", ""), table)
        terminal.say("\n".join(notes))

    results = {"settings": scoring, "rows": rows, "notes": notes, "failed": failed}
    output.finish(results | {"warnings": terminal.warn(warnings)}, show)
    return failed


def _evaluate_noisy(
    images: ImageSet,
    lut: WeightLUT | None,
    names: list[str],
    score: Scoring,
    failed: dict[str, str],
    settings: EvaluateSettings,
    output: Output,
) -> dict[str, str]:
    """The same against a noisy exposure, as far as scores can then be true: no SSIM, nothing of luma."""
    if settings.y_channel:
        raise EnsembleError(
            "y_channel is set, but the noise of Y is not that of the truth; score all channels."
        )
    assert settings.truth_noise is not None
    parts = []
    with terminal.progress(output.quiet) as progress:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    arrays = {role: np.asarray(one) for role, one in images.load(number).items()}
                    truth = arrays.pop(Part.TRUTH)
                    candidates = list(arrays.values())
                    shown = [*candidates, np.mean(candidates, axis=0)]
                    shown += [] if lut is None else [lut.apply(candidates, settings.device, check=False)]
                    cut, axis = score.inside(truth.shape), score.channels_of(truth.shape)
                    parts.append(block_errors(truth[cut], [one[cut] for one in shown], channel_axis=axis))
            if progress is not None:
                progress(number + 1, len(images), "scoring images")
    others = [] if lut is None else [("ensemble", "ensemble")]
    scores = NoisyScores.of(
        names, parts, score.data_range[1] - score.data_range[0], settings.truth_noise, others
    )

    def show() -> None:
        terminal.say(scores.to_markdown())
        terminal.say("\n".join(scores.notes))

    settled = settings.keywords() | {"images": len(parts)}
    output.finish({"settings": settled, **scores.to_dict(), "failed": failed}, show)
    return failed


def _mean_scores(place: int, scores: Mapping[str, list[Score]]) -> dict[str, Any]:
    """Scores of what stands at one place of each image's list, by image and on average."""
    images = {stem: one[place]._asdict() for stem, one in scores.items()}
    means = {
        key: float(np.mean([one[key] for one in images.values()] or [np.nan])) for key in ("psnr", "ssim")
    }
    return {**means, "images": images}


def _score_range(images: ImageSet, given: tuple[float, float] | None, failed: dict[str, str]) -> ScoreRange:
    """The range whose width is the peak, from all ground truths that can be read, whatever else fails."""

    def for_each(do: Callable[[Any], object]) -> None:
        for number, (stem, _) in enumerate(images.fields):
            if stem not in failed:
                with noted(failed, stem, images):
                    do(images.array(number, Part.TRUTH))

    dtypes: list[np.dtype[Any]] = []
    if given is None:
        for_each(lambda truth: dtypes.append(np.dtype(truth.dtype)))
        if not dtypes:
            raise EnsembleError(f"no image could be read; the first: {next(iter(failed.values()))}")
    known = known_range(dtypes, given)
    if known is not None:
        return known
    shown = TruthRange(dtypes)
    for_each(shown.add)

    def ends_within(ends: Ends) -> Ends:
        found: list[Ends] = []
        for_each(lambda truth: found.append(shown.ends(truth, ends)))
        return widest(found)

    return shown.found(ends_within)


def _scores_of(
    arrays: dict[Role, Any], lut: WeightLUT | None, score: Scoring, device: str
) -> tuple[list[Score], int]:
    """Scores of each candidate in order, then of their ensemble if there is a table; pixels left out."""
    pixels = {role: np.asarray(array) for role, array in arrays.items()}
    valid = finite_everywhere(list(pixels.values()))
    truth = pixels.pop(Part.TRUTH)
    images = list(pixels.values())
    if lut is not None:
        images.append(lut.apply(images, device, check=False))
    return [score(truth, image, valid) for image in images], int(valid.size - valid.sum())


def compare(
    candidates: Mapping[str, Path],
    truth: Path,
    low_resolution: Path | None,
    *,
    settings: dict[str, Any],
    crop: bool,
    output: Output,
) -> None:
    """Score every method on what it has not learned from; ``settings`` go to :func:`napari_ensir.compare`."""
    from napari_ensir.ensemble.compare.compare import compare as compare_methods

    images = open_set(candidates, {Part.TRUTH: truth}, crop=crop)
    check_places(output.places, read_by(images, low_resolution))
    output.check()
    small = None
    if low_resolution is not None:
        inputs = open_set({}, {Part.LOW_RESOLUTION: low_resolution})
        check_stems(images, inputs, Part.LOW_RESOLUTION)
        small = [np.asarray(inputs.load(number)[Part.LOW_RESOLUTION]) for number in range(len(inputs))]
    with terminal.progress(output.quiet) as progress:
        found = compare_methods(
            References(images), tuple(candidates), low_resolution=small, progress=progress, **settings
        )
    stems = [stem for stem, _ in images.fields]
    odd = check_reference(References(images), tuple(candidates), settings["channel_axis"], stems)
    results = found.to_dict() | {"stems": stems, "warnings": terminal.warn([one.message for one in odd])}

    def show() -> None:
        terminal.say("\n".join([found.to_markdown(), *found.notes]))

    output.finish(results, show)

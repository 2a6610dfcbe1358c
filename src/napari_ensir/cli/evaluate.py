"""The commands ``evaluate`` and ``compare``: score images against ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import check_any, check_before, open_candidates
from napari_ensir.cli.corrections import describe_corrections, messages_of
from napari_ensir.ensemble.checks.alignment import check_reference
from napari_ensir.ensemble.checks.exposure import find_drift
from napari_ensir.ensemble.checks.images import ApplyChecks
from napari_ensir.ensemble.compare.compare import compare as compare_methods
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.scoring.metrics import (
    Scoring,
    finite_everywhere,
    mean_of_metrics,
    open_metrics,
    resolution,
    score_notes,
)
from napari_ensir.ensemble.scoring.score_range import find_score_range
from napari_ensir.ensemble.scoring.score_table import PSNR, RESOLUTION, SSIM, ScoreRow, ScoreTable
from napari_ensir.ensemble.scoring.scores import NoisyScores, block_errors
from napari_ensir.errors import EnsembleError
from napari_ensir.files.sets import Part, References, check_stems, open_set
from napari_ensir.restorers.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_ensir.cli.app import CompareOptions, EvaluateOptions
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.score_range import ScoreRange


def evaluate(options: EvaluateOptions) -> dict[str, str]:
    """Score candidates and, with a table, their ensemble; return the errors of failed images by stem."""
    output = options.output
    lut = None if options.lut is None else load_lut(options.lut)
    images = open_candidates(options, lut)
    options = replace(options, settings=replace(options.settings, channel_axis=images.channel_axis))
    check_before(Batch(images), output, read=[options.lut])
    batch, settings = Batch(images), options.settings
    scale = _score_range(batch, settings.data_range)
    score = Scoring(
        (scale.low, scale.high),
        settings.y_channel,
        settings.crop_border,
        settings.channel_axis,
        open_metrics(options.metric, settings.device),
    )
    evaluation = _evaluate_clean if settings.truth_noise is None else _evaluate_noisy
    results, text, warnings = evaluation(options, batch, lut, score, scale)
    text = "\n".join([text, *describe_corrections(images.record, len(images))])
    output.finish({**results, "failed": batch.failed, "warnings": terminal.warn(warnings)}, text)
    return batch.failed


def _evaluate_clean(
    options: EvaluateOptions,
    batch: Batch,
    lut: WeightLUT | None,
    score: Scoring,
    scale: ScoreRange,
) -> tuple[dict[str, Any], str, list[str]]:
    """Return results for JSON, the table and warnings."""
    names = batch.names
    scores: dict[str, list[dict[str, float]]] = {}
    frc = options.settings.frc
    not_finite = 0
    checks = None if lut is None else ApplyChecks(lut.report, lut.binning, lut.names)

    def score_image(number: int, stem: str) -> None:
        nonlocal not_finite
        truth, shown = _read(batch, number)
        valid = finite_everywhere([truth, *shown])
        if lut is not None and checks is not None:
            checks.look(lut.field(shown), batch.label(stem))
            shown.append(lut.apply(shown, options.settings.device, check=False))
        scores[stem] = [score(truth, image, valid) for image in shown]
        if frc:
            axis = score.channels_of(truth.shape)
            for image, found in zip(shown, scores[stem], strict=True):
                found["resolution"] = resolution(truth, image, axis)
        not_finite += int(valid.size - valid.sum())

    with options.output.progress() as progress:
        batch.each(score_image, "scoring images", progress)
    check_any(batch, scores)
    scored = [number for number, stem in enumerate(batch.stems) if stem in scores]
    found = check_reference(
        References(batch.images), names, options.settings.channel_axis, batch.stems, scored
    )
    warnings = messages_of(found)
    warnings += [] if checks is None else messages_of(checks.diagnostics(), ["align"])
    titles = [(name, "candidate", "") for name in names]
    if options.lut is not None:
        titles.append(("ensemble", "ensemble", f"by {options.lut.name}"))
    by_row = list(zip(*scores.values(), strict=True))
    means = map(mean_of_metrics, by_row)
    rows = tuple(
        ScoreRow(name, role, psnr=mean["psnr"], ssim=mean["ssim"], note=note, metrics=mean)
        for (name, role, note), mean in zip(titles, means, strict=True)
    )
    notes = tuple(score_notes(scale, not_finite, rows))
    images = {"images": len(scores), "not_finite": not_finite}
    results = {
        "settings": options.settings.keywords() | scale.to_dict() | images,
        "rows": [
            row.to_dict("name", "role", *row.metrics) | {"images": dict(zip(scores, own, strict=True))}
            for row, own in zip(rows, by_row, strict=True)
        ],
        "notes": list(notes),
    }
    columns = (PSNR, SSIM, *[RESOLUTION] * frc, *(metric.column for metric in score.metrics))
    return results, str(ScoreTable(rows, columns, notes)), warnings


def _evaluate_noisy(
    options: EvaluateOptions,
    batch: Batch,
    lut: WeightLUT | None,
    score: Scoring,
    scale: ScoreRange,
) -> tuple[dict[str, Any], str, list[str]]:
    """Score against a noisy ground truth, without SSIM and the Y channel."""
    settings = options.settings
    if score.metrics:
        raise EnsembleError("--metric is given, but the ground truth is noisy; metrics need a clean one.")
    if settings.y_channel:
        raise EnsembleError("y_channel is set, but the noise of Y is unknown; score all channels.")
    assert settings.truth_noise is not None
    names = batch.names
    parts, drifts, resolutions = [], [], []

    def score_image(number: int, stem: str) -> None:
        truth, candidates = _read(batch, number)
        cut, axis = score.inside(truth.shape), score.channels_of(truth.shape)
        drift = find_drift(candidates, truth, axis)
        drifts.extend(drift.diagnostics("truth-drifted", batch.label(stem)))
        shown = [*candidates, np.mean(candidates, axis=0)]
        shown += [] if lut is None else [lut.apply(candidates, settings.device, check=False)]
        blocks = block_errors(truth[cut], [one[cut] for one in shown], channel_axis=axis)
        if settings.frc:
            resolutions.append([resolution(truth, image, axis) for image in shown])
        parts.append(blocks)

    with options.output.progress() as progress:
        batch.each(score_image, "scoring images", progress)
    check_any(batch, parts)
    others = [] if lut is None else [("ensemble", "ensemble")]
    scores = NoisyScores.of(names, parts, scale.high - scale.low, settings.truth_noise, others)
    results = {"settings": settings.keywords() | {"images": len(parts)}, **scores.to_dict()}
    table = scores.table()
    if settings.frc:
        means = [float(np.mean(each)) for each in zip(*resolutions, strict=True)]
        rows = tuple(replace(row, resolution=mean) for row, mean in zip(table.rows, means, strict=True))
        table = replace(table, rows=rows, columns=(*table.columns, RESOLUTION))
        results["resolutions"] = [row.to_dict("name", "resolution") for row in rows]
    return results, str(table), [one.message for one in drifts]


def _read(batch: Batch, number: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Read the ground truth and the candidates of an image."""
    arrays = {role: np.asarray(array) for role, array in batch.images.load(number).items()}
    return arrays.pop(Part.TRUTH), list(arrays.values())


def _score_range(batch: Batch, given: tuple[float, float] | None) -> ScoreRange:
    """Find the range for scores from all ground truths that can be read."""

    def for_each(do: Callable[[Any], object]) -> None:
        done: list[object] = []
        batch.each(lambda number, _: done.append(do(batch.images.array(number, Part.TRUTH))))
        check_any(batch, done)

    return find_score_range(for_each, given)


def compare(options: CompareOptions) -> None:
    """Compare methods on held-out images or tiles."""
    output = options.output
    images = open_candidates(options)
    check_before(Batch(images), output, read=[options.low_resolution])
    low_resolution = None
    if options.low_resolution is not None:
        inputs = open_set({}, {Part.LOW_RESOLUTION: options.low_resolution})
        check_stems(images, inputs, Part.LOW_RESOLUTION)
        low_resolution = [np.asarray(inputs.load(k)[Part.LOW_RESOLUTION]) for k in range(len(inputs))]
    references, names = References(images), images.names
    settings = replace(options.settings, channel_axis=images.channel_axis)
    with output.progress() as progress:
        found = compare_methods(
            references,
            names,
            bin_width=options.bin_width or None,
            methods=options.method or None,
            low_resolution=low_resolution,
            metrics=options.metric,
            progress=progress,
            **settings.keywords(),
        )
    stems = references.labels
    odd = check_reference(references, names, settings.channel_axis, stems)
    results = found.to_dict() | {"stems": stems, "warnings": terminal.warn(messages_of(odd))}
    output.finish(results, str(found))

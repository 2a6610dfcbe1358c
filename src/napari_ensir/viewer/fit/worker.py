"""From a request to a fit, and from a fit to another: what runs beside the viewer. Knows no layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.image_set import check_prior
from napari_ensir.ensemble.checks.noise import PARTS, method_for
from napari_ensir.ensemble.checks.reference import diagnose_reference
from napari_ensir.ensemble.estimators.base import METHODS, Settings
from napari_ensir.ensemble.fit import FOLDS
from napari_ensir.ensemble.lut.lut import estimate_lut, figures
from napari_ensir.ensemble.scoring.cross_validation import FACTORS, SHRINKAGES, choose_bins
from napari_ensir.ensemble.scoring.scores import score_range_of
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.reference import collect_reference, named_report
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fit.scores import Score, Truth, score_method, score_methods, score_simple, with_ssim
from napari_ensir.viewer.results.combining import (
    VIEWED,
    Combined,
    Computed,
    combine,
    difference,
    over_colours,
)
from napari_ensir.viewer.results.layers import Errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import ScoreRange
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.settings import FitSettings
    from napari_ensir.viewer.fit.request import FitRequest

__all__ = [
    "FROZEN",
    "FitResult",
    "calibrated",
    "errors_of",
    "expected_error",
    "expected_limits",
    "fit",
    "holds",
    "refit",
    "score_all",
    "score_held_out",
]


def calibrated(result: FitResult, progress: Progress | None = None) -> FitResult:
    """The result with a table that knows how far off it is, or with a sentence on why it cannot.

    Each part of the images is scored by weights that the statistics kept of the others teach; pixels are read
    once more, for the ensemble's errors depend on how far the candidates are apart at each.
    """
    pairs, masks = result.request.seen()
    try:
        device = result.request.settings.device
        lut = result.lut.calibrated(pairs, masks, device, progress, folds=result.reference.folds)
    except EnsembleError as error:
        return replace(result, uncalibrated=str(error))
    return replace(result, lut=lut, tables={**result.tables, lut.method: lut})


def expected_error(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Any:
    """The root mean square error to expect at each pixel: a view where the candidates are a large stack.

    Returns
    -------
    float32 array of the candidates' shape
        Intensity units; of an RGB image without its colours, whose squares are averaged.

    Raises
    ------
    EnsembleError
        If the table was not calibrated, or the candidates do not fit it.
    """
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: where the table has it
    shape = tuple(candidates[0].shape)
    if lut.errors is not None and len(shape) - rgb > 2 and prod(shape) > VIEWED:
        lut.field(candidates, axis)  # what does not fit is said now, not when it is looked at
        asked = lut.channel_axis if axis is None else axis
        channels = None if lut.n_channels == 1 or asked is None else asked % len(shape)
        return Computed(
            lambda parts: _pooled(lut.expected_error(parts, device, channel_axis=channels), rgb),
            candidates,
            np.dtype(np.float32),
            channel_axis=len(shape) - 1 if rgb else channels,
            drops_channels=rgb,
        ).prepared()
    return _pooled(lut.expected_error(candidates, device, channel_axis=axis, progress=progress), rgb)


def _pooled(errors: Any, rgb: bool) -> NDArray[np.float32]:
    """Over the colours, as mean squares are."""
    if not rgb:
        return errors  # type: ignore[no-any-return]
    return (over_colours(errors**2) ** 0.5).astype(np.float32)  # type: ignore[no-any-return]


def expected_limits(lut: WeightLUT) -> tuple[float, float]:
    """From 0 to the largest error that the table expects anywhere that it has seen, in intensity units."""
    errors = lut.errors
    if errors is None or not errors.counts.any():
        return (0.0, 1.0)
    return (0.0, float(errors.rmse[errors.counts > 0].max()))


NOISY_SCORES = (
    "The ground truth is noisy, so errors are compared with each other: mean squared error less that of the "
    "candidates' average, on parts held out."
)

FROZEN = ("data_range", "channel_axis", "planes", "truth_noise", "match_truth", "hash_inputs")
"""Settings that need the pixels read again when they change."""


@dataclass(frozen=True)
class FitResult:
    """All that a fit gives.

    Attributes
    ----------
    request : FitRequest
        What was asked for, with the settings of this result.
    reference : Reference
        Statistics of the pixels learned from, in fine bins.
    unseen : Reference or None
        Statistics of the pixels outside the mask and the planes: what was held out for good.
    used : Settings
        What prior, shrinkage and iterations came to.
    lut : WeightLUT
    combined : Combined
    scores : tuple of Score
        Candidates, average, methods; the other methods once :func:`score_held_out` has added them.
    tables : dict
        The table of each method scored.
    scale : ScoreRange
        The range whose width is the peak of PSNR: it depends on the ground truth alone.
    ssim_known : dict
        SSIM of what no setting changes, as it becomes known.
    doubts : tuple of str
        What looks wrong about the images, a sentence each.
    uncalibrated : str
        Why the table cannot be told how far off it is; empty where it can, or nobody has tried yet.
    """

    request: FitRequest
    reference: Reference
    unseen: Reference | None
    used: Settings
    lut: WeightLUT
    combined: Combined
    scores: tuple[Score, ...]
    tables: dict[str, WeightLUT] = field(default_factory=dict)
    scale: ScoreRange = field(kw_only=True)
    ssim_known: dict[tuple[str, str], float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    uncalibrated: str = ""

    @property
    def truth(self) -> Truth:
        """What images are scored against."""
        return Truth(self.reference, self.scale.peak, self.unseen, self.request.settings.truth_noise)

    @property
    def chosen(self) -> Score:
        """The score of the method shown."""
        return next(score for score in self.scores if score.method == self.lut.method)

    @property
    def held_out_in_words(self) -> str:
        """What was held out, in which bins the methods were scored, and what kind of scores these are."""
        bins = f"Bins {figures(self.lut.bin_width)} wide; the peak of PSNR is {self.scale}."
        noise = self.request.settings.truth_noise
        if noise is not None:
            bins = bins if noise != "unknown" else f"Bins {figures(self.lut.bin_width)} wide."
            bins = f"{NOISY_SCORES} {bins}"
        if self.unseen is not None:
            return f"{bins} Held out is all that lies outside the mask and the planes to learn from."
        return f"{bins} Each part of the images was held out in turn, the weights learned from the others."

    @property
    def notes(self) -> list[str]:
        """What the user should know about the pixels, one sentence each."""
        report = self.lut.report
        learned = "PSNR is on the pixels learned from and flatters"
        if self.unseen is None:
            notes = [f"{learned} the ensemble; held out does not."]
        else:
            notes = [f"{learned}; held out is on all the others."]
        if report["not_finite"]:
            notes.append(f"{report['not_finite']:,} pixels were left out: NaN or infinite.")
        counts = self.lut.counts
        few = counts[counts < self.used.min_pixels].sum() / max(1, counts.sum())
        share = f"{few:.1%}"
        if share != "0.0%" and "min_pixels" in METHODS[self.lut.method].uses:  # fewer are no news
            notes.append(f"{share} of the pixels lie in bin sets too sparse to learn from.")
        if self.request.settings.truth_noise is not None:
            notes[0] = NOISY_SCORES
        if self.uncalibrated:
            notes.append(f"No expected error: {self.uncalibrated}")
        return [*self.doubts, *report.get("warnings", ()), *notes]


def fit(request: FitRequest, progress: Progress | None = None) -> FitResult:
    """Read the pixels, estimate the table, combine the candidates.

    Raises
    ------
    EnsembleError
        If the images cannot be used.
    """
    settings = request.settings
    method_for(settings.method, settings.truth_noise)  # before any pixel is read
    if progress is not None:
        # What the first fit of a session waits for; the others say something else at once.
        progress(0, 1, "loading and compiling, once a session")
    pairs, masks = request.seen()
    noisy, width = settings.truth_noise is not None, settings.bin_width
    found, checked = diagnose_reference(
        pairs,
        request.names,
        channel_axis=request.colour_axis,
        mask=masks,
        truth_noise=settings.truth_noise,
        match_truth=settings.match_truth,
    )
    doubts = [one.message for one in found]
    reference = collect_reference(
        checked,
        request.names,
        bin_width=None if width == "auto" else width,
        data_range=settings.data_range,
        channel_axis=settings.channel_axis,
        mask=masks,
        device=settings.device,
        progress=progress,
        refine=None,
        folds=PARTS if noisy else FOLDS,
        noisy_truth=noisy,
        hash_inputs=settings.hash_inputs,
    )
    unseen = _collect_unseen(request, reference, progress)
    counted = [part.statistics for part in (reference, unseen) if part is not None]
    scale = score_range_of(counted, request.truth.dtype, settings.data_range)
    return _estimate(request, reference, unseen, settings, progress, scale=scale, doubts=tuple(doubts))


def _collect_unseen(request: FitRequest, seen: Reference, progress: Progress | None) -> Reference | None:
    """Statistics of all that was not learned from, in the same bins; None where that is nothing."""
    total = int(np.prod(request.truth.shape))
    if seen.statistics.n_pixels + seen.statistics.not_finite >= total:
        return None
    pairs, masks = request.unseen()
    binning = seen.statistics.binning
    return collect_reference(
        pairs,
        request.names,
        bin_width=binning.width,
        data_range=(binning.low, binning.high),
        channel_axis=request.settings.channel_axis,
        mask=masks,
        device=request.settings.device,
        progress=progress,
        refine=1,
        folds=1 if request.settings.truth_noise is None else PARTS,
    )


def bins_for(reference: Reference, bin_width: float | None) -> Binning | None:
    """The bins of a wanted width, if those that the statistics hold can be put together to them."""
    fine = reference.statistics.binning
    if bin_width is None:
        kind = np.int64 if fine.integer else np.float64
        bin_width = choose_binning(kind, (fine.low, fine.high)).width
    factor = round(bin_width / fine.width)
    if factor < 1 or not np.isclose(factor * fine.width, bin_width, rtol=1e-6):
        return None
    return fine.coarsened(factor)


def holds(result: FitResult, settings: FitSettings) -> bool:
    """Whether a result's statistics can answer for these settings without reading pixels again."""
    before = result.request.settings
    same = all(getattr(before, name) == getattr(settings, name) for name in FROZEN)
    width = settings.bin_width
    return same and (width == "auto" or bins_for(result.reference, width) is not None)


def refit(before: FitResult, settings: FitSettings, progress: Progress | None = None) -> FitResult:
    """A new table, its images and the scores of what is shown, from the statistics kept.

    What takes longer, the other methods, cross-validation and SSIM, is left to :func:`score_held_out` and
    :func:`score_all`.
    """
    kept: dict[str, Any] = {"ssim_known": before.ssim_known, "doubts": before.doubts, "scale": before.scale}
    # Of candidates and average no setting changes the score.
    kept["scores"] = tuple(score for score in before.scores if score.role in ("candidate", "average"))
    return _estimate(before.request, before.reference, before.unseen, settings, progress, **kept)


def _estimate(
    request: FitRequest,
    reference: Reference,
    unseen: Reference | None,
    settings: FitSettings,
    progress: Progress | None,
    *,
    scores: tuple[Score, ...] = (),
    **kept: Any,
) -> FitResult:
    method = method_for(settings.method, settings.truth_noise)
    binning, used = _resolve(reference, method, settings, progress)
    lut = estimate_lut(reference, method, used, binning=binning, progress=progress)
    report = named_report(lut.report, [(*request.names, request.truth_name)])
    if settings.truth_noise is not None:
        report["truth_noise"] = settings.truth_noise
    lut = replace(lut, report=report)
    combined = combine(lut, request.candidates, request.rgb, settings.device, progress)
    asked = replace(request, settings=settings)
    made = FitResult(asked, reference, unseen, used, lut, combined, (), {method: lut}, **kept)
    simple = scores or tuple(score_simple(made.truth, lut))
    return replace(made, scores=(*simple, score_method(made.truth, lut)))


def _resolve(
    reference: Reference, method: str, settings: FitSettings, progress: Progress | None
) -> tuple[Binning, Settings]:
    """The bins and the numbers that the settings come to; what is "auto" is tried on parts held out."""
    base = Settings(
        prior=check_prior(settings.prior, len(reference.names)),
        shrinkage=1000.0 if settings.shrinkage == "auto" else settings.shrinkage,
        max_iterations=settings.max_iterations,
        device=resolve_device(settings.device),
    )
    automatic = settings.bin_width == "auto"
    binning = None if automatic else bins_for(reference, settings.bin_width)  # type: ignore[arg-type]
    if binning is None:
        binning = reference.statistics.binning
    if not automatic and settings.shrinkage != "auto":
        return binning, base
    coarse = replace(
        reference,
        statistics=reference.statistics.in_bins(binning),
        folds=tuple(fold.in_bins(binning) for fold in reference.folds),
    )
    choice = choose_bins(
        coarse,
        method,
        base,
        factors=FACTORS if automatic else (1,),
        shrinkages=SHRINKAGES if settings.shrinkage == "auto" else (base.shrinkage,),
        progress=progress,
    )
    return choice.binning, choice.settings


def score_held_out(result: FitResult, progress: Progress | None = None) -> FitResult:
    """The result with every method scored, seen and held out: milliseconds, as long as bins are not many."""
    if result.request.settings.truth_noise is not None:  # no method but the one shown can use it
        return replace(result, scores=tuple(result.truth.noisy_scores(result.lut, result.used)))
    scores, tables = score_methods(result.truth, result.lut, result.used, progress)
    others = [score for score in result.scores if score.role != "method"]
    return replace(result, scores=(*others, *scores), tables=tables)


def score_all(result: FitResult, progress: Progress | None = None) -> FitResult:
    """The result with SSIM as well, which reads pixels."""
    if result.request.settings.truth_noise is not None:
        return result  # of a noisy truth SSIM says nothing
    known, width = result.ssim_known, result.scale.peak
    scores = with_ssim(result.scores, result.request, result.tables, width, known, progress)
    return replace(result, scores=tuple(scores))


def errors_of(result: FitResult) -> Errors:
    """Work out the error images of a result; lazy where its images are."""
    request = result.request
    alone = [score for score in result.scores if score.role == "candidate"]
    best = max(range(len(alone)), key=lambda place: alone[place].held_out)
    images = [
        difference(image, request.truth, request.rgb)
        for image in (result.combined.exact, request.candidates[best])
    ]
    middle = tuple(n // 2 for n in images[0].shape[:-2])
    limit = max(float(np.nanpercentile(np.abs(np.asarray(each[middle])), 99.5)) for each in images)
    return Errors(images[0], images[1], request.names[best], limit or 1.0)

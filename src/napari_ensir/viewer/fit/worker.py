"""Work of the Fit panel that runs in a thread: the fit of layers, and the images made from it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.checks.diagnostic import diagnose
from napari_ensir.ensemble.compare.baselines import baseline_scores
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.ensemble.scoring.metrics import evenly_spaced_planes, mean_of_metrics, ms_ssim, nrmse, ssim
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.results.combining import Images, combine, difference, expected_error
from napari_ensir.viewer.results.layers import Errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.score_table import ScoreRow
    from napari_ensir.settings import FitSettings
    from napari_ensir.viewer.fit.request import FitRequest

NOISY_SCORES = (
    "The ground truth is noisy, so only differences of errors are shown: mean squared error minus that of "
    "the candidates' average, on held-out parts."
)

PAUSE = 0.6
"""Seconds between a change of a control and the work that another change would make useless."""

SSIM_PIXELS = 2**22
"""Most pixels of an image that SSIM is computed on, in evenly spaced whole planes; one plane at least."""

RELEVANT_GAIN = 0.01
"""Smallest gain in dB for which another method or candidate is recommended."""


@dataclass(frozen=True)
class FitResult:
    """A fit of layers.

    Attributes
    ----------
    request : FitRequest
        The layers, with the settings of this result.
    session : FitSession
        Statistics, and the table.
    combined : Images
        The images to show.
    scores : tuple of ScoreRow
        Candidates, average, methods.
    verdict : str or None
        Whether the ensemble is better than the best candidate, in a sentence; None until all methods are
        scored.
    uncalibrated : str
        Reason why calibration failed; empty if it did not fail or has not run.
    errors : Errors or None
    expected : list of arrays, or None
        Expected error at each pixel; further arrays are lower resolutions of a pyramid.
    metrics_known : dict
        SSIM, MS-SSIM and NRMSE of the images that no setting changes, by role and name, once computed.
    baselines : tuple of ScoreRow
        Further methods to compare with, which no setting changes, once scored.
    is_estimate : bool
        Whether the table was learned from a sample, and that of all pixels follows.
    """

    request: FitRequest
    session: FitSession
    combined: Images
    scores: tuple[ScoreRow, ...]
    verdict: str | None = None
    uncalibrated: str = ""
    errors: Errors | None = None
    expected: list[Any] | None = None
    metrics_known: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    baselines: tuple[ScoreRow, ...] = ()
    is_estimate: bool = False

    @property
    def lut(self) -> WeightLUT:
        """The lookup table."""
        assert self.session.lut is not None  # made with the result
        return self.session.lut

    @property
    def chosen(self) -> ScoreRow:
        """The score of the method shown."""
        return next(score for score in self.scores if score.method == self.lut.method)

    @property
    def ssim_planes(self) -> list[tuple[int, ...]]:
        """Indices along the leading axes of the planes that SSIM is computed on."""
        return evenly_spaced_planes(self.request.spatial_shape, most_pixels=SSIM_PIXELS)

    @property
    def ssim_in_words(self) -> str:
        """Which planes SSIM is computed on, as a sentence; empty if there is one plane."""
        n = prod(self.request.spatial_shape[:-2])
        if n <= 1:
            return ""
        return f"Structural similarity on {len(self.ssim_planes)} of {n} planes, evenly spaced."

    @property
    def held_out_in_words(self) -> str:
        """The pixels held out, the bins, and the kind of scores."""
        noise = self.request.settings.truth_noise
        bins = f"Bins {figures(self.lut.bin_width)} wide"
        bins += "." if noise == "unknown" else f"; the peak of PSNR is {self.session.score_range}."
        if self.session.unseen is not None:
            return f"{bins} All pixels outside the mask and the planes to learn from are held out."
        return (
            f"{bins} Each part of the images was held out in turn; its weights were learned "
            f"from the other parts."
        )

    def ranked_scores(self) -> list[ScoreRow]:
        """Return all scores, with those of ZZPM and the baselines, the best held-out score first.

        Unknown scores are last.

        Raises
        ------
        EnsembleError
            If no part of the images can be held out.
        """

        def place(score: ScoreRow) -> float:
            """Held-out PSNR, or difference of errors if the ground truth is noisy; less is better."""
            found = -score.held_out if np.isnan(score.difference) else score.difference
            return float(np.nan_to_num(found, nan=np.inf))

        rows = [*self.scores, *self.baselines]
        if all(np.isinf(place(row)) for row in rows if row.method):
            raise EnsembleError("No part of these images can be held out; there is nothing to compare.")
        if not any(row.role == "zzpm" for row in rows):
            rows.append(self.session.score_zzpm())
        return sorted(rows, key=place)

    @property
    def notes(self) -> list[str]:
        """Notes for the user, one sentence each, the most important first."""
        report, counts = self.lut.report, self.lut.counts
        few = counts[counts < self.session.used.min_pixels].sum() / max(1, counts.sum())
        notes = [*report.get("warnings", ())]
        if choice := report.get("method_choice"):
            notes.append(f"Chosen: {choice['summary']}.")
        if self.request.settings.truth_noise is not None:
            notes.append(NOISY_SCORES)
        else:
            others = "is not" if self.session.unseen is None else "is on all other pixels"
            notes.append(f"PSNR on the pixels learned from is too optimistic; held-out PSNR {others}.")
        if report["not_finite"]:
            notes.append(f"{report['not_finite']:,} pixels were left out: NaN or infinite.")
        if few >= 0.0005 and "min_pixels" in METHODS[self.lut.method].uses:
            notes.append(f"{few:.1%} of the pixels lie in bin sets with too few pixels to learn from.")
        if self.uncalibrated:
            notes.append(f"No expected error: {self.uncalibrated}")
        return notes


def estimate_and_fit(request: FitRequest, progress: Progress) -> Iterator[FitResult]:
    """Yield the result of a sample of a large dask stack, and that of :func:`fit`."""
    if (sample := request.sample()) is not None:
        pairs, masks, share = sample
        settings = replace(request.settings, planes=None)
        session = FitSession(pairs, request.names, mask=masks, settings=settings, check_input=False)
        session.diagnostics.append(diagnose("sampled", share=share))
        yield replace(_result(request, session, progress), is_estimate=True)
    yield fit(request, progress)


def fit(request: FitRequest, progress: Progress | None = None) -> FitResult:
    """Read the pixels, estimate the table, combine the candidates.

    Raises
    ------
    EnsembleError
        If the images cannot be used.
    """
    pairs, masks = request.seen()
    session = FitSession(
        pairs,
        request.names,
        mask=masks,
        settings=replace(request.settings, planes=None),  # the pairs are cut to them
        held_out=request.unseen(),
        input_names=[(*request.names, request.truth_name)],
    )
    if progress is not None:
        # The first fit of a process waits for imports and compilation before anything else is reported.
        progress(0, 1, "loading and compiling, once a session")
    return _result(request, session, progress)


def refit(before: FitResult, settings: FitSettings, progress: Progress | None = None) -> FitResult:
    """Estimate a table with other settings, from the statistics kept if they suffice."""
    request = replace(before.request, settings=settings)
    changes = replace(settings, planes=None)
    if not before.session.holds(changes):
        return fit(request, progress)
    result = _result(request, before.session.copy(), progress, **changes.keywords())
    return replace(result, metrics_known=before.metrics_known, baselines=before.baselines)


def _result(request: FitRequest, session: FitSession, progress: Progress | None, **changes: Any) -> FitResult:
    lut = session.estimate(progress, **changes)
    coarser, device = [candidates for candidates, _ in request.coarser], request.settings.device
    images = combine(lut, request.candidates, request.rgb, device, progress, coarser)
    return FitResult(request, session, images, session.score(all_methods=False))


def refine(result: FitResult, wanted: Collection[str], progress: Progress) -> Iterator[FitResult]:
    """Yield a result with more and more of what takes longer than the fit.

    The scores of all methods, held out; expected errors in the table; the images wanted; SSIM.

    Parameters
    ----------
    result : FitResult
        What it has already is not computed again.
    wanted : subset of {"error", "expected error"}
        Kinds of images.
    progress : callable
    """
    request, pause_until = result.request, time.monotonic() + PAUSE * bool(result.metrics_known)
    while time.monotonic() < pause_until:
        progress(0, 1, "scoring")  # raises if a control was changed again
        time.sleep(0.02)
    if result.verdict is None:
        scores = result.session.score(progress)
        result = replace(result, scores=scores, verdict=result.session.verdict())
        yield result
    if result.lut.errors is None and not result.uncalibrated:
        result = _calibrated(result, progress)
        yield result
    if "error" in wanted and result.errors is None:
        result = replace(result, errors=errors_of(result))
        yield result
    if "expected error" in wanted and result.expected is None and result.lut.errors is not None:
        levels = [request.candidates, *(candidates for candidates, _ in request.coarser)]
        lut, device = result.lut, request.settings.device
        images = [expected_error(lut, each, request.rgb, device, progress) for each in levels]
        result = replace(result, expected=images)
        yield result
    if request.settings.truth_noise is None and any(np.isnan(score.ssim) for score in result.scores):
        yield _with_metrics(result, progress)


def compare_baselines(
    result: FitResult, wanted: Collection[str], low_resolution: Any, progress: Progress
) -> Iterator[FitResult]:
    """Yield what :func:`refine` yields, then the result with the score of each baseline.

    Parameters
    ----------
    result, wanted, progress
        As for :func:`refine`.
    low_resolution : array or None
        The candidates' input in low resolution, for RefESR.
    """
    for refined in refine(result, wanted, progress):
        result = refined
        yield result
    if result.baselines or result.request.settings.truth_noise is not None:
        return
    given = None if low_resolution is None else (result.request.candidates, low_resolution)
    for row in baseline_scores(result.session, given, progress):
        result = replace(result, baselines=(*result.baselines, row))
        yield result


def _calibrated(result: FitResult, progress: Progress) -> FitResult:
    """Measure the errors to expect, or note why that fails."""
    session = result.session.copy()
    try:
        session.calibrate(progress)
    except EnsembleError as error:
        return replace(result, uncalibrated=str(error))
    return replace(result, session=session)


def errors_of(result: FitResult) -> Errors:
    """The error images of the ensemble and of the best candidate; dask arrays if the ensemble is one."""
    request = result.request
    alone = [score for score in result.scores if score.role == "candidate"]
    best = max(range(len(alone)), key=lambda place: alone[place].held_out)
    levels = [(request.candidates, request.truth), *request.coarser]
    images = (result.combined, *result.combined.coarser)
    shown = [
        [difference(image, truth, request.rgb) for image, (_, truth) in zip(column, levels, strict=True)]
        for column in ([each.exact for each in images], [candidates[best] for candidates, _ in levels])
    ]
    middle = tuple(n // 2 for n in shown[0][0].shape[:-2])
    limit = max(float(np.nanpercentile(np.abs(np.asarray(each[0][middle])), 99.5)) for each in shown)
    return Errors(shown[0], shown[1], request.names[best], limit or 1.0)


def _with_metrics(result: FitResult, progress: Progress) -> FitResult:
    """Add SSIM, MS-SSIM and NRMSE, on the last two axes apart from colours, averaged over a few planes."""
    known, tables, scores = result.metrics_known, result.session.tables, []
    for number, score in enumerate(result.scores):
        progress(number, len(result.scores), "scoring SSIM")
        key, table = (score.role, score.name), tables.get(score.method)
        value = known.get(key) or mean_of_metrics(
            [_metrics_at(result, score, table, place) for place in result.ssim_planes]
        )
        if score.role != "method":
            known[key] = value
        scores.append(replace(score, ssim=value["ssim"], metrics=value))
    return replace(result, scores=tuple(scores))


def _metrics_at(
    result: FitResult, score: ScoreRow, table: WeightLUT | None, place: tuple[int, ...]
) -> dict[str, float]:
    request, peak = result.request, result.session.score_range.peak
    axis = -1 if request.colour_axis is not None else None
    parts = [_plane(request, candidate, place) for candidate in request.candidates]
    if table is not None:
        shown = table.apply(parts, "cpu", channel_axis=axis, check=False)
    elif score.role == "candidate":
        shown = parts[request.names.index(score.name)]
    else:
        shown = np.mean(parts, axis=0, dtype=np.float64)
    truth = _plane(request, request.truth, place)
    return {
        "ssim": ssim(truth, shown, peak, axis),
        "ms-ssim": ms_ssim(truth, shown, peak, axis),
        "nrmse": nrmse(truth, shown),
    }


def _plane(request: FitRequest, array: Any, place: tuple[int, ...]) -> np.ndarray:
    """One plane with its colours last."""
    axis = request.colour_axis
    if axis is not None:
        array = np.moveaxis(array, axis, -1)
    return np.asarray(array[place])


def better_than_chosen(scores: Sequence[ScoreRow], method: str) -> str:
    """Recommend the method or candidate that is better held out than the one shown; empty if none is.

    Examples
    --------
    >>> from napari_ensir.ensemble.scoring.score_table import ScoreRow
    >>> found = [ScoreRow("a", "candidate", held_out=41.0)]
    >>> found.append(ScoreRow("EM (paper)", "method", "em", held_out=43.27))
    >>> found.append(ScoreRow("Least squares", "method", "least-squares", held_out=46.19))
    >>> better_than_chosen(found, "em")
    'Least squares is better here: 46.19 dB held out, against 43.27 dB.'
    >>> better_than_chosen(found, "least-squares")
    ''
    """
    own = next((score.held_out for score in scores if score.method == method), np.nan)
    if np.isnan(own):
        sure = [f'"{score.name}"' for score in scores if score.best and score.method != method]
        return (
            f"The candidate {sure[0]} alone is significantly better here than the ensemble." if sure else ""
        )
    rivals = [s for s in scores if s.method != method and s.held_out > own + RELEVANT_GAIN]
    if not rivals:
        return ""
    best = max(rivals, key=lambda score: score.held_out)
    named = f'"{best.name}" alone' if best.role == "candidate" else best.name[:1].upper() + best.name[1:]
    return f"{named} is better here: {best.held_out:.2f} dB held out, against {own:.2f} dB."

"""Work of the Fit panel that runs in a thread: the fit of layers, and the images made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fit.scores import with_ssim
from napari_ensir.viewer.results.combining import (
    Combined,
    by_plane,
    combine,
    difference,
    is_large_stack,
    over_colours,
)
from napari_ensir.viewer.results.layers import Errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.score_table import ScoreRow
    from napari_ensir.settings import FitSettings
    from napari_ensir.viewer.fit.request import FitRequest

__all__ = [
    "FitResult",
    "calibrated",
    "errors_of",
    "expected_error",
    "expected_limits",
    "fit",
    "refit",
    "score_all",
    "score_held_out",
]

NOISY_SCORES = (
    "The ground truth is noisy, so only differences of errors are shown: mean squared error minus that of "
    "the candidates' average, on held-out parts."
)


@dataclass(frozen=True)
class FitResult:
    """A fit of layers.

    Attributes
    ----------
    request : FitRequest
        The layers, with the settings of this result.
    session : FitSession
        Statistics, and the table.
    combined : Combined
        The images to show.
    scores : tuple of ScoreRow
        Candidates, average, methods; the other methods once :func:`score_held_out` has added them.
    ssim_known : dict
        SSIM of the images that no setting changes, by role and name, once computed.
    uncalibrated : str
        Reason why calibration failed; empty if it did not fail or has not run.
    """

    request: FitRequest
    session: FitSession
    combined: Combined
    scores: tuple[ScoreRow, ...]
    ssim_known: dict[tuple[str, str], float] = field(default_factory=dict)
    uncalibrated: str = ""

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
    def held_out_in_words(self) -> str:
        """The pixels held out, the bins, and the kind of scores."""
        noise = self.request.settings.truth_noise
        bins = f"Bins {figures(self.lut.bin_width)} wide"
        bins += "." if noise == "unknown" else f"; the peak of PSNR is {self.session.score_range}."
        if noise is not None:
            bins = f"{NOISY_SCORES} {bins}"
        if self.session.unseen is not None:
            return f"{bins} All pixels outside the mask and the planes to learn from are held out."
        return (
            f"{bins} Each part of the images was held out in turn; its weights were learned "
            f"from the other parts."
        )

    @property
    def notes(self) -> list[str]:
        """Notes for the user, one sentence each, the most important first."""
        report, settings = self.lut.report, self.request.settings
        counts = self.lut.counts
        few = counts[counts < self.session.used.min_pixels].sum() / max(1, counts.sum())
        notes = [*report.get("warnings", ())]
        if choice := report.get("method_choice"):
            notes.append(f"Chosen: {choice['summary']}.")
        if settings.truth_noise is not None:
            notes.append(NOISY_SCORES)
        elif self.session.unseen is None:
            notes.append("PSNR on the pixels learned from is too optimistic; held-out PSNR is not.")
        else:
            notes.append(
                "PSNR on the pixels learned from is too optimistic; held-out PSNR is on all other pixels."
            )
        if report["not_finite"]:
            notes.append(f"{report['not_finite']:,} pixels were left out: NaN or infinite.")
        if few >= 0.0005 and "min_pixels" in METHODS[self.lut.method].uses:
            notes.append(f"{few:.1%} of the pixels lie in bin sets with too few pixels to learn from.")
        if self.uncalibrated:
            notes.append(f"No expected error: {self.uncalibrated}")
        return notes


def fit(request: FitRequest, progress: Progress | None = None) -> FitResult:
    """Read the pixels, estimate the table, combine the candidates.

    Raises
    ------
    EnsembleError
        If the images cannot be used.
    """
    settings = request.settings
    pairs, masks = request.seen()
    session = FitSession(
        pairs,
        request.names,
        mask=masks,
        settings=replace(settings, planes=None),  # the pairs are cut to them
        held_out=request.unseen(),
        input_names=[(*request.names, request.truth_name)],
    )
    if progress is not None:
        # The first fit of a process waits for imports and compilation before anything else is reported.
        progress(0, 1, "loading and compiling, once a session")
    session.estimate(progress)
    return _result(request, session, progress)


def refit(before: FitResult, settings: FitSettings, progress: Progress | None = None) -> FitResult:
    """Estimate a new table from the statistics kept, and combine the candidates by it.

    Held-out scores of the other methods and SSIM take longer: see :func:`score_held_out`, :func:`score_all`.
    """
    session = before.session.copy()
    session.estimate(progress, **replace(settings, planes=None).keywords())
    request = replace(before.request, settings=settings)
    return _result(request, session, progress, ssim_known=before.ssim_known)


def _result(request: FitRequest, session: FitSession, progress: Progress | None, **kept: Any) -> FitResult:
    assert session.lut is not None  # estimated by both callers
    combined = combine(session.lut, request.candidates, request.rgb, request.settings.device, progress)
    return FitResult(request, session, combined, session.score(all_methods=False), **kept)


def score_held_out(result: FitResult, progress: Progress | None = None) -> FitResult:
    """Score every method, on the pixels learned from and held out."""
    return replace(result, scores=result.session.score(progress))


def score_all(result: FitResult, progress: Progress | None = None) -> FitResult:
    """Add SSIM, which reads pixels; it is not defined against a noisy ground truth."""
    if result.request.settings.truth_noise is not None:
        return result
    tables, known = result.session.tables, result.ssim_known
    width = result.session.score_range.peak
    return replace(
        result, scores=tuple(with_ssim(result.scores, result.request, tables, width, known, progress))
    )


def calibrated(result: FitResult, progress: Progress | None = None) -> FitResult:
    """Measure the errors to expect, or note why that fails."""
    session = result.session.copy()
    try:
        session.calibrate(progress)
    except EnsembleError as error:
        return replace(result, uncalibrated=str(error))
    return replace(result, session=session)


def expected_error(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Any:
    """The expected root mean square error at each pixel; of a large stack a dask array.

    Returns
    -------
    float32 array of the candidates' shape
        Intensity units. The errors of an RGB image's colours are averaged as squares.

    Raises
    ------
    EnsembleError
        If the table was not calibrated, or the candidates do not fit it.
    """
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: where the table has it
    shape = tuple(candidates[0].shape)
    if lut.errors is not None and is_large_stack(shape, rgb):
        lut.field(candidates, axis)  # raises now what would else be raised when a plane is shown
        asked = lut.channel_axis if axis is None else axis
        channels = None if lut.n_channels == 1 or asked is None else asked % len(shape)
        return by_plane(
            lambda *parts: _pooled(lut.expected_error(parts, device, channel_axis=channels), rgb),
            candidates,
            np.dtype(np.float32),
            rgb=rgb,
            channel_axis=len(shape) - 1 if rgb else channels,
            drops_channels=rgb,
        )
    return _pooled(lut.expected_error(candidates, device, channel_axis=axis, progress=progress), rgb)


def _pooled(errors: Any, rgb: bool) -> NDArray[np.float32]:
    """Root mean square over the colours, if there are any."""
    if not rgb:
        return errors  # type: ignore[no-any-return]
    return (over_colours(errors**2) ** 0.5).astype(np.float32)  # type: ignore[no-any-return]


def expected_limits(lut: WeightLUT) -> tuple[float, float]:
    """From 0 to the largest error that the table expects, in intensity units."""
    errors = lut.errors
    if errors is None or not errors.counts.any():
        return (0.0, 1.0)
    return (0.0, float(errors.rmse[errors.counts > 0].max()))


def errors_of(result: FitResult) -> Errors:
    """The error images of the ensemble and of the best candidate; dask arrays if the ensemble is one."""
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

"""From layers to a fit and back, without a widget: what runs in the worker, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays import is_dask
from napari_ensir.ensemble.bins import choose_binning
from napari_ensir.ensemble.estimate import Settings
from napari_ensir.ensemble.fit import FOLDS, collect_reference, estimate_lut
from napari_ensir.ensemble.metrics import ssim
from napari_ensir.ensemble.validation import held_out_error, mean_squared_error, peak, psnr_of
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.layers import full_data, lies_on, never_placed, pixel_shape, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer

    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.fit import Reference
    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lut import WeightLUT

__all__ = [
    "Choices",
    "Combined",
    "FitRequest",
    "FitResult",
    "Score",
    "bins_for",
    "combine",
    "fit",
    "learning_mask",
    "refit",
    "score_fully",
]

MIN_PIXELS = Settings.min_pixels
"""Pixels that a bin set needs for an EM of its own."""

MAX_PLANES = 32
"""Most planes of a stack that SSIM is computed on."""


@dataclass(frozen=True)
class Choices:
    """What can change after a fit without reading pixels again.

    Attributes
    ----------
    method : str
    bin_width : float or None
        Intensity units; None: an eighth of the range.
    shrinkage : float
        Pixels; for least squares.
    device : str
    """

    method: str = "em"
    bin_width: float | None = None
    shrinkage: float = 1000.0
    device: str = "auto"


@dataclass(frozen=True)
class FitRequest:
    """Arrays of the layers chosen, taken on the main thread.

    Attributes
    ----------
    candidates : tuple of M arrays
    names : tuple of M str
    truth : array
    rgb : bool
        Whether the last axis is colour.
    choices : Choices
    mask : bool array of the spatial shape, or None
        Where to learn.
    """

    candidates: tuple[Any, ...]
    names: tuple[str, ...]
    truth: Any
    rgb: bool
    choices: Choices
    mask: Any = None

    @classmethod
    def of_layers(
        cls,
        candidates: Sequence[Layer],
        truth: Layer | None,
        choices: Choices,
        mask: Layer | None = None,
        planes: tuple[int, int] | None = None,
    ) -> FitRequest:
        """Take what is needed from the layers.

        Parameters
        ----------
        candidates, truth
            Image layers.
        choices : Choices
        mask
            A labels or shapes layer: learn where it is not empty.
        planes
            First and last place along the first axis to learn from.

        Raises
        ------
        EnsembleError
            If no candidate or no ground truth is chosen, a layer cannot join, or the mask does not fit.
        """
        if not candidates:
            raise EnsembleError("No candidate is ticked; tick the restorations to combine.")
        if truth is None:
            raise EnsembleError("No ground truth is chosen; choose the layer that shows the true image.")
        for layer in candidates:
            reason = why_not(layer, truth, truth)
            if reason:
                raise EnsembleError(
                    f'"{layer.name}" cannot be a candidate ({reason}); the ground truth "{truth.name}" has '
                    f"shape {pixel_shape(truth)}."
                )
        return cls(
            tuple(full_data(layer) for layer in candidates),
            tuple(layer.name for layer in candidates),
            full_data(truth),
            bool(truth.rgb),
            choices,
            learning_mask(truth, mask, planes),
        )

    @property
    def channel_axis(self) -> int | None:
        """Axis with a table per channel."""
        return -1 if self.rgb else None

    @property
    def is_lazy(self) -> bool:
        """Whether results should stay lazy, as the inputs are."""
        return any(is_dask(candidate) for candidate in self.candidates)


@dataclass(frozen=True)
class Score:
    """How close one image is to the ground truth.

    Attributes
    ----------
    name : str
    psnr : float
        dB, on the pixels fitted.
    held_out : float
        dB, on pixels that the weights were not learned from; NaN where they could not be held out.
    ssim : float
        NaN where it was not computed.
    """

    name: str
    psnr: float
    held_out: float
    ssim: float = float("nan")


@dataclass(frozen=True)
class Combined:
    """What a table makes of candidates: the images that become layers.

    Attributes
    ----------
    image : (*shape) array
        In the candidates' dtype for colour of whole numbers, which napari shows in no other; else float32.
    exact : (*shape) float32 array
        The ensemble unrounded.
    maps : (M, *spatial shape) float32 array
        Weights; the mean over the colours where there are any.
    """

    image: Any
    exact: Any
    maps: Any


@dataclass(frozen=True)
class FitResult:
    """All that a fit gives.

    Attributes
    ----------
    reference
        Statistics of the pixels learned from, in fine bins.
    unseen
        Statistics of the pixels outside the mask, if there was one: what was held out for good.
    """

    request: FitRequest
    reference: Reference
    unseen: Reference | None
    lut: WeightLUT
    combined: Combined
    scores: tuple[Score, ...]

    @property
    def notes(self) -> list[str]:
        """What the user should know about the pixels, one sentence each."""
        report = self.lut.report
        notes = []
        if report["not_finite"]:
            notes.append(f"{report['not_finite']:,} pixels were left out: NaN or infinite.")
        notes += report["warnings"]
        if self.unseen is None:
            notes.insert(
                0, "PSNR is on the pixels learned from and flatters the ensemble; held out does not."
            )
        else:
            notes.insert(0, "PSNR is on the pixels learned from and flatters; held out is on all the others.")
        counts = self.lut.counts
        few = counts[counts < MIN_PIXELS].sum() / max(1, counts.sum())
        if few > 0 and self.lut.method != "least-squares":
            notes.append(f"{few:.1%} of the pixels lie in bin sets too sparse to learn from.")
        return notes


def learning_mask(
    truth: Layer, mask: Layer | None, planes: tuple[int, int] | None
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Where to learn, as a bool array of the spatial shape; None: everywhere.

    Raises
    ------
    EnsembleError
        If the mask does not lie on the ground truth's pixels, or nothing or everything is left to learn from.
    """
    shape = pixel_shape(truth)[:-1] if truth.rgb else pixel_shape(truth)
    where = np.ones(shape, bool)
    if mask is not None:
        if isinstance(mask, Shapes):
            flat = mask.to_labels(labels_shape=shape[-2:]) if mask.ndim == 2 else mask.to_labels(shape)
        else:
            flat = np.asarray(full_data(mask))
        try:
            where = where & (np.asarray(flat) > 0)
        except ValueError:
            raise EnsembleError(
                f'the mask "{mask.name}" has shape {np.shape(flat)}, but the images have {shape}; '
                "draw it on these images."
            ) from None
        # Labels from a file that says nothing of pixel sizes go by their pixels. What was drawn in the viewer
        # has a place, and what one sees there should count.
        by_pixels = not isinstance(mask, Shapes) and np.shape(flat) == shape and never_placed(mask)
        if not by_pixels and not lies_on(mask, truth):
            raise EnsembleError(
                f'the mask "{mask.name}" does not lie on "{truth.name}"; give it the same scale, '
                "translation and rotation."
            )
    if planes is not None and len(shape) > 2:
        first, last = planes
        chosen = np.arange(shape[0])
        where = where & ((chosen >= first) & (chosen <= last)).reshape(-1, *[1] * (len(shape) - 1))
    if not where.any():
        raise EnsembleError("the mask is empty here; mark the pixels to learn from.")
    return None if where.all() else where


def fit(request: FitRequest, progress: Progress | None = None) -> FitResult:
    """Read the pixels, estimate the table, combine the candidates, score the result.

    Raises
    ------
    EnsembleError
        If the images cannot be used.
    """
    reference = _collect(request, request.mask, FOLDS, progress)
    unseen = None
    if request.mask is not None:
        unseen = _collect(request, ~request.mask, 1, progress, reference)
    result = refit(request, reference, unseen, request.choices, progress)
    return replace(result, scores=score_fully(result, progress))


def _collect(
    request: FitRequest,
    mask: Any,
    folds: int,
    progress: Progress | None,
    like: Reference | None = None,
) -> Reference:
    """Statistics in fine bins where the mask says; in those of ``like`` if given."""
    binning = like.statistics.binning if like is not None else None
    return collect_reference(
        [(request.candidates, request.truth)],
        request.names,
        bin_width=request.choices.bin_width if binning is None else binning.width,
        data_range=None if binning is None else (binning.low, binning.high),
        channel_axis=request.channel_axis,
        mask=None if mask is None else [mask],
        device=request.choices.device,
        progress=progress,
        refine=None if binning is None else 1,
        folds=folds,
    )


def bins_for(reference: Reference, bin_width: float | None) -> Binning:
    """The bins that can be made of those kept and come nearest to a wanted width."""
    fine = reference.statistics.binning
    if bin_width is None:
        kind = np.int64 if fine.integer else np.float64
        bin_width = choose_binning(kind, (fine.low, fine.high)).width
    return fine.coarsened(max(1, round(bin_width / fine.width)))


def refit(
    request: FitRequest,
    reference: Reference,
    unseen: Reference | None,
    choices: Choices,
    progress: Progress | None = None,
) -> FitResult:
    """A new table, its images and its scores from the statistics kept.

    What takes longer than a moment, SSIM and cross-validation, is left to :func:`score_fully`.
    """
    binning = bins_for(reference, choices.bin_width)
    settings = Settings(shrinkage=choices.shrinkage, device=resolve_device(choices.device))
    lut = estimate_lut(reference, choices.method, settings, binning=binning, progress=progress)
    combined = combine(lut, request.candidates, request.rgb, choices.device, progress)
    seen = reference.statistics.in_bins(binning)
    apart = None if unseen is None else unseen.statistics.in_bins(binning)
    m = lut.n_candidates
    scores = []
    for name, weights in [*zip(lut.names, np.eye(m), strict=True), ("average", np.full(m, 1 / m))]:
        alone = psnr_of(mean_squared_error(seen, weights), binning)
        held_out = alone if apart is None else psnr_of(mean_squared_error(apart, weights), binning)
        scores.append(Score(name, alone, held_out))
    held_out = float("nan") if apart is None else psnr_of(mean_squared_error(apart, lut), binning)
    scores.append(Score("ensemble", psnr_of(mean_squared_error(seen, lut), binning), held_out))
    request = replace(request, choices=choices)
    return FitResult(request, reference, unseen, lut, combined, tuple(scores))


def combine(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Combined:
    """Ensemble and weight maps as they go into layers; lazy where the candidates are."""
    axis = -1 if rgb and lut.n_channels > 1 else None
    exact = lut.apply(candidates, device, channel_axis=axis, progress=progress)
    maps = lut.weight_maps(candidates, device, channel_axis=axis, progress=progress)
    if rgb:
        maps = maps.mean(axis=-1)
    image = exact
    dtype = np.dtype(candidates[0].dtype)
    if rgb and dtype.kind in "iu":
        image = np.rint(exact).astype(dtype)  # within the candidates' range, so within the dtype's
    return Combined(image, exact, maps)


def score_fully(result: FitResult, progress: Progress | None) -> tuple[Score, ...]:
    """All scores of a result, with SSIM, and the ensemble's on parts held out in turn if nothing else was."""
    scores = list(result.scores)
    if result.unseen is None:
        choices, binning = result.request.choices, result.lut.binning
        settings = Settings(shrinkage=choices.shrinkage, device=resolve_device(choices.device))
        try:
            error = held_out_error(result.reference, choices.method, settings, binning, progress)
            scores[-1] = replace(scores[-1], held_out=psnr_of(error, binning))
        except EnsembleError:  # too few places to hold any out: the score stays unknown
            pass
    return _with_ssim(replace(result, scores=tuple(scores)), progress)


def _with_ssim(result: FitResult, progress: Progress | None) -> tuple[Score, ...]:
    """Add SSIM: on the two last spatial axes, averaged over up to 32 planes evenly spaced."""
    request = result.request
    data_range = peak(result.lut.binning)
    images = [*request.candidates, None, result.combined.exact]
    scored = []
    for number, (score, image) in enumerate(zip(result.scores, images, strict=True)):
        values = []
        for plane in _planes(request.truth.shape, request.rgb):
            if progress is not None:
                progress(number, len(images), "scoring")
            if image is None:
                parts = [np.asarray(candidate[plane], np.float64) for candidate in request.candidates]
                shown = np.mean(parts, axis=0)
            else:
                shown = np.asarray(image[plane], np.float64)
            truth = np.asarray(request.truth[plane], np.float64)
            values.append(ssim(truth, shown, data_range, request.channel_axis))
        scored.append(replace(score, ssim=float(np.mean(values))))
    return tuple(scored)


def _planes(shape: tuple[int, ...], rgb: bool) -> list[tuple[int, ...]]:
    leading = shape[: -3 if rgb else -2]
    n = prod(leading)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MAX_PLANES)).astype(int))
    return [tuple(int(i) for i in np.unravel_index(place, leading)) if leading else () for place in chosen]

"""From layers to a fit and back, without a widget: what runs in the worker, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays import is_dask
from napari_ensir.ensemble.bins import choose_binning
from napari_ensir.ensemble.estimate import Settings
from napari_ensir.ensemble.fit import collect_reference, estimate_lut
from napari_ensir.ensemble.metrics import ssim
from napari_ensir.ensemble.validation import held_out_error, mean_squared_error, peak, psnr_of
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.layers import full_data, pixel_shape, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer

    from napari_ensir.ensemble.fit import Reference
    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["Choices", "Combined", "FitRequest", "FitResult", "Score", "combine", "fit", "refit"]

FOLDS = 4
"""Parts of the images that are held out in turn."""

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
    """

    candidates: tuple[Any, ...]
    names: tuple[str, ...]
    truth: Any
    rgb: bool
    choices: Choices

    @classmethod
    def of_layers(cls, candidates: Sequence[Layer], truth: Layer | None, choices: Choices) -> FitRequest:
        """Take what is needed from the layers.

        Raises
        ------
        EnsembleError
            If no candidate or no ground truth is chosen, or a layer cannot join.
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
    """All that a fit gives."""

    request: FitRequest
    reference: Reference
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
        few = sum(count < 100 for count in self.lut.counts)
        if few and self.lut.method != "least-squares":
            notes.append(
                f"{few:,} of {len(self.lut.counts):,} bin sets have under 100 pixels: average weights."
            )
        return notes


def fit(request: FitRequest, progress: Progress | None = None) -> FitResult:
    """Read the pixels, estimate the table, combine the candidates, score the result.

    Raises
    ------
    EnsembleError
        If the images cannot be used.
    """
    choices = request.choices
    reference = collect_reference(
        [(request.candidates, request.truth)],
        request.names,
        bin_width=choices.bin_width,
        channel_axis=request.channel_axis,
        device=choices.device,
        progress=progress,
        refine=None,
        folds=FOLDS,
    )
    result = refit(request, reference, choices, progress)
    scores = _with_ssim(result, progress)
    return replace(result, scores=scores)


def refit(
    request: FitRequest, reference: Reference, choices: Choices, progress: Progress | None = None
) -> FitResult:
    """A new table and its images from the statistics kept; SSIM is left out."""
    request = replace(request, choices=choices)
    fine = reference.statistics.binning
    default = choose_binning(np.int64 if fine.integer else np.float64, (fine.low, fine.high))
    wanted = default.width if choices.bin_width is None else choices.bin_width
    binning = fine.coarsened(max(1, round(wanted / fine.width)))
    settings = Settings(shrinkage=choices.shrinkage, device=resolve_device(choices.device))
    lut = estimate_lut(reference, choices.method, settings, binning=binning, progress=progress)
    combined = combine(lut, request.candidates, request.rgb, choices.device, progress)
    statistics = reference.statistics.in_bins(binning)
    try:
        held_out = psnr_of(held_out_error(reference, choices.method, settings, binning), binning)
    except EnsembleError:  # too few places to hold any out
        held_out = float("nan")
    m = lut.n_candidates
    scores = []
    for name, weights in [*zip(lut.names, np.eye(m), strict=True), ("average", np.full(m, 1 / m))]:
        alone = psnr_of(mean_squared_error(statistics, weights), binning)
        scores.append(Score(name, alone, alone))
    scores.append(Score("ensemble", psnr_of(mean_squared_error(statistics, lut), binning), held_out))
    return FitResult(request, reference, lut, combined, tuple(scores))


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

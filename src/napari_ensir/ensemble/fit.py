"""Reference set to lookup table: the way through, in one function and in its two halves.

The halves are :func:`collect_reference`, which reads pixels, and :func:`estimate_lut`, which does not: a
widget keeps the first's result and calls the second whenever a control moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.bins import Binning, choose_binning
from napari_ensir.ensemble.collect import DENSE_SUMS, collect
from napari_ensir.ensemble.estimate import OUTCOMES, Settings, find_method
from napari_ensir.ensemble.inputs import check_names, check_prior
from napari_ensir.ensemble.lut import WeightLUT
from napari_ensir.ensemble.reference_set import ReferenceSet
from napari_ensir.ensemble.statistics import merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.inputs import Field, Progress
    from napari_ensir.ensemble.statistics import Statistics

FOLDS = 4
"""Parts that are held out in turn where something is chosen by cross-validation."""

__all__ = ["FOLDS", "Reference", "collect_reference", "estimate_lut", "fit_lut"]


@dataclass(frozen=True)
class Reference:
    """What was learned of a reference set before any weight was estimated.

    Attributes
    ----------
    statistics : Statistics
    names : tuple of str
    channel_axis : int or None
        Counted from the end if it was the last axis, so that the table serves stacks of such images.
    range_from : "given", "dtype" or "data"
        Where the data range came from.
    n_images : int
    folds : tuple of Statistics
        The same pixels in parts, to hold some out; empty if collected in one piece.
    """

    statistics: Statistics
    names: tuple[str, ...]
    channel_axis: int | None
    range_from: str
    n_images: int
    folds: tuple[Statistics, ...] = ()


def fit_lut(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    method: str = "em",
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    prior: Sequence[float] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    *,
    shrinkage: float | Literal["auto"] = 1000.0,
    max_iterations: int | None = None,
) -> WeightLUT:
    """Learn from images with ground truth how far to trust each candidate at each intensity.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        ``candidates``: M arrays of the truth's shape (numpy, torch, dask, or anything that can be sliced; an
        integer or float dtype; any number of dimensions). Images may differ in shape.
    names : M strings, optional
        One per candidate, kept in the table.
    method : "em", "em-released" or "least-squares"
        The EnsIR paper's EM, its authors' code's, or least squares on the simplex.
    bin_width : float or "auto", optional
        In intensity units; None: an eighth of the data range (32 for 8 bit); ``"auto"``: what does best on
        parts of the reference set held out in turn, judged from statistics of one pass.
    data_range : (low, high), optional
        None: the dtype's for 8 bit, else what the data shows; the report says which.
    channel_axis : int, optional
        One table per channel along it; None: channels pooled.
    prior : M weights, optional
        Where EM starts, and its answer where a bin set has too few pixels. Scaled to a sum of one.
    mask : sequence of arrays, one per image, optional
        Where to learn: bool, of the truth's shape, the channel axis left out or not; None: everywhere.
    device : str or torch.device
        ``"auto"``: CUDA, else MPS, else CPU.
    progress
        Called with (done, total, text); what it raises stops the work and passes through.
    shrinkage : float or "auto"
        For least squares: pixels' worth of trust in the global solution; ``"auto"``: chosen as the bin
        width is.
    max_iterations : int, optional
        For EM: its limit, if it is to differ from the method's own.

    Returns
    -------
    WeightLUT

    Raises
    ------
    EnsembleError
        If the images cannot be used, or nothing is left to learn from.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> lut = fit_lut([(noisy, truth)], names=("good", "poor"), method="least-squares", device="cpu")
    >>> int(lut.weights_for((100, 100)).argmax())
    0
    """
    find_method(method)
    if isinstance(bin_width, str) and bin_width != "auto":
        raise EnsembleError(f'bin_width is {bin_width!r}; use a number of intensity units, None or "auto".')
    if isinstance(shrinkage, str) and shrinkage != "auto":
        raise EnsembleError(f'shrinkage is {shrinkage!r}; use a number of pixels or "auto".')
    choosing = "auto" in (bin_width, shrinkage)
    collected = collect_reference(
        reference,
        names,
        bin_width=None if bin_width == "auto" else bin_width,
        data_range=data_range,
        channel_axis=channel_axis,
        mask=mask,
        device=device,
        progress=progress,
        refine=None if bin_width == "auto" else 1,
        folds=FOLDS if choosing else 1,
    )
    settings = Settings(
        prior=check_prior(prior, len(collected.names)),
        shrinkage=1000.0 if shrinkage == "auto" else shrinkage,
        max_iterations=max_iterations,
        device=resolve_device(device),
    )
    if not choosing:
        return estimate_lut(collected, method, settings, progress=progress)
    from napari_ensir.ensemble.validation import choose_bins

    choice = choose_bins(
        collected,
        method,
        settings,
        factors=(1, 2, 4, 8, 16) if bin_width == "auto" else (1,),
        shrinkages=(100.0, 1000.0, 10000.0) if shrinkage == "auto" else (settings.shrinkage,),
        progress=progress,
    )
    return estimate_lut(collected, method, choice.settings, binning=choice.binning, progress=progress)


def collect_reference(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    *,
    bin_width: float | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    refine: int | None = 1,
    folds: int = 1,
) -> Reference:
    """Read a reference set's pixels, once, into statistics.

    Parameters
    ----------
    reference, names, bin_width, data_range, channel_axis, mask, device, progress
        As for :func:`fit_lut`.
    refine : int, optional
        Collect in bins this many times as narrow as ``bin_width``, for coarser ones to be made of later;
        None: as narrow as is cheap.
    folds : int
        Keep the statistics in this many parts as well: of whole images where there are enough, else of bands
        of each image.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or no pixel is left.
    """
    fields = ReferenceSet(reference, names, channel_axis, mask, data_range)
    first = fields.first
    checked = check_names(names, len(first.candidates))
    low_high, range_from = fields.data_range(progress)
    binning = choose_binning(first.pixel_type, low_high, bin_width)
    if refine is None:
        refine = finest_cheap(binning, len(checked), first.n_channels)
    if refine > 1:
        binning = binning.refined(refine)
    parts = [fields] if folds == 1 else _in_folds(list(fields), folds)
    total, before = fields.n_pixels, 0
    collected = []
    for part in parts:
        report = None if progress is None else _offset(progress, before, total)
        collected.append(
            collect(part, binning, len(checked), first.n_channels, resolve_device(device), report, total)
        )
        before += collected[-1].n_pixels + collected[-1].not_finite
    statistics = merge(collected)
    if statistics.n_pixels == 0:
        raise EnsembleError(
            f"no pixel is left to learn from: {statistics.not_finite} are NaN or infinite in a candidate or "
            "the ground truth, the rest lie outside the mask."
        )
    axis = first.channel_axis
    if axis is not None and axis == len(first.shape) - 1:
        axis = -1
    kept = tuple(collected) if folds > 1 else ()
    return Reference(statistics, checked, axis, range_from, fields.n_read, kept)


def finest_cheap(binning: Binning, n_candidates: int, n_channels: int) -> int:
    """How many times narrower bins can be with all sums still in one table."""
    for factor in (4, 2):
        if binning.sublevels % factor == 0:
            rows = binning.refined(factor).n_bins ** n_candidates * n_channels
            if rows * n_moments(n_candidates) <= DENSE_SUMS:
                return factor
    return 1


def _offset(progress: Progress, before: int, total: int | None) -> Progress:
    return lambda done, _, text: progress(before + done, max(before + done, total or 0), text)


def _in_folds(fields: list[Field], n: int) -> list[list[Field]]:
    """Deal out whole images where there are enough, else bands of each along its longest axis."""
    if len(fields) >= n:
        return [fields[start::n] for start in range(n)]
    folds: list[list[Field]] = [[] for _ in range(n)]
    for field in fields:
        for fold, band in zip(folds, field.bands(n), strict=False):
            fold.append(band)
    return folds


def estimate_lut(
    reference: Reference,
    method: str = "em",
    settings: Settings | None = None,
    *,
    binning: Binning | None = None,
    progress: Progress | None = None,
) -> WeightLUT:
    """Weights from statistics, by any method and in any bins that those collected fit into.

    Parameters
    ----------
    reference : Reference
    method : str
        A key of :data:`~napari_ensir.ensemble.estimate.METHODS`.
    settings : Settings, optional
    binning : Binning, optional
        Coarser bins of the same range; None: as collected.

    Raises
    ------
    EnsembleError
        If there is no such method, or the bins do not fit.
    """
    settings = settings or Settings()
    if settings.max_iterations is not None and settings.max_iterations < 1:
        raise EnsembleError(f"max_iterations is {settings.max_iterations}; it must be 1 or more.")
    estimator = find_method(method).load()
    statistics = reference.statistics if binning is None else reference.statistics.in_bins(binning)
    estimate = estimator(statistics, settings, progress)
    counts = statistics.counts
    report = {
        "pixels": statistics.n_pixels,
        "images": reference.n_images,
        "bin_sets": len(counts),
        "statistics_bytes": statistics.nbytes,
        "data_range_from": reference.range_from,
        "not_finite": statistics.not_finite,
        "outside_range": [int(n) for n in statistics.outside],
        "outcomes": {text: int((estimate.outcome == code).sum()) for code, text in enumerate(OUTCOMES)},
        "iterations": [int(n) for n in estimate.iterations],
        "outcome": [int(code) for code in estimate.outcome],
    }
    return WeightLUT(
        reference.names,
        method,
        statistics.binning,
        statistics.rows,
        estimate.weights,
        counts,
        estimate.fallback,
        estimate.unseen,
        reference.channel_axis,
        report,
    )

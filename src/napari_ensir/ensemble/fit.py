"""Reference set to lookup table: the way through, in one function and in its two halves.

The halves are :func:`collect_reference`, which reads pixels, and :func:`estimate_lut`, which does not: a
widget keeps the first's result and calls the second whenever a control moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays import block_slices, dtype_of, read_block, working_dtype
from napari_ensir.ensemble.bins import Binning, choose_binning
from napari_ensir.ensemble.collect import DENSE_SUMS, collect
from napari_ensir.ensemble.distributed import has_chunks, range_of_chunks
from napari_ensir.ensemble.estimate import OUTCOMES, Settings, find_method
from napari_ensir.ensemble.inputs import Field, check_names, check_prior, make_field
from napari_ensir.ensemble.lut import WeightLUT
from napari_ensir.ensemble.statistics import merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from napari_ensir.ensemble.inputs import Progress
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
        In intensity units; None: an eighth of the data range (32 for 8 bit); ``"auto"``: what does best on parts
        of the reference set held out in turn, judged from statistics of one pass.
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
        For least squares: pixels' worth of trust in the global solution; ``"auto"``: chosen as the bin width is.
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
        Collect in bins this many times as narrow as ``bin_width``, for coarser ones to be made of later; None:
        as narrow as is cheap.
    folds : int
        Keep the statistics in this many parts as well: of whole images where there are enough, else of bands
        of each image.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or no pixel is left.
    """
    fields = _Fields(reference, names, channel_axis, mask, data_range)
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


class _Fields:
    """The images of a reference set, checked one by one as they are read.

    A sequence can be read twice, once for the range that it shows and once for its statistics. Anything else
    is read as it comes where the range is known beforehand, else kept.
    """

    def __init__(
        self,
        reference: Iterable[tuple[Sequence[Any], Any]],
        names: Sequence[str] | None,
        channel_axis: int | None,
        mask: Sequence[Any] | None,
        data_range: tuple[float, float] | None,
    ) -> None:
        self.names, self.channel_axis, self.mask, self.given_range = names, channel_axis, mask, data_range
        self.n_read = 0
        self.pairs: Iterable[tuple[Sequence[Any], Any]]
        if isinstance(reference, Sequence):
            self.pairs = reference
        else:
            try:
                source = iter(reference)
            except TypeError:
                raise EnsembleError(
                    f"the reference set is {reference!r}; give pairs (candidates, ground truth)."
                ) from None
            head = list(_take(source, 1))
            known = data_range is not None or (head and _limits(self._field(0, head[0])) is not None)
            self.pairs = _Chain(head, source) if known else [*head, *source]
        first = next(iter(self.pairs), None)
        if first is None:
            raise EnsembleError("the reference set is empty; give at least one image with ground truth.")
        self.first = self._field(0, first)
        if isinstance(self.pairs, Sequence) and mask is not None and len(mask) != len(self.pairs):
            raise EnsembleError(
                f"there are {len(mask)} masks but {len(self.pairs)} images; "
                "give one mask (or None) per image."
            )

    @property
    def n_pixels(self) -> int | None:
        """Pixels of all images, where they can be counted beforehand."""
        if isinstance(self.pairs, Sequence):
            return sum(prod(self._field(number, pair).shape) for number, pair in enumerate(self.pairs))
        return None

    def __iter__(self) -> Iterator[Field]:
        for number, pair in enumerate(self.pairs):
            self.n_read = number + 1
            field = self._field(number, pair)
            first = self.first
            if len(field.candidates) != len(first.candidates):
                raise EnsembleError(
                    f"image {number + 1} has {len(field.candidates)} candidates, but image 1 has "
                    f"{len(first.candidates)}; every image needs one of each."
                )
            if (field.dtype, field.pixel_type) != (first.dtype, first.pixel_type):
                raise EnsembleError(
                    f"image {number + 1} has pixels of dtype {field.dtype}, but image 1 of {first.dtype}; "
                    "convert them to one dtype, so that intensities mean the same."
                )
            if field.n_channels != first.n_channels:
                raise EnsembleError(
                    f"image {number + 1} has {field.n_channels} channels, but image 1 has "
                    f"{first.n_channels}; every image needs the same channels."
                )
            yield field

    def _field(self, number: int, pair: tuple[Sequence[Any], Any]) -> Field:
        try:
            candidates, truth = pair
        except (TypeError, ValueError):
            raise EnsembleError(
                f"image {number + 1} of the reference set is no pair; give (candidates, ground truth)."
            ) from None
        mask = None
        if self.mask is not None:
            if number >= len(self.mask):
                raise EnsembleError(
                    f"there are {len(self.mask)} masks but more images; give one mask (or None) per image."
                )
            mask = self.mask[number]
        return make_field(
            candidates,
            truth,
            names=self.names,
            channel_axis=self.channel_axis,
            mask=mask,
            place=f"image {number + 1}: ",
        )

    def data_range(self, progress: Progress | None) -> tuple[tuple[float, float], str]:
        """The range to bin, and where it came from."""
        if self.given_range is not None:
            return self.given_range, "given"
        limits = _limits(self.first)
        if limits is not None:
            return limits, "dtype"
        low, high = np.inf, -np.inf
        for field in self:
            shown = _shown_range(field, self.names, progress)
            low, high = min(low, shown[0]), max(high, shown[1])
        if not np.isfinite([low, high]).all():
            raise EnsembleError("every pixel is NaN or infinite; there is nothing to learn from.")
        if low == high:
            raise EnsembleError(
                f"every pixel of every image is {low:g}; there is nothing to learn from constant images."
            )
        return (low, high), "data"


def _limits(field: Field) -> tuple[float, float] | None:
    """The range of the images' dtype, if it is of 8 bit."""
    common = np.result_type(*(dtype_of(array) for array in field.arrays))
    if common.itemsize > 1:
        return None
    limits = np.iinfo(common)
    return float(limits.min), float(limits.max)


class _Chain:
    """What was looked at already, then the rest: an iterable that is read once after its first item."""

    def __init__(self, head: list[Any], rest: Iterator[Any]) -> None:
        self.head, self.rest = head, rest

    def __iter__(self) -> Iterator[Any]:
        yield from self.head
        yield from self.rest


def _take(source: Iterator[Any], n: int) -> Iterator[Any]:
    for _, item in zip(range(n), source, strict=False):
        yield item


def _shown_range(field: Field, names: Sequence[str] | None, progress: Progress | None) -> tuple[float, float]:
    """Least and greatest finite intensity in candidates and truth."""

    def report(pixels: int) -> None:
        if progress is not None:
            progress(0, 1, "looking at the data range")

    if has_chunks(field):
        return range_of_chunks(field, report)
    low, high = np.inf, -np.inf
    for array in field.arrays:
        dtype = working_dtype([dtype_of(array)])
        for slices in block_slices(field.shape, 2**22):
            block = read_block(array, slices, dtype)
            if dtype.kind == "f":
                block = block[np.isfinite(block)]
            if block.size:
                low, high = min(low, float(block.min())), max(high, float(block.max()))
            report(block.size)
    return low, high


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

"""A reference set's pixels, read once, into what every later step starts from. Estimates nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.bins import Binning, choose_binning
from napari_ensir.ensemble.collect import collect
from napari_ensir.ensemble.counting import DENSE_SUMS
from napari_ensir.ensemble.inputs import check_names
from napari_ensir.ensemble.provenance import Inputs
from napari_ensir.ensemble.reference_set import ReferenceSet
from napari_ensir.ensemble.statistics import merge, n_moments
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.statistics import Statistics

__all__ = ["Reference", "collect_reference"]


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
    inputs : dict
        What was read; see :class:`~napari_ensir.ensemble.provenance.Inputs`.
    folds : tuple of Statistics
        The same pixels in parts, to hold some out; empty if collected in one piece.
    """

    statistics: Statistics
    names: tuple[str, ...]
    channel_axis: int | None
    range_from: str
    n_images: int
    inputs: dict[str, Any] = field(default_factory=dict)
    folds: tuple[Statistics, ...] = ()


def collect_reference(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    *,
    bin_width: float | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    planes: tuple[int, int] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    refine: int | None = 1,
    folds: int = 1,
    noisy_truth: bool = False,
    hash_inputs: bool = False,
) -> Reference:
    """Read a reference set's pixels, once, into statistics.

    Parameters
    ----------
    reference, names, bin_width, data_range, channel_axis, planes, mask, device, progress
        As for :func:`fit_lut`.
    refine : int, optional
        Collect in bins this many times as narrow as ``bin_width``, for coarser ones to be made of later;
        None: as narrow as is cheap.
    folds : int
        Keep the statistics in this many parts as well: of whole images where there are enough, else of bands
        of each image.
    noisy_truth : bool
        Look for the data range in the candidates alone: noise makes the truth's wider.
    hash_inputs
        Keep a hash of every image's content, whatever its size.

    Returns
    -------
    Reference
        Its ``statistics`` are what every method works from.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or no pixel is left.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collect_reference([(noisy, truth)], device="cpu").statistics.n_pixels
    4096
    """
    inputs = Inputs(hash_inputs)
    fields = ReferenceSet(reference, names, channel_axis, mask, data_range, planes, noisy_truth, inputs)
    first = fields.first
    checked = check_names(names, len(first.candidates))
    low_high, range_from = fields.data_range(progress)
    binning = choose_binning(first.pixel_type, low_high, bin_width)
    if refine is None:
        refine = finest_cheap(binning, len(checked), first.n_channels)
    if refine > 1:
        binning = binning.refined(refine)
    parts = [fields] if folds == 1 else fields.folds(folds)
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
    return Reference(statistics, checked, axis, range_from, fields.n_read, inputs.to_dict(), kept)


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

"""A table's method on a reference set, in parts that are held out in turn: how far off it is. Makes no table.

reference set --parts--> statistics --the others'--> weights --the part's pixels--> errors, mean errors
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, repeat
from math import ceil
from typing import TYPE_CHECKING, Any

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.combine.folds import lookup_without
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.statistics.collect import collect
from napari_ensir.ensemble.uncertainty.bias import BiasSums, fidelity_report
from napari_ensir.ensemble.uncertainty.error_table import ErrorTable, with_best_trust
from napari_ensir.ensemble.uncertainty.measure import measure
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.statistics.reference import ReferenceSet
    from napari_ensir.ensemble.statistics.statistics import Statistics

__all__ = ["calibrate", "noise_in"]

FOLDS = 4
"""Parts that are held out in turn."""

ENOUGH_IMAGES = 8
"""Images that a standard error is taken over; of fewer, blocks, :data:`BLOCKS` of them or a few more."""

BLOCKS = 16

GROUPS = 64
"""Images beyond so many are put together in groups, which are counted one by one."""


@dataclass(frozen=True)
class _Both:
    """Errors by intensity and spread, and mean errors by intensity: counted together, in one pass."""

    errors: ErrorTable
    biases: BiasSums

    def counted(self, ensemble: NDArray[np.float32], field: Field, keep: NDArray[np.bool_] | None) -> _Both:
        """See :class:`~napari_ensir.ensemble.uncertainty.measure.Sums`."""
        return _Both(self.errors.counted(ensemble, field, keep), self.biases.counted(ensemble, field, keep))

    def __add__(self, other: _Both) -> _Both:
        return _Both(self.errors + other.errors, self.biases + other.biases)


def calibrate(
    lookup: Lookup,
    fields: ReferenceSet,
    method: str,
    settings: Settings,
    noise: float = 0.0,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    folds: Sequence[Statistics] = (),
) -> tuple[ErrorTable, dict[str, Any]]:
    """Errors of a method on each part of a reference set, by a table that did not learn from that part.

    Parameters
    ----------
    lookup
        The table's own; used as it is where its method is none of ours, so that it cannot be learned anew.
    fields
        The reference set.
    method, settings
        What the table was learned by.
    noise
        Standard deviation of the noise in the ground truth.
    device, progress
        As for :func:`napari_ensir.fit_lut`.
    folds : FOLDS of Statistics, optional
        Of the parts of the set, in bins that the table's can be put together from; else they are collected.

    Returns
    -------
    errors : ErrorTable
    told : dict
        For the table's report: ``"held_out"``, what the errors are of, and the error over all pixels;
        ``"fidelity"``, mean errors by intensity, see :mod:`napari_ensir.ensemble.uncertainty.bias`;
        ``"warnings"``.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or no pixel is left.
    """
    binning = lookup.binning
    channels = (binning.low, binning.high, lookup.n_channels)
    empty = _Both(ErrorTable.empty(*channels, noise), BiasSums.empty(*channels, lookup.n_candidates))
    parts = fields.folds(FOLDS)
    lookups: Iterable[Lookup] = repeat(lookup)
    if method in METHODS:
        learned = [fold.in_bins(binning) for fold in folds] or [
            collect(part, binning, lookup.n_candidates, lookup.n_channels, resolve_device(device), progress)
            for part in parts
        ]
        # One by one, as the parts are measured.
        lookups = (lookup_without(number, learned, method, settings) for number in range(len(learned)))
    measured, groups, over = _measured(parts, lookups, fields, empty, device, progress)
    table = with_best_trust(measured)
    if not table.counts.any():
        raise EnsembleError(
            "no pixel is left to measure errors on; all are NaN, infinite or outside the mask."
        )
    return table, {
        "held_out": {"kind": _held_out_kind(method), "rmse": table.overall},
        "fidelity": fidelity_report(groups, over, noise),
        "warnings": _doubts(table),
    }


def _measured(
    parts: Sequence[Iterable[Field]],
    lookups: Iterable[Lookup],
    fields: ReferenceSet,
    empty: _Both,
    device: str | torch.device,
    progress: Progress | None,
) -> tuple[list[ErrorTable], list[BiasSums], str]:
    """Errors of each part by its lookup; mean errors in groups over all parts, and what the groups are of."""
    total, done = fields.n_pixels, 0

    def report(pixels: int) -> None:
        nonlocal done
        done += pixels
        if progress is not None:
            progress(done, max(done, total or 0), "measuring errors")

    n_images = fields.n_images or 0
    enough = n_images >= ENOUGH_IMAGES
    per_field = 1 if enough else ceil(BLOCKS / max(n_images, FOLDS))
    groups = [empty.biases] * (GROUPS if enough else max(n_images, 1) * BLOCKS)
    numbers, measured = cycle(range(len(groups))), []
    for part, lookup in zip(parts, lookups, strict=False):
        errors = empty.errors
        for field in part:
            for band in field.bands(per_field):
                found = measure([band], lookup, empty, device, report)
                number = next(numbers)
                errors, groups[number] = errors + found.errors, groups[number] + found.biases
        measured.append(errors)
    return measured, groups, "images" if enough else "blocks of the images"


def _held_out_kind(method: str) -> str:
    if method in METHODS:
        return f"{FOLDS} parts of the reference set, each by weights learned from the others"
    return "the reference set, by the table as it is"


def _doubts(errors: ErrorTable) -> list[str]:
    """A sentence where the truth's noise was not what was told, at some intensities."""
    if errors.quieter is None:
        return []
    low, high = errors.quieter
    return [
        f"where the ensemble is between {low:.4g} and {high:.4g}, the noise of the ground truth is less than "
        f"the {errors.noise:.4g} told, and errors to expect are too low. Noise of photons, which grows with "
        "intensity, has no single standard deviation."
    ]


def noise_in(report: Mapping[str, Any]) -> float:
    """The standard deviation of the noise that the ground truth carried, as a table's report keeps it.

    Raises
    ------
    EnsembleError
        If there was noise and nobody said how much: it cannot be told from the ensemble's error.
    """
    noise = report.get("truth_noise")
    if noise is None:
        return 0.0
    if isinstance(noise, (int, float)) and not isinstance(noise, bool) and 0 <= noise < float("inf"):
        return float(noise)
    raise EnsembleError(
        "the ground truth carried noise of a size not known, which cannot be told from the ensemble's error; "
        "give truth_noise as a number, or images that are clean."
    )

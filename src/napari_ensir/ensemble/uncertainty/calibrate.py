"""Calibration: errors of a method on parts of a reference set that its weights were not learned from."""

from __future__ import annotations

from itertools import cycle, repeat
from math import ceil
from typing import TYPE_CHECKING, Any

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.parallel import running_progress
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose
from napari_ensir.ensemble.combine.folds import estimate_held_out_lookup
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.statistics.count import collect
from napari_ensir.ensemble.uncertainty.bias import bias_report
from napari_ensir.ensemble.uncertainty.error_table import (
    ErrorSums,
    ErrorTable,
    estimate_error_factor,
    fit_error_table,
    measure,
)
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.statistics.reference import ReferenceSet
    from napari_ensir.ensemble.statistics.statistics import Statistics

FOLDS = 4
"""Parts that are held out in turn."""

ENOUGH_IMAGES = 8
"""From this many images on, standard errors are taken over images, else over blocks of them."""

BLOCKS = 16
"""Least number of blocks to take a standard error over."""

GROUPS = 64
"""Most groups to take a standard error over, and most images to leave out for the error factor."""


def calibrate(
    lookup: Lookup,
    fields: ReferenceSet,
    method: str,
    settings: Settings,
    noise: float = 0.0,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    folds: Sequence[Statistics] = (),
) -> tuple[ErrorTable, dict[str, Any], list[Diagnostic]]:
    """Measure a method's errors on each part of a reference set with weights learned from the other parts.

    Parameters
    ----------
    lookup
        Weights of the table itself; used for all parts if the method is not in ``METHODS``, as the weights
        cannot be learned again.
    fields
        The reference set.
    method, settings
        What the table was learned by.
    noise
        Standard deviation of the noise in the ground truth, in intensity units.
    device, progress
        As for :func:`napari_ensir.fit_lut`.
    folds : FOLDS of Statistics, optional
        Statistics of the parts, in bins that merge into the table's; collected if not given.

    Returns
    -------
    errors : ErrorTable
    report : dict
        Entries for the table's report. ``"held_out"``: what the errors were measured on (``"kind"``), the
        error over all pixels (``"rmse"``) and, from two images on, ``"error_factor"``
        (:func:`~napari_ensir.ensemble.uncertainty.error_table.estimate_error_factor`). ``"bias"``: mean
        errors by intensity (:mod:`napari_ensir.ensemble.uncertainty.bias`).
    diagnostics : list of Diagnostic
        Whether the noise of the ground truth is lower than given, at some intensities.

    Raises
    ------
    EnsembleError
        If the images cannot be used, or there is no pixel to measure errors on.
    """
    binning = lookup.binning
    zeros = ErrorSums.zeros(binning.low, binning.high, lookup.n_channels, lookup.n_candidates)
    parts = fields.folds(FOLDS)
    lookups: Iterable[Lookup] = repeat(lookup)
    counted = running_progress(progress, fields.n_pixels, "counting pixels")
    if method in METHODS:
        learned = [fold.in_bins(binning) for fold in folds] or [
            collect(part, binning, lookup.n_candidates, lookup.n_channels, resolve_device(device), counted)
            for part in parts
        ]
        # A generator, so that one part's weights are held at a time.
        lookups = (
            estimate_held_out_lookup(number, learned, method, settings) for number in range(len(learned))
        )
    by_part, by_image, by_group = _measure_parts(parts, lookups, fields, zeros, device, progress)
    table = fit_error_table(by_part, noise)
    if not table.counts.any():
        raise EnsembleError(
            "no pixel is left to measure errors on; all are NaN, infinite or outside the mask."
        )
    kind = "the reference set, by the table as it is"
    if method in METHODS:
        kind = f"{FOLDS} parts of the reference set, each by weights learned from the others"
    held_out: dict[str, Any] = {"kind": kind, "rmse": table.overall}
    factor = estimate_error_factor(table, by_image)
    if factor is not None:
        held_out["error_factor"] = factor
    over = "images" if (fields.n_images or 0) >= ENOUGH_IMAGES else "blocks of the images"
    found = []
    if table.low_noise_range is not None:
        low, high = table.low_noise_range
        found.append(diagnose("calibration", low=low, high=high, noise=noise))
    return table, {"held_out": held_out, "bias": bias_report(by_group, over, noise)}, found


def _measure_parts(
    parts: Sequence[Iterable[Field]],
    lookups: Iterable[Lookup],
    fields: ReferenceSet,
    zeros: ErrorSums,
    device: str | torch.device,
    progress: Progress | None,
) -> tuple[list[ErrorSums], list[ErrorSums], list[ErrorSums]]:
    """Sums over each part by its lookup, over each image, and over the groups for standard errors."""
    report = running_progress(progress, fields.n_pixels, "measuring errors")
    n_images = fields.n_images or 0
    enough = n_images >= ENOUGH_IMAGES
    per_field = 1 if enough else ceil(BLOCKS / max(n_images, FOLDS))
    by_part = [zeros] * len(parts)
    # Fewer images than parts are cut into bands, one for each part; tiny ones have fewer bands than that.
    is_known = n_images >= FOLDS or all(sum(1 for _ in part) == n_images for part in parts)
    by_image = [zeros] * (min(n_images, GROUPS) if is_known else 0)
    by_group = [zeros] * (GROUPS if enough else max(n_images, 1) * BLOCKS)
    numbers = cycle(range(len(by_group)))
    for part, (images, lookup) in enumerate(zip(parts, lookups, strict=False)):
        for place, field in enumerate(images):
            image = part + place * FOLDS if n_images >= FOLDS else place
            for band in field.bands(per_field):
                found = measure(band, lookup, zeros, device, report)
                by_part[part] = by_part[part] + found
                if image < len(by_image):
                    by_image[image] = by_image[image] + found
                number = next(numbers)
                by_group[number] = by_group[number] + found
    return by_part, by_image, by_group


def read_truth_noise(report: Mapping[str, Any]) -> float:
    """Read the standard deviation of the ground truth's noise from a table's report; 0 for a clean truth.

    Raises
    ------
    EnsembleError
        If the truth was noisy by an unknown amount, which cannot be separated from the ensemble's error.
    """
    noise = report.get("truth_noise")
    if noise is None:
        return 0.0
    if isinstance(noise, (int, float)) and not isinstance(noise, bool) and 0 <= noise < float("inf"):
        return float(noise)
    raise EnsembleError(
        "the ground truth carried noise of unknown size, which cannot be separated from the ensemble's "
        "error; give truth_noise as a number, or clean images."
    )


def read_error_factor(report: Mapping[str, Any]) -> float | None:
    """Read the error factor from a table's report; None if it has none."""
    held_out = report.get("held_out")
    factor: Any = held_out.get("error_factor") if isinstance(held_out, dict) else None
    if type(factor) in (int, float) and 1 <= factor < float("inf"):
        return float(factor)
    return None

"""Weights learned without one part of a reference set, for held-out scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.estimators.base import find_method
from napari_ensir.ensemble.statistics.statistics import merge
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.estimators.base import Settings
    from napari_ensir.ensemble.statistics.statistics import Statistics


def estimate_held_out_lookup(
    number: int,
    parts: Sequence[Statistics],
    method: str,
    settings: Settings,
    progress: Progress | None = None,
) -> Lookup:
    """Estimate weights from all parts of a reference set but one.

    Parameters
    ----------
    number
        Index of the part to hold out.
    parts
        Statistics of the parts, in the same bins.
    method
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    settings, progress
        As for an estimator.

    Raises
    ------
    EnsembleError
        If there is no such method, or all pixels lie in the part to hold out.
    """
    rest = merge([*parts[:number], *parts[number + 1 :]])
    if parts[number].n_pixels and not rest.n_pixels:
        raise EnsembleError(
            "all pixels lie in one part of the images, so none can be held out; give more images."
        )
    found = find_method(method).load()(rest, settings, progress)
    return Lookup(rest.binning, rest.rows, found.weights, found.fallback, found.unseen)

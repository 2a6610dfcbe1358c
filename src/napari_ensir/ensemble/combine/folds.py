"""What the other parts of a reference set teach, for a part that is held out. Scores nothing."""

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

__all__ = ["lookup_without"]


def lookup_without(
    number: int,
    parts: Sequence[Statistics],
    method: str,
    settings: Settings,
    progress: Progress | None = None,
) -> Lookup:
    """The weights that all parts but one teach.

    Parameters
    ----------
    number
        Which of the parts is held out.
    parts
        Of one reference set, in the same bins.
    method
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    settings, progress
        As for an estimator.

    Raises
    ------
    EnsembleError
        If there is no such method, or all pixels lie in that part.
    """
    rest = merge([*parts[:number], *parts[number + 1 :]])
    if parts[number].n_pixels and not rest.n_pixels:
        raise EnsembleError("all pixels lie in one part of the images; there is none to hold out.")
    found = find_method(method).load()(rest, settings, progress)
    return Lookup(rest.binning, rest.rows, found.weights, found.fallback, found.unseen)

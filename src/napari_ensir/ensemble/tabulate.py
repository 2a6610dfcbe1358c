"""Statistics to a lookup table, by any method and in any bins that they fit into. Reads no pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.ensemble.doubts import doubts
from napari_ensir.ensemble.estimate import OUTCOMES, Settings, find_method
from napari_ensir.ensemble.lut import WeightLUT
from napari_ensir.ensemble.provenance import made_now

if TYPE_CHECKING:
    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.reference import Reference

__all__ = ["estimate_lut"]


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
    progress
        Called with (done, total, text); what it raises stops the work.

    Returns
    -------
    WeightLUT

    Raises
    ------
    EnsembleError
        If there is no such method, or the bins do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.ensemble.reference import collect_reference
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collected = collect_reference([(noisy, truth)], device="cpu")
    >>> [estimate_lut(collected, method).method for method in ("em", "least-squares")]
    ['em', 'least-squares']
    """
    found = find_method(method)
    estimator, settings = found.load(), settings or Settings()
    statistics = reference.statistics if binning is None else reference.statistics.in_bins(binning)
    estimate = estimator(statistics, settings, progress)
    counts = statistics.counts
    report = {
        **made_now(),
        "settings": settings.to_dict(found.uses),
        "inputs": reference.inputs,
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
        "warnings": doubts(statistics, reference.names, estimate),
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

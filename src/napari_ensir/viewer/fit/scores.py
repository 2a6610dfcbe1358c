"""SSIM, MS-SSIM and NRMSE of the layers of a fit, and the recommendation of another method or candidate."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.scoring.metrics import (
    evenly_spaced_planes,
    mean_of_metrics,
    ms_ssim,
    nrmse,
    ssim,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.score_table import ScoreRow
    from napari_ensir.viewer.fit.request import FitRequest

SSIM_PIXELS = 2**22
"""Most pixels of an image that SSIM is computed on, in evenly spaced whole planes; one plane at least."""

RELEVANT_GAIN = 0.01
"""Smallest gain in dB for which another method or candidate is recommended."""


def better_than_chosen(scores: Sequence[ScoreRow], method: str) -> str:
    """Recommend the method or candidate that is better held out than the one shown; empty if none is.

    Examples
    --------
    >>> from napari_ensir.ensemble.scoring.score_table import ScoreRow
    >>> found = [ScoreRow("a", "candidate", held_out=41.0)]
    >>> found.append(ScoreRow("EM (paper)", "method", "em", held_out=43.27))
    >>> found.append(ScoreRow("Least squares", "method", "least-squares", held_out=46.19))
    >>> better_than_chosen(found, "em")
    'Least squares is better here: 46.19 dB held out, against 43.27 dB.'
    >>> better_than_chosen(found, "least-squares")
    ''
    """
    own = next((score.held_out for score in scores if score.method == method), np.nan)
    if np.isnan(own):
        sure = next((score for score in scores if score.best and score.method != method), None)
        return (
            ""
            if sure is None
            else f'The candidate "{sure.name}" alone is significantly better here than the ensemble.'
        )
    rivals = [s for s in scores if s.method != method and s.held_out > own + RELEVANT_GAIN]
    if not rivals:
        return ""
    best = max(rivals, key=lambda score: score.held_out)
    named = f'"{best.name}" alone' if best.role == "candidate" else best.name[:1].upper() + best.name[1:]
    return f"{named} is better here: {best.held_out:.2f} dB held out, against {own:.2f} dB."


def with_ssim(
    scores: Sequence[ScoreRow],
    request: FitRequest,
    tables: Mapping[str, WeightLUT],
    data_range: float,
    known: dict[tuple[str, str], dict[str, float]],
    progress: Progress | None = None,
) -> list[ScoreRow]:
    """Add SSIM, MS-SSIM and NRMSE, on the last two axes apart from colours, averaged over a few planes.

    Parameters
    ----------
    scores
        Of candidates, average and methods.
    request : FitRequest
    tables
        The table of each method scored.
    data_range : float
        Width of the data range, intensity units.
    known
        Scores of images that no setting changes, by role and name; new ones are added.
    """
    planes = ssim_planes(request)
    found = []
    for number, score in enumerate(scores):
        if progress is not None:
            progress(number, len(scores), "scoring SSIM")
        key = score.role, score.name
        value = known.get(key)
        if value is None:
            table = tables.get(score.method)
            value = mean_of_metrics(
                [_metrics_at(request, score, table, data_range, place) for place in planes]
            )
        if score.role != "method":
            known[key] = value
        found.append(replace(score, ssim=value["ssim"], metrics=value))
    return found


def _metrics_at(
    request: FitRequest, score: ScoreRow, table: WeightLUT | None, data_range: float, place: tuple[int, ...]
) -> dict[str, float]:
    axis = -1 if request.colour_axis is not None else None
    parts = [_plane(request, candidate, place) for candidate in request.candidates]
    if table is not None:
        shown = table.apply(parts, "cpu", channel_axis=axis, check=False)
    elif score.role == "candidate":
        shown = parts[request.names.index(score.name)]
    else:
        shown = np.mean(parts, axis=0, dtype=np.float64)
    truth = _plane(request, request.truth, place)
    return {
        "ssim": ssim(truth, shown, data_range, axis),
        "ms-ssim": ms_ssim(truth, shown, data_range, axis),
        "nrmse": nrmse(truth, shown),
    }


def ssim_planes(request: FitRequest) -> list[tuple[int, ...]]:
    """Indices along the leading axes of the planes that SSIM is computed on."""
    return evenly_spaced_planes(request.spatial_shape, most_pixels=SSIM_PIXELS)


def ssim_in_words(request: FitRequest) -> str:
    """Which planes SSIM is computed on, as a sentence; empty if there is one plane."""
    leading = request.spatial_shape[:-2]
    if prod(leading) <= 1:
        return ""
    return f"Structural similarity on {len(ssim_planes(request))} of {prod(leading)} planes, evenly spaced."


def _plane(request: FitRequest, array: Any, place: tuple[int, ...]) -> np.ndarray:
    """One plane with its colours last."""
    axis = request.colour_axis
    if axis is not None:
        array = np.moveaxis(array, axis, -1)
    return np.asarray(array[place])

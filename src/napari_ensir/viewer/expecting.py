"""How far off the ensemble shown is likely to be: learned after a fit, and its image. Knows no layers."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.combining import VIEWED, over_colours
from napari_ensir.viewer.computed import Computed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.viewer.fitting import FitResult

__all__ = ["calibrated", "expected_error", "expected_limits"]


def calibrated(result: FitResult, progress: Progress | None = None) -> FitResult:
    """The result with a table that knows how far off it is, or with a sentence on why it cannot.

    Each part of the images is scored by weights that the statistics kept of the others teach; pixels are read
    once more, for the ensemble's errors depend on how far the candidates are apart at each.
    """
    pairs, masks = result.request.seen()
    try:
        device = result.request.settings.device
        lut = result.lut.calibrated(pairs, masks, device, progress, folds=result.reference.folds)
    except EnsembleError as error:
        return replace(result, uncalibrated=str(error))
    return replace(result, lut=lut, tables={**result.tables, lut.method: lut})


def expected_error(
    lut: WeightLUT, candidates: Sequence[Any], rgb: bool, device: str, progress: Progress | None = None
) -> Any:
    """The root mean square error to expect at each pixel: a view where the candidates are a large stack.

    Returns
    -------
    float32 array of the candidates' shape
        Intensity units; of an RGB image without its colours, whose squares are averaged.

    Raises
    ------
    EnsembleError
        If the table was not calibrated, or the candidates do not fit it.
    """
    axis = -1 if rgb and lut.n_channels > 1 else None  # None: where the table has it
    shape = tuple(candidates[0].shape)
    if lut.errors is not None and len(shape) - rgb > 2 and prod(shape) > VIEWED:
        lut.field(candidates, axis)  # what does not fit is said now, not when it is looked at
        asked = lut.channel_axis if axis is None else axis
        channels = None if lut.n_channels == 1 or asked is None else asked % len(shape)
        return Computed(
            lambda parts: _pooled(lut.expected_error(parts, device, channel_axis=channels), rgb),
            candidates,
            np.dtype(np.float32),
            channel_axis=len(shape) - 1 if rgb else channels,
            drops_channels=rgb,
        ).prepared()
    return _pooled(lut.expected_error(candidates, device, channel_axis=axis, progress=progress), rgb)


def _pooled(errors: Any, rgb: bool) -> NDArray[np.float32]:
    """Over the colours, as mean squares are."""
    if not rgb:
        return errors  # type: ignore[no-any-return]
    return (over_colours(errors**2) ** 0.5).astype(np.float32)  # type: ignore[no-any-return]


def expected_limits(lut: WeightLUT) -> tuple[float, float]:
    """From 0 to the largest error that the table expects anywhere that it has seen, in intensity units."""
    errors = lut.errors
    if errors is None or not errors.counts.any():
        return (0.0, 1.0)
    return (0.0, float(errors.rmse[errors.counts > 0].max()))

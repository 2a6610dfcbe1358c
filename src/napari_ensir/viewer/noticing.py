"""What looks wrong about the layers chosen, in a sentence, before anything is learned from them.

Looks at few pixels, and at none that would have to be computed or read from a disk first.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.viewer.layers import full_data, pixel_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image

__all__ = ["notice"]

SAMPLES = 2**14
"""Pixels of a layer that are looked at, about."""

ANOTHER_SCALE = 8.0
"""How many times wider one layer's intensities have to spread than another's to be called another range."""


def notice(candidates: Sequence[Image], truth: Image | None) -> str:
    """A sentence about each candidate whose intensities are not the ground truth's; empty where all are.

    Parameters
    ----------
    candidates
        Layers of one shape.
    truth
        The ground truth; None: the first candidate is what the others are measured by.
    """
    if truth is None:
        if len(candidates) < 2:
            return ""
        truth, candidates = candidates[0], candidates[1:]
    low, high = _spread(truth)
    lines = []
    for layer in candidates:
        if pixel_shape(layer) != pixel_shape(truth):
            continue
        first, last = _spread(layer)
        ratio = (last - first) / (high - low) if high > low else 1.0
        if last > first and not 1 / ANOTHER_SCALE <= ratio <= ANOTHER_SCALE:
            lines.append(
                f'"{layer.name}" spreads from {first:.4g} to {last:.4g}, "{truth.name}" from {low:.4g} to '
                f"{high:.4g}: bring them into the same intensity units."
            )
    return "\n".join(lines)


def _spread(layer: Image) -> tuple[float, float]:
    """Between which intensities all but a few pixels lie."""
    data = full_data(layer)
    if not isinstance(data, np.ndarray) or isinstance(data, np.memmap):
        low, high = layer.contrast_limits_range
        return float(low), float(high)
    plane = data[tuple(n // 2 for n in data.shape[: layer.ndim - 2])]
    step = max(1, int((prod(plane.shape) / SAMPLES) ** 0.5))
    few = plane[::step, ::step]
    few = few[np.isfinite(few)]
    if few.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(few, (1, 99))
    return float(low), float(high)

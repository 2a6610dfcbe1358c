"""Synthetic images, and the choice of the engine of the CPU."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from napari_ensir.ensemble import engines
from napari_ensir.ensemble.statistics import accumulate

ENGINES = ("compiled", "torch")
CELLS = 2**18
"""Limit of a dense histogram in torch: its 256 MB take longer than the work on a small image."""


@contextmanager
def using(engine):
    """Compute on the CPU with compiled kernels, numpy or torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "forced", engine)
        patch.setattr(accumulate, "DENSE_HISTOGRAM", CELLS)
        yield


def make_image(rng, shape=(60, 70), m=3, dtype=np.uint8, high=None, noise=0.04):
    """Candidates with independent errors, and the truth, over most of the dtype's range."""
    dtype = np.dtype(dtype)
    if high is None:
        high = {1: 255, 2: 60000 if dtype.kind == "u" else 30000}.get(dtype.itemsize, 1000)
    if dtype.kind == "i" and dtype.itemsize == 1:
        high = 127
    steps = rng.uniform(0.05, 0.9, (6, *shape[1:]))
    truth = steps[rng.integers(0, 6, shape[0])]
    truth = np.clip(truth + rng.normal(0, 0.02, shape), 0, 1)
    candidates = [
        np.clip(
            truth + rng.normal((-1) ** k * noise * truth * 0.3, noise * (1 + 0.6 * k) * (0.3 + truth), shape),
            0,
            1,
        )
        for k in range(m)
    ]
    images = [np.asarray(image * high) for image in (*candidates, truth)]
    if dtype.kind in "iu":
        images = [np.rint(image) for image in images]
    *candidates, truth = (image.astype(dtype) for image in images)
    return candidates, truth

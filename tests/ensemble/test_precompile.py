"""Compiling ahead covers all kernels of a fit and its ensemble."""

from __future__ import annotations

import numpy as np

from napari_ensir import fit_lut
from napari_ensir.ensemble import kernels
from napari_ensir.ensemble.precompile import warm_up
from tests.helpers.images import make_image


def test_fit_and_apply_compile_nothing_after_warm_up(rng):
    dtypes = (np.uint8, np.uint16, np.float32)
    warm_up(dtypes)

    def compiled():
        return {
            name: len(each.signatures) for name, each in vars(kernels).items() if hasattr(each, "signatures")
        }

    before = compiled()
    for dtype in dtypes:
        candidates, truth = make_image(rng, (600, 600), 2, dtype)
        mask = rng.random(truth.shape) < 0.5
        lut = fit_lut([(candidates, truth)], mask=[mask], device="cpu")
        lut.apply(candidates, device="cpu")
        lut.weight_maps([c[::2] for c in candidates], device="cpu")
    assert compiled() == before

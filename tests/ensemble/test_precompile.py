"""What was compiled beforehand is all that a fit and its image need."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.ensemble.precompile import warm_up
from tests.helpers.images import make_image, using


def test_nothing_is_left_to_compile(rng):
    pytest.importorskip("numba")
    dtypes = (np.uint8, np.uint16, np.float32)
    assert warm_up(2, dtypes)
    loops = compiled_loops()

    def compiled():
        return {name: len(getattr(loops, name).signatures) for name in loops.__all__}

    before = compiled()
    for dtype in dtypes:
        candidates, truth = make_image(rng, (600, 600), 2, dtype)
        mask = rng.random(truth.shape) < 0.5
        lut = fit_lut([(candidates, truth)], mask=[mask], device="cpu")
        lut.apply(candidates, device="cpu")
        lut.weight_maps([c[::2] for c in candidates], device="cpu")
    assert compiled() == before


def test_without_numba_there_is_nothing_to_do(monkeypatch):
    with using("torch"):
        monkeypatch.setattr("napari_ensir.ensemble.precompile.compiled_loops", lambda: None)
        assert not warm_up(2)

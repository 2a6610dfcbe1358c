"""SSIM in tiles is scikit-image's, whatever the shape and the tiles."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from napari_ensir.ensemble.scoring import metrics as similarity
from napari_ensir.ensemble.scoring.metrics import evenly_spaced_planes, ssim

WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((40, 44, 3), 2),
        ((3, 40, 300), 0),
        ((70, 90), None),
        ((20, 15, 25), None),
        ((64,), None),
        ((11, 11), None),
    ],
)
@pytest.mark.parametrize("tile", [2**9, 2**16])
def test_ssim_equals_that_of_scikit_image(rng, monkeypatch, shape, axis, tile):
    monkeypatch.setattr(similarity, "_TILE", tile)
    truth = rng.integers(0, 200, shape).astype(np.uint8)
    image = (truth + rng.normal(0, 9, shape)).astype(np.float32)
    wanted = structural_similarity(
        truth.astype(float), image.astype(float), data_range=255, channel_axis=axis, **WINDOW
    )
    assert ssim(truth, image, 255.0, axis) == pytest.approx(wanted, abs=1e-12)


def test_windows_with_an_excluded_pixel_are_not_averaged(rng, monkeypatch):
    monkeypatch.setattr(similarity, "_TILE", 2**9)
    truth = rng.uniform(0, 1, (50, 60))
    image = truth + rng.normal(0, 0.1, truth.shape)
    valid = rng.random(truth.shape) > 0.005
    _, each = structural_similarity(truth, image, data_range=1, full=True, **WINDOW)
    whole = [
        each[y, x] for y in range(5, 45) for x in range(5, 55) if valid[y - 5 : y + 6, x - 5 : x + 6].all()
    ]
    assert 0 < len(whole) < 40 * 50
    # What is left out may be anything: it must not sway a window beside it.
    filled = [np.where(valid, x, 0) for x in (truth, image)]
    assert ssim(*filled, 1.0, valid=valid) == pytest.approx(np.mean(whole), abs=1e-12)


def test_planes_are_evenly_spaced_and_fewer_if_they_are_large():
    assert evenly_spaced_planes((5, 20, 20)) == [(0,), (1,), (2,), (3,), (4,)]
    few = evenly_spaced_planes((4, 25, 4096, 4096, 3), plane_axes=3)
    assert few == [(0, 0)]
    many = evenly_spaced_planes((4, 25, 8, 8), most=3)
    assert many == [(0, 0), (1, 24), (3, 24)]

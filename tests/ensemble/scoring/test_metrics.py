"""SSIM in tiles is scikit-image's, whatever the shape and the tiles; MS-SSIM and NRMSE."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from napari_ensir.ensemble.scoring import metrics as similarity
from napari_ensir.ensemble.scoring.metrics import evenly_spaced_planes, ms_ssim, nrmse, ssim

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


def test_ms_ssim_is_that_of_other_programs():
    truth = data.camera()[100:356, 100:356].astype(float)
    x = np.arange(256)
    image = np.clip(0.9 * truth + 20 * np.add.outer(np.sin(x * 1.1), np.cos(x * 1.7)), 0, 255)
    assert ms_ssim(truth, image, 255.0) == pytest.approx(0.7906503517, abs=2e-6)  # pytorch-msssim 1.0.0
    stack = np.stack([truth, image])
    both = np.mean([ms_ssim(truth, truth, 255.0), ms_ssim(image, truth, 255.0)])
    assert ms_ssim(stack, np.stack([truth, truth]), 255.0) == pytest.approx(both, rel=1e-12)
    assert ms_ssim(np.moveaxis(stack, 0, -1), np.dstack([truth, truth]), 255.0, -1) == pytest.approx(both)


def test_pixels_that_are_not_finite_are_left_out_of_ms_ssim_and_nrmse():
    truth = np.random.default_rng(0).uniform(0, 255, (192, 200))
    image = truth + np.random.default_rng(1).normal(0, 9, truth.shape)
    broken = image.copy()
    broken[:, :7] = np.nan
    valid = np.isfinite(broken)
    assert nrmse(truth, broken) == pytest.approx(nrmse(truth[:, 7:], image[:, 7:]))
    spoilt = np.where(valid, image, 1e6)
    assert ms_ssim(truth, broken, 255.0) == ms_ssim(np.where(valid, truth, np.nan), spoilt, 255.0)
    assert ms_ssim(truth, broken, 255.0) == pytest.approx(ms_ssim(truth, image, 255.0), abs=0.01)
    assert np.isnan(ms_ssim(truth[:150], image[:150], 255.0))
    assert np.isnan(nrmse(np.zeros((4, 4)), np.ones((4, 4))))

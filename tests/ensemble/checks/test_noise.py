"""Own inputs and correlated noise are seen; second exposures and independent noise pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, median_filter
from skimage import data

from napari_ensir.ensemble.checks.noise import (
    CORRELATED,
    check_own_input,
    noise_correlation,
    own_input_evidence,
)

CASES = [(name, noise) for name in ("camera", "coins", "moon", "cell", "brick") for noise in (8, 25)]


def exposures(name: str, noise: float, n: int = 2) -> list[np.ndarray]:
    clean = getattr(data, name)()[40:200, 60:220].astype(float)
    rng = np.random.default_rng(3)
    return [rng.poisson(clean * 2) / 2 + rng.normal(0, noise, clean.shape) for _ in range(n)]


def restored(image: np.ndarray) -> list[np.ndarray]:
    return [gaussian_filter(image, 1), median_filter(image, 3)]


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_own_inputs_are_caught_and_second_exposures_pass(name, noise):
    first, second = exposures(name, noise)
    candidates = restored(first)
    assert "seems to be the image" in check_own_input(candidates, first)[0].message
    assert check_own_input(candidates, second) == []


def test_stacks_channels_tensors_and_lazy_arrays_are_looked_at():
    import torch

    da = pytest.importorskip("dask.array")
    first, second = exposures("camera", 20)
    for arrange, axis in [
        (lambda image: np.stack([image, image + 5]), None),
        (lambda image: np.stack([image, image + 5, image], axis=-1), -1),
        (lambda image: np.stack([image] * 3)[np.newaxis], 1),
    ]:
        candidates = [arrange(image) for image in restored(first)]
        for lazy in (lambda image: da.from_array(image, chunks=64), torch.from_numpy, lambda image: image):
            lazily = [lazy(image) for image in candidates]
            assert check_own_input(lazily, lazy(arrange(first)), channel_axis=axis)
            assert check_own_input(lazily, lazy(arrange(second)), channel_axis=axis) == []


def test_what_tells_nothing_raises_no_alarm():
    flat = np.zeros((64, 64))
    assert check_own_input([flat, flat + 1], flat) == []
    assert own_input_evidence([np.ones((20, 90))], np.ones((20, 90))) is None
    assert own_input_evidence([np.ones(90)], np.ones(90)) is None
    assert own_input_evidence([np.full((64, 64), np.nan)], flat) is None
    assert noise_correlation(np.ones((8, 8))) is None


def test_large_images_are_looked_at_in_the_middle():
    rng = np.random.default_rng(0)
    image = np.zeros((5, 2000, 700))
    image[0, 744:1256, 94:606] = rng.normal(0, 1, (512, 512))
    image[1:] = rng.normal(0, 1, (4, 1, 1))
    assert abs(noise_correlation(image)) < 0.05


@pytest.mark.parametrize("name", ["camera", "coins", "moon", "brick"])
def test_correlated_noise_is_seen_in_either_direction(name):
    clean = getattr(data, name)()[40:200, 60:220].astype(float)
    rng = np.random.default_rng(0)
    independent = rng.normal(0, 1, clean.shape)
    blurred = gaussian_filter(independent, 0.7)
    rows = independent + rng.normal(0, 1, (len(clean), 1))
    columns = independent + rng.normal(0, 1, (1, clean.shape[1]))
    assert noise_correlation(clean + 20 * independent) <= CORRELATED
    for noise in (blurred, rows, columns):
        assert noise_correlation(clean + 20 * noise / noise.std()) > CORRELATED

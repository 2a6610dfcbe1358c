"""Subtraction of the estimated noise from noisy pixels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.restorers.noise_model import estimate_noise_model
from napari_ensir.restorers.self_supervised.noise import subtract_noise

SIDE = 120


def scene(noise, structure=0.0, seed=0):
    """Clean pixels, noisy ones, and two predictions that miss some structure and did not see the noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    clean = 100 + 0.4 * rows + 40 * (columns > SIDE // 2)
    missed = structure * rng.normal(0, 1, clean.shape) * (columns % 20 < 6)
    blind = [clean + missed + rng.normal(0, 1 + 2 * (columns % 20 < 6), clean.shape) for _ in range(2)]
    return clean, clean + noise(rng, clean), [np.asarray(each, np.float32) for each in blind]


def gaussian(rng, clean):
    return rng.normal(0, 15, clean.shape)


def poisson(rng, clean):
    return 3 * rng.poisson(clean / 3) - clean


def laplace(rng, clean):
    return rng.laplace(0, 12, clean.shape)


def outliers(rng, clean):
    return np.where(rng.random(clean.shape) < 0.03, rng.choice([-100.0, 100.0], clean.shape), 0.0)


def denoise(noisy, predictions, channels=False):
    planes = np.moveaxis(noisy, -1, 0) if channels else [noisy]
    models = [estimate_noise_model(plane) for plane in planes]
    return subtract_noise(noisy, predictions, models, channels=channels).pixels


def rms(image):
    return float(np.sqrt(np.mean(np.square(image))))


class TestSubtractNoise:
    @pytest.mark.parametrize("noise", [gaussian, poisson, laplace, outliers])
    def test_removes_most_of_the_noise_of_any_distribution(self, noise):
        clean, noisy, blind = scene(noise)
        denoised = denoise(noisy, blind)
        assert rms(denoised - clean) < 0.35 * rms(noisy - clean)

    def test_keeps_structure_that_predictions_miss(self):
        """Structure of twice the noise's standard deviation, where the predictions disagree."""
        clean, noisy, blind = scene(gaussian, structure=30.0)
        denoised = denoise(noisy, blind)
        missed = np.mgrid[:SIDE, :SIDE][1] % 20 < 6
        assert rms((denoised - clean)[missed]) < 0.7 * rms((np.mean(blind, axis=0) - clean)[missed])
        assert rms((denoised - clean)[~missed]) < 0.5 * 15

    def test_error_of_kept_noise_is_its_power(self):
        clean, noisy, blind = scene(gaussian)
        denoised = denoise(noisy, blind)
        for share in (0.2, 0.5, 1.0):
            keeps = clean + share * (noisy - clean)
            worse = np.mean((keeps - denoised) ** 2) - np.mean((clean - denoised) ** 2)
            assert worse == pytest.approx(share**2 * 15**2, abs=0.1 * share * 15**2)

    def test_channels_are_processed_separately(self):
        pairs = [scene(law, seed=place) for place, law in enumerate((gaussian, outliers))]
        noisy = np.stack([each for _, each, _ in pairs], axis=-1)
        blind = [np.stack(each, axis=-1) for each in zip(*(found for *_, found in pairs), strict=True)]
        denoised = denoise(noisy, blind, channels=True)
        for c, (_, one, predictions) in enumerate(pairs):
            np.testing.assert_array_equal(denoised[..., c], denoise(one, predictions))

    @pytest.mark.parametrize(("shape", "m"), [((3, 3), 1), ((4, 5), 2), ((40, 40), 3)])
    def test_equal_predictions_or_no_residual_give_finite_pixels(self, shape, m):
        noisy = np.random.default_rng(0).normal(0, 1, shape)
        for predictions in ([noisy] * m, [np.zeros(shape)] * m):
            found = denoise(noisy, predictions)
            assert found.dtype == np.float32
            assert (np.abs(found) <= np.abs(noisy) + 1e-6).all()

    def test_offset_is_the_error_beyond_that_against_the_truth(self):
        clean, noisy, predictions = scene(gaussian)
        found = subtract_noise(noisy, predictions, [estimate_noise_model(noisy)])
        best = np.mean(predictions, axis=0)
        against = np.mean((best - found.pixels) ** 2) - np.mean((best - clean) ** 2)
        assert found.noise_power == pytest.approx(15**2, rel=0.1)
        assert found.offset == pytest.approx(against, abs=0.1 * 15**2)

"""What of noisy pixels can be told to be noise."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.restorers.self_supervised.noise import curvature, without_noise

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


def rms(image):
    return float(np.sqrt(np.mean(np.square(image))))


class TestCurvature:
    def test_is_that_of_a_plain_loop(self):
        planes = np.random.default_rng(0).normal(0, 1, (7, 6, 2))
        found = curvature(planes)
        kernel = np.outer([1, -2, 1], [1, -2, 1]) / 6
        for row, column, plane in np.ndindex(planes.shape):
            r, c = min(max(row, 1), 5), min(max(column, 1), 4)
            near = planes[r - 1 : r + 2, c - 1 : c + 2, plane]
            assert found[row, column, plane] == pytest.approx((near * kernel).sum(), abs=1e-6)

    def test_keeps_the_power_of_noise_and_nothing_of_a_slope(self):
        rows, columns = np.mgrid[:200, :200]
        noise = np.random.default_rng(0).normal(0, 5, (200, 200))
        assert rms(curvature(noise)) == pytest.approx(5, rel=0.03)
        np.testing.assert_allclose(curvature(3.0 * rows - 2 * columns + 7), 0, atol=1e-9)

    @pytest.mark.parametrize("shape", [(2, 9), (9, 1, 3)])
    def test_of_too_few_pixels_is_zero(self, shape):
        assert not curvature(np.ones(shape)).any()

    def test_whole_numbers_do_not_wrap_round(self):
        planes = np.random.default_rng(0).integers(0, 255, (9, 9)).astype(np.uint8)
        np.testing.assert_array_equal(curvature(planes), curvature(planes.astype(float)))


class TestWithoutNoise:
    @pytest.mark.parametrize("noise", [gaussian, poisson, laplace, outliers])
    def test_takes_off_most_of_the_noise_whatever_its_law(self, noise):
        clean, noisy, blind = scene(noise)
        told = without_noise(noisy, blind, curvature(noisy))
        assert rms(told - clean) < 0.35 * rms(noisy - clean)

    def test_leaves_structure_that_predictions_missed(self):
        """Twice as strong as the noise, and where they disagree: there the pixel itself counts."""
        clean, noisy, blind = scene(gaussian, structure=30.0)
        told = without_noise(noisy, blind, curvature(noisy))
        missed = np.mgrid[:SIDE, :SIDE][1] % 20 < 6
        assert rms((told - clean)[missed]) < 0.7 * rms((np.mean(blind, axis=0) - clean)[missed])
        assert rms((told - clean)[~missed]) < 0.5 * 15

    def test_a_share_of_kept_noise_is_paid_for(self):
        """What keeps a share d of the noise comes out d * d * var n worse than what keeps none."""
        clean, noisy, blind = scene(gaussian)
        told = without_noise(noisy, blind, curvature(noisy))
        for share in (0.2, 0.5, 1.0):
            keeps = clean + share * (noisy - clean)
            worse = np.mean((keeps - told) ** 2) - np.mean((clean - told) ** 2)
            assert worse == pytest.approx(share**2 * 15**2, abs=0.1 * share * 15**2)  # a guess, not the noise

    def test_channels_are_told_apart(self):
        pairs = [scene(law, seed=place) for place, law in enumerate((gaussian, outliers))]
        noisy = np.stack([each for _, each, _ in pairs], axis=-1)
        blind = [np.stack(each, axis=-1) for each in zip(*(found for *_, found in pairs), strict=True)]
        told = without_noise(noisy, blind, curvature(noisy), channels=True)
        for c, (_, one, predictions) in enumerate(pairs):
            np.testing.assert_array_equal(told[..., c], without_noise(one, predictions, curvature(one)))

    @pytest.mark.parametrize("curved", [True, False])
    @pytest.mark.parametrize(("shape", "m"), [((3, 3), 1), ((1, 2), 2), ((40, 40), 3)])
    def test_predictions_that_agree_with_each_other_or_with_the_pixels(self, shape, m, curved):
        noisy = np.random.default_rng(0).normal(0, 1, shape)
        curved = curvature(noisy) if curved else None
        for blind in ([noisy] * m, [np.zeros(shape)] * m):
            told = without_noise(noisy, blind, curved)
            assert told.dtype == np.float32
            assert np.isfinite(told).all()
            assert (np.abs(told) <= np.abs(noisy) + 1e-6).all()

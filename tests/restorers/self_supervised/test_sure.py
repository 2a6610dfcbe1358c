"""Stein's unbiased risk estimate for correlated noise, and the choice between it and hidden pixels."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.data import camera

from napari_ensir import learn_blind, load_lut
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, blind_reference, calibrate_restorer, restore_and_combine
from napari_ensir.restorers.noise_model import NoiseModel, estimate_noise_model
from napari_ensir.restorers.self_supervised.learn import CorrelatedNoiseWarning
from napari_ensir.restorers.self_supervised.sure import draw_noise, sure_pair

GAUSSIAN, MEDIAN, WAVELET = (CLASSICAL[key] for key in ("gaussian", "median", "wavelet"))


def error(image, truth):
    return float(np.mean((np.asarray(image, float) - truth) ** 2))


def psnr(image, truth):
    return 10 * np.log10(255**2 / error(image, truth))


def correlated(shape, rng, sigma=0.6):
    noise = gaussian_filter(rng.standard_normal(shape), (0,) * (len(shape) - 2) + (sigma,) * 2)
    return noise / noise.std()


@pytest.fixture(scope="module")
def scene():
    """A clean image, and the image with correlated noise."""
    clean = camera()[60:220, 100:260].astype(float)
    return clean, clean + 20 * correlated(clean.shape, np.random.default_rng(0))


class TestDrawNoise:
    def test_has_the_variance_and_correlation_of_the_model(self):
        rng = np.random.default_rng(0)
        image = 100 + 10 * correlated((3, 200, 200), rng)
        model = estimate_noise_model(image)
        drawn = draw_noise(image, [model], None, rng)
        assert drawn.std() == pytest.approx(10, rel=0.1)
        beside = np.mean(drawn[..., 1:] * drawn[..., :-1]) / np.mean(drawn**2)
        assert beside == pytest.approx(float(model.correlation[2, 3]), abs=0.03)

    def test_variance_follows_the_intensity_and_the_channel(self):
        image = np.zeros((120, 120, 2)) + np.array([50.0, 200.0])
        models = [NoiseModel(2.0, 0.0, level=10.0), NoiseModel(0.0, 9.0, level=3.0)]
        drawn = draw_noise(image, models, -1, np.random.default_rng(0))
        np.testing.assert_allclose(drawn.std(axis=(0, 1)), [10, 3], rtol=0.05)


class TestSurePair:
    def test_differences_of_error_equal_those_against_the_truth(self, scene):
        """Within 5 % of the error, at 1.25 times the variance of the noise, for linear restorers."""
        rng = np.random.default_rng(1)
        clean = np.broadcast_to(scene[0][:96, :96], (16, 96, 96))
        noisy = clean + 20 * correlated(clean.shape, rng)
        louder = clean + 20 * np.sqrt(1.25) * correlated(clean.shape, rng)
        restorers = [GAUSSIAN(sigma=0.5), GAUSSIAN(sigma=1.5)]
        noise = (noisy - clean) / 20
        lags = range(-2, 3)
        correlation = [[np.mean(noise * np.roll(noise, (i, j), (1, 2))) for j in lags] for i in lags]
        model = NoiseModel(0.0, 400.0, level=20.0, correlation=np.array(correlation))
        candidates, reference = sure_pair(noisy, restorers, [model])
        found = error(candidates[0], reference) - error(candidates[1], reference)
        sharp, smooth = (error(restorer(louder), clean) for restorer in restorers)
        assert found == pytest.approx(sharp - smooth, abs=0.05 * sharp)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_restorers_get_the_dtype_of_the_image(self, scene, dtype):
        image = np.clip(scene[1][:48, :48], 60, 200).astype(dtype)
        seen = []

        def spy(given):
            seen.append(given.dtype)
            return given

        from napari_ensir.restorers.base import as_restorer

        (candidate,), reference = sure_pair(image, [as_restorer(spy)], [estimate_noise_model(image)])
        assert seen == [np.dtype(dtype)] * 2
        assert candidate.shape == reference.shape == (2, 48, 48)
        np.testing.assert_allclose(candidate.mean(axis=0), image, atol=0.5 if dtype != np.float32 else 1e-3)

    @pytest.mark.parametrize(("shape", "axis"), [((3, 40, 44), 0), ((40, 44, 3), -1), ((2, 40, 3, 44), 2)])
    def test_channels_come_last(self, shape, axis):
        image = np.random.default_rng(0).normal(100, 9, shape)
        models = [NoiseModel(0.0, 81.0, level=9.0)] * 3
        (candidate,), reference = sure_pair(image, [GAUSSIAN(channel_axis=axis)], models, channel_axis=axis)
        last = np.moveaxis(image, axis, -1)
        assert candidate.shape == reference.shape == (*last.shape[:-3], 2, *last.shape[-3:])
        np.testing.assert_allclose(reference.mean(axis=-4), last, rtol=1e-5)


class TestCorrelatedNoise:
    def test_ensemble_is_not_below_the_best_candidate_and_says_why(self, scene):
        """Hidden pixels would take the sharpest restorer here."""
        clean, noisy = scene
        restorers = {"sharp": GAUSSIAN(sigma=0.4), "smooth": GAUSSIAN(sigma=1.3), "wavelet": WAVELET()}
        with pytest.warns(
            CorrelatedNoiseWarning, match=r"by Stein's unbiased risk estimate \(SURE\)"
        ) as seen:
            found = restore_and_combine(noisy, list(restorers.values()), list(restorers), device="cpu")
        single = [psnr(each, clean) for each in found.candidates]
        assert psnr(found.ensemble, clean) > max(single) - 0.1
        ranked = [place for place in found.scores.ranked if place < 3]
        assert ranked[0] == int(np.argmax(single))
        hidden = blind_reference(noisy, list(restorers.values()), list(restorers), criterion="hidden pixels")
        by_hidden = hidden.learn(device="cpu").apply(list(found.candidates), "cpu")
        assert psnr(by_hidden, clean) < max(single) - 0.3
        report = found.lut.report
        assert report["warnings"] == [str(seen[0].message)] == [report["blind"]["reason"]]
        assert "the noise of neighbouring pixels is correlated (0." in report["blind"]["reason"]
        assert report["blind"]["criterion"] == "SURE"

    def test_restorers_run_twice_beside_their_ordinary_run(self, scene):
        runs = []

        def count(image):
            runs.append(1)
            return gaussian_filter(image, 1)

        with pytest.warns(CorrelatedNoiseWarning):
            restore_and_combine(scene[1], [count, MEDIAN()], device="cpu")
        assert len(runs) == 3

    def test_calibration_finds_the_best_value(self, scene):
        clean, noisy = scene
        values = [0.4, 1.0, 1.6, 3.0]
        with pytest.warns(CorrelatedNoiseWarning):
            found = calibrate_restorer(GAUSSIAN(), "sigma", values, noisy)
        assert found.best == min(values, key=lambda sigma: error(GAUSSIAN(sigma=sigma)(noisy), clean))
        assert len(found.warnings) == 1

    def test_masks_and_channels(self, scene, tmp_path):
        rng = np.random.default_rng(0)
        image = 100 + 20 * correlated((2, 96, 96), rng)
        mask = np.zeros((96, 96), bool)
        mask[:, :40] = True
        with pytest.warns(CorrelatedNoiseWarning):
            lut = learn_blind(image, [GAUSSIAN(sigma=0.3), MEDIAN()], channel_axis=0, mask=mask, device="cpu")
        assert (lut.n_channels, lut.channel_axis, lut.report["pixels"]) == (2, 0, 2 * 2 * 96 * 40)
        again = load_lut(lut.save(tmp_path / "table"))
        assert again.report["blind"] == lut.report["blind"]
        with pytest.raises(EnsembleError, match="mask has shape"):
            learn_blind(image, [GAUSSIAN(), MEDIAN()], channel_axis=0, mask=mask[1:], device="cpu")


class TestFixedTo:
    @pytest.mark.parametrize("axis", [None, -1])
    def test_keeps_the_noise_models_and_the_range_for_other_images(self, axis):
        rng = np.random.default_rng(0)
        clean = np.tile(np.linspace(20, 400, 96), (96, 1))
        image = 4.0 * rng.poisson(clean / 4)
        other = clean + rng.normal(0, 20, clean.shape)
        if axis is not None:
            image, other = (np.stack([each, each[::-1]], axis=axis) for each in (image, other))
        restorer = WAVELET(channel_axis=axis)
        fixed = restorer.fixed_to(image)
        assert all(model.is_signal_dependent for model in fixed.noise_models)
        np.testing.assert_array_equal(fixed(image), restorer(image))
        assert (fixed(other) != restorer(other)).any()
        assert fixed.data_range == (image.min(), image.max())


class TestWhiteNoise:
    def test_hidden_pixels_are_used_without_a_warning(self, scene):
        clean = scene[0]
        noisy = clean + np.random.default_rng(1).normal(0, 20, clean.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reference = blind_reference(noisy, [GAUSSIAN(), MEDIAN()])
        assert reference.criterion == "hidden pixels"
        assert reference.warnings == ()
        assert "because the noise of neighbouring pixels is not correlated" in reference.reason
        report = reference.learn(device="cpu").report
        assert report["blind"]["reason"] == reference.reason
        json.dumps(report, allow_nan=False)

    def test_of_a_small_image_is_not_measured(self):
        noisy = np.random.default_rng(0).normal(100, 9, (24, 24))
        reason = blind_reference(noisy, [GAUSSIAN(), MEDIAN()]).reason
        assert reason.endswith("because the image is too small to measure the correlation of its noise.")


class TestFewPhotons:
    @pytest.mark.parametrize("gain", [2.0, 8.0])
    def test_ensemble_is_above_the_best_candidate(self, scene, gain):
        clean = scene[0] / 4
        noisy = gain * np.random.default_rng(0).poisson(clean / gain).astype(float)
        restorers = [GAUSSIAN(sigma=0.8), GAUSSIAN(sigma=2), MEDIAN(), WAVELET()]
        names = ("sharp", "smooth", "median", "wavelet")
        found = restore_and_combine(noisy, restorers, names, device="cpu")
        assert psnr(found.ensemble, clean) > max(psnr(each, clean) for each in found.candidates)

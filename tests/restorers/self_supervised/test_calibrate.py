"""Ranking of restorers and calibration of their parameters, from noisy images alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data

from napari_ensir import compare
from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, calibrate_restorer, rank_restorers
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid
from napari_ensir.restorers.self_supervised.learn import blind_reference

GAUSSIAN, MEDIAN, TV = (CLASSICAL[key] for key in ("gaussian", "median", "total-variation"))


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    clean = data.camera()[60:252, 100:292].astype(float)
    return clean, clean + np.random.default_rng(2).normal(0, 25, clean.shape)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((np.asarray(image, float) - truth) ** 2))


class TestCalibrateRestorer:
    VALUES = (0.15, 0.3, 0.6, 1.0, 1.6, 2.5)

    def test_order_of_six_values_is_that_against_the_truth(self, scene):
        clean, noisy = scene
        found = calibrate_restorer(TV(), "strength", self.VALUES, noisy)
        true = [error(TV(strength=value)(noisy), clean) for value in self.VALUES]
        assert list(found.scores.ranked) == list(np.argsort(true))
        assert found.best == self.VALUES[int(np.argmin(true))]

    def test_curve_is_zero_at_the_best_value(self, scene):
        _, noisy = scene
        found = calibrate_restorer(GAUSSIAN(), "sigma", [0.3, 1.0, 1.1, 5.0], noisy)
        assert found.differences.min() == 0 == found.differences[found.values.index(found.best)]
        assert found.best in found.equivalent
        assert 5.0 not in found.equivalent
        assert (found.standard_errors >= 0).all()
        kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert kept["best"] == found.best
        assert kept["differences"] == found.differences.tolist()

    def test_reports_a_parameter_without_effect(self, scene):
        found = calibrate_restorer(MEDIAN(), "size", [3, 3], scene[1][:60, :60], offsets=2)
        assert found.in_words() == "The error is the same at every value of size."

    def test_parameters_inside_a_self_ensemble_and_choices(self, scene):
        _, noisy = scene
        small = noisy[:60, :60]
        assert (
            calibrate_restorer(SelfEnsemble(restorer=GAUSSIAN()), "sigma", [0.3, 1], small, offsets=2).best
            == 1
        )
        wavelet = calibrate_restorer(CLASSICAL["wavelet"](), "method", ["BayesShrink", "VisuShrink"], small)
        assert wavelet.best in ("BayesShrink", "VisuShrink")

    def test_reports_a_best_value_at_the_end_of_the_grid_but_not_at_the_limit(self, scene):
        clean = scene[0][:60, :60]
        flat = clean + np.random.default_rng(3).normal(0, 25, (4, 60, 60))
        sigma = calibrate_restorer(GAUSSIAN(), "sigma", [0.3, 0.6], flat, offsets=2)
        assert sigma.in_words().endswith("values beyond 0.6 may be better.")
        volume = calibrate_restorer(GAUSSIAN(), "spatial_ndim", [2, 3], flat, offsets=2)
        assert volume.in_words() == "Least error at spatial ndim 3."

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((GAUSSIAN(), "strength", [1, 2]), "Gaussian has no parameter 'strength'; it has: .*sigma"),
            ((GAUSSIAN(), "sigma", [1]), "two or more"),
            ((GAUSSIAN(), "sigma", [1, -3]), "sigma"),
        ],
    )
    def test_invalid_values_raise(self, scene, arguments, sentence):
        with pytest.raises(EnsembleError, match=sentence):
            calibrate_restorer(*arguments, scene[1])

    def test_progress_can_cancel(self, scene):
        def cancel(done, total, text):
            raise Cancelled

        with pytest.raises(Cancelled):
            calibrate_restorer(GAUSSIAN(), "sigma", [1, 2], scene[1], progress=cancel)


class TestRankRestorers:
    def test_differences_equal_those_against_the_truth(self, scene):
        """Within 4 standard errors, averaged over hidden and visible pixels."""
        clean, noisy = scene
        restorers = [GAUSSIAN(sigma=0.7), GAUSSIAN(sigma=2.5), MEDIAN()]
        names = ("sharp", "smooth", "median")
        scores = rank_restorers(noisy, restorers, names)
        reference = blind_reference(noisy, restorers, names)
        grid = HiddenGrid(clean.shape)
        pixels = grid.select(grid.planes(clean))
        true = np.zeros(4)
        for (hidden, noise), (seen, _) in zip(reference.pairs, reference.visible_pairs, strict=True):
            assert noise.shape == pixels.shape
            for candidates in (hidden, seen):
                errors = [error(each, pixels) for each in (*candidates, np.mean(candidates, axis=0))]
                true += np.subtract(errors, errors[-1]) / 2
        for row, difference in zip(scores.rows, true, strict=True):
            assert abs(row.difference - difference) <= 4 * max(row.standard_error, 1e-9)
        assert scores.rows[3].role == "average"

    def test_order_is_that_against_the_truth(self, scene):
        clean, noisy = scene
        restorers = [GAUSSIAN(sigma=3), TV(), GAUSSIAN(sigma=1)]
        ranked = [place for place in rank_restorers(noisy, restorers, "abc").ranked if place < 3]
        assert ranked == np.argsort([error(restorer(noisy), clean) for restorer in restorers]).tolist()

    def test_uses_only_pixels_of_the_mask_in_all_channels(self):
        rng = np.random.default_rng(0)
        image = rng.normal(100, 10, (60, 60, 3))
        mask = np.zeros((60, 60), bool)
        mask[:, :30] = True
        scores = rank_restorers(image, [GAUSSIAN(), MEDIAN()], channel_axis=-1, mask=mask)
        assert scores.blocks.counts.sum() == pytest.approx(2 * 6 * 50 * 3, rel=0.1)

    def test_compare_takes_the_pairs(self, scene):
        reference = blind_reference(scene[1], [GAUSSIAN(), TV()])
        found = compare(
            reference.pairs,
            reference.names,
            methods=["Gaussian", "average", "least-squares"],
            truth_noise="unknown",
        )
        assert [row.name for row in found.noisy.rows] == ["Gaussian", "average", "Least squares"]
        assert found["Least squares"].psnr != found["Least squares"].psnr

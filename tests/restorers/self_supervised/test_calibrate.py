"""Restorers and their settings in the order of their errors, told from the noisy image alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data

from napari_ensir import compare
from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, rank_restorers, sweep_setting
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid
from napari_ensir.restorers.self_supervised.learn import CorrelatedNoiseWarning, blind_reference, learn_blind

GAUSSIAN, MEDIAN, TV = (CLASSICAL[key] for key in ("gaussian", "median", "total-variation"))


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    clean = data.camera()[60:252, 100:292].astype(float)
    return clean, clean + np.random.default_rng(2).normal(0, 25, clean.shape)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((np.asarray(image, float) - truth) ** 2))


class TestSweep:
    VALUES = (0.15, 0.3, 0.6, 1.0, 1.6, 2.5)

    def test_six_settings_come_in_their_true_order(self, scene):
        clean, noisy = scene
        found = sweep_setting(TV(), "strength", self.VALUES, noisy)
        true = [error(TV(strength=value)(noisy), clean) for value in self.VALUES]
        assert list(found.scores.ranked) == list(np.argsort(true))
        assert found.best == self.VALUES[int(np.argmin(true))]

    def test_the_curve_has_its_minimum_at_the_best(self, scene):
        _, noisy = scene
        found = sweep_setting(GAUSSIAN(), "sigma", [0.3, 1.0, 1.1, 5.0], noisy)
        assert found.differences.min() == 0 == found.differences[found.values.index(found.best)]
        assert found.best in found.alike
        assert 5.0 not in found.alike
        assert (found.standard_errors >= 0).all()
        kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert kept["best"] == found.best
        assert kept["differences"] == found.differences.tolist()

    def test_a_setting_without_effect_is_said_to_have_none(self, scene):
        found = sweep_setting(MEDIAN(), "size", [3, 3], scene[1][:60, :60], offsets=2)
        assert found.in_words() == "The error is the same at every value: size makes no difference here."

    def test_settings_within_a_self_ensemble_and_words_can_be_tried(self, scene):
        _, noisy = scene
        small = noisy[:60, :60]
        assert sweep_setting(SelfEnsemble(restorer=GAUSSIAN()), "sigma", [0.3, 1], small, offsets=2).best == 1
        wavelet = sweep_setting(CLASSICAL["wavelet"](), "method", ["BayesShrink", "VisuShrink"], small)
        assert wavelet.best in ("BayesShrink", "VisuShrink")

    def test_beyond_the_last_value_there_may_be_a_better_one_unless_it_is_the_limit(self, scene):
        clean = scene[0][:60, :60]
        flat = clean + np.random.default_rng(3).normal(0, 25, (4, 60, 60))  # one scene: planes are alike
        sigma = sweep_setting(GAUSSIAN(), "sigma", [0.3, 0.6], flat, offsets=2)
        assert sigma.in_words().endswith(" Nothing beyond 0.6 was tried: there may be a better one.")
        volume = sweep_setting(GAUSSIAN(), "spatial_ndim", [2, 3], flat, offsets=2)
        assert volume.in_words() == "Least error at spatial ndim 3."

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((GAUSSIAN(), "strength", [1, 2]), "Gaussian has no setting 'strength'; it has: .*sigma"),
            ((GAUSSIAN(), "sigma", [1]), "two or more"),
            ((GAUSSIAN(), "sigma", [1, -3]), "sigma"),
        ],
    )
    def test_what_cannot_be_tried_is_said(self, scene, arguments, sentence):
        with pytest.raises(EnsembleError, match=sentence):
            sweep_setting(*arguments, scene[1])

    def test_progress_and_cancelling(self, scene):
        def cancel(done, total, text):
            raise Cancelled

        with pytest.raises(Cancelled):
            sweep_setting(GAUSSIAN(), "sigma", [1, 2], scene[1], progress=cancel)


class TestRank:
    def test_differences_are_those_to_the_truth(self, scene):
        """Of hidden pixels in expectation, of seen ones as far as their noise can be told."""
        clean, noisy = scene
        restorers = [GAUSSIAN(sigma=0.7), GAUSSIAN(sigma=2.5), MEDIAN()]
        names = ("sharp", "smooth", "median")
        scores = rank_restorers(noisy, restorers, names)
        reference = blind_reference(noisy, restorers, names)
        grid = HiddenGrid(clean.shape)
        pixels = grid.kept(grid.planes(clean))
        true = np.zeros(4)
        for (hidden, noise), (seen, _) in zip(reference.pairs, reference.ordinary, strict=True):
            assert noise.shape == pixels.shape
            for candidates in (hidden, seen):
                errors = [error(each, pixels) for each in (*candidates, np.mean(candidates, axis=0))]
                true += np.subtract(errors, errors[-1]) / 2
        for row, difference in zip(scores.rows, true, strict=True):
            assert abs(row.difference - difference) <= 4 * max(row.standard_error, 1e-9)
        assert scores.rows[3].role == "average"

    def test_restorers_come_in_their_true_order(self, scene):
        clean, noisy = scene
        restorers = [GAUSSIAN(sigma=3), TV(), GAUSSIAN(sigma=1)]
        ranked = [place for place in rank_restorers(noisy, restorers, "abc").ranked if place < 3]
        assert ranked == np.argsort([error(restorer(noisy), clean) for restorer in restorers]).tolist()

    def test_masks_and_channels_count(self):
        rng = np.random.default_rng(0)
        image = rng.normal(100, 10, (60, 60, 3))
        mask = np.zeros((60, 60), bool)
        mask[:, :30] = True
        scores = rank_restorers(image, [GAUSSIAN(), MEDIAN()], channel_axis=-1, mask=mask)
        assert scores.blocks.counts.sum() == pytest.approx(2 * 6 * 50 * 3, rel=0.1)

    def test_comparisons_take_blind_pairs(self, scene):
        reference = blind_reference(scene[1], [GAUSSIAN(), TV()])
        found = compare(
            reference.pairs,
            reference.names,
            methods=["Gaussian", "average", "least-squares"],
            truth_noise="unknown",
        )
        assert [row.name for row in found.noisy.rows] == ["Gaussian", "average", "Least squares"]
        assert found["Least squares"].psnr != found["Least squares"].psnr


class TestCorrelatedNoise:
    def test_is_warned_of_and_reported(self, scene):
        from scipy.ndimage import gaussian_filter

        clean, _ = scene
        noise = gaussian_filter(np.random.default_rng(0).normal(0, 1, clean.shape), 0.8)
        noisy = clean + 20 * noise / noise.std()
        with pytest.warns(CorrelatedNoiseWarning, match="neighbouring pixels is alike") as seen:
            lut = learn_blind(noisy, [GAUSSIAN(), MEDIAN()], device="cpu")
        assert seen[0].filename == __file__
        assert lut.report["warnings"] == [str(seen[0].message)]

    def test_independent_noise_is_not(self, scene):
        lut = learn_blind(scene[1], [GAUSSIAN(), MEDIAN()], device="cpu")
        assert lut.report["warnings"] == []
        assert [row["role"] for row in lut.report["scores"]["rows"]] == [
            "candidate",
            "candidate",
            "average",
            "ensemble",
        ]
        json.dumps(lut.report, allow_nan=False)

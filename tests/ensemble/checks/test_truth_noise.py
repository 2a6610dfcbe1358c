"""Noisy ground truths: what they leave as it was, what is refused, and scores that are true or not shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, median_filter
from skimage import data

from napari_ensir import compare, fit_lut
from napari_ensir.ensemble.checks.noise import noise_between
from napari_ensir.ensemble.scoring.scores import NoisyScores, block_errors
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.reference import collect_reference
from napari_ensir.errors import EnsembleError, EnsembleWarning

SIGMA = 20.0


@pytest.fixture(scope="module")
def scene():
    """A clean image, its two noisy exposures, and the first of them restored in three ways."""
    clean = data.camera()[60:252, 100:292].astype(float)
    rng = np.random.default_rng(4)
    first, second = (clean + rng.normal(0, SIGMA, clean.shape) for _ in range(2))
    candidates = [gaussian_filter(first, 0.8), gaussian_filter(first, 1.5), median_filter(first, 3)]
    return clean, second, first, [np.asarray(each, np.float32) for each in candidates]


def psnr(image, truth):
    return float(10 * np.log10(255**2 / np.mean((np.asarray(image, float) - truth) ** 2)))


LAWS = {
    "Gaussian": lambda rng, y: rng.normal(0, 15, y.shape),
    "uniform": lambda rng, y: rng.uniform(-20, 20, y.shape),
    "one-sided": lambda rng, y: rng.exponential(12, y.shape) - 12,
    "Poisson": lambda rng, y: rng.poisson(y) - y,
    "seldom": lambda rng, y: np.where(rng.random(y.shape) < 0.1, 45.0, -5.0),
    "grows with the truth": lambda rng, y: rng.normal(0, 1, y.shape) * y / 8,
}


@pytest.mark.parametrize("law", LAWS)
def test_noise_adds_a_constant_on_the_simplex(law):
    """The mean of G over many draws less G without noise: the same in every direction that sums to one."""
    rng = np.random.default_rng(5)
    truth = rng.uniform(40, 200, (40, 40))
    candidates = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 7, 10)]

    def gram(reference):
        found = collect_reference([(candidates, reference)], data_range=(0, 255), bin_width=64, device="cpu")
        return found.statistics.error_gram, found.statistics.counts

    clean, counts = gram(truth)
    changes = np.stack([gram(truth + LAWS[law](rng, truth))[0] - clean for _ in range(30)])
    weights = rng.dirichlet(np.ones(3), 6)
    apart = np.einsum("wm,drmk,wk->drw", weights, changes, weights)
    apart = apart - apart.mean(axis=2, keepdims=True)  # what is not constant on the simplex
    error = apart.std(axis=0, ddof=1) / np.sqrt(len(apart))
    large = counts > 30
    assert np.abs(apart.mean(axis=0) / error)[large].max() < 4.5
    # and the constant is the noise's variance: no other change would do
    grown = np.einsum("wm,drmk,wk->drw", weights, changes, weights).mean(axis=(0, 2))
    assert (grown / counts > 10).all()


class TestFit:
    def test_a_second_exposure_is_as_good_as_the_truth(self, scene):
        clean, second, _, candidates = scene
        best = fit_lut([(candidates, clean)], method="least-squares", data_range=(0, 255), device="cpu")
        goal = psnr(best.apply(candidates, "cpu"), clean)
        for noise in ("unknown", SIGMA):
            lut = fit_lut([(candidates, second)], truth_noise=noise, data_range=(0, 255), device="cpu")
            assert lut.method == "least-squares"
            assert lut.report["truth_noise"] == noise
            assert psnr(lut.apply(candidates, "cpu"), clean) > goal - 0.1

    def test_what_the_noise_is_said_to_be_changes_no_weight(self, scene):
        _, second, _, candidates = scene
        tables = [
            fit_lut(
                [(candidates, second)],
                method="least-squares",
                truth_noise=noise,
                data_range=(0, 255),
                device="cpu",
            )
            for noise in (None, "unknown", 3.0)
        ]
        for table in tables:
            np.testing.assert_array_equal(table.weights, tables[0].weights)

    @pytest.mark.parametrize("lazy", [False, True])
    def test_the_range_is_that_of_the_candidates(self, scene, lazy):
        _, second, _, candidates = scene
        if lazy:
            da = pytest.importorskip("dask.array")
            candidates = [da.from_array(each, chunks=64) for each in candidates]
            second = da.from_array(second, chunks=64)
        low, high = fit_lut([(candidates, second)], truth_noise="unknown", device="cpu").data_range
        assert low >= min(float(each.min()) for each in candidates)
        assert high <= max(float(each.max()) for each in candidates)

    @pytest.mark.parametrize("method", ["em", "em-released"])
    def test_em_is_refused(self, scene, method):
        _, second, _, candidates = scene
        with pytest.raises(EnsembleError, match=f'"{method}" takes the noise .* use "least-squares"'):
            fit_lut([(candidates, second)], method=method, truth_noise="unknown", device="cpu")

    @pytest.mark.parametrize("noise", [0, -1, "known", float("nan"), [3.0]])
    def test_what_is_no_noise_is_refused(self, scene, noise):
        _, second, _, candidates = scene
        with pytest.raises(EnsembleError, match=r'truth_noise is .*use a number above 0, "unknown"'):
            fit_lut([(candidates, second)], truth_noise=noise, device="cpu")

    def test_bins_shrinkage_masks_and_lazy_arrays_go_with_it(self, scene):
        da = pytest.importorskip("dask.array")
        _, second, _, candidates = scene
        candidates, second = [each[:96, :96] for each in candidates], second[:96, :96]
        mask = np.random.default_rng(0).random(second.shape) < 0.7
        lazy = [da.from_array(each, chunks=64) for each in candidates], da.from_array(second, chunks=64)
        options = {"truth_noise": "unknown", "device": "cpu", "bin_width": "auto", "shrinkage": "auto"}
        one = fit_lut([(candidates, second)], mask=[mask], **options)
        two = fit_lut([lazy], mask=[mask], **options)
        np.testing.assert_array_equal(one.weights, two.weights)
        assert one.report["pixels"] == mask.sum()
        assert one.report["scores"] == two.report["scores"]

    def test_own_inputs_are_warned_of_and_used(self, scene):
        _, _, first, candidates = scene
        with pytest.warns(EnsembleWarning, match="seems to be the image"):
            lut = fit_lut([(candidates, first)], truth_noise="unknown", device="cpu")
        assert len(lut.report["warnings"]) == 1

    def test_a_set_that_is_read_once_is_read_whole(self, scene):
        _, second, _, candidates = scene
        pairs = [([each[rows] for each in candidates], second[rows]) for rows in (slice(96), slice(96, 192))]
        options = {"truth_noise": "unknown", "device": "cpu"}
        once, twice = fit_lut(iter(pairs), **options), fit_lut(pairs, **options)
        assert once.report["images"] == 2
        np.testing.assert_array_equal(once.weights, twice.weights)

    @pytest.mark.parametrize("reference", [[], [3], iter([]), 7])
    def test_what_is_no_set_is_said_as_ever(self, reference):
        with pytest.raises(EnsembleError, match=r"empty|not a pair|give pairs"):
            fit_lut(reference, truth_noise="unknown", device="cpu")

    def test_report_is_plain_and_kept(self, scene, tmp_path):
        from napari_ensir import load_lut

        _, second, _, candidates = scene
        lut = fit_lut([(candidates, second)], ("a", "b", "c"), truth_noise=SIGMA, device="cpu")
        json.dumps(lut.report, allow_nan=False)
        again = load_lut(lut.save(tmp_path / "noisy"))
        assert again.report["scores"] == lut.report["scores"]
        assert [row["name"] for row in lut.report["scores"]["rows"]] == ["a", "b", "c", "average", "ensemble"]


class TestScores:
    def test_of_a_fit_are_true(self, scene):
        clean, second, _, candidates = scene
        lut = fit_lut([(candidates, second)], truth_noise=SIGMA, data_range=(0, 255), device="cpu")
        rows = lut.report["scores"]["rows"]
        images = [*candidates, np.mean(candidates, axis=0), lut.apply(candidates, "cpu")]
        for row, image in zip(rows, images, strict=True):
            assert row["psnr"] == pytest.approx(psnr(image, clean), abs=0.05 + 2 * row["psnr_error"])
            assert row["psnr_error"] < 0.25
        unknown = fit_lut([(candidates, second)], truth_noise="unknown", data_range=(0, 255), device="cpu")
        for row, other in zip(rows, unknown.report["scores"]["rows"], strict=True):
            assert (other["psnr"], other["psnr_error"], other["mse"]) == (None, None, None)
            assert other["difference"] == row["difference"]

    def test_differences_are_those_to_the_truth(self, scene):
        clean, second, _, candidates = scene
        images = [*candidates, np.mean(candidates, axis=0)]
        noisy = NoisyScores.of("abc", [block_errors(second, images)], 255.0)
        true = NoisyScores.of("abc", [block_errors(clean, images)], 255.0)
        for found, right in zip(noisy.rows, true.rows, strict=True):
            assert abs(found.difference - right.difference) <= 3 * found.standard_error
        assert noisy.ranked == true.ranked

    def test_blocks_are_those_of_a_plain_loop(self):
        rng = np.random.default_rng(0)
        truth, images = rng.normal(0, 1, (19, 3, 33)), rng.normal(0, 1, (2, 19, 3, 33))
        images[0, 3, 1, 5] = np.nan
        sums, counts = block_errors(truth, images, channel_axis=1)
        rows, columns = (np.linspace(0, size, 9).astype(int) for size in (19, 33))
        place = 0
        for i in range(8):
            for j in range(8):
                errors = []
                for r in range(rows[i], rows[i + 1]):
                    for c in range(columns[j], columns[j + 1]):
                        for k in range(3):
                            pair = [(images[m, r, k, c] - truth[r, k, c]) ** 2 for m in range(2)]
                            if np.isfinite(pair).all():
                                errors.append(pair)
                assert counts[place] == len(errors)
                np.testing.assert_allclose(sums[place], np.sum(errors, axis=0))
                place += 1
        assert place == len(counts)

    def test_a_star_falls_by_chance_once_in_twenty_at_most(self):
        """Two images that are equally far from the truth, many times."""
        rng = np.random.default_rng(1)
        stars = 0
        for _ in range(300):
            one, two, noise = rng.normal(0, 1, (3, 40, 40))
            scores = NoisyScores.of("ab", [block_errors(3 * noise, [one, two, np.full((40, 40), 9.0)])], 1.0)
            stars += scores.best is not None
        assert 3 <= stars <= 27

    def test_a_star_falls_where_the_difference_is_real(self, scene):
        _, second, _, candidates = scene
        poor = [candidates[0], candidates[0] + 30]
        scores = NoisyScores.of("ab", [block_errors(second, [*poor, np.mean(poor, axis=0)])], 255.0)
        assert (scores.best, [row.best for row in scores.rows]) == (0, [True, False, False])
        assert "★" in scores.table().to_markdown()

    def test_below_the_noise_is_said(self):
        rng = np.random.default_rng(0)
        truth = np.full((64, 64), 100.0)
        noisy = truth + rng.normal(0, 30, truth.shape)
        images = [truth + 0.1, truth + 25, truth + 12]
        rows = NoisyScores.of("ab", [block_errors(noisy, images)], 255.0, noise=30.0).rows
        assert np.isnan(rows[0].psnr)
        assert rows[0].note == "below the noise"
        assert rows[1].psnr == pytest.approx(psnr(truth + 25, truth), abs=0.8)

    def test_one_block_has_no_spread(self):
        blocks = block_errors(np.zeros((1, 1)), [np.ones((1, 1))] * 2)
        row = NoisyScores.of("a", [blocks], 1.0).rows[0]
        assert np.isnan(row.standard_error)
        assert not row.best

    def test_nothing_to_score_is_said(self):
        with pytest.raises(EnsembleError, match="no pixel is finite"):
            NoisyScores.of("a", [block_errors(np.full((4, 4), np.nan), [np.ones((4, 4))] * 2)], 1.0)


class TestCompare:
    METHODS = ("a", "b", "c", "average", "global least squares", "least-squares")

    def test_order_and_differences_are_those_of_the_truth(self, scene):
        clean, second, _, candidates = scene
        true = compare([(candidates, clean)], "abc", methods=self.METHODS, data_range=(0, 255))
        noisy = compare(
            [(candidates, second)], "abc", methods=self.METHODS, data_range=(0, 255), truth_noise=SIGMA
        )
        for one, other in zip(true.rows, noisy.rows, strict=True):
            assert one.psnr == pytest.approx(other.psnr, abs=0.3)
            assert np.isnan(other.ssim)
        assert noisy.noisy.baseline == 3
        json.dumps(noisy.to_dict()["noisy_scores"], allow_nan=False)
        assert "noisy" in " ".join(noisy.notes)

    def test_unknown_noise_shows_no_absolute_score(self, scene):
        _, second, _, candidates = scene
        found = compare([(candidates, second)], "abc", methods=["a", "b"], truth_noise="unknown")
        assert np.isnan([row.psnr for row in found.rows]).all()
        assert found.to_dict()["rows"][0]["psnr"] is None
        assert [row.name for row in found.noisy.rows] == ["a", "b", "average"]
        assert "PSNR" not in found.to_markdown() + " ".join(found.notes)

    def test_em_has_no_row_and_cannot_be_asked_for(self, scene, one_thread):
        _, second, _, candidates = scene
        small = [
            ([each[at] for each in candidates], second[at]) for at in (np.s_[:24, :24], np.s_[24:48, :24])
        ]
        with pytest.raises(EnsembleError, match="takes the noise"):
            compare(small, methods=["em"], truth_noise="unknown")
        with pytest.raises(EnsembleError, match="noise of Y"):
            compare(small, methods=["average"], truth_noise="unknown", y_channel=True)
        names = [row.name for row in compare(small, truth_noise="unknown", samples=100).rows]
        assert "Least squares" in names
        assert not [name for name in names if name.startswith("EM")]

    def test_a_border_is_left_out(self, scene):
        _, second, _, candidates = scene
        spoiled = second.copy()
        spoiled[:4] = 1e4
        cropped = compare(
            [(candidates, spoiled)], "abc", crop_border=4, methods=["a", "b"], truth_noise="unknown"
        )
        again = compare(
            [(candidates, second)], "abc", crop_border=4, methods=["a", "b"], truth_noise="unknown"
        )
        assert [row.difference for row in cropped.noisy.rows] == [row.difference for row in again.noisy.rows]


def test_noise_is_told_by_two_exposures(scene):
    _, second, first, _ = scene
    assert noise_between(first, second) == pytest.approx(SIGMA, rel=0.02)
    first = first.copy()
    first[0, 0] = np.nan
    assert noise_between(first, second) == pytest.approx(SIGMA, rel=0.02)
    with pytest.raises(EnsembleError, match="shapes"):
        noise_between(first, second[1:])
    with pytest.raises(EnsembleError, match="no pixel"):
        noise_between(first * np.nan, second)


def test_the_clean_range_bins_noise_that_leaves_it():
    """Noise beyond the data range is no error of the candidates: it is not cut off."""
    assert choose_binning(np.float64, (0, 255)).high == 255
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 255, (80, 80))
    candidates = [truth + rng.normal(0, 3, truth.shape), truth + rng.normal(0, 9, truth.shape)]
    lut = fit_lut(
        [(candidates, truth + rng.normal(0, 60, truth.shape))],
        truth_noise=60.0,
        data_range=(0, 255),
        device="cpu",
    )
    edge = lut.report["scores"]["rows"][0]["mse"]
    assert abs(edge - 9) < 4 * 60**2 * np.sqrt(2 / truth.size)

"""Mean errors by intensity and their standard errors."""

from __future__ import annotations

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_ensir import EnsembleError, fit_lut, load_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.uncertainty.bias import bias_curve, bias_report
from napari_ensir.ensemble.uncertainty.error_table import BIAS_CLASSES, STEPS, ErrorSums


def scene(seed, shape=(64, 64)):
    """One candidate that is 5 too bright, one that is pulled toward 100."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 200, shape)
    noise = rng.normal(0, 2, (2, *shape))
    return [truth + 5 + noise[0], 100 + 0.8 * (truth - 100) + noise[1]], truth


def test_sums_equal_those_of_plain_loops():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-20, 280, (7, 5, 2))  # some beyond the range
    candidates = [truth + rng.normal(0, 9, truth.shape) for _ in range(2)]
    ensemble = ((candidates[0] + candidates[1]) / 2).astype(np.float32)
    ensemble[0, 0, 0] = np.nan
    keep = rng.random(truth.shape) < 0.8
    field = make_field(candidates, truth, channel_axis=-1)
    found = ErrorSums.zeros(0, 255, 2, 2).measure_block(ensemble, field, keep)
    counts, errors = np.zeros((2, 2, 2, 3, BIAS_CLASSES), np.int64)

    def class_of(value):
        return int(min(max(value / 255 * BIAS_CLASSES, 0), BIAS_CLASSES - 1))

    for place in np.ndindex(truth.shape):
        if not keep[place] or np.isnan(ensemble[place]):
            continue
        for m, image in enumerate((*candidates, ensemble)):
            value = float(image[place])
            error = round((value - truth[place]) / 255 * STEPS)
            for way, intensity in enumerate((truth[place], value)):
                counts[way, place[-1], m, class_of(intensity)] += 1
                errors[way, place[-1], m, class_of(intensity)] += error
    np.testing.assert_array_equal(found.bias_counts, counts)
    np.testing.assert_array_equal(found.bias_errors, errors)


def test_mean_and_standard_error_equal_those_of_plain_loops():
    rng = np.random.default_rng(1)
    zeros = ErrorSums.zeros(0, 408, 1, 1)
    groups = [
        replace(zeros, bias_counts=n, bias_errors=rng.integers(-9, 9, n.shape) * n)
        for n in rng.integers(0, 5, (6, *zeros.bias_counts.shape))
    ]
    found = bias_curve({"bias": bias_report(groups, "images")}, "reading")
    for m in range(2):
        for k in range(BIAS_CLASSES):
            n = np.array([g.bias_counts[1, 0, m, k] for g in groups], float)
            e = np.array([g.bias_errors[1, 0, m, k] for g in groups], float) * 0.1
            mean, b = e.sum() / n.sum(), (n > 0).sum()
            error = np.sqrt(b / (b - 1) * sum((e - mean * n) ** 2)) / n.sum()
            assert found.bias[0, m, k] == pytest.approx(mean, rel=1e-4, abs=1e-9)
            assert found.standard_error[0, m, k] == pytest.approx(error, rel=1e-4)
            assert found.pixels[0, m, k] == n.sum()


@pytest.mark.parametrize("n_images", [1, 9])
def test_bias_of_known_distortions_is_found(n_images):
    learned = [scene(seed) for seed in range(n_images)]
    lut = fit_lut(learned, method="least-squares", data_range=(0, 200), device="cpu")
    report = lut.calibrated(learned, device="cpu").report
    assert report["bias"]["over"] == ("images" if n_images == 9 else "blocks of the images")
    curve = bias_curve(report)
    for m, true in enumerate((np.full(BIAS_CLASSES, 5.0), 0.2 * (100 - curve.intensities))):
        off = (curve.bias[0, m] - true) / curve.standard_error[0, m]
        assert np.sqrt(np.mean(off**2)) < 2
        assert 0.05 < np.median(curve.standard_error[0, m]) < 0.6


def test_least_squares_estimate_is_biased_by_the_truth_and_unbiased_by_the_reading():
    rng = np.random.default_rng(3)
    truth = 100 + rng.normal(0, 20, (128, 128))
    best = [100 + 0.5 * (truth + rng.normal(0, 20, truth.shape) - 100) for _ in range(2)]
    lut = fit_lut([(best, truth)], data_range=(50, 150), device="cpu").calibrated(
        [(best, truth)], device="cpu"
    )
    by_truth, by_reading = bias_curve(lut.report), bias_curve(lut.report, "reading")
    here = slice(10, 22)  # where pixels are many
    np.testing.assert_allclose(by_truth.bias[0, 0, here], 0.5 * (100 - by_truth.intensities[here]), atol=1.2)
    np.testing.assert_allclose(by_reading.bias[0, 0, here], 0, atol=2.5)


def test_standard_errors_hold_where_neighbouring_pixels_are_correlated():
    """Over 10 fields, about 68 % of the mean errors lie within one standard error and 95 % within two."""
    within = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(0, 200, (96, 96))
        smooth = gaussian_filter(rng.normal(0, 1, truth.shape), 4, mode="wrap")
        candidates = [truth + 20 * smooth / smooth.std(), truth + rng.normal(0, 1, truth.shape)]
        lut = fit_lut([(candidates, truth)], bin_width=50, data_range=(0, 200), device="cpu")
        curve = bias_curve(lut.calibrated([(candidates, truth)], device="cpu").report)
        within.append(np.abs(curve.bias[0, 0]) / curve.standard_error[0, 0])
    assert 0.5 < np.mean(np.array(within) < 1) < 0.8
    assert np.mean(np.array(within) < 2) > 0.85
    # A standard error over pixels, 20 over the root of 288, would be far smaller.
    assert np.median(curve.standard_error[0, 0]) > 1.5 * 20 / np.sqrt(96 * 96 / BIAS_CLASSES)


def test_dask_chunks_do_not_change_the_bias():
    candidates, truth = scene(2, (8, 24, 24))
    mask = np.random.default_rng(1).random(truth.shape) < 0.5
    lut = fit_lut([(candidates, truth)], method="least-squares", data_range=(-10, 260), device="cpu")
    plain = lut.calibrated([(candidates, truth)], [mask], "cpu").report["bias"]
    lazy = [da.from_array(one, (3, 24, 10)) for one in (*candidates, truth)]
    assert lut.calibrated([(lazy[:2], lazy[2])], [mask], "cpu").report["bias"] == plain
    assert np.sum(plain["truth"]["pixels"]) == 3 * mask.sum()


def test_noise_of_the_truth_does_not_bias_the_reading():
    rng = np.random.default_rng(0)
    clean = [scene(seed) for seed in range(4)]
    noisy = [(xs, y + rng.normal(0, 25, y.shape)) for xs, y in clean]
    lut = fit_lut(clean, method="least-squares", data_range=(0, 200), device="cpu")
    true = bias_curve(lut.calibrated(clean, device="cpu").report, "reading")
    noted = replace(lut, report={**lut.report, "truth_noise": 25.0}).calibrated(noisy, device="cpu")
    found = bias_curve(noted.report, "reading")
    off = (found.bias - true.bias)[0] / np.hypot(found.standard_error, true.standard_error)[0]
    assert np.sqrt(np.nanmean(off**2)) < 1.5
    with pytest.raises(EnsembleError, match="was noisy"):
        bias_curve(noted.report)


def test_bias_is_saved_and_rescaled(tmp_path):
    pairs = [scene(0)]
    lut = fit_lut(pairs, data_range=(0, 200), device="cpu").calibrated(pairs, device="cpu")
    before, after = bias_curve(lut.report), bias_curve(lut.rescaled(2, 100).report)
    np.testing.assert_allclose(after.bias, 2 * before.bias)
    np.testing.assert_allclose(after.standard_error, 2 * before.standard_error)
    np.testing.assert_allclose(after.intensities, 2 * before.intensities + 100)
    read = bias_curve(load_lut(lut.save(tmp_path / "t")).report)
    np.testing.assert_array_equal(read.bias, before.bias)


def test_channels_of_a_spectrum_are_pooled():
    truth = np.random.default_rng(0).uniform(0, 200, (32, 32, 6))
    pairs = [([truth + 1, truth - 1], truth)]
    lut = fit_lut(pairs, channel_axis=-1, data_range=(0, 200), device="cpu").calibrated(pairs, device="cpu")
    assert bias_curve(lut.report).bias.shape == (1, 3, BIAS_CLASSES)


def test_missing_and_damaged_bias_raise_an_error():
    pairs = [scene(0, (16, 16))]
    lut = fit_lut(pairs, device="cpu")
    with pytest.raises(EnsembleError, match="no mean errors by intensity; add them"):
        bias_curve(lut.report)
    with pytest.raises(EnsembleError, match='use "truth" or "reading"'):
        bias_curve(lut.report, "both")
    good = lut.calibrated(pairs, device="cpu").report["bias"]
    bad = (
        {},
        {**good, "truth": 3},
        {**good, "truth": {**good["truth"], "bias": [[[]]]}},
        {**good, "low": 9**999},
        {**good, "truth": {**good["truth"], "pixels": [[["a"]]]}},
        {**good, "low": None},
    )
    for kept in bad:
        with pytest.raises(EnsembleError, match="damaged"):
            bias_curve({"bias": kept})
        replace(lut, report={"bias": kept}).rescaled(2, 1)  # raises nothing

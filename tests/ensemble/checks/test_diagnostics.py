"""Diagnostics of fit_lut and apply: codes, fixes, Python warnings, and the brightness of second exposures."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_ensir import compare, fit_lut
from napari_ensir.ensemble.checks.alignment import check_alignment
from napari_ensir.ensemble.checks.exposure import find_drift, match_truths
from napari_ensir.errors import EnsembleWarning


@pytest.fixture(scope="module")
def scene():
    """A clean image and two restorations of it."""
    truth = data.camera()[60:188, 100:228].astype(np.float32)
    rng = np.random.default_rng(0)
    noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (6, 20)]
    return truth, [gaussian_filter(image, 0.6).astype(np.float32) for image in noisy]


def test_a_scale_hidden_by_errors_is_named_with_gain_and_offset(scene):
    truth, (near, far) = scene
    stretched = (far - 20) / 0.8
    with pytest.warns(EnsembleWarning, match="on another scale"):
        lut = fit_lut([((near, stretched), truth)], "AB", method="least-squares", device="cpu")
    (found,) = lut.report["diagnostics"]
    assert found["code"] == "scale-mismatch"
    assert found["fix"]["candidates"] == ["B"]
    assert found["fix"]["gain"] == pytest.approx(0.8, abs=0.02)
    assert found["fix"]["offset"] == pytest.approx(20, abs=2)
    assert lut.report["warnings"] == [found["message"]]
    json.dumps(lut.report, allow_nan=False)


def test_sound_images_are_fitted_and_combined_without_a_warning(scene):
    truth, candidates = scene
    with warnings.catch_warnings():
        warnings.simplefilter("error", EnsembleWarning)
        lut = fit_lut([(candidates, truth)], device="cpu")
        lut.apply(candidates, "cpu")
    assert lut.report["warnings"] == []


def test_apply_warns_of_candidates_that_do_not_lie_on_each_other(scene):
    truth, (near, far) = scene
    lut = fit_lut([((near, far), truth)], "AB", device="cpu")
    with pytest.warns(EnsembleWarning, match='"B": shifted by 5 pixels to the right against candidate "A"'):
        lut.apply((near, np.roll(far, 5, axis=1)), "cpu")


def test_candidates_without_a_truth_are_compared_with_each_other(scene):
    _, (near, far) = scene
    (found,) = check_alignment([near, far, np.roll(near + 1, 4, axis=0)], names="ABC")
    assert found.code == "shifted"
    assert found.fix == {"action": "align", "candidates": ["C"], "shift": [4, 0]}
    assert check_alignment([near, far]) == []


@pytest.mark.parametrize("lazy", [False, True])
def test_the_brightness_of_a_second_exposure_is_matched(scene, lazy):
    truth, candidates = scene
    second = 0.8 * truth + 5 + np.random.default_rng(1).normal(0, 10, truth.shape).astype(np.float32)
    drift = find_drift(candidates, second)
    assert abs(drift.gain - 1.25) < 3 * drift.gain_error < 0.15
    given = second
    if lazy:
        given = pytest.importorskip("dask.array").from_array(second, chunks=64)
    options = {"truth_noise": "unknown", "device": "cpu", "data_range": (0, 255)}
    clean = fit_lut([(candidates, truth)], method="least-squares", device="cpu", data_range=(0, 255))
    matched = fit_lut([(candidates, given)], **options)
    as_it_is = fit_lut([(candidates, given)], match_truth="never", **options)
    assert matched.report["matched_truth"][0]["gain"] == pytest.approx(drift.gain)
    assert "matched_truth" not in as_it_is.report

    def error(lut):
        return float(np.mean((lut.apply(candidates, "cpu", check=False) - truth) ** 2))

    assert error(matched) < 1.02 * error(clean)


def test_equal_brightness_is_left_as_it_is(scene):
    truth, candidates = scene
    second = truth + np.random.default_rng(1).normal(0, 10, truth.shape)
    pairs = [(candidates, second)]
    assert match_truths(pairs) == (pairs, [])


def test_the_noise_of_a_matched_exposure_is_multiplied_by_the_gain(scene):
    truth, candidates = scene
    second = 0.8 * truth + np.random.default_rng(1).normal(0, 8, truth.shape).astype(np.float32)
    options = {"device": "cpu", "data_range": (0, 255)}
    lut = fit_lut([(candidates, second)], truth_noise=8.0, **options)
    gain = lut.report["matched_truth"][0]["gain"]
    assert gain == pytest.approx(1.25, abs=0.05)
    assert lut.report["truth_noise"] == pytest.approx(8 * gain)
    row = lut.report["scores"]["rows"][0]
    error = float(np.mean((candidates[0] - truth) ** 2))
    assert row["mse"] == pytest.approx(error, abs=3 * 2 * 64 / np.sqrt(truth.size) + 0.15 * error)
    as_it_is = fit_lut([(candidates, second)], truth_noise=8.0, match_truth="never", **options)
    assert as_it_is.report["truth_noise"] == 8.0


def test_compare_names_a_drifted_second_exposure(scene):
    truth, candidates = scene
    noise = np.random.default_rng(1).normal(0, 8, truth.shape)
    for gain in (1.0, 0.8):
        found = compare([(candidates, gain * truth + noise)], "AB", methods=["A", "B"], truth_noise=8.0)
        drifted = [note for note in found.notes if "differs in brightness" in note]
        assert len(drifted) == (gain != 1)

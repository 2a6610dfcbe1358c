"""One session fits several tables from one pass over the pixels, and chooses the method on held-out parts."""

from __future__ import annotations

import re

import dask.array as da
import numpy as np
import pytest

from napari_ensir import EnsembleError, FitSession, fit_lut, load_lut
from napari_ensir.settings import FitSettings


def noisy_pair(shape=(64, 64), sigmas=(4, 8, 12), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(20, 230, shape).astype(np.float64)
    arrays = [np.clip(truth + rng.normal(0, sigma, shape), 0, 255).round() for sigma in sigmas]
    return [array.astype(np.uint8) for array in arrays], truth.astype(np.uint8)


def equal(one, other):
    for name in ("rows", "weights", "counts", "fallback"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.method, one.binning) == (other.method, other.binning)


class Counted:
    """An array that counts the pixels read from it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim, self.read = (
            array,
            array.shape,
            array.dtype,
            array.ndim,
            0,
        )

    def __getitem__(self, key):
        found = self.array[key]
        self.read += np.size(found)
        return found


def test_changes_of_method_and_bins_read_no_pixel_again():
    candidates, truth = noisy_pair()
    counted = Counted(truth)
    session = FitSession([(candidates, counted)], device="cpu", check_input=False)
    session.collect()
    assert counted.read <= 2 * truth.size  # counted, and hashed
    read = counted.read
    for changes in (
        {"method": "em"},
        {"bin_width": 16},
        {"method": "least-squares", "shrinkage": 50},
        {"bin_width": 64, "method": "em-released"},
        {"method": "em", "prior": (1, 2, 3), "max_iter": 3},
    ):
        found = session.estimate(**changes)
        settings = session.settings.keywords()
        equal(found, fit_lut([(candidates, truth)], **settings))
    session.score()
    assert counted.read == read


def test_scores_agree_with_the_pixels():
    candidates, truth = noisy_pair()
    session = FitSession([(candidates, truth)], ("a", "b", "c"), method="em", device="cpu")
    lut = session.estimate()
    scores = {score.name: score for score in session.score()}
    for name, image in [*zip("abc", candidates, strict=True), ("EM (paper)", lut.apply(candidates, "cpu"))]:
        wanted = 10 * np.log10(255**2 / np.mean((image.astype(float) - truth) ** 2))
        assert scores[name].psnr == pytest.approx(wanted, abs=1e-4)
    assert scores["EM (paper)"].held_out < scores["EM (paper)"].psnr


def test_calibration_equals_that_of_the_table():
    candidates, truth = noisy_pair()
    session = FitSession([(candidates, truth)], method="em", device="cpu")
    wanted = session.estimate().calibrated([(candidates, truth)], device="cpu")
    found = session.calibrate()
    np.testing.assert_array_equal(found.errors.squares, wanted.errors.squares)
    assert found is session.lut


def test_held_out_images_are_scored_and_not_learned_from():
    first, second = noisy_pair(seed=0), noisy_pair(seed=1)
    session = FitSession([first], method="em", held_out=([second], None), device="cpu")
    lut = session.estimate()
    equal(lut, fit_lut([first], method="em", device="cpu"))
    score = next(one for one in session.score() if one.method == "em")
    wanted = 10 * np.log10(255**2 / np.mean((lut.apply(second[0], "cpu") - second[1].astype(float)) ** 2))
    assert score.held_out == pytest.approx(wanted, abs=1e-4)


def test_settings_that_need_the_pixels_again_are_refused():
    session = FitSession([noisy_pair()], device="cpu")
    before = session.estimate()
    for changes in ({"data_range": (0, 100)}, {"bin_width": 13.7}, {"planes": (0, 1)}):
        with pytest.raises(EnsembleError, match="create a new FitSession"):
            session.estimate(**changes)
    with pytest.raises(EnsembleError, match="method is 'best'"):
        session.estimate(method="best")
    assert session.lut is before
    with pytest.raises(EnsembleError, match="there is no setting 'bins'"):
        FitSession([noisy_pair()], bins=3)


def test_an_estimate_of_a_copy_leaves_the_session_as_it_was():
    session = FitSession([noisy_pair()], method="em", device="cpu")
    before = session.estimate()
    assert session.copy().estimate(method="least-squares").method == "least-squares"
    assert (session.lut, session.settings.method) == (before, "em")


def test_auto_takes_the_method_with_the_least_held_out_error(tmp_path):
    pair = noisy_pair()
    session = FitSession([pair], device="cpu")
    lut = session.estimate()
    held_out = {score.method: score.held_out for score in session.score() if score.method}
    assert lut.method == max(held_out, key=held_out.get) == "least-squares"
    choice = lut.report["method_choice"]
    for method, value in choice["held_out_psnr"].items():
        assert value == pytest.approx(held_out[method])
    second = sorted(held_out.values())[-2]
    gain = held_out["least-squares"] - second
    assert choice["summary"].startswith(f"Least squares, {gain:.2f} dB above EM")
    equal(lut, fit_lut([pair], method="least-squares", device="cpu"))
    assert load_lut(lut.save(tmp_path / "a")).report["method_choice"] == choice


def test_auto_can_choose_em():
    """Least squares that is shrunk to one vector cannot follow the intensity; EM can."""
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(96) % 2, 50, 200) + rng.integers(0, 10, (96, 96))
    dark = truth < 100
    errors = rng.normal(0, 1, (2, 96, 96)) * np.stack([np.where(dark, 1, 20), np.where(dark, 20, 1)])
    candidates = [np.clip(truth + error, 0, 255).astype(np.uint8) for error in errors]
    lut = fit_lut([(candidates, truth.astype(np.uint8))], shrinkage=1e9, device="cpu")
    assert lut.method in ("em", "em-released")


def test_auto_is_least_squares_where_the_truth_is_noisy():
    candidates, truth = noisy_pair()
    assert fit_lut([(candidates, truth)], truth_noise=3.0, device="cpu").method == "least-squares"


def test_auto_says_first_that_no_method_beats_a_candidate():
    rng = np.random.default_rng(3)
    truth = rng.integers(20, 230, (64, 64)).astype(np.float32)
    error = rng.normal(0, 5, truth.shape)
    # The second candidate has the first one's error twice, so that no average is better than the first.
    lut = fit_lut([([truth + error, truth + 2 * error], truth)], names=("good", "poor"), device="cpu")
    assert lut.report["warnings"][0].startswith(
        'no method is significantly better than the candidate "good" alone on parts held out'
    )
    assert "(Least squares: equal); use that candidate, or add candidates" in lut.report["warnings"][0]
    good = fit_lut([noisy_pair()], device="cpu")
    assert not any("no method" in text for text in good.report["warnings"])


def test_a_gain_that_is_not_significant_is_reported_with_its_error():
    rng = np.random.default_rng(3)
    truth = rng.integers(20, 230, (64, 64)).astype(np.float32)
    error = rng.normal(0, 5, truth.shape)
    candidates = [truth + error, truth + 1.1 * error + rng.normal(0, 1, truth.shape)]
    lut = fit_lut([(candidates, truth)], names=("good", "poor"), bin_width=8, shrinkage=0, device="cpu")
    assert re.search(r": [+\u2212][\d.]+ ± [\d.]+ dB\); more images may decide", lut.report["warnings"][0])


def test_auto_of_too_few_pixels_falls_back_to_least_squares():
    truth = np.array([[7.0], [9.0]], np.float32)
    mask = [np.array([[True], [False]])]
    lut = fit_lut([([truth + 1, truth - 1], truth)], mask=mask, data_range=(0, 16), device="cpu")
    assert lut.method == "least-squares"
    assert "none can be held out" in lut.report["method_choice"]["summary"]


@pytest.mark.parametrize("method", ["auto", "em"])
@pytest.mark.parametrize("kind", ["iterator", "dask", "sliced"])
def test_one_table_for_any_source(kind, method):
    pairs = [noisy_pair((40, 30), seed=seed) for seed in range(6 if kind == "iterator" else 1)]
    wanted = fit_lut(pairs, method=method, device="cpu")
    if kind == "iterator":
        given = iter(pairs)
    elif kind == "dask":
        lazy = [da.from_array(array, chunks=(13, 30)) for array in (*pairs[0][0], pairs[0][1])]
        given = [(lazy[:-1], lazy[-1])]
    else:
        given = [([Counted(array) for array in pairs[0][0]], Counted(pairs[0][1]))]
    found = fit_lut(given, method=method, device="cpu")
    equal(found, wanted)
    assert found.report.get("method_choice") == wanted.report.get("method_choice")


def test_settings_in_one_object_and_keywords_agree():
    settings = FitSettings(method="em", bin_width=16.0, device="cpu")
    session = FitSession([noisy_pair()], settings=settings, bin_width=64)
    assert (session.settings.method, session.estimate().bin_width) == ("em", 64)

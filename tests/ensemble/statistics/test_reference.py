"""Provenance of a table, and tables rescaled to another exposure."""

from __future__ import annotations

import hashlib
import json

import dask.array as da
import numpy as np
import pytest
import torch

from napari_ensir import EnsembleError, fit_lut, load_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.checks.exposure import exposure_of, matched
from napari_ensir.ensemble.statistics import reference as provenance
from napari_ensir.ensemble.statistics.reference import Samples, sample_pixels
from tests.helpers.images import make_image


def test_report_describes_inputs_settings_and_versions(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    images = [make_image(rng, shape, 2) for shape in ((20, 30), (16, 16))]
    lut = fit_lut(images, ("A", "B"), method="least-squares", shrinkage=20, device="cpu")
    report = load_lut(lut.save(tmp_path / "a")).report
    assert report["date"] == "1970-01-02"
    assert set(report["versions"]) == {"napari-ensir", "numpy", "torch"}
    assert report["versions"]["numpy"] == np.__version__
    assert report["settings"] == {"shrinkage": 20}, "least squares has no other"
    inputs = report["inputs"]
    assert [one["shape"] for one in inputs["listed"]] == [[20, 30], [16, 16]]
    assert inputs["listed"][0]["dtypes"] == ["uint8"] * 3
    candidates, truth = images[0]
    wanted = [
        hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in (*candidates, truth)
    ]
    assert inputs["listed"][0]["sha256"] == wanted
    assert "not_hashed" not in inputs


def test_hashes_are_the_same_for_all_kinds_of_arrays(rng):
    (one, other), truth = make_image(rng, (20, 30), 2, np.uint16)
    kinds = [
        ([one, other], truth),
        ([torch.from_numpy(one.astype(np.int32)).to(torch.uint16), other], truth),
        ([np.asfortranarray(one), other.astype(">u2")], truth),
    ]
    found = {
        json.dumps(fit_lut([pair], device="cpu").report["inputs"]["listed"][0]["sha256"]) for pair in kinds
    }
    assert len(found) == 1


def test_large_or_lazy_images_are_reported_as_not_hashed(rng, monkeypatch):
    monkeypatch.setattr(provenance, "HASHED_BYTES", 3000)
    candidates, truth = make_image(rng, (32, 32), 2)
    inputs = fit_lut([(candidates, truth)] * 2, device="cpu").report["inputs"]
    assert [one["sha256"] is None for one in inputs["listed"]] == [True, True]
    assert "hash_inputs=True" in inputs["not_hashed"]
    asked = fit_lut([(candidates, truth)] * 2, device="cpu", hash_inputs=True).report["inputs"]
    assert all(one["sha256"] for one in asked["listed"])
    lazy = [da.from_array(one) for one in candidates]
    inputs = fit_lut([(lazy, da.from_array(truth))], device="cpu", hash_inputs=True).report["inputs"]
    assert inputs["listed"][0]["sha256"] is None
    assert "percentiles" not in inputs
    monkeypatch.setattr(provenance, "LISTED", 3)
    inputs = fit_lut([(candidates, truth)] * 5, device="cpu").report["inputs"]
    assert (inputs["images"], len(inputs["listed"])) == (5, 3)


def test_folds_do_not_change_the_inputs(rng):
    images = [make_image(rng, (20, 20), 2) for _ in range(5)]
    whole = fit_lut(images, method="least-squares", device="cpu").report["inputs"]
    folded = fit_lut(images, method="least-squares", bin_width="auto", device="cpu").report["inputs"]
    assert whole == folded
    one = fit_lut(images[:1], method="least-squares", bin_width="auto", device="cpu").report["inputs"]
    assert one["listed"][0]["shape"] == [20, 20]


# -- another exposure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("gain", "offset"), [(2, 100), (7, -30), (1, 0), (0.37, 5.5), (1 / 3, 0), (255.0, 1e4)]
)
def test_a_rescaled_table_gives_the_rescaled_ensemble(rng, dtype, gain, offset):
    candidates, truth = make_image(rng, (64, 64), 3, dtype)
    images = [(candidates, truth)]
    lut = fit_lut(images, method="least-squares", device="cpu").calibrated(images, device="cpu")
    later = [candidate.astype(np.float64) * gain + offset for candidate in candidates]
    if dtype == np.uint8 and gain == int(gain) and offset == int(offset):
        later = [np.rint(one).astype(np.int32) for one in later]
    wanted = lut.apply(candidates, "cpu").astype(np.float64) * gain + offset
    other = lut.rescaled(gain, offset)
    level = gain * (1 if dtype == np.uint8 else np.ptp(truth) / 255)
    assert np.abs(other.apply(later, "cpu") - wanted).max() <= level
    assert other.bin_width == pytest.approx(lut.bin_width * gain)
    ratio = other.expected_error(later, "cpu") / (gain * lut.expected_error(candidates, "cpu"))
    assert np.quantile(np.abs(ratio - 1), 0.99) < 0.02


def test_rescaling_twice_equals_rescaling_once(rng, tmp_path):
    lut = fit_lut([make_image(rng, (32, 32), 2)], device="cpu")
    twice = lut.rescaled(2, 10).rescaled(3, -5)
    once = lut.rescaled(6, 25)
    assert twice.binning == once.binning
    assert twice.report["rescaled"] == once.report["rescaled"] == [6, 25]
    assert load_lut(twice.save(tmp_path / "a")).binning == twice.binning
    for gain, offset in ((0, 0), (-1, 0), (np.nan, 0), (1, np.inf)):
        with pytest.raises(EnsembleError, match="use a gain above 0"):
            lut.rescaled(gain, offset)


def spots(seed):
    """A field of one sample: dim, with a few bright spots."""
    rng = np.random.default_rng(seed)
    return rng.gamma(3, 30, (80, 80)) + 100 + (rng.random((80, 80)) < 0.01) * 900


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 100.0), (0.25, 0.0), (1.0, 400.0), (16.0, 0.0)])
def test_another_exposure_is_detected_and_matched(gain, offset):
    truth = spots(0)
    noise = np.random.default_rng(5).normal(0, 4, (2, *truth.shape))
    lut = fit_lut([([truth + noise[0], truth - noise[1]], truth)], device="cpu")
    new = spots(1) * gain + offset
    exposure = exposure_of(lut.report, sample_pixels(make_field([new, new])))
    assert exposure.differs
    assert "another exposure" in exposure.check()[0].message
    assert matched(exposure)[0] == pytest.approx(gain, rel=0.08)
    # Matched, the same images count as being of the table's exposure.
    again = exposure_of(lut.rescaled(*matched(exposure)).report, sample_pixels(make_field([new, new])))
    assert not again.differs
    assert again.gain == pytest.approx(1, abs=0.01)


def test_other_fields_of_a_sample_are_not_another_exposure():
    lut = fit_lut([([spots(0), spots(0) + 1], spots(0))], device="cpu")
    for seed in range(1, 12):
        exposure = exposure_of(lut.report, sample_pixels(make_field([spots(seed)])))
        assert not exposure.differs


def test_no_warning_without_percentiles():
    field = make_field([spots(0)])
    good = [float(n) for n in range(len(provenance.PERCENTS))]
    for report in (
        {},
        {"inputs": 3},
        {"inputs": {"percentiles": "abc"}},
        {"inputs": {"percentiles": ["a"] * 9}},
    ):
        assert exposure_of(report, sample_pixels(field)) is None
    assert exposure_of({"inputs": {"percentiles": [1.0] * 9}}, sample_pixels(field)) is None
    assert (
        exposure_of({"inputs": {"percentiles": good}}, sample_pixels(make_field([np.ones((5, 5))]))) is None
    )
    assert (
        exposure_of({"inputs": {"percentiles": good}}, sample_pixels(make_field([da.ones((5, 5))]))) is None
    )
    with pytest.raises(EnsembleError, match="cannot be matched"):
        matched(None)


def test_sample_is_bounded_and_independent_of_the_order(rng, monkeypatch):
    monkeypatch.setattr(provenance, "MOST_SAMPLES", 1000)
    images = [rng.random(size).astype(np.float32) for size in (900, 50, 1, 2000, 333, 8)]
    kept = []
    for order in (range(6), [3, 5, 1, 0, 2, 4]):
        samples = Samples()
        for number in order:
            samples.add(images[number])
        kept.append(np.sort(samples.all()))
    np.testing.assert_array_equal(*kept)
    np.testing.assert_array_equal(kept[0], np.sort(np.concatenate([image[::4] for image in images])))


def test_report_lists_a_limited_number_of_images(rng):
    images = [make_image(rng, (6, 6), 2) for _ in range(provenance.LISTED + 9)]
    inputs = fit_lut(images, method="least-squares", device="cpu").report["inputs"]
    assert inputs["images"] == len(images)
    assert len(inputs["listed"]) == provenance.LISTED
    assert all(one["shape"] == [6, 6] and one["sha256"] for one in inputs["listed"])

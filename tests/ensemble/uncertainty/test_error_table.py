"""Expected errors of an ensemble against its actual errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch

from napari_ensir import EnsembleError, fit_lut, load_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.uncertainty.bias import bias_curve
from napari_ensir.ensemble.uncertainty.error_table import INTENSITIES, SPREADS, STEPS, ErrorSums


def scene(seed, shape=(96, 96), scale=1.0, offset=0.0, channels=0):
    """Three candidates with a common error and own errors that grow with intensity."""
    rng = np.random.default_rng(seed)
    shape = (*shape, channels) if channels else shape
    truth = rng.uniform(0, 200, shape)
    common = rng.normal(0, 1, shape)
    candidates = [truth + common + rng.normal(0, 1, shape) * (1 + truth / 40) for _ in range(3)]
    return [one * scale + offset for one in candidates], truth * scale + offset


def by_tenths(predicted, actual):
    order = np.argsort(predicted, axis=None, kind="stable")
    return [
        float(np.sqrt((predicted.flat[some] ** 2).mean() / (actual.flat[some] ** 2).mean()))
        for some in np.array_split(order, 10)
    ]


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-5, -3.0), (300.0, 1000.0)])
@pytest.mark.parametrize("method", ["em", "least-squares"])
def test_expected_errors_hold_on_new_images(scale, offset, method):
    learned = [scene(seed, scale=scale, offset=offset) for seed in range(4)]
    lut = fit_lut(learned, method=method, device="cpu").calibrated(learned, device="cpu")
    candidates, truth = scene(9, scale=scale, offset=offset)
    predicted = lut.expected_error(candidates, "cpu")
    assert predicted.dtype == np.float32
    ratios = by_tenths(predicted, lut.apply(candidates, "cpu") - truth)
    assert 0.8 < min(ratios) <= max(ratios) < 1.25
    assert predicted.max() > 1.5 * predicted.min()


def test_each_part_is_measured_with_weights_of_the_other_parts():
    """On pure noise with many bin sets, errors on the training pixels are far smaller than elsewhere."""
    rng = np.random.default_rng(0)
    learned = [(list(rng.uniform(0, 255, (3, 40, 40))), rng.uniform(0, 255, (40, 40))) for _ in range(4)]
    lut = fit_lut(learned, method="least-squares", bin_width=8, shrinkage=0, device="cpu")
    fitted = np.sqrt(np.mean([(lut.apply(xs, "cpu") - y) ** 2 for xs, y in learned]))
    fresh = [(list(rng.uniform(0, 255, (3, 40, 40))), rng.uniform(0, 255, (40, 40))) for _ in range(4)]
    unseen = np.sqrt(np.mean([(lut.apply(xs, "cpu") - y) ** 2 for xs, y in fresh]))
    assert fitted < 0.9 * unseen
    assert lut.calibrated(learned, device="cpu").errors.overall == pytest.approx(unseen, rel=0.03)


class RecordingSequence(Sequence):
    """Images that record which of them were read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        pair = self.images[number]
        self.read.append(number)
        return pair


def test_each_image_is_read_twice():
    images = RecordingSequence([scene(seed, (12, 12)) for seed in range(11)])
    lut = fit_lut(images, method="least-squares", data_range=(0, 255), device="cpu")
    images.read.clear()
    lut.calibrated(images, device="cpu")
    assert sorted(images.read) == sorted([0, *range(11), *range(11)])


def test_sums_equal_those_of_plain_loops():
    candidates, truth = scene(3, (13, 11), channels=2)
    lut = fit_lut([(candidates, truth)], channel_axis=-1, data_range=(0, 255), device="cpu")
    zeros = ErrorSums.zeros(0, 255, 2, 3)
    ensemble = lut.apply(candidates, "cpu")
    found = zeros.measure_block(ensemble, make_field(candidates, truth, channel_axis=-1), None)
    squares, counts = np.zeros((2, 2, INTENSITIES, SPREADS), np.int64)
    for place in np.ndindex(ensemble.shape):
        values = np.array([one[place] for one in candidates], np.float32)
        intensity = int(np.clip(ensemble[place] / 255 * INTENSITIES, 0, INTENSITIES - 1))
        spread = int(np.clip(np.floor(2 * np.log2(values.std() + 0.25)) + 4, 0, SPREADS - 1))
        squares[place[-1], intensity, spread] += (
            int(np.rint((ensemble[place] - truth[place]) / 255 * STEPS)) ** 2
        )
        counts[place[-1], intensity, spread] += 1
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.squares, squares)


def test_masks_planes_chunks_and_array_types_give_the_same_errors():
    candidates, truth = scene(4, (8, 24, 24))
    mask = np.random.default_rng(1).random(truth.shape) < 0.5
    lut = fit_lut([(candidates, truth)], method="least-squares", data_range=(-10, 260), device="cpu")
    plain = lut.calibrated([(candidates, truth)], [mask], "cpu").errors
    assert plain.counts.sum() == mask.sum()
    lazy = [da.from_array(one, (3, 24, 10)) for one in candidates]
    chunked = lut.calibrated([(lazy, da.from_array(truth, (3, 24, 10)))], [mask], "cpu").errors
    np.testing.assert_array_equal(chunked.counts, plain.counts)
    np.testing.assert_array_equal(chunked.squares, plain.squares)
    some = lut.calibrated([(candidates, truth)], device="cpu", planes=(2, 5)).errors
    assert some.counts.sum() == truth[2:6].size

    lut = lut.calibrated([(candidates, truth)], device="cpu")
    whole = lut.expected_error(candidates, "cpu")
    later = lut.expected_error(lazy, "cpu")
    assert later.chunks == lazy[0].chunks
    np.testing.assert_array_equal(later.compute(), whole)
    tensor = lut.expected_error([torch.from_numpy(one) for one in candidates], "cpu")
    np.testing.assert_array_equal(tensor.numpy(), whole)
    holed = [one.copy() for one in candidates]
    holed[0][1, 2, 3] = np.nan
    assert np.isnan(lut.expected_error(holed, "cpu")[1, 2, 3])
    assert np.isnan(lut.expected_error(holed, "cpu")).sum() == 1


def test_noise_that_grows_with_intensity_gives_a_warning():
    rng = np.random.default_rng(3)
    truth = np.tile(np.linspace(0, 200, 128), (128, 1))
    candidates = [truth + rng.normal(0, 1, truth.shape) for _ in range(2)]
    even, photons = truth + rng.normal(0, 10, truth.shape), rng.poisson(truth).astype(float)
    keywords = {"truth_noise": 10.0, "data_range": (0, 256), "device": "cpu"}
    pairs = [[(candidates, noisy)] for noisy in (even, photons)]
    good, doubtful = (fit_lut(one, **keywords).calibrated(one).report["warnings"] for one in pairs)
    assert good == []
    # Photons' noise is 10 at 100, and 0.8 of that variance at 80.
    assert doubtful[0].startswith("where the ensemble is between 0 and 80, the noise of the ground truth is")


def test_known_noise_of_the_truth_is_subtracted():
    rng = np.random.default_rng(0)
    clean = [scene(seed) for seed in range(4)]
    noisy = [(xs, y + rng.normal(0, 12, y.shape)) for xs, y in clean]
    lut = fit_lut(clean, method="least-squares", data_range=(-60, 320), device="cpu")
    true = lut.calibrated(clean, device="cpu").errors.overall
    noted = replace(lut, report={**lut.report, "truth_noise": 12.0}).calibrated(noisy, device="cpu")
    assert noted.errors.overall == pytest.approx(true, rel=0.1)
    with pytest.raises(EnsembleError, match="of unknown size"):
        replace(lut, report={**lut.report, "truth_noise": "unknown"}).calibrated(noisy, device="cpu")


@pytest.mark.parametrize("n_images", [2, 5])
def test_images_whose_only_axis_is_the_channel_axis_keep_all_channels(n_images):
    rng = np.random.default_rng(0)
    n_channels = 12
    truth = np.repeat(rng.uniform(0, 100, (1, n_channels)), n_images, 0).astype(np.float32)
    pairs = [([y + rng.normal(0, 1 + np.arange(n_channels)).astype(np.float32), y + 5], y) for y in truth]
    lut = fit_lut(pairs, channel_axis=0, method="least-squares", data_range=(0, 100), device="cpu")
    lut = lut.calibrated(pairs, device="cpu")
    np.testing.assert_array_equal(lut.errors.counts.sum(axis=(1, 2)), n_images)
    np.testing.assert_array_equal(bias_curve(lut.report).pixels.sum(axis=(1, 2)), 3 * n_images * n_channels)
    assert lut.expected_error(pairs[0][0], "cpu").shape == (n_channels,)


def uneven_scene(seed, deviation, shape=(64, 64)):
    """A scene whose errors have a log-normal factor that the spread of the candidates does not show."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 200, shape)
    factor = np.exp(rng.normal(0, deviation))
    common = rng.normal(0, 6 * factor, shape)  # not seen in the spread of the candidates
    return [truth + common + rng.normal(0, 1, shape) for _ in range(2)], truth


@pytest.mark.parametrize("n_images", [3, 6])
def test_error_factor_covers_about_90_percent_of_new_images(n_images):
    """Errors of images differ by log-normal factors; tables of many reference sets, each on new images."""
    within = []
    for start in range(0, 800, 100):
        pairs = [uneven_scene(start + k, 0.25, (24, 24)) for k in range(n_images)]
        lut = fit_lut(pairs, method="least-squares", bin_width=100, data_range=(-50, 250), device="cpu")
        lut = lut.calibrated(pairs, device="cpu")
        for k in range(20, 24):
            candidates, truth = uneven_scene(start + k, 0.25, (24, 24))
            actual = np.sqrt(np.mean((lut.apply(candidates, "cpu") - truth) ** 2))
            expected = np.sqrt(np.mean(lut.expected_error(candidates, "cpu") ** 2))
            within.append(1 / lut.error_factor <= actual / expected <= lut.error_factor)
    assert 0.8 <= np.mean(within) <= 0.97


def test_error_factor_is_one_where_images_are_alike_and_none_for_one_image(tmp_path):
    same = [uneven_scene(seed, 0) for seed in range(4)]
    lut = fit_lut(same, method="least-squares", device="cpu").calibrated(same, device="cpu")
    assert 1 <= lut.error_factor < 1.1
    assert lut.rescaled(3, 10).error_factor == lut.error_factor
    assert load_lut(lut.save(tmp_path / "t")).error_factor == lut.error_factor
    assert lut.calibrated(same[:1], device="cpu").error_factor is None
    damaged = replace(lut, report={"held_out": {"error_factor": "2"}})
    assert damaged.error_factor is None


def test_errors_of_bad_use():
    candidates, truth = scene(5, (16, 16))
    lut = fit_lut([(candidates, truth)], device="cpu")
    with pytest.raises(EnsembleError, match="no expected error; give it one with"):
        lut.expected_error(candidates)
    with pytest.raises(EnsembleError, match="2 candidates but 3 names"):
        lut.calibrated([(candidates[:2], truth)])
    with pytest.raises(EnsembleError, match="no pixel is left"):
        lut.calibrated([(candidates, truth * np.nan)], device="cpu")

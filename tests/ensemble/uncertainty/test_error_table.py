"""Expected errors: what a table says of how far off its ensemble is, against how far off it was."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
import pytest
import torch

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.uncertainty.error_table import INTENSITIES, SPREADS, STEPS, ErrorTable


def scene(seed, shape=(96, 96), scale=1.0, offset=0.0, channels=0):
    """Two candidates whose errors grow with intensity, and agree where they are good."""
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
def test_it_is_calibrated_on_images_never_seen(scale, offset, method):
    learned = [scene(seed, scale=scale, offset=offset) for seed in range(4)]
    lut = fit_lut(learned, method=method, device="cpu").calibrated(learned, device="cpu")
    candidates, truth = scene(9, scale=scale, offset=offset)
    predicted = lut.expected_error(candidates, "cpu")
    assert predicted.dtype == np.float32
    ratios = by_tenths(predicted, lut.apply(candidates, "cpu") - truth)
    assert 0.8 < min(ratios) <= max(ratios) < 1.25
    assert predicted.max() > 1.5 * predicted.min()


def test_each_part_is_scored_by_a_table_that_did_not_learn_from_it():
    """Noise alone, many bin sets: what fits the pixels learned from looks far better there than elsewhere."""
    rng = np.random.default_rng(0)
    learned = [(list(rng.uniform(0, 255, (3, 40, 40))), rng.uniform(0, 255, (40, 40))) for _ in range(4)]
    lut = fit_lut(learned, method="least-squares", bin_width=8, shrinkage=0, device="cpu")
    fitted = np.sqrt(np.mean([(lut.apply(xs, "cpu") - y) ** 2 for xs, y in learned]))
    fresh = [(list(rng.uniform(0, 255, (3, 40, 40))), rng.uniform(0, 255, (40, 40))) for _ in range(4)]
    unseen = np.sqrt(np.mean([(lut.apply(xs, "cpu") - y) ** 2 for xs, y in fresh]))
    assert fitted < 0.9 * unseen
    assert lut.calibrated(learned, device="cpu").errors.overall == pytest.approx(unseen, rel=0.03)


class Asked(Sequence):
    """Images that note which of them were asked for."""

    def __init__(self, images):
        self.images, self.asked = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        pair = self.images[number]
        self.asked.append(number)
        return pair


def test_each_image_is_opened_twice_whatever_their_number():
    images = Asked([scene(seed, (12, 12)) for seed in range(11)])
    lut = fit_lut(images, method="least-squares", data_range=(0, 255), device="cpu")
    images.asked.clear()
    lut.calibrated(images, device="cpu")
    assert sorted(images.asked) == sorted([0, *range(11), *range(11)])


def test_the_sums_are_those_of_plain_loops():
    candidates, truth = scene(3, (13, 11), channels=2)
    lut = fit_lut([(candidates, truth)], channel_axis=-1, data_range=(0, 255), device="cpu")
    table = ErrorTable.empty(0, 255, 2)
    field = lut.field(candidates)
    from napari_ensir.ensemble.arrays.image_set import make_field

    ensemble = lut.apply(candidates, "cpu")
    found = table.counted(ensemble, make_field(candidates, truth, channel_axis=-1), None)
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
    assert field.n_channels == 2


def test_masks_planes_chunks_and_kinds_of_array_make_no_difference():
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


def test_noise_that_grows_with_intensity_is_told():
    rng = np.random.default_rng(3)
    truth = np.tile(np.linspace(0, 200, 128), (128, 1))
    candidates = [truth + rng.normal(0, 1, truth.shape) for _ in range(2)]
    even, photons = truth + rng.normal(0, 10, truth.shape), rng.poisson(truth).astype(float)
    keywords = {"truth_noise": 10.0, "data_range": (0, 256), "device": "cpu"}
    told = [[(candidates, noisy)] for noisy in (even, photons)]
    good, doubtful = (fit_lut(one, **keywords).calibrated(one).report["warnings"] for one in told)
    assert good == []
    # Photons' noise is 10 at 100, and 0.8 of that variance at 80.
    assert doubtful[0].startswith("where the ensemble is between 0 and 80, the noise of the ground truth is")


def test_known_noise_of_the_truth_is_taken_off():
    rng = np.random.default_rng(0)
    clean = [scene(seed) for seed in range(4)]
    noisy = [(xs, y + rng.normal(0, 12, y.shape)) for xs, y in clean]
    lut = fit_lut(clean, method="least-squares", data_range=(-60, 320), device="cpu")
    true = lut.calibrated(clean, device="cpu").errors.overall
    from dataclasses import replace

    told = replace(lut, report={**lut.report, "truth_noise": 12.0}).calibrated(noisy, device="cpu")
    assert told.errors.overall == pytest.approx(true, rel=0.1)
    with pytest.raises(EnsembleError, match="of a size not known"):
        replace(lut, report={**lut.report, "truth_noise": "unknown"}).calibrated(noisy, device="cpu")


def test_bad_use_is_one_sentence():
    candidates, truth = scene(5, (16, 16))
    lut = fit_lut([(candidates, truth)], device="cpu")
    with pytest.raises(EnsembleError, match="no expected error; give it one with"):
        lut.expected_error(candidates)
    with pytest.raises(EnsembleError, match="2 candidates but 3 names"):
        lut.calibrated([(candidates[:2], truth)])
    with pytest.raises(EnsembleError, match="no pixel is left"):
        lut.calibrated([(candidates, truth * np.nan)], device="cpu")

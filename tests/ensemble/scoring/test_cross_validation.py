"""Scores and choices made from statistics alone, held to what pixels say."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.fit import collect_reference, estimate_lut
from napari_ensir.ensemble.lut.lut import bin_centres, pair_map, weights_along_intensity
from napari_ensir.ensemble.scoring.cross_validation import (
    choose_bins,
    held_out_error,
    held_out_lookups,
    mean_squared_error,
)


@pytest.fixture
def images():
    rng = np.random.default_rng(7)
    ramp = np.linspace(10, 240, 80)
    truth = (ramp[:, None] + ramp[None, ::-1]) / 2
    dark = truth < 125

    def noisy(low, high):
        return np.clip(truth + rng.normal(0, np.where(dark, low, high)), 0, 255).astype(np.uint8)

    return [noisy(3, 15), noisy(15, 3), noisy(8, 8)], truth.astype(np.uint8)


@pytest.mark.parametrize("method", ["em", "em-released", "least-squares"])
def test_errors_from_statistics_equal_errors_of_pixels(images, method):
    candidates, truth = images
    reference = collect_reference([images], device="cpu")
    lut = estimate_lut(reference, method)
    error = np.mean((lut.apply(candidates, device="cpu").astype(float) - truth) ** 2)
    assert mean_squared_error(reference.statistics, lut) == pytest.approx(error, rel=1e-6)
    average = np.mean((np.mean(np.array(candidates, float), axis=0) - truth) ** 2)
    assert mean_squared_error(reference.statistics, np.full(3, 1 / 3)) == pytest.approx(average, rel=1e-12)


def test_held_out_error_is_that_of_tables_fitted_to_the_other_folds(images):
    candidates, truth = images
    reference = collect_reference([images], device="cpu", folds=4, data_range=(0, 255))
    bands = [slice(20 * i, 20 * i + 20) for i in range(4)]
    total = 0.0
    for band in bands:
        others = [([c[other] for c in candidates], truth[other]) for other in bands if other != band]
        lut = fit_lut(others, method="least-squares", device="cpu")
        ensemble = lut.apply([c[band] for c in candidates], device="cpu").astype(float)
        total += np.sum((ensemble - truth[band]) ** 2)
    error = held_out_error(reference.folds, held_out_lookups(reference.folds, "least-squares"))
    assert error == pytest.approx(total / truth.size, rel=1e-6)


def test_folds_sum_to_the_statistics_of_all_pixels(images):
    whole = collect_reference([images], device="cpu", refine=4)
    parts = collect_reference([images], device="cpu", refine=4, folds=3)
    for name in ("rows", "moments", "starts", "levels", "level_counts"):
        np.testing.assert_array_equal(getattr(parts.statistics, name), getattr(whole.statistics, name))
    assert len(parts.folds) == 3


def test_the_bins_with_the_smallest_error_are_chosen(images):
    reference = collect_reference([images], device="cpu", refine=None, folds=4)
    choice = choose_bins(reference, "least-squares")
    assert len(choice.errors) > 6
    chosen = choice.errors[choice.bin_width, choice.shrinkage]
    assert chosen == min(choice.errors.values())


def test_auto_chooses_width_and_shrinkage(images):
    lut = fit_lut([images], method="least-squares", bin_width="auto", shrinkage="auto", device="cpu")
    reference = collect_reference([images], device="cpu", refine=None, folds=4)
    assert lut.bin_width == choose_bins(reference, "least-squares").bin_width
    assert fit_lut([images], bin_width="auto", device="cpu").bin_width in (8, 16, 32, 64, 128)
    with pytest.raises(EnsembleError, match="bin_width is 'best'"):
        fit_lut([images], bin_width="best", device="cpu")
    with pytest.raises(EnsembleError, match="shrinkage is 'some'"):
        fit_lut([images], shrinkage="some", device="cpu")


def test_cross_validation_needs_two_folds(images):
    with pytest.raises(EnsembleError, match="two folds or more"):
        held_out_lookups(collect_reference([images], device="cpu").folds, "em")


def test_summaries_are_mean_weights_over_pixels(images):
    lut = fit_lut([images], device="cpu")
    weights, counts = weights_along_intensity(lut)
    assert counts.sum() == lut.counts.sum()
    np.testing.assert_allclose(np.nansum(weights * counts[:, None], axis=0), lut.counts @ lut.weights)
    weight, count = pair_map(lut, 0, 2)
    assert count.sum() == lut.counts.sum()
    np.testing.assert_allclose(np.nansum(weight * count), lut.counts @ lut.weights[:, 0])
    assert bin_centres(lut)[-1] == (224 + 255) / 2

"""Histogram and Gaussian mixture of one bin set, from the statistics of a fit."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError, FitSession
from napari_ensir.ensemble.lut.bin_set import bin_set_of

PLACE = (100, 100)
"""Intensities in the bin set looked at: 96 to 127 in both candidates."""


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    truth = rng.integers(60, 160, (160, 160))
    candidates = [np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 255) for sigma in (3, 20)]
    return [candidate.astype(np.uint8) for candidate in candidates], truth.astype(np.uint8)


@pytest.fixture(scope="module")
def session(images):
    session = FitSession([images], device="cpu")
    assert session.collect().statistics.binning.width < 32, "finer than the table, so they are merged"
    return session


@pytest.fixture(scope="module")
def inside(images):
    candidates, truth = images
    chosen = np.logical_and.reduce([(x >= 96) & (x < 128) for x in candidates])
    return [x[chosen].astype(float) for x in candidates], truth[chosen]


def look(session, method):
    lut = session.estimate(method=method)
    return lut, bin_set_of(lut, session.collect().statistics, PLACE)


def test_the_histogram_is_that_of_the_pixels_in_the_bin_set(session, inside):
    candidates, truth = inside
    values, counts = np.unique(truth, return_counts=True)
    lut, found = look(session, "least-squares")
    np.testing.assert_array_equal(found.truth, values)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.means, [x.mean() for x in candidates])
    np.testing.assert_allclose(found.variances, [x.var() for x in candidates])
    np.testing.assert_array_equal(found.weights, lut.weights_for(PLACE))
    assert found.step == 1
    assert not found.is_fitted


def test_the_mixture_of_em_is_a_fixed_point_of_its_equations(session, inside):
    """One more iteration, written down from the paper, changes next to nothing."""
    _, truth = inside
    lut, found = look(session, "em")
    assert found.is_fitted
    np.testing.assert_array_equal(found.weights, lut.weights_for(PLACE))
    densities = found.densities(truth.astype(float))
    responsibilities = densities / densities.sum(axis=0)
    np.testing.assert_allclose(responsibilities.mean(axis=1), found.weights, atol=2e-3)
    square = (truth - found.means[:, None]) ** 2
    variances = (responsibilities * square).sum(axis=1) / responsibilities.sum(axis=1)
    np.testing.assert_allclose(variances, found.variances, rtol=2e-2)


def test_densities_integrate_to_the_weights(session):
    _, found = look(session, "em-released")
    x = np.linspace(-100, 350, 4501)
    np.testing.assert_allclose(found.densities(x).sum(axis=1) * 0.1, found.weights, rtol=1e-6)


def test_too_few_pixels_have_no_fitted_mixture(session):
    lut = session.estimate(method="em")
    few = int(np.flatnonzero(lut.counts < 100)[0])
    place = lut.binning.low + (lut.rows[few, :-1] + 0.5) * lut.bin_width
    found = bin_set_of(lut, session.collect().statistics, place)
    assert found.counts.sum() == lut.counts[few]
    assert not found.is_fitted
    np.testing.assert_array_equal(found.weights, [0.5, 0.5])


def test_a_bin_set_without_pixels_is_refused(session):
    lut = session.estimate(method="em")
    with pytest.raises(EnsembleError, match="No pixel was learned from in this bin set"):
        bin_set_of(lut, session.collect().statistics, (0, 255))

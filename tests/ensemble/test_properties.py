"""What must hold for any data, found out on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_ensir import fit_lut

from .conftest import ENGINES, make_image, using

METHODS = ("em", "em-released", "least-squares")
cases = given(
    seed=st.integers(0, 2**32 - 1),
    engine=st.sampled_from(ENGINES),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
    m=st.integers(1, 4),
    bins=st.sampled_from([1, 2, 5, 8]),
)
often = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def setup(seed, dtype, m):
    rng = np.random.default_rng(seed)
    return rng, *make_image(rng, (24, 30), m, dtype)


def span_of(dtype):
    return (0.0, 999.0) if np.dtype(dtype).kind == "f" else (0, int(np.iinfo(dtype).max))


def width_for(dtype, bins):
    low, high = span_of(dtype)
    return (high - low) / bins if np.dtype(dtype).kind == "f" else -(-(int(high) + 1) // bins)


@often
@cases
def test_simplex_bounds_and_untouched_input(seed, engine, method, dtype, m, bins):
    rng, candidates, truth = setup(seed, dtype, m)
    copies = [c.copy() for c in candidates], truth.copy()
    for array in (*candidates, truth):
        array.flags.writeable = False
    options = {"bin_width": width_for(dtype, bins), "data_range": span_of(dtype), "device": "cpu"}
    with using(engine):
        lut = fit_lut([(candidates, truth)], method=method, **options)
        image, maps = lut.apply(candidates, device="cpu"), lut.weight_maps(candidates, device="cpu")
        strange = [rng.permutation(c.ravel()).reshape(c.shape) for c in candidates]
        elsewhere = lut.apply(strange, device="cpu")
    assert (lut.weights >= 0).all()
    np.testing.assert_allclose(lut.weights.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(lut.fallback.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-6)
    for got, of in ((image, candidates), (elsewhere, strange)):
        stack = np.stack(of).astype(np.float32)
        assert (got >= stack.min(axis=0) * (1 - 1e-6)).all()
        assert (got <= stack.max(axis=0) * (1 + 1e-6)).all()
    for array, copy in zip((*candidates, truth), (*copies[0], copies[1]), strict=True):
        np.testing.assert_array_equal(array, copy)


@often
@cases
def test_permuting_candidates_permutes_weights(seed, engine, method, dtype, m, bins):
    rng, candidates, truth = setup(seed, dtype, m)
    order = rng.permutation(m)
    options = {
        "bin_width": width_for(dtype, bins),
        "data_range": span_of(dtype),
        "device": "cpu",
        "method": method,
    }
    with using(engine):
        lut = fit_lut([(candidates, truth)], **options)
        other = fit_lut([([candidates[k] for k in order], truth)], **options)
    found = {tuple(row): w for row, w in zip(other.rows.tolist(), other.weights, strict=True)}
    for row, weights in zip(lut.rows.tolist(), lut.weights, strict=True):
        permuted = (*(row[k] for k in order), row[-1])
        np.testing.assert_allclose(found[permuted], weights[order], atol=1e-7)


@often
@given(
    seed=st.integers(0, 2**32 - 1),
    engine=st.sampled_from(ENGINES),
    method=st.sampled_from(("em", "least-squares")),
    factor=st.sampled_from([2, 4, 16]),
)
def test_scaling_intensities_with_the_range_changes_nothing(seed, engine, method, factor):
    _, candidates, truth = setup(seed, np.uint8, 3)
    scaled = (
        [c.astype(np.float64) * factor / 1024 for c in candidates],
        truth.astype(np.float64) * factor / 1024,
    )
    unit = [c.astype(np.float64) for c in candidates], truth.astype(np.float64)
    with using(engine):
        one = fit_lut([unit], method=method, data_range=(0, 256), bin_width=64, device="cpu")
        other = fit_lut(
            [scaled], method=method, data_range=(0, factor / 4), bin_width=factor / 16, device="cpu"
        )
        a, b = one.apply(unit[0], device="cpu"), other.apply(scaled[0], device="cpu")
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-9)
    np.testing.assert_allclose(a * factor / 1024, b, rtol=1e-5)


@often
@given(
    seed=st.integers(0, 2**32 - 1),
    engine=st.sampled_from(ENGINES),
    method=st.sampled_from(METHODS),
    m=st.integers(1, 5),
)
def test_equal_candidates_give_themselves_back(seed, engine, method, m):
    _, candidates, truth = setup(seed, np.uint8, 1)
    same = [candidates[0].copy() for _ in range(m)]
    with using(engine):
        lut = fit_lut([(same, truth)], method=method, device="cpu")
        np.testing.assert_allclose(lut.apply(same, device="cpu"), candidates[0], rtol=1e-6)
    np.testing.assert_allclose(lut.weights, 1 / m, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_perfect_candidate_gets_all_trust(rng, method):
    candidates, truth = make_image(rng, (60, 60), 2)
    lut = fit_lut([([candidates[0], truth.copy()], truth)], method=method, bin_width=256, device="cpu")
    assert lut.weights_for((100, 100)).argmax() == 1

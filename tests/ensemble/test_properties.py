"""Properties that hold for any data, tested on random data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_ensir import compare, fit_lut
from napari_ensir.ensemble.scoring.metrics import Scoring
from napari_ensir.restorers import CLASSICAL
from tests.helpers.images import ENGINES, make_image, using

METHODS = ("em", "em-released", "least-squares")
cases = given(
    seed=st.integers(0, 2**32 - 1),
    engine=st.sampled_from(ENGINES),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from([*map(np.dtype, ("u1", "<u2", ">u2", "<i2", ">i2", "<f4", ">f4", "<f8", ">f8"))]),
    m=st.sampled_from([1, 2, 5]),
    bins=st.sampled_from([1, 2, 5, 8]),
)
often = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
def test_weights_lie_on_the_simplex_and_inputs_are_unchanged(seed, engine, method, dtype, m, bins):
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
    # Not the released EM: its start weights and its floors of the variance are in intensity units.
    method=st.sampled_from(("em", "least-squares")),
    factor=st.sampled_from([2, 4, 16]),
)
def test_scaling_intensities_with_the_range_changes_nothing(seed, engine, method, factor):
    _, candidates, truth = setup(seed, np.uint8, 2)
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
    m=st.sampled_from([2, 5]),
)
def test_ensemble_of_equal_candidates_is_the_candidate(seed, engine, method, m):
    _, candidates, truth = setup(seed, np.uint8, 1)
    same = [candidates[0].copy() for _ in range(m)]
    with using(engine):
        lut = fit_lut([(same, truth)], method=method, device="cpu")
        np.testing.assert_allclose(lut.apply(same, device="cpu"), candidates[0], rtol=1e-6)
    np.testing.assert_allclose(lut.weights, 1 / m, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_perfect_candidate_gets_the_largest_weight(rng, method):
    candidates, truth = make_image(rng, (60, 60), 2)
    lut = fit_lut([([candidates[0], truth.copy()], truth)], method=method, bin_width=256, device="cpu")
    assert lut.weights_for((100, 100)).argmax() == 1


def locked(*arrays):
    """Read-only copies."""
    copies = [array.copy() for array in arrays]
    for copy in copies:
        copy.flags.writeable = False
    return copies


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_shape_mask_range_and_chunks_give_the_same_table(data):
    """Read-only or lazy: the same table, weights on the simplex, the ensemble between the candidates."""
    da = pytest.importorskip("dask.array")
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4), label="shape"))
    dtype = data.draw(st.sampled_from([np.dtype(kind) for kind in ("u1", "<u2", ">i2", "<f4", ">f8")]))
    m = data.draw(st.sampled_from([2, 5]), label="candidates")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    axis = data.draw(st.sampled_from([None, *range(-len(shape), len(shape))]), label="channel_axis")
    # Wider than the data, or so narrow that many values lie outside.
    low = data.draw(st.integers(-20, 100), label="low")
    high = low + data.draw(st.integers(30, 200), label="range")
    width = data.draw(st.integers(3, 200), label="width")
    images = [rng.integers(0, 128, shape).astype(dtype) for _ in range(m + 1)]
    *candidates, truth = locked(*images)
    (mask,) = locked(rng.random(shape) < data.draw(st.sampled_from([0.5, 2.0]), label="masked"))
    if not mask.any():
        mask = None
    options = {"data_range": (low, high), "bin_width": width, "channel_axis": axis, "device": "cpu"}
    options["method"] = data.draw(st.sampled_from(METHODS))
    masks = None if mask is None else [mask]
    chunks = tuple(data.draw(st.integers(-(-n // 2), n)) for n in shape)
    with using(data.draw(st.sampled_from(ENGINES))):
        lut = fit_lut([(candidates, truth)], mask=masks, **options)
        image, maps = lut.apply(candidates, device="cpu"), lut.weight_maps(candidates, device="cpu")
        lazy = [da.from_array(candidate, chunks=chunks) for candidate in candidates]
        other = fit_lut([(lazy, da.from_array(truth, chunks=chunks))], mask=masks, **options)
        lazily = lut.apply(lazy, device="cpu").compute(scheduler="synchronous")
    np.testing.assert_array_equal(other.rows, lut.rows)
    np.testing.assert_array_equal(other.counts, lut.counts)
    np.testing.assert_array_equal(other.weights, lut.weights)
    np.testing.assert_array_equal(lazily, image)
    for weights in (lut.weights, lut.fallback):
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-6)
    assert (image >= np.min(candidates, axis=0) - 1e-4).all()
    assert (image <= np.max(candidates, axis=0) + 1e-4).all()
    assert lut.counts.sum() == (truth.size if mask is None else mask.sum())
    for array, before in zip((*candidates, truth), images, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "f4", ">f4", "f8"])
def test_read_only_images_are_scored_and_compared(rng, dtype):
    pairs = []
    for _ in range(2):
        candidates, truth = make_image(rng, (24, 30), 2, np.dtype(dtype))
        pairs.append((locked(*candidates), *locked(truth)))
    copies = [[image.copy() for image in (*candidates, truth)] for candidates, truth in pairs]
    span = span_of(np.dtype(dtype))
    assert np.isfinite([*Scoring(span)(pairs[0][1], pairs[0][0][0]).values()]).all()
    table = compare(
        pairs,
        folds=2,
        methods=["average", "ZZPM (as described)", "em", "least-squares"],
        device="cpu",
        data_range=span,
    )
    assert all(np.isfinite(row.psnr) for row in table.rows)
    for (candidates, truth), before in zip(pairs, copies, strict=True):
        for array, copy in zip((*candidates, truth), before, strict=True):
            np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", "f4", ">f8"])
def test_read_only_images_are_restored(rng, dtype):
    image = make_image(rng, (24, 24), 1, np.dtype(dtype))[0][0]
    (only_read,) = locked(image)
    for kind in CLASSICAL.values():
        assert np.isfinite(kind()(only_read)).all()
    np.testing.assert_array_equal(only_read, image)

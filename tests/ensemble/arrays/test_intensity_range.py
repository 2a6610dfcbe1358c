"""The default data range contains all but a few pixels, and is the same for any blocks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.arrays.intensity_range import (
    STRAYS,
    finite_range,
    intensity_histogram,
    robust_range,
    sum_of,
)
from napari_ensir.ensemble.statistics.reference import ReferenceSet, collect_reference


def found(*arrays):
    """Range of arrays in memory."""
    return robust_range(
        sum_of([intensity_histogram(array) for array in arrays]),
        lambda ends: finite_range(np.concatenate([array.ravel() for array in arrays]), ends),
    )


def shortest(values):
    """By definition: the shortest run of sorted values that leaves out few enough; the lowest if several."""
    values = np.sort(values[np.isfinite(values)].astype(float))
    strays = len(values) // STRAYS
    lengths = values[len(values) - strays - 1 :] - values[: strays + 1]
    first = int(lengths.argmin())
    return values[first], values[len(values) - strays - 1 + first]


def images(dtype, kind="spots", size=300, seed=0):
    """Two candidates and a truth of this kind."""
    rng = np.random.default_rng(seed)
    truth = 100 + 1900 * rng.random((size, size)) ** 3
    if kind == "constant background":
        truth = np.where(rng.random(truth.shape) < 0.3, truth, 100.0)
    if kind == "saturated":
        truth[rng.random(truth.shape) < 0.001] = 4095
    if kind == "few values":
        truth = np.round(truth / 500) * 500
    if np.dtype(dtype).kind == "f":
        truth = (truth - 900) * {"tiny": 1e-9}.get(kind, 1.0)
    noise = [rng.normal(0, truth.std() * s, truth.shape) for s in (0.02, 0.06)]
    lowest = -np.inf if np.dtype(dtype).kind == "f" else 0
    return [np.maximum(truth + n, lowest).astype(dtype) for n in noise], truth.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_range_of_integers_is_exact(dtype):
    rng = np.random.default_rng(1)
    for size in (50, 9_999, 10_000, 50_000, 200_000):
        values = np.concatenate([rng.normal(500, 100, size), rng.integers(-9000, 9000, size // 5000)])
        values = values.clip(0 if dtype == np.uint16 else -9000, None).astype(dtype)
        assert found(values) == shortest(values)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 3e7, 1e30])
@pytest.mark.parametrize("offset", [0.0, 0.3, 10.0, -1000.0])
def test_range_of_floats_is_exact_to_a_cell(scale, offset):
    """An end is off by at most 1/2048 of itself or 1/64 of the range, and only outward."""
    rng = np.random.default_rng(2)
    values = (rng.normal(0, 1, 100_000) + offset) * scale
    values[:5] = np.array([1e4, -1e4, 1e5, np.nan, np.inf]) * scale
    low, high = found(values)
    expected = shortest(values)
    span = expected[1] - expected[0]
    slack = max(span / 64, max(map(abs, expected)) / 2048)
    assert low <= expected[0] + 0.1 * span
    assert high >= expected[1] - 0.1 * span
    assert np.count_nonzero((values < low) | (values > high)) <= len(values) // STRAYS
    assert high - low <= span + 2 * slack
    # If no value is left out, the ends are exact.
    assert found(values[5:9000]) == (values[5:9000].min(), values[5:9000].max())


@pytest.mark.parametrize(
    ("offset", "spread", "dtype"),
    [
        (2**40, 2000, np.int64),
        (-(2**40), 2000, np.int64),
        (2**24, 0.05, np.float64),
        (2**20, 0.004, np.float64),
    ],
)
def test_range_around_the_border_of_a_cell_leaves_out_few_pixels(offset, spread, dtype):
    """Rounding to float32 moves values across the border of their cell."""
    rng = np.random.default_rng(0)
    truth = offset + rng.normal(0, spread, 20_000)
    candidates = [(truth + rng.normal(0, spread / 9, truth.shape)).astype(dtype) for _ in range(2)]
    truth = truth.astype(dtype)
    low, high = fit_lut([(candidates, truth)], method="least-squares", device="cpu").data_range
    outside = sum(np.count_nonzero((image < low) | (image > high)) for image in (*candidates, truth))
    assert outside <= 3 * truth.size // STRAYS
    assert high - low < 1.2 * np.ptp(truth)


def test_hot_pixel_beside_a_narrow_range_far_from_zero():
    """Cells are too coarse there, so a second pass is made."""
    values = 10_000 + np.random.default_rng(3).random(50_000)
    narrow = (values.min(), values.max())
    values[7] = 65535.0
    assert found(values) == pytest.approx(narrow, abs=0.01)


def test_range_of_numbers_of_all_magnitudes():
    values = np.array([0.0, -0.0, 5e-324, -1e-40, 1e38, -3e38, 1e300, -1e300, np.inf, -np.inf, np.nan])
    assert found(values) == (-1e300, 1e300)
    assert found(values[:6].astype(np.float32)) == (np.float32(-3e38), np.float32(1e38))
    with pytest.raises(EnsembleError, match="too wide for bins"):
        fit_lut([([np.array([[-1.7e308, 0]])], np.array([[0, 1.7e308]]))], device="cpu")


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, np.uint32])
def test_range_is_the_same_for_any_blocks_and_order(dtype, monkeypatch):
    candidates, truth = images(dtype, size=100)
    candidates[0][3, 4] = 60000 if dtype == np.uint16 else 30000
    pairs = [([array[:50] for array in candidates], truth[:50])]
    pairs += [([array[50:] for array in candidates], truth[50:])]
    ranges = [ReferenceSet(some).data_range(None) for some in (pairs, pairs[::-1])]
    ranges.append(ReferenceSet([(candidates, truth)]).data_range(None))
    for block, many in ((1000, 2), (777, 100)):
        monkeypatch.setattr("napari_ensir.ensemble.statistics.reference.BLOCK", block)
        monkeypatch.setattr("napari_ensir.ensemble.statistics.reference.MANY", many)
        ranges.append(ReferenceSet(pairs).data_range(None))
    for chunks in ((100, 100), (30, 70), (5, 100)):
        lazy = [da.from_array(array, chunks=chunks) for array in (*candidates, truth)]
        ranges.append(ReferenceSet([(lazy[:2], lazy[2])]).data_range(None))
    assert set(ranges) == {(ranges[0][0], "data")}


KINDS = ("spots", "constant background", "saturated", "few values")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, dtype) for kind in KINDS for dtype in (np.uint16, np.float32)), ("tiny", np.float32)],
)
def test_default_range_uses_most_bins(kind, dtype):
    """With and without a hot pixel."""
    candidates, truth = images(dtype, kind, size=150)
    plain = fit_lut([(candidates, truth)], device="cpu")
    hot = [array.copy() for array in (*candidates, truth)]
    for array in hot:
        array[5, 6] = 65000 if dtype == np.uint16 else 1e6
    moved = fit_lut([(hot[:2], hot[2])], device="cpu")
    for lut in (plain, moved):
        used = np.unique(lut.binning.bins(truth.ravel()))
        assert len(used) >= {"few values": 3, "saturated": 5}.get(kind, 6)
        assert lut.report["data_range_from"] == "data"
    assert moved.bin_width == pytest.approx(plain.bin_width, rel=0.02)
    # Pixels outside are counted, in the end bins.
    assert all(1 <= n <= 3 * truth.size // STRAYS for n in moved.report["outside_range"])
    assert moved.report["pixels"] == truth.size


def test_range_contains_the_outliers_if_all_other_values_are_equal():
    for dtype in (np.uint16, np.float64):
        values = np.full(10**6, 100, dtype)
        values[:50] = np.arange(50) * 10 + 200
        assert found(values) == (100, 690)
    values = np.full(10**6, 0.1)
    values[0] = 0.1 + 1e-6
    assert found(values) == (0.1, 0.1 + 1e-6)


@pytest.mark.parametrize(
    ("method", "where"), [("em", "a candidate"), ("least-squares", "the truth"), ("em", "all")]
)
def test_one_hot_pixel_moves_no_score(method, where):
    """One hot pixel in a million of the reference set hardly changes the held-out error."""
    candidates, truth = images(np.uint16, size=1000)
    held_out, clean = images(np.uint16, size=200, seed=9)

    def score(arrays):
        lut = fit_lut([(arrays[:2], arrays[2])], method=method, device="cpu")
        error = np.mean((lut.apply(held_out, device="cpu") - clean.astype(float)) ** 2)
        return 10 * np.log10(2000**2 / error)

    before = score([*candidates, truth])
    arrays = [array.copy() for array in (*candidates, truth)]
    for index in {"a candidate": [0], "the truth": [2], "all": [0, 1, 2]}[where]:
        arrays[index][321, 123] = 65535
    assert abs(score(arrays) - before) < 0.05


def test_given_range_and_8_bit_range_are_kept():
    candidates, truth = images(np.uint16)
    assert fit_lut([(candidates, truth)], data_range=(0, 4095), device="cpu").data_range == (0, 4095)
    small = [(array // 16).astype(np.uint8) for array in (*candidates, truth)]
    assert fit_lut([(small[:2], small[2])], device="cpu").data_range == (0, 255)


def test_constant_and_non_finite_images_raise():
    flat = np.full((5, 5), 7.0)
    with pytest.raises(EnsembleError, match="every pixel of every image is 7; there is nothing to learn"):
        collect_reference([([flat], flat.copy())])
    with pytest.raises(EnsembleError, match="every pixel is NaN or infinite"):
        collect_reference([([flat * np.nan], flat * np.inf)])

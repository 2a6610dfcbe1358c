"""Statistics are exact: the same integers for any blocks, order, engine and coarsening."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir import EnsembleError
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.statistics import accumulate
from napari_ensir.ensemble.statistics import count as counting
from napari_ensir.ensemble.statistics import statistics as statistics_module
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.count import collect
from napari_ensir.ensemble.statistics.statistics import Statistics, merge, n_moments
from tests.helpers.images import ENGINES, make_image, using


def assert_same(one, other):
    for field in fields(Statistics):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def plain_statistics(images, binning, channel_axis=None):
    """Compute the sums by definition, pixel by pixel, in Python's integers."""
    found = {}
    # Values further outside the range than it is wide count as that far outside.
    span = binning.n_bins * binning.sublevels
    nearest, furthest = -span, 2 * span + binning.sublevels - 1
    for candidates, truth in images:
        shape = truth.shape
        for place in np.ndindex(shape):
            channel = 0 if channel_axis is None else place[channel_axis]
            levels_of = [int(array[place]) - int(binning.low) for array in (*candidates, truth)]
            *x, y = (min(max(level, nearest), furthest) for level in levels_of)
            t = [min(max(v // binning.sublevels, 0), binning.n_bins - 1) for v in x]
            d = [v - k * binning.sublevels for v, k in zip(x, t, strict=True)]
            e = [v - y for v in x]
            sums = d + [v * v for v in d] + [e[i] * e[j] for i in range(len(e)) for j in range(i + 1)]
            total, levels = found.setdefault((*t, channel), ([0] * len(sums), {}))
            total[:] = [a + b for a, b in zip(total, sums, strict=True)]
            levels[y] = levels.get(y, 0) + 1
    return found


def of(images, binning, channel_axis=None, device=None):
    made = [make_field(c, t, channel_axis=channel_axis) for c, t in images]
    return collect(made, binning, len(images[0][0]), made[0].n_channels, device)


@pytest.mark.parametrize(
    ("dtype", "data_range", "width"),
    [
        (np.uint8, (0, 255), 32),
        (np.uint8, (20, 230), 30),
        (np.uint16, (0, 65535), 8192),
        (np.uint16, (100, 3000), 37),
        (np.int16, (-500, 20000), 2000),
        (np.uint32, (250, 330), 20),
        (np.int64, (250, 330), 20),
    ],
)
def test_collected_sums_equal_their_definition(engine, rng, dtype, data_range, width):
    images = [make_image(rng, (3, 30, 20), 2, dtype), make_image(rng, (3, 7, 5), 2, dtype)]
    binning = choose_binning(dtype, data_range, width)
    got = of(images, binning, channel_axis=0)
    wanted = plain_statistics(images, binning, channel_axis=0)
    assert [tuple(row) for row in got.rows.tolist()] == sorted(wanted)
    for number, row in enumerate(got.rows.tolist()):
        sums, levels = wanted[tuple(row)]
        assert got.moments[number].tolist() == sums
        part = slice(got.starts[number], got.starts[number + 1])
        assert dict(zip(got.levels[part].tolist(), got.level_counts[part].tolist(), strict=True)) == levels
    assert got.n_pixels == sum(truth.size for _, truth in images)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("data_range", [(100, 200), (300, 800)])
def test_engines_collect_the_same_statistics(rng, dtype, m, data_range):
    """Values lie outside the range on both sides, some of them further than the range is wide."""
    images = [make_image(rng, (40, 50), m, dtype)]
    binning = choose_binning(dtype, data_range, 10)
    results = []
    for engine in ENGINES:
        with using(engine):
            results.append(of(images, binning))
    assert results[0].outside.sum() > 0
    assert_same(*results)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_partition_of_the_pixels_merges_to_the_whole(data):
    engine = data.draw(st.sampled_from(ENGINES))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    candidates, truth = make_image(rng, (12, 30), data.draw(st.integers(1, 3)), dtype)
    binning = choose_binning(dtype, (0, 250), data.draw(st.sampled_from([25, 50, 125])))
    flat = [c.ravel() for c in candidates]
    order = rng.permutation(truth.size)
    cuts = sorted(data.draw(st.lists(st.integers(1, truth.size - 1), max_size=5, unique=True)))
    with using(engine):
        whole = of([(candidates, truth)], binning)
        parts = [
            of([([c[pick] for c in flat], truth.ravel()[pick])], binning) for pick in np.split(order, cuts)
        ]
    assert_same(whole, merge(parts))
    # Associative, commutative.
    if len(parts) > 2:
        left = merge([merge(parts[:2]), *parts[2:]])
        right = merge([merge(parts[1:][::-1]), parts[0]])
        assert_same(left, right)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_coarsening_equals_collecting_in_coarse_bins(engine, rng, dtype, factor):
    images = [make_image(rng, (40, 40, 2), 3, dtype)]
    high = np.iinfo(dtype).max
    coarse = choose_binning(dtype, (0, high), (high + 1) // 8)
    assert_same(of(images, coarse.refined(factor), -1).coarsened(factor), of(images, coarse, channel_axis=-1))


def test_coarsening_by_a_factor_that_does_not_divide_the_range(engine, rng):
    images = [make_image(rng, (40, 40), 2)]
    fine = choose_binning(np.uint8, (0, 255), 7)
    assert_same(of(images, fine).coarsened(3), of(images, choose_binning(np.uint8, (0, 255), 21)))
    halves = choose_binning(np.uint8, (0, 255), 24)
    assert_same(of(images, halves.refined(4)).in_bins(halves), of(images, halves))


def test_coarsening_floats_keeps_levels(engine, rng):
    images = [make_image(rng, (40, 40), 2, np.float32, high=1.0)]
    coarse = choose_binning(np.float32, (0, 1), 0.25)
    assert_same(of(images, coarse.refined(8)).in_bins(coarse), of(images, coarse))


def test_coarsening_in_steps(rng):
    fine = of([make_image(rng, (40, 40), 2)], choose_binning(np.uint8, (0, 255), 4))
    assert_same(fine.coarsened(2).coarsened(4), fine.coarsened(8))
    assert fine.coarsened(1) is fine
    assert fine.coarsened(2) is fine.coarsened(2)
    assert replace(fine, not_finite=1).coarsened(2).not_finite == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_all_table_layouts_give_the_same_statistics(engine, rng, monkeypatch, dtype):
    """Histograms with pages, with too few pages, dense, sorted; sums dense and sparse."""
    images = [make_image(rng, (50, 50, 2), 3, dtype)]
    binning = choose_binning(dtype, (0, 255), 16) if dtype == np.uint8 else choose_binning(dtype, (5, 900))
    dense = of(images, binning, -1)
    for name, value in (("HISTOGRAM_CELLS", 2**12), ("PAGE_TABLE", 0), ("DENSE_HISTOGRAM", 0)):
        monkeypatch.setattr(accumulate, name, value)
        assert_same(dense, of(images, binning, -1))
    monkeypatch.setattr(counting, "DENSE_SUMS", 0)
    assert_same(dense, of(images, binning, -1))


@pytest.mark.parametrize("m", [1, 2, 4])
def test_extreme_values_do_not_overflow_the_sums(engine, m):
    for values in ((255, 255), (0, 255), (255, 0), (0, 0)):
        candidates = [np.full((40, 50), values[k % 2], np.uint8) for k in range(m)]
        for y in (0, 255):
            images = [(candidates, np.full((40, 50), y, np.uint8))]
            binning = choose_binning(np.uint8, (0, 255), 256)
            ((sums, _),) = plain_statistics(images, binning).values()
            assert of(images, binning).moments.tolist() == [sums]


def test_resetting_the_sums_halfway_does_not_change_them(engine, rng, monkeypatch):
    images = [make_image(rng, (25, 30, 2), 2, np.uint16) for _ in range(2)]
    binning = choose_binning(np.uint16, (0, 65535))
    whole = of(images, binning, -1)
    for kind in ("compiled", "torch"):
        monkeypatch.setitem(counting.BLOCK_PIXELS, kind, 600)
    monkeypatch.setattr(accumulate, "LARGEST_SUM", 2.0**45)  # reached after two thousand pixels at worst
    assert_same(whole, of(images, binning, -1))


@pytest.mark.parametrize("m", [5, 10, 16])
def test_memory_follows_the_occupied_bin_sets(rng, m):
    candidates, truth = make_image(rng, (40, 50), m)
    binning = choose_binning(np.uint8, (0, 255), 1)
    got = of([(candidates, truth)], binning)
    sets, counts = np.unique(np.stack([c.ravel() for c in candidates]).T, axis=0, return_counts=True)
    np.testing.assert_array_equal(got.rows[:, :-1], sets)
    np.testing.assert_array_equal(got.counts, counts)
    assert got.nbytes < truth.size * 8 * (n_moments(m) + 8) * 2


def test_means_variances_and_gram_equal_those_of_the_pixels(engine, rng):
    for dtype, high in ((np.uint8, 255), (np.uint16, 60000)):
        candidates, truth = make_image(rng, (60, 60), 3, dtype)
        got = of([(candidates, truth)], choose_binning(dtype, (0, high), high))
        x = np.stack([c.ravel().astype(float) for c in candidates])
        whole = (got.rows[:, :-1] == 0).all(axis=1)
        here = (x < high).all(axis=0)
        errors = (x - truth.ravel())[:, here]
        np.testing.assert_allclose(got.means[whole][0], x[:, here].mean(axis=1), rtol=1e-13)
        np.testing.assert_allclose(got.variances[whole][0], x[:, here].var(axis=1), rtol=1e-11)
        np.testing.assert_allclose(got.error_gram[whole][0], errors @ errors.T, rtol=1e-13)


def test_variance_of_a_constant_is_exactly_zero(rng):
    candidates, truth = make_image(rng, (30, 31), 2, np.uint16)
    candidates[0][...] = 43211
    got = of([(candidates, truth)], choose_binning(np.uint16, (0, 65535), 65536))
    assert got.variances[0, 0] == 0
    assert got.variances[0, 1] > 0


def test_order_of_images_does_not_matter(rng):
    images = [make_image(rng, (20, 20 + k), 2) for k in range(5)]
    binning = choose_binning(np.uint8, (0, 255), 32)
    assert_same(of(images, binning), of(images[::-1], binning))


def test_merging_different_binnings_raises(rng):
    with pytest.raises(EnsembleError, match=r"no statistics to merge.*at least one"):
        merge([])
    fine, coarse = (choose_binning(np.uint8, (0, 255), width) for width in (16, 32))
    with pytest.raises(EnsembleError, match=r"different bins.*collect them with the same"):
        merge([Statistics.empty(fine, 2, 1), Statistics.empty(coarse, 2, 1)])
    with pytest.raises(EnsembleError, match=r"bins of 32; a bin width of 16 is not a multiple"):
        Statistics.empty(coarse, 2, 1).in_bins(fine)


def test_sums_beyond_64_bits_raise(rng):
    """Twenty gigapixels of uint16 with the largest possible error do not fit."""
    binning = choose_binning(np.uint16, (0, 65535), 65536)
    black, white = np.zeros((4, 4), np.uint16), np.full((4, 4), 65535, np.uint16)
    part = of([((white,), black)], binning)
    grown = part

    def grow():
        nonlocal grown
        for _ in range(40):
            grown = merge([grown, grown])

    with pytest.raises(EnsembleError, match=r"too large.*64.bit.*fewer pixels"):
        grow()
    assert grown.n_pixels > 2**29
    assert (grown.moments >= 0).all()
    # Coarsening increases the distance of pixels to the edge of their bin.
    halves = choose_binning(np.uint16, (0, 65535), 32768)
    fits = of([((white,), white.copy())], halves)

    def grow_and_coarsen():
        nonlocal fits
        for _ in range(40):
            fits = merge([fits, fits])
            fits.coarsened(2)

    with pytest.raises(EnsembleError, match="too large"):
        grow_and_coarsen()


def test_large_sums_within_one_field_raise(rng, engine, monkeypatch):
    for module in (statistics_module, accumulate):
        monkeypatch.setattr(module, "LARGEST_SUM", 2.0**40)
    for kind in ("compiled", "torch"):
        monkeypatch.setitem(counting.BLOCK_PIXELS, kind, 2**8)
    black, white = np.zeros((32, 32), np.uint16), np.full((32, 32), 65535, np.uint16)
    with pytest.raises(EnsembleError, match="too large"):
        of([((white,), black)], choose_binning(np.uint16, (0, 65535), 8192))

"""All kinds of arrays and dtypes give the same results as a numpy array of the same values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.ensemble.arrays.blocks import Channels, block_slices, read_block
from napari_ensir.ensemble.statistics import binning as bins_module
from tests.helpers.images import ENGINES, make_image, using
from tests.helpers.reference_em import plain_fit

DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.uint64]
FLOATS = [np.float16, np.float32, np.float64]


def plain_apply(lut, candidates, channel_axis=None):
    """Apply a table pixel by pixel, by ``weights_for``."""
    out = np.empty(candidates[0].shape, np.float64)
    for place in np.ndindex(out.shape):
        x = [float(c[place]) for c in candidates]
        channel = 0 if channel_axis is None else place[channel_axis]
        out[place] = lut.weights_for(x, channel) @ x
    return out


def same_lut(one, other):
    assert one.binning == other.binning
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.weights, other.weights)


@pytest.mark.parametrize("dtype", DTYPES + FLOATS)
def test_all_dtypes_match_the_plain_implementation(engine, rng, dtype):
    candidates, truth = make_image(rng, (30, 20), 2, dtype)
    lut = fit_lut([(candidates, truth)], method="em", device="cpu")
    binning = lut.binning
    plain = plain_fit([(candidates, truth)], binning.low, binning.width, binning.n_bins)
    is_exact = np.dtype(dtype).kind in "iu"
    for row, weights, count in zip(lut.rows.tolist(), lut.weights, lut.counts, strict=True):
        assert plain[tuple(row)].n_pixels == count
        np.testing.assert_allclose(weights, plain[tuple(row)].weights, atol=1e-6 if is_exact else 1e-3)
    image = lut.apply(candidates, device="cpu")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, plain_apply(lut, candidates), rtol=1e-6)
    maps = lut.weight_maps(candidates, device="cpu")
    assert maps.dtype == np.float32
    assert maps.shape == (2, 30, 20)
    np.testing.assert_allclose((maps * np.stack(candidates)).sum(axis=0), image, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64, np.float32])
def test_wide_integers_beyond_the_given_range(rng, dtype):
    """Outliers are counted in the end bins, by both engines."""
    candidates, truth = make_image(rng, (60, 50), 2, dtype)
    candidates[0][0, :5] = 2**31 - 1 - 64
    truth[1, :7] = 2**30
    luts = []
    for engine in ENGINES:
        with using(engine):
            lut = fit_lut(
                [(candidates, truth)], method="em", bin_width=100, data_range=(0, 999), device="cpu"
            )
            assert lut.report["outside_range"][0] >= 5
            assert lut.report["outside_range"][2] >= 7
            luts.append(lut)
    assert luts[0].binning == luts[1].binning
    assert luts[0].binning.integer == (np.dtype(dtype).kind in "iu")
    np.testing.assert_array_equal(luts[0].rows, luts[1].rows)
    np.testing.assert_array_equal(luts[0].counts, luts[1].counts)
    np.testing.assert_allclose(luts[0].weights, luts[1].weights, atol=1e-9)


def test_values_outside_the_range_are_counted_in_the_end_bins(engine):
    x = np.array([0, 50, 99, 100, 199, 200, 250, 255], np.uint8)
    lut = fit_lut([((x, x), x + 0)], method="em", bin_width=50, data_range=(50, 200), device="cpu")
    assert lut.report["outside_range"] == [3, 3, 3]
    assert lut.report["pixels"] == 8
    assert lut.rows[:, 0].min() == 0
    np.testing.assert_array_equal(lut.counts, [3, 1, 1, 3])
    np.testing.assert_array_equal(lut.weights_for((0, 0)), lut.weights_for((60, 60)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_all_memory_layouts_give_the_same_result(engine, rng, dtype, tmp_path):
    candidates, truth = make_image(rng, (30, 20, 3), 2, dtype)
    plain = fit_lut([(candidates, truth)], method="em", channel_axis=-1, device="cpu")
    image = plain.apply(candidates, device="cpu")

    def spread(a):
        wide = np.zeros((60, 40, 3), dtype)
        wide[::2, ::-2] = a
        return wide[::2, ::-2]

    def mapped(a):
        path = tmp_path / f"{id(a)}.npy"
        np.save(path, a)
        return np.load(path, mmap_mode="r")

    def locked(a):
        a = a.copy()
        a.flags.writeable = False
        return a

    class OnlySlices:
        """A minimal array."""

        def __init__(self, a):
            self.a, self.shape, self.dtype = a, a.shape, a.dtype

        def __getitem__(self, key):
            return self.a[key]

    kinds = [
        spread,
        mapped,
        locked,
        np.asfortranarray,
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
        lambda a: torch.from_numpy(a.copy()),
        OnlySlices,
    ]
    for kind in kinds:
        others, other_truth = [kind(c) for c in candidates], kind(truth)
        same_lut(plain, fit_lut([(others, other_truth)], method="em", channel_axis=-1, device="cpu"))
        np.testing.assert_array_equal(np.asarray(plain.apply(others, device="cpu")), image)
    # Mixed kinds in one image.
    same_lut(
        plain,
        fit_lut(
            [([spread(candidates[0]), mapped(candidates[1])], kinds[6](truth))],
            method="em",
            channel_axis=-1,
            device="cpu",
        ),
    )
    np.testing.assert_array_equal(
        plain.apply([kinds[6](candidates[0]), mapped(candidates[1])], device="cpu"), image
    )


def test_lists_of_numbers_are_arrays():
    lut = fit_lut(
        [(([[1.0, 2.0], [3.0, 4.0]],), [[1, 2], [3, 5]])], method="em", data_range=(0, 8), device="cpu"
    )
    np.testing.assert_array_equal(lut.apply([[[1.0, 2.0]]], device="cpu"), [[1, 2]])


def test_engines_agree_on_8_bit_candidates_with_a_float_truth(rng):
    candidates, truth = make_image(rng, (60, 60), 3)
    exact = truth + rng.normal(0, 0.3, truth.shape)
    for other in (exact.astype(np.float32), exact, truth.astype(np.uint16) * 1):
        luts = []
        for engine in ENGINES:
            with using(engine):
                luts.append(
                    fit_lut(
                        [(candidates, other)], method="em", bin_width=21, data_range=(0, 255), device="cpu"
                    )
                )
        same_counts = [lut.counts for lut in luts]
        np.testing.assert_array_equal(*same_counts)
        np.testing.assert_allclose(luts[0].weights, luts[1].weights, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32])
def test_torch_in_torch_out(engine, rng, dtype):
    images, truth = make_image(rng, (3, 20, 30), 2, high=120)
    candidates = [torch.from_numpy(c).to(dtype) for c in images]
    truth = torch.from_numpy(truth).to(dtype)
    lut = fit_lut([(candidates, truth)], method="em", channel_axis=0, device="cpu")
    image, maps = lut.apply(candidates), lut.weight_maps(candidates)
    assert isinstance(image, torch.Tensor)
    assert image.dtype == maps.dtype == torch.float32
    as_numpy = [c.float().numpy() for c in candidates]
    np.testing.assert_allclose(image.numpy(), plain_apply(lut, as_numpy, 0), rtol=1e-6)
    np.testing.assert_allclose(maps.sum(dim=0).numpy(), 1, atol=1e-6)


def test_tensors_with_gradients_are_supported(rng):
    candidates, truth = make_image(rng, (20, 30), 2, np.float32)
    tensors = [torch.from_numpy(c).requires_grad_() for c in candidates]
    lut = fit_lut([(tensors, truth)], method="em", device="cpu")
    assert not lut.apply(tensors).requires_grad


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
def test_any_channel_axis_gives_the_same_result(engine, rng, axis):
    candidates, truth = make_image(rng, (40, 30, 3), 2)
    last = fit_lut([(candidates, truth)], method="em", channel_axis=-1, device="cpu")

    def moved(a):
        return np.moveaxis(a, -1, axis)

    lut = fit_lut(
        [([moved(c) for c in candidates], moved(truth))], method="em", channel_axis=axis, device="cpu"
    )
    same_lut(last, lut)
    np.testing.assert_array_equal(
        lut.apply([moved(c) for c in candidates], device="cpu"), moved(last.apply(candidates, device="cpu"))
    )


def test_each_channel_takes_its_own_weights(engine, rng):
    candidates, truth = make_image(rng, (20, 15, 3), 2)
    lut = fit_lut([(candidates, truth)], method="em", channel_axis=-1, device="cpu")
    image = lut.apply(candidates, device="cpu")
    np.testing.assert_allclose(image, plain_apply(lut, candidates, 2), rtol=1e-6)


def test_table_of_the_last_channel_axis_applies_to_stacks(rng):
    candidates, truth = make_image(rng, (20, 30, 3), 2)
    lut = fit_lut([(candidates, truth)], method="em", channel_axis=2, device="cpu")
    stack = [np.stack([c, c]) for c in candidates]
    np.testing.assert_array_equal(lut.apply(stack, device="cpu")[1], lut.apply(candidates, device="cpu"))


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5, 6), (1, 1)])
def test_any_number_of_dimensions(engine, rng, shape):
    candidates = [rng.integers(0, 255, shape).astype(np.uint8) for _ in range(2)]
    truth = np.asarray(rng.integers(0, 255, shape).astype(np.uint8))
    candidates = [np.asarray(c) for c in candidates]
    lut = fit_lut([(candidates, truth)], method="em", device="cpu")
    assert lut.report["pixels"] == truth.size
    image = lut.apply(candidates, device="cpu")
    assert image.shape == shape
    np.testing.assert_allclose(image, plain_apply(lut, candidates), rtol=1e-6)
    assert lut.weight_maps(candidates, device="cpu").shape == (2, *shape)


def test_masks_of_all_kinds_select_the_same_pixels(engine, rng):
    candidates, truth = make_image(rng, (30, 20, 3), 2)
    where = rng.random((30, 20)) < 0.4
    full = np.repeat(where[..., None], 3, axis=2)
    wanted = fit_lut(
        [([c[where] for c in candidates], truth[where])], method="em", channel_axis=-1, device="cpu"
    )
    for mask in (
        where,
        full,
        where.astype(np.uint8),
        torch.from_numpy(where),
        np.asfortranarray(full),
        full * 2.5,
    ):
        same_lut(
            wanted, fit_lut([(candidates, truth)], method="em", channel_axis=-1, mask=[mask], device="cpu")
        )
    pooled = fit_lut([(candidates, truth)], method="em", mask=[full], device="cpu")
    assert pooled.report["pixels"] == 3 * where.sum()
    first = fit_lut([(candidates, truth)] * 2, method="em", mask=[where, None], channel_axis=-1, device="cpu")
    assert first.report["pixels"] == 3 * where.sum() + truth.size


def test_pixels_that_are_not_finite_are_left_out_and_reported(engine, rng):
    candidates, truth = make_image(rng, (40, 40), 2, np.float32, high=1.0)
    bad = rng.random((40, 40)) < 0.1
    wanted = fit_lut(
        [([c[~bad] for c in candidates], truth[~bad])], method="em", data_range=(0, 1), device="cpu"
    )
    places = np.flatnonzero(bad.ravel())
    candidates[0].flat[places[::3]] = np.nan
    candidates[1].flat[places[1::3]] = np.inf
    truth.flat[places[2::3]] = -np.inf
    lut = fit_lut([(candidates, truth)], method="em", data_range=(0, 1), device="cpu")
    same_lut(wanted, lut)
    assert lut.report["not_finite"] == bad.sum()
    image = lut.apply(candidates, device="cpu")
    assert np.isnan(image.flat[places[::3]]).all()
    np.testing.assert_allclose(lut.weight_maps(candidates, device="cpu").sum(axis=0), 1, atol=1e-6)
    shown = fit_lut([(candidates, truth)], method="em", device="cpu")  # measured on finite pixels only
    assert np.isfinite(shown.data_range).all()


def test_range_wider_than_16_bits_is_binned_as_for_floats(engine, rng):
    candidates, truth = make_image(rng, (60, 60), 2)
    floats = [c.astype(np.float64) for c in candidates], truth.astype(np.float64)
    options = {"bin_width": 100.0, "data_range": (0, 100000), "device": "cpu"}
    same_lut(fit_lut([(candidates, truth)], **options), fit_lut([floats], **options))


def test_constant_8_bit_images(engine):
    flat = np.full((20, 20), 7, np.uint8)
    for method in ("em", "em-released", "least-squares"):
        lut = fit_lut([((flat, flat + 2), flat + 1)], method=method, device="cpu")
        np.testing.assert_allclose(lut.apply([flat, flat + 2], device="cpu").mean(), 8, atol=1e-4)


def test_generators_are_read_once(rng):
    images = [make_image(rng, (20, 20 + k), 2) for k in range(4)]
    wanted = fit_lut(images, method="em", device="cpu")
    same_lut(wanted, fit_lut(iter(images), method="em", device="cpu"))
    alive = 0

    def stream():
        nonlocal alive
        for image in images:
            alive += 1
            yield image

    same_lut(wanted, fit_lut(stream(), method="em", device="cpu"))
    assert alive == 4
    wide = [([c.astype(np.uint16) for c in cs], t.astype(np.uint16)) for cs, t in images]
    same_lut(fit_lut(wide, method="em", device="cpu"), fit_lut(iter(wide), method="em", device="cpu"))
    same_lut(wanted, fit_lut(tuple(images), method="em", device="cpu"))
    # Candidates as one stacked array.
    same_lut(wanted, fit_lut([(np.stack(c), t) for c, t in images], method="em", device="cpu"))


def test_error_in_a_later_image_of_a_generator_raises(rng):
    def stream():
        yield make_image(rng, (20, 20), 2)
        yield make_image(rng, (20, 20), 3)

    with pytest.raises(EnsembleError, match="image 2 has 3 candidates, but image 1 has 2"):
        fit_lut(stream(), method="em", device="cpu")


dask_array = pytest.importorskip("dask.array")


@pytest.mark.parametrize("chunks", [(7, 11, 3), (40, 5, 1), (13, 30, 2), (40, 30, 3)])
def test_dask_of_any_chunking(engine, rng, chunks):
    candidates, truth = make_image(rng, (40, 30, 3), 2)
    wanted = fit_lut([(candidates, truth)], method="em", channel_axis=-1, device="cpu")
    lazy = [dask_array.from_array(c, chunks=chunks) for c in candidates]
    other = (11, 7, 3)
    lut = fit_lut(
        [(lazy, dask_array.from_array(truth, chunks=other))], method="em", channel_axis=-1, device="cpu"
    )
    same_lut(wanted, lut)
    for work in ("apply", "weight_maps"):
        got = getattr(lut, work)(lazy, device="cpu")
        assert isinstance(got, dask_array.Array)
        assert got.dtype == np.float32
        plain = getattr(lut, work)(candidates, device="cpu")
        assert got.shape == plain.shape
        np.testing.assert_array_equal(got.compute(), plain)
        half = getattr(lut, work)([lazy[0], candidates[1]], device="cpu")
        np.testing.assert_array_equal(half.compute(), plain)


def test_dask_results_are_lazy(rng):
    candidates, truth = make_image(rng, (40, 30), 2)
    lut = fit_lut([(candidates, truth)], method="em", device="cpu")
    touched = []

    def load(block):
        touched.append(1)
        return block

    lazy = [
        dask_array.from_array(c, chunks=10).map_blocks(load, dtype=c.dtype, meta=c[:0, :0])
        for c in candidates
    ]
    image, maps = lut.apply(lazy), lut.weight_maps(lazy)
    assert not touched
    assert image.chunks == lazy[0].chunks
    assert maps.chunks == ((2,), *lazy[0].chunks)
    image[:10, :10].compute()
    assert 1 <= len(touched) <= 2
    before = lut.apply(lazy)
    assert before.name != lut.weight_maps(lazy).name


def test_zarr(engine, rng, tmp_path):
    zarr = pytest.importorskip("zarr")
    candidates, truth = make_image(rng, (3, 40, 30), 2, np.uint16)
    wanted = fit_lut([(candidates, truth)], method="em", channel_axis=0, device="cpu")
    stored = []
    for number, image in enumerate([*candidates, truth]):
        array = zarr.create_array(
            str(tmp_path / f"{number}.zarr"), shape=image.shape, dtype=image.dtype, chunks=(1, 16, 16)
        )
        array[...] = image
        stored.append(array)
    lut = fit_lut([(stored[:-1], stored[-1])], method="em", channel_axis=0, device="cpu")
    same_lut(wanted, lut)
    np.testing.assert_array_equal(lut.apply(stored[:-1], device="cpu"), lut.apply(candidates, device="cpu"))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("limit", [1, 2, 5, 7, 24, 100, 10**6])
def test_blocks_tile_the_field(limit, workers):
    shape = (10, 8, 3)
    seen = np.zeros(shape, int)
    numbers = np.arange(seen.size).reshape(shape)
    for slices in block_slices(shape, limit, workers):
        seen[slices] += 1
        part = numbers[slices]
        assert part.size <= limit
        assert part.max() - part.min() + 1 == part.size
        flat = read_block(numbers, slices, np.dtype(np.int64))
        assert not flat.flags.writeable
        for axis in range(3):
            channels = Channels.of_block(shape, slices, axis)
            place = np.arange(flat.size)
            np.testing.assert_array_equal(
                channels.first + place // channels.inner % channels.count,
                np.unravel_index(flat, shape)[axis],
            )
    assert (seen == 1).all()
    assert list(block_slices((4, 0, 3), limit, workers)) == []


@pytest.mark.parametrize("unseen", ["em", "em-released", "least-squares"])
def test_dense_and_searched_keys_give_the_same_result(engine, rng, unseen, monkeypatch):
    candidates, truth = make_image(rng, (40, 40, 3), 3)
    test = [rng.integers(0, 256, (30, 30, 3)).astype(np.uint8) for _ in range(3)]
    results = []
    for entries in (2**22, 0):
        monkeypatch.setattr(bins_module, "DENSE_ENTRIES", entries)
        monkeypatch.setattr("napari_ensir.ensemble.combine.lookup.DENSE_ENTRIES", entries)
        lut = fit_lut([(candidates, truth)], method=unseen, bin_width=16, channel_axis=-1, device="cpu")
        assert (lut.lookup.dense_rows is None) == (entries == 0)
        results.append((lut.apply(test, device="cpu"), lut.weight_maps(test, device="cpu")))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("m", "width"), [(6, 32), (16, 1)])
def test_sixteen_candidates_and_256_bins(engine, rng, m, width):
    candidates, truth = make_image(rng, (30, 40), m)
    for method in ("em", "em-released", "least-squares"):
        lut = fit_lut([(candidates, truth)], method=method, bin_width=width, device="cpu")
        fine = [c[:8, :8] for c in candidates]
        np.testing.assert_allclose(lut.apply(fine, device="cpu"), plain_apply(lut, fine), rtol=1e-6)
        absent = [rng.integers(0, 256, (6, 6)).astype(np.uint8) for _ in range(m)]
        np.testing.assert_allclose(lut.apply(absent, device="cpu"), plain_apply(lut, absent), rtol=1e-6)

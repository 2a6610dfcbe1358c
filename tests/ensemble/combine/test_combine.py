"""Combination: bit-identical engines, and bins of intensities on edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir.ensemble import kernels
from napari_ensir.ensemble.arrays.image_set import Field
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.statistics.accumulate import find_bins
from napari_ensir.ensemble.statistics.binning import Binning, choose_binning
from tests.helpers.images import ENGINES, using

KINDS = [(1, "f4"), (2, "i2"), (3, "u1"), (3, "f8"), (4, "i4"), (5, "u2"), (6, "f4"), (16, "u1")]
"""Numbers of candidates and dtypes; few dtypes, as the kernel is compiled for each."""


def some_lookup(rng, binning, m, n_channels, unseen="fallback"):
    """A lookup with up to 40 random occupied bin sets."""
    radices = np.array([binning.n_bins] * m + [n_channels])
    rows = np.unique(rng.integers(0, radices, (40, m + 1)), axis=0).astype(np.uint16)
    weights = rng.dirichlet(np.full(m, 0.3), len(rows))
    return Lookup(binning, rows, weights, rng.dirichlet(np.ones(m), n_channels), unseen)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_engines_give_identical_ensembles_and_maps(data):
    """Compiled, numpy (where bin sets are too many for one table) and torch; with channels and NaNs."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    m, kind = data.draw(st.sampled_from(KINDS))
    dtype = np.dtype(kind)
    shape = tuple(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3), label="shape"))
    axis = data.draw(st.sampled_from([None, *range(len(shape))]), label="channel axis")
    binning = choose_binning(dtype, (-20, 120), data.draw(st.sampled_from([8, 30, 71])))
    lookup = some_lookup(rng, binning, m, 1 if axis is None else shape[axis], "previous")
    images = [rng.integers(0, 128, shape).astype(dtype) for _ in range(m)]
    if dtype.kind == "f":
        images[0].reshape(-1)[::7] = data.draw(st.sampled_from([0.5, np.nan, np.inf, -np.inf]))
    field = Field(tuple(images), None, None, axis)
    found = []
    for engine in (*ENGINES, "numpy"):
        with using(engine), pytest.MonkeyPatch.context() as patch:
            if engine == "numpy":
                patch.setattr("napari_ensir.ensemble.statistics.binning.DENSE_ENTRIES", 0)
                lookup = replace(lookup)  # without what is cached
            found.append([combine_field(lookup, field, "cpu", as_maps=maps) for maps in (False, True)])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)
    image, maps = found[0]
    finite = np.isfinite(images).all(axis=0)
    assert (image >= np.min(images, axis=0))[finite].all()
    assert (image <= np.max(images, axis=0))[finite].all()
    exact = (maps.astype(np.float64) * np.array(images, np.float64))[:, finite].sum(axis=0)
    np.testing.assert_allclose(image[finite], exact, rtol=2e-6)
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=2e-6)


@pytest.mark.parametrize("m", [1, 3, 4, 5, 16])
def test_equal_candidates_give_themselves(engine, rng, m):
    image = rng.integers(0, 65536, 1000).astype(np.uint16)
    lookup = some_lookup(rng, choose_binning(np.uint16, (0, 65535)), m, 1)
    found = combine_field(lookup, Field((image,) * m, None, None, None), "cpu", as_maps=False)
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("unseen", ["fallback", "previous"])
def test_table_of_rows_equals_the_search_in_numpy_and_torch(rng, unseen):
    lookup = some_lookup(rng, choose_binning(np.uint8, (0, 255), 64), 3, 2, unseen)
    columns = np.stack(np.unravel_index(np.arange(4**3 * 2), (4, 4, 4, 2)))
    np.testing.assert_array_equal(lookup.dense_rows, lookup.row_of(list(columns)))
    searched = lookup.row_of([torch.from_numpy(column) for column in columns])
    np.testing.assert_array_equal(lookup.dense_rows, searched)
    nothing = Lookup(lookup.binning, lookup.rows[:0], lookup.weights[:0], lookup.fallback, unseen)
    np.testing.assert_array_equal(nothing.dense_rows, np.arange(4**3 * 2) % 2)


def test_weights_too_small_for_normal_single_precision_are_zero():
    tiny = float(np.finfo(np.float32).tiny)
    rows = np.array([[0, 0, 0], [0, 1, 0]], np.uint16)
    weights = np.array([[tiny, 1 - tiny], [tiny / 2, 1 - tiny / 2]])
    lookup = Lookup(choose_binning(np.uint8, (0, 255), 128), rows, weights, np.array([[0.5, 0.5]]))
    _, single = lookup.direct
    assert single[:2].tolist() == [[tiny, 1.0], [0.0, 1.0]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_number_of_16_bits_falls_into_its_bin(data):
    """By multiplication with the inverse width where the binning allows it, else by division."""
    dtype = data.draw(st.sampled_from([np.dtype(np.uint16), np.dtype(np.int16)]))
    low = data.draw(st.integers(-40_000, 60_000))
    high = low + data.draw(st.integers(1, 65_535), label="span")
    width = data.draw(st.integers(1, 70_000), label="width")
    binning = choose_binning(dtype, (low, high), max(width, -(-(high - low + 1) // 65535)))
    if data.draw(st.booleans(), label="fractional edges"):
        binning = Binning(low + 0.25, high + 0.25, (high - low) / 7, 7, 2**15, False)
    values = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    expected = binning.bins(values)
    grid, keys = binning.grid(dtype), np.zeros(values.size, np.uint32)
    kernels.append_bins(values.astype(grid.dtype), grid, keys)
    np.testing.assert_array_equal(keys, expected)
    found = find_bins(torch.from_numpy(values.astype(np.int32)), binning, dtype)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-3, 1e3) | st.sampled_from([0.125, 0.25, 2.0, 4096.0]),
)
def test_floats_on_edges_fall_into_the_same_bins_in_all_engines(low, width):
    binning = Binning(low, low + 9 * width, width, 9, 2**15, False)
    edges = low + np.arange(-1, 11) * width
    values = np.concatenate([edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf), [np.nan]])
    grid, keys = binning.grid(values.dtype), np.zeros(values.size, np.uint32)
    kernels.append_bins(values, grid, keys)
    np.testing.assert_array_equal(keys, binning.bins(values))
    np.testing.assert_array_equal(find_bins(torch.from_numpy(values), binning, values.dtype), keys)

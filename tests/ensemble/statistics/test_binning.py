"""Edges, levels and keys of bins, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError
from napari_ensir.ensemble.statistics.binning import BinSetIndex, choose_binning, pack_rows

VALUES = np.arange(256)


@pytest.mark.parametrize(("gain", "offset"), [(2, 100), (3, -7), (1, 0), (0.5, -3), (1.5, 20.25)])
def test_rescaled_bins_hold_the_rescaled_intensities(gain, offset):
    binning = choose_binning(np.uint8, (0, 255), 32)
    other = binning.rescaled(gain, offset)
    np.testing.assert_array_equal(other.bins(gain * VALUES + offset), binning.bins(VALUES))
    whole = gain == round(gain) and offset == round(offset)
    half = 0 if whole else 0.5
    assert (other.low, other.high) == (-gain * half + offset, gain * (255 + half) + offset)
    assert (other.width, other.n_bins, other.integer) == (32 * gain, 8, whole)
    assert other.sublevels == (32 * gain if whole else 2**15)


def test_rescaled_bins_of_floats_keep_their_edges():
    other = choose_binning(np.float32, (0.0, 1.0), 0.25).rescaled(4.0, 1.0)
    assert (other.low, other.high, other.width, other.n_bins) == (1.0, 5.0, 1.0, 4)


@pytest.mark.parametrize(("gain", "offset"), [(0, 0), (-1, 0), (np.nan, 0), (1, np.inf)])
def test_gains_and_offsets_must_be_usable(gain, offset):
    with pytest.raises(EnsembleError, match="use a gain above 0, both finite"):
        choose_binning(np.uint8, (0, 255)).rescaled(gain, offset)


def test_bins_are_divided_and_joined():
    binning = choose_binning(np.uint8, (0, 255), 32)
    fine = binning.refined(4)
    assert (fine.width, fine.n_bins, fine.sublevels) == (8, 32, 8)
    assert fine.coarsened(4) == binning
    assert binning.multiple_of(fine) == 4
    assert fine.multiple_of(binning) is None
    assert binning.multiple_of(choose_binning(np.uint8, (0, 254), 8)) is None
    assert binning.multiple_of(choose_binning(np.uint8, (1, 255), 8)) is None
    assert binning.coarsened(3).n_bins == 3
    assert choose_binning(np.uint8, (0, 9), 8).refined(4).n_bins == 5  # of ten intensities
    with pytest.raises(EnsembleError, match="32 levels cannot be divided into 5"):
        binning.refined(5)


@pytest.mark.parametrize(
    ("dtype", "data_range", "width", "expected"),
    [
        (np.uint8, (0, 255), None, (0, 255, 32, 8, 32, True)),
        (np.uint8, (0.5, 9.5), None, (0, 10, 2, 6, 2, True)),
        (np.uint16, (0, 65535), 1, None),
        (np.uint16, (0, 65534), 1, (0, 65534, 1, 65535, 1, True)),
        (np.int32, (0, 65536), None, (0, 65536, 8192, 8, 2**15, False)),
        (np.float32, (0, 1), 0.1, (0, 1, 0.1, 10, 2**15, False)),
    ],
)
def test_bins_that_are_chosen(dtype, data_range, width, expected):
    if expected is None:
        with pytest.raises(EnsembleError, match="so use 2 or more"):
            choose_binning(dtype, data_range, width)
        return
    found = choose_binning(dtype, data_range, width)
    given = (found.low, found.high, found.width, found.n_bins, found.sublevels, found.integer)
    assert given == expected


@pytest.mark.parametrize(
    ("dtype", "data_range", "width", "words"),
    [
        *((np.float32, given, None, "both finite") for given in [(np.nan, 5), (0, np.inf), (5, 5), (6, 5)]),
        (np.float32, ("a", 5), None, "give two numbers"),
        (np.float64, (-1.7e308, 1.7e308), None, "too wide for bins"),
        *((np.uint8, (0, 255), width, "a positive number") for width in (0, -1, np.nan, np.inf, "a")),
        (np.uint8, (0, 255), 2.6, "such as 3"),
        (np.uint8, (0, 255), 0.2, "such as 1"),
        (np.float32, (0, 1), 1e-6, "so use 1.53e-05 or more"),
    ],
)
def test_ranges_and_widths_that_are_refused(dtype, data_range, width, words):
    with pytest.raises(EnsembleError, match=words):
        choose_binning(dtype, data_range, width)


def test_intensities_of_levels():
    levels = np.array([0, 1, 40])
    np.testing.assert_array_equal(choose_binning(np.uint8, (5, 255)).intensities(levels), [5, 6, 45])
    binning = choose_binning(np.float32, (2, 3), 0.125)
    np.testing.assert_allclose(binning.intensities(levels), 2 + (levels + 0.5) * 0.125 / binning.sublevels)


@pytest.mark.parametrize("radices", [(7, 9, 2), (60_000, 60_000, 60_000, 60_000, 3)])
def test_rows_are_found_and_packed_in_their_order(radices):
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, radices, (40, len(radices))), axis=0)
    keys = pack_rows(rows, radices)
    assert (np.diff(keys) > 0).all()
    index = BinSetIndex(rows, radices)
    place, found = index.find(list(rows.T))
    assert found.all()
    np.testing.assert_array_equal(place, np.arange(len(rows)))
    asked = rng.integers(0, radices, (200, len(radices)))
    place, found = index.find(list(asked.T))
    before = [sum(row <= one for row in rows.tolist()) - 1 for one in asked.tolist()]
    np.testing.assert_array_equal(place, before)
    np.testing.assert_array_equal(found, [one in rows.tolist() for one in asked.tolist()])


def test_bins_are_multiples_of_narrower_ones_only_where_the_edges_match():
    fine = choose_binning(np.float32, (0, 1), 0.125)
    assert choose_binning(np.float32, (0, 1), 0.5).multiple_of(fine) == 4
    assert choose_binning(np.float32, (0, 1), 0.3).multiple_of(fine) is None
    assert choose_binning(np.float32, (0, 2), 0.5).multiple_of(fine) is None

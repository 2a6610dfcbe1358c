"""Intensities that a table was not made for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_ensir import fit_lut
from napari_ensir.ensemble.checks.fit import check_range, share_outside

TRUTH = np.arange(256, dtype=np.uint8).reshape(16, 16)
LUT = fit_lut([([TRUTH // 2 * 2, TRUTH // 4 * 4], TRUTH)])


@given(st.lists(st.floats(-1000, 1000) | st.just(float("nan")), max_size=30))
def test_the_share_is_of_the_finite_pixels(values):
    finite = [value for value in values if np.isfinite(value)]
    outside = sum(not 0 <= value <= 255 for value in finite)
    assert share_outside(LUT.binning, values) == pytest.approx(outside / max(1, len(finite)))


def test_eight_bit_suits_its_own_table():
    assert check_range(LUT.binning, "a", TRUTH) == []
    assert check_range(LUT.binning, "a", np.zeros((4, 4), np.uint8)) == []


def test_sixteen_bit_does_not():
    (found,) = check_range(LUT.binning, "a", np.linspace(0, 4095, 1000).astype(np.uint16))
    assert found.message.startswith('93.7% of the pixels of "a" lie outside the table\'s range, 0 to 255')


def test_unit_range_falls_into_one_bin():
    (found,) = check_range(LUT.binning, "a", TRUTH / 255)
    assert 'All of "a" (0 to 1) lies in one bin of the table' in found.message

"""Images on another scale than a table's range."""

from __future__ import annotations

import numpy as np

from napari_ensir import fit_lut
from napari_ensir.ensemble.checks.fit import check_range

TRUTH = np.arange(256, dtype=np.uint8).reshape(16, 16)
LUT = fit_lut([([TRUTH // 2 * 2, TRUTH // 4 * 4], TRUTH)])


def test_eight_bit_suits_its_own_table():
    assert check_range(LUT.binning, "a", TRUTH) == []
    assert check_range(LUT.binning, "a", np.zeros((4, 4), np.uint8)) == []


def test_sixteen_bit_does_not():
    (found,) = check_range(LUT.binning, "a", np.linspace(0, 4095, 1000).astype(np.uint16))
    assert found.message.startswith('91% of the pixels of "a" lie far outside the table\'s range, 0 to 255')


def test_unit_range_falls_into_one_bin():
    (found,) = check_range(LUT.binning, "a", TRUTH / 255)
    assert 'All of "a" (0 to 1) lies in one bin of the table' in found.message


def test_brighter_and_darker_fields_are_not_another_scale():
    for image in (TRUTH + 100.0, 0.2 * TRUTH, 1.4 * TRUTH):
        assert check_range(LUT.binning, "a", image) == []

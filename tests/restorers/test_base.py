from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.restorers.base import intensity_warning
from napari_ensir.restorers.classical import CLASSICAL

IMAGE = np.random.default_rng(0).normal(1000, 50, (32, 32)) + np.linspace(0, 400, 32)


@pytest.mark.parametrize("key", sorted(CLASSICAL))
def test_restorations_by_classical_methods_raise_no_warning(key):
    assert intensity_warning(key, IMAGE, CLASSICAL[key]()(IMAGE)) == ""


@pytest.mark.parametrize("change", [lambda x: x / 1000, lambda x: x * 255, lambda x: x - 1e5])
def test_restorations_on_another_scale_raise_a_warning(change):
    assert intensity_warning("mine", IMAGE, change(IMAGE)).startswith(
        "mine: the restoration has intensities around"
    )


def test_constant_images_and_nan_raise_no_warning():
    assert intensity_warning("mine", np.ones((4, 4)), np.zeros((4, 4))) == ""
    with_hole = np.where(IMAGE > 1500, np.nan, IMAGE)
    assert intensity_warning("mine", with_hole, with_hole) == ""

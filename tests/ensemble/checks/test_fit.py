"""What a fit's report warns of, and what it says nothing of."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import fit_lut
from tests.helpers.images import make_image

METHODS = ("em", "em-released", "least-squares")


def warnings_of(candidates, truth, method="em", **options):
    names = tuple("ABC"[: len(candidates)])
    return fit_lut([(candidates, truth)], names, method=method, device="cpu", **options).report["warnings"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_nothing_is_said_of_ordinary_images(rng, method, dtype):
    candidates, truth = make_image(rng, (60, 60), 3, dtype)
    assert warnings_of(candidates, truth, method) == []
    # Nor of a truth with noise of its own beside smooth candidates, however smooth.
    flat = np.full((80, 80), 1000.0)
    noisy = [flat + rng.normal(0, sd, flat.shape) for sd in (10, 2, 0.1)]
    assert warnings_of(noisy[1:], noisy[0], method) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_candidate_is_named(engine, rng, method, dtype):
    candidates, truth = make_image(rng, (60, 60), 3, dtype)
    candidates[1] = np.full_like(truth, 100)
    found = warnings_of(candidates, truth, method)
    assert found[0].startswith('candidate "B": constant (every examined pixel is 100)')
    if method == "least-squares":
        assert len(found) == 1
        return
    lut = fit_lut([(candidates, truth)], ("A", "B", "C"), method=method, device="cpu")
    unsolved, bin_sets = lut.report["outcomes"]["no solution"], len(lut.rows)
    assert unsolved > 0
    (sentence,) = [one for one in found if one.startswith("EM has no solution in")]
    assert sentence.startswith(f"EM has no solution in {unsolved} of {bin_sets} bin sets, ")
    assert sentence.endswith('candidate 2 ("B") is constant in them.')


def test_a_candidate_that_is_constant_in_places_is_named(rng):
    """Half of one is saturated."""
    candidates, truth = make_image(rng, (80, 80), 2)
    candidates[1][:40] = 255
    found = warnings_of(candidates, truth)
    (sentence,) = [one for one in found if one.startswith("EM has no solution in")]
    assert 'candidate 2 ("B") is constant' in sentence
    assert "candidate 1" not in sentence


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        (np.float32, lambda x: x / 60000),  # 0..1 beside 0..60000
        (np.float32, lambda x: x / 235),  # 8 bit beside 16
        (np.float32, lambda x: x / 16),  # 12 bit beside 16
        (np.uint16, lambda x: x // 256),
        (np.float64, lambda x: x - 1e6),
        (np.float64, lambda x: x * 40 - 30000 * 39),  # the same mean, another contrast
    ],
)
def test_another_scale_is_named(rng, method, dtype, change):
    candidates, truth = make_image(rng, (60, 60), 3, dtype)
    candidates[2] = change(candidates[2]).astype(dtype)
    lut = fit_lut([(candidates, truth)], "ABC", method=method, device="cpu")
    found = [one["fix"] for one in lut.report["diagnostics"] if one["code"] == "scale-mismatch"]
    assert [one["candidates"] for one in found] == [["C"]]
    matched = found[0]["gain"] * candidates[2] + found[0]["offset"]
    assert matched.mean() == pytest.approx(truth.mean(), abs=0.2 * float(truth.std()))


def test_pixels_outside_the_range(rng):
    candidates, truth = make_image(rng, (60, 60), 2, np.float32)
    low, high = np.quantile(candidates[0], [0.02, 0.8])
    found = warnings_of(candidates, truth, data_range=(low, high))
    assert len(found) == 2
    assert found[0].startswith('22.0% of the pixels of candidate 1 ("A") lie outside the data range')

"""Checks before a table is applied: silent on other fields of the microscope, not on mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_ensir import fit_lut
from napari_ensir.ensemble.checks.images import ApplyChecks


def field(seed, brightness=1.0, density=0.02):
    """Blurred spots of random brightness on a dark background, and two restorations of them."""
    rng = np.random.default_rng(seed)
    spots = (rng.random((128, 128)) < density) * rng.gamma(2, 900 * brightness, (128, 128))
    truth = 100 + gaussian_filter(spots, 2)
    noisy = [truth + rng.normal(0, 1, truth.shape) * np.sqrt(truth) * s for s in (0.3, 0.6)]
    return [gaussian_filter(image, 0.7).astype(np.float32) for image in noisy], truth.astype(np.float32)


FIELDS = [field(n, brightness, density) for n, (brightness, density) in enumerate(
    [(1, 0.02), (0.4, 0.02), (2, 0.03), (1, 0.06), (0.7, 0.01)]
)]  # fmt: skip


@pytest.fixture(scope="module", params=[1, 3], ids=["one image", "three images"])
def lut(request):
    pairs = FIELDS[: request.param]
    return fit_lut(pairs, "AB", method="least-squares", device="cpu")


def codes(lut, candidates):
    checks = ApplyChecks(lut.report, lut.binning, lut.names)
    checks.look(lut.field(candidates))
    return [one.code for one in checks.diagnostics()]


@pytest.mark.parametrize("number", range(len(FIELDS)))
def test_brighter_darker_and_denser_fields_are_not_reported(lut, number):
    assert codes(lut, FIELDS[number][0]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 0.5 * x,
        lambda x: 2 * x,
        lambda x: x + 20 * np.ptp(x) / 100,
        lambda x: 257 * x,
        lambda x: x / 4095,
    ],
    ids=["half", "twice", "offset", "16 bit", "0 to 1"],
)
def test_another_exposure_is_reported(lut, change):
    assert codes(lut, [change(image) for image in FIELDS[0][0]]) == ["other-exposure"]


def test_another_unit_of_another_field_is_reported(lut):
    for scale in (257, 1 / 4095):
        assert codes(lut, [scale * image for image in FIELDS[1][0]]) == ["other-exposure"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda x: np.roll(x, 5, axis=1), "shifted"),
        (lambda x: x[::-1], "turned"),
        (lambda x: 0 * x, "constant"),
        (lambda x: x + 60, "scale-mismatch"),
        (lambda x: 0.5 * x, "scale-mismatch"),
        (lambda x: FIELDS[4][0][1], "other-field"),
    ],
    ids=["shifted", "upside down", "black", "offset", "half", "another field"],
)
@pytest.mark.parametrize("number", [0, 3])
def test_one_candidate_unlike_the_other_is_reported(lut, change, code, number):
    one, other = FIELDS[number][0]
    (found,) = codes(lut, [one, change(other)])
    assert found == code or (code == "other-field" and found == "disagreement")


def test_each_candidate_that_looks_wrong_is_named(lut):
    one, other = FIELDS[0][0]
    checks = ApplyChecks(lut.report, lut.binning, lut.names)
    for label, candidates in (("x", [0 * one, other]), ("y", [one, 0 * other]), ("z", [one, 0 * other])):
        checks.look(lut.field(candidates), label)
    found = checks.diagnostics()
    assert [each.fix["candidates"] for each in found] == [["A"], ["B"]]
    assert [each.message[:9] for each in found] == ["image x: ", "image y: "]


def test_candidates_smaller_than_a_block_can_be_checked():
    rng = np.random.default_rng(4)
    for shape in ((12, 40), (40, 12), (9, 9), (40, 12, 3)):
        truth = rng.uniform(0, 100, shape).astype(np.float32)
        candidates = [truth + rng.normal(0, sigma, shape).astype(np.float32) for sigma in (1, 2)]
        lut = fit_lut([(candidates, truth)], names="AB", device="cpu")
        assert lut.report["pixels"] == truth.size
        assert np.isfinite(lut.apply(candidates, device="cpu")).all()

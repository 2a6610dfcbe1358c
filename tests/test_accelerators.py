"""The CPU's results on other devices, within stated tolerances.

The checks run with torch on the CPU everywhere, and on CUDA and MPS where there is one.
"""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import FitSession, fit_lut
from napari_ensir.devices import available_devices
from napari_ensir.restorers import CLASSICAL, RECIPES, begin_training
from tests.helpers.images import make_image, using

DTYPES = ("u1", "u2", "f4")
METHODS = ("em", "em-released", "least-squares")


@pytest.fixture(params=["cpu", "cuda", "mps"])
def device(request):
    """A device that computes with torch; the compiled loops are off."""
    if request.param not in {name.partition(":")[0] for name in available_devices()}:
        pytest.skip(f"this machine has no {request.param}")
    with using("torch"):
        yield request.param


def tolerance(device):
    """Largest difference of a weight: MPS has no float64, which its EM emulates."""
    return 2.5e-3 if device == "mps" else 1e-5


@pytest.fixture(scope="module")
def cases():
    """Candidates, truth, and tables fitted by the compiled loops of the CPU, by dtype and method."""
    found = {}
    for dtype in DTYPES:
        candidates, truth = make_image(np.random.default_rng(5), (40, 50), 2, np.dtype(dtype))
        options = {"data_range": (0.0, float(np.max(truth)))}
        for method in METHODS:
            lut = fit_lut([(candidates, truth)], method=method, device="cpu", **options)
            found[dtype, method] = (
                candidates,
                truth,
                options,
                lut.calibrated([(candidates, truth)], device="cpu"),
            )
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fit_finds_the_same_bin_sets_and_weights(cases, device, dtype, method):
    candidates, truth, options, expected = cases[dtype, method]
    lut = fit_lut([(candidates, truth)], method=method, device=device, **options)
    np.testing.assert_array_equal(lut.rows, expected.rows)
    np.testing.assert_allclose(lut.weights, expected.weights, atol=tolerance(device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_the_same(cases, device, dtype):
    candidates, truth, options, _ = cases[dtype, "em"]
    sessions = [FitSession([(candidates, truth)], device=where, **options) for where in ("cpu", device)]
    here, there = (session.collect().statistics for session in sessions)
    np.testing.assert_array_equal(there.rows, here.rows)
    np.testing.assert_array_equal(there.counts, here.counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_gives_the_same_ensemble_maps_and_expected_errors(cases, device, dtype):
    candidates, truth, _, lut = cases[dtype, "least-squares"]
    largest = float(np.max(truth))
    for made in ("apply", "weight_maps", "expected_error"):
        here = getattr(lut, made)(candidates, device="cpu")
        there = getattr(lut, made)(candidates, device=device)
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6 * largest, err_msg=made)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expected_errors_are_measured_the_same(cases, device, dtype):
    candidates, truth, _, lut = cases[dtype, "least-squares"]
    there = lut.calibrated([(candidates, truth)], device=device)
    here = lut.expected_error(candidates, device="cpu")
    np.testing.assert_allclose(there.expected_error(candidates, device="cpu"), here, rtol=1e-3)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_training_takes_the_same_steps_and_restores_the_same(device, recipe):
    clean = np.random.default_rng(1).random((2, 24, 24), np.float32)
    pairs = [(image + 0.1, image) for image in clean]
    options = {"ir": CLASSICAL["gaussian"]()} if recipe == "dp-ir" else {}
    trainers = [
        begin_training(recipe, pairs, steps=3, width=8, device=where, **options) for where in ("cpu", device)
    ]
    for trainer in trainers:
        list(trainer.run())
    here, there = trainers
    np.testing.assert_allclose(there.losses, here.losses, rtol=1e-3)
    np.testing.assert_allclose(there.restorer()(clean[0]), here.restorer()(clean[0]), atol=1e-3)

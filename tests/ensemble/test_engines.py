"""The choice between the engines, whose results are the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from napari_ensir import fit_lut
from napari_ensir.ensemble import engines
from napari_ensir.ensemble.engines import choose_engine
from napari_ensir.ensemble.statistics.reference import collect_reference
from tests.helpers.images import make_image, using

BYTES = np.dtype(np.uint8)


@pytest.fixture
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(engines, "forced", None)
    monkeypatch.setattr(engines, "_is_loaded", lambda kernel, dtype: False)
    monkeypatch.setattr(engines, "_is_on_disk", lambda kernel, dtype: False)
    monkeypatch.setattr(engines, "_delays", Counter())


def test_small_work_does_not_wait_for_the_compiler(nothing_compiled, monkeypatch):
    monkeypatch.setattr(engines, "LOADING", 0)
    monkeypatch.setattr(engines, "COMPILING", 100 * engines.DELAYS["count"])
    found = [choose_engine("count", BYTES, 50) for _ in range(4)]
    assert found == ["numpy", "numpy", "compiled", "compiled"]
    assert choose_engine("count", np.dtype(np.float32), 50) == "numpy"
    engines.compile_at_once(np.dtype(np.float32))
    assert choose_engine("count", np.dtype(np.float32), 1) == "compiled"
    assert choose_engine("count_errors", np.dtype(np.float32), 1) == "compiled"
    assert choose_engine("iterate_em", np.dtype(np.float64), 1) == "compiled"
    assert choose_engine("count", BYTES, 1, torch.device("meta")) == "torch"


def test_numpy_works_while_another_process_compiles(nothing_compiled, monkeypatch):
    monkeypatch.setattr(engines, "compiles_elsewhere", True)
    assert choose_engine("count", BYTES, 2**40) == "numpy"
    monkeypatch.setattr(engines, "_is_on_disk", lambda kernel, dtype: True)
    assert choose_engine("count", BYTES, 1) == "compiled"


def test_weights_of_a_small_set_do_not_depend_on_what_is_compiled(nothing_compiled, monkeypatch, rng):
    pair = make_image(rng, (80, 70), 2)
    before = fit_lut([pair], method="em", bin_width=64, device="cpu").weights
    monkeypatch.setattr(engines, "_is_loaded", lambda kernel, dtype: True)
    after = fit_lut([pair], method="em", bin_width=64, device="cpu").weights
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("announced", [False, True])
def test_numba_is_imported_for_large_work_only(nothing_compiled, monkeypatch, announced):
    monkeypatch.setattr(engines, "_is_on_disk", lambda kernel, dtype: True)
    monkeypatch.setattr(engines, "_KERNELS", "a module that is not imported")
    monkeypatch.setattr(engines, "LOADING", 100 * engines.DELAYS["count"])
    if announced:
        engines.expect_work("count", 200)
    found = [choose_engine("count", BYTES, 50) for _ in range(4)]
    assert found == ["compiled"] * 4 if announced else ["numpy", "numpy", "compiled", "compiled"]


def test_kernels_in_this_process_and_on_disk_count_as_compiled(monkeypatch):
    from napari_ensir.ensemble import kernels
    from napari_ensir.ensemble.precompile import warm_up

    warm_up([BYTES])
    assert engines._is_loaded("combine", BYTES)
    monkeypatch.setattr(kernels.combine, "overloads", type(kernels.combine.overloads)())
    assert not engines._is_loaded("combine", BYTES)
    assert engines._is_on_disk("combine", BYTES)
    assert not engines._is_on_disk("combine", np.dtype(np.int64))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_engines_give_the_same_table_and_ensemble(nothing_compiled, rng, dtype):
    candidates, truth = make_image(rng, (40, 50, 3), 2, dtype)
    if dtype == "f4":
        candidates[0].flat[:6] = [np.nan, np.inf, -np.inf, 1e30, -1e30, 200.3]
    mask = rng.random(truth.shape) < 0.8

    settings = {"mask": [mask], "channel_axis": -1, "data_range": (10.1, 200.3), "device": "cpu"}

    def fit(engine):
        with using(engine):
            statistics = collect_reference([(candidates, truth)], **settings).statistics
            lut = fit_lut([(candidates, truth)], method="least-squares", **settings)
            lut = lut.calibrated([(candidates, truth)], mask=[mask], device="cpu")
            errors = lut.errors.squares, lut.errors.counts, lut.expected_error(candidates)
            image = lut.apply(candidates, device="cpu")
            return statistics.moments, statistics.outside, lut.weights, image, *errors

    expected = fit(None)  # numpy, as nothing is compiled
    for engine in ("compiled", "torch"):
        for one, other in zip(fit(engine), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bin_width", [64, 4, "auto"])
def test_numpy_counts_in_any_number_of_bins(rng, bin_width):
    pair = make_image(rng, (200, 180), 2)
    found = []
    for engine in ("numpy", "compiled"):
        with using(engine):
            found.append(fit_lut([pair], method="least-squares", bin_width=bin_width, device="cpu"))
    np.testing.assert_array_equal(found[0].rows, found[1].rows)
    np.testing.assert_array_equal(found[0].weights, found[1].weights)

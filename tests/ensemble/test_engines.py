"""The choice between the engines, whose results are the same."""

from __future__ import annotations

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
    monkeypatch.setattr(engines, "_is_compiled", lambda kernel, dtype: False)
    engines._processed.clear()
    yield
    engines._processed.clear()


def test_small_work_does_not_wait_for_the_compiler(nothing_compiled, monkeypatch):
    monkeypatch.setattr(engines, "SMALL", {"count": 100, "combine": 100})
    found = [choose_engine("count", BYTES, 50) for _ in range(4)]
    assert found == ["numpy", "numpy", "compiled", "compiled"]
    assert choose_engine("count", np.dtype(np.float32), 50) == "numpy"
    engines.compile_at_once(np.dtype(np.float32))
    assert choose_engine("count", np.dtype(np.float32), 1) == "compiled"
    assert choose_engine("count", BYTES, 1, torch.device("meta")) == "torch"


def test_kernels_in_this_process_and_on_disk_count_as_compiled(monkeypatch):
    from napari_ensir.ensemble import kernels
    from napari_ensir.ensemble.precompile import warm_up

    warm_up([BYTES])
    assert engines._is_compiled("combine", BYTES)
    monkeypatch.setattr(kernels.combine, "overloads", type(kernels.combine.overloads)())
    assert not kernels.combine.signatures
    assert engines._is_compiled("combine", BYTES)
    assert not engines._is_compiled("combine", np.dtype(np.int64))


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
            return statistics.moments, statistics.outside, lut.weights, lut.apply(candidates, device="cpu")

    expected = fit(None)
    for engine in ("compiled", "torch"):
        for one, other in zip(fit(engine), expected, strict=True):
            np.testing.assert_array_equal(one, other)

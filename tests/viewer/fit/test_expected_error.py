"""The error to expect, in the Fit panel: learned by itself, saved, shown as a layer that follows."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_ensir import fit_lut, load_lut
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.results.combining import expected_error
from napari_ensir.viewer.results.layers import largest_expected_error


def expected(viewer):
    return [one for one in viewer.layers if one.metadata.get(OUTPUT_KEY, {}).get("kind") == "expected error"]


def test_a_fit_learns_its_expected_error_and_a_click_shows_it(fit_widget, filled, images, wait_for, tmp_path):
    fit_widget.fit()
    wait_for(fit_widget)
    lut = fit_widget.result.lut
    arrays = [images[name] for name in lut.names]
    truth = images["ground truth"]
    by_hand = fit_lut([(arrays, truth)], method="em").calibrated([(arrays, truth)])
    np.testing.assert_array_equal(lut.errors.squares, by_hand.errors.squares)
    fit_widget.save(tmp_path / "table.lut.safetensors")
    saved = load_lut(tmp_path / "table.lut.safetensors")
    np.testing.assert_array_equal(saved.expected_error(arrays), by_hand.expected_error(arrays))
    ensemble = next(
        one for one in filled.layers if one.metadata.get(OUTPUT_KEY, {}).get("kind") == "ensemble"
    )
    assert ensemble.metadata[OUTPUT_KEY]["lut"] is lut
    assert lut.report["held_out"]["rmse"] > 0
    assert not expected(filled), "a layer comes when it is asked for"

    fit_widget.expected_button.native.click()
    wait_for(fit_widget)
    (layer,) = expected(filled)
    assert layer.name == "expected error (intensity units) · EM (paper)"
    np.testing.assert_array_equal(layer.data, lut.expected_error(arrays))
    assert tuple(layer.contrast_limits) == pytest.approx((0, largest_expected_error(lut)))
    fit_widget.method.value = "least-squares"
    wait_for(fit_widget)
    assert expected(filled) == [layer]
    assert layer.name == "expected error (intensity units) · Least squares"
    np.testing.assert_array_equal(layer.data, fit_widget.result.lut.expected_error(arrays))
    filled.layers.remove(layer)
    fit_widget.method.value = "em"
    wait_for(fit_widget)
    assert not expected(filled), "removed, it stays removed"


def test_of_a_noisy_truth_of_unknown_noise_it_is_said(fit_widget, filled, wait_for):
    fit_widget.method.value = "least-squares"
    fit_widget.truth_noise.value = "unknown"
    fit_widget.fit()
    wait_for(fit_widget)
    assert fit_widget.result.lut.errors is None
    assert "No expected error: the ground truth carried noise" in fit_widget.message.value
    assert not fit_widget.expected_button.enabled
    assert "There is no expected error: the ground truth carried noise" in fit_widget.expected_button.tooltip
    assert not expected(filled)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("rgb", [False, True])
def test_of_a_large_stack_it_is_a_dask_array(rgb, axis, monkeypatch):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 200, (4, 3, 24, 24, 3) if rgb else (4, 3, 24, 24)).astype(np.uint8)
    arrays = [np.clip(truth + rng.normal(0, s, truth.shape), 0, 255).astype(np.uint8) for s in (4, 20)]
    axis = -1 if rgb and axis is not None else axis
    lut = fit_lut([(arrays, truth)], channel_axis=axis, bin_width=64).calibrated([(arrays, truth)])
    whole = expected_error(lut, arrays, rgb, "cpu")
    assert isinstance(whole, np.ndarray)
    assert whole.shape == truth.shape[: whole.ndim]
    assert whole.dtype == np.float32
    monkeypatch.setattr("napari_ensir.viewer.results.combining.VIEWED", 1)
    view = expected_error(lut, arrays, rgb, "cpu")
    assert isinstance(view, da.Array)
    assert view.shape == whole.shape
    np.testing.assert_allclose(view[2, 1], whole[2, 1], rtol=1e-6)

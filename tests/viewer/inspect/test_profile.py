"""Layers side by side, and candidates and ensemble along a line."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.viewer.layers.layers import placement
from napari_ensir.viewer.layers.session import get_session


@pytest.fixture
def docked(filled):
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Look side by side")
    return widget


def test_the_profile_holds_the_pixels_under_the_line(filled, images, docked, qtbot):
    truth, *arrays = images.values()
    layers = list(filled.layers)[1:]
    names = [layer.name for layer in layers]
    lut = fit_lut([(arrays, truth)], names=names, method="em").calibrated([(arrays, truth)])
    get_session(filled).keep("fitted", lut, layers)
    with pytest.raises(EnsembleError, match="There is no line yet"):
        docked.profile()
    place = placement(layers[0])
    line = filled.add_shapes([[20, 70], [20, 30]], shape_type="line", name="profile", **place)
    assert docked.line.value is line
    found = docked.profile()
    seen = np.s_[20, 70:29:-1]
    np.testing.assert_array_equal(found.candidates, [array[seen] for array in arrays])
    np.testing.assert_array_equal(found.truth, truth[seen])
    np.testing.assert_allclose(found.ensemble, lut.apply(arrays)[seen], rtol=1e-6)
    np.testing.assert_allclose(found.expected, lut.expected_error(arrays)[seen], rtol=1e-5)
    ends = [layers[0].data_to_world((20, column)) for column in (30, 70)]
    assert found.distances[-1] == pytest.approx(np.linalg.norm(np.subtract(*ends)))
    qtbot.waitUntil(lambda: len(docked.plot_area.canvas.figure.axes[0].lines) == 4, timeout=60_000)
    line.data = [np.array([[200, 200], [300, 300]])]
    qtbot.waitUntil(lambda: bool(docked.plot_area.canvas.figure.axes[0].texts), timeout=60_000)
    assert "does not cross the candidates" in docked.plot_area.canvas.figure.axes[0].texts[0].get_text()


def test_two_layers_are_shown_side_by_side_and_all_again(filled, docked):
    filled.add_image(np.eye(96), name="hidden", visible=False)
    docked.first.value, docked.second.value = filled.layers[1], filled.layers[2]
    docked.side_button.native.click()
    grid = filled.canvas.grid if hasattr(filled, "canvas") else filled.grid
    assert grid.enabled
    assert [layer.visible for layer in filled.layers] == [False, True, True, False]
    docked.back_button.native.click()
    assert not grid.enabled
    assert [layer.visible for layer in filled.layers] == [True, True, True, False]
    docked.second.value = filled.layers[1]
    docked.side_button.native.click()
    assert docked.message.value == "Choose two different layers."

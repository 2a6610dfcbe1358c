"""The samples as they open, and what is seen of them."""

from __future__ import annotations

import time

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("key", "dtype", "n_candidates"),
    [("tissue", "uint8", 4), ("coins", "float32", 4), ("stack", "uint16", 3)],
)
def test_sample_opens_and_its_ensemble_beats_every_candidate(viewer, wait_for, key, dtype, n_candidates):
    began = time.monotonic()
    viewer.open_sample("napari-ensir", key)
    assert time.monotonic() - began < 10
    assert viewer.layers["ground truth"].data.dtype == dtype
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    assert widget.truth.layer() is viewer.layers["ground truth"]
    names = [layer.name for layer in viewer.layers if layer.name not in ("ground truth", "noisy", "blurred")]
    assert len(names) == n_candidates
    widget.candidates.choose([viewer.layers[name] for name in names])
    widget.run()
    wait_for(widget)
    held_out = {score.name: score.held_out for score in widget.result.scores}
    if key != "stack":  # there the paper's EM stays below its best candidate; least squares does not
        assert held_out["ensemble"] == max(held_out.values())
    assert held_out["ensemble"] > held_out["average"]


def test_sample_is_the_same_each_time():
    from napari_ensir.viewer.sample_data import deconvolved_coins

    first, second = deconvolved_coins(), deconvolved_coins()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_canvas_is_not_black(viewer, wait_for, qtbot):
    viewer.open_sample("napari-ensir", "tissue")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose([viewer.layers[name] for name in ("wavelet", "non-local means")])
    widget.run()
    wait_for(widget)
    shown = viewer.layers["ensemble"]
    for layer in viewer.layers:
        layer.visible = layer is shown
    qtbot.wait(300)
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert (picture.max(axis=2) > 60).mean() > 0.2
    assert picture.std() > 20

"""The samples as they open, and what is seen of them."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("key", "dtype", "n_candidates"),
    [("tissue", "uint8", 4), ("coins", "float32", 4), ("stack", "uint16", 3)],
)
def test_sample_opens_and_its_ensemble_beats_every_candidate(viewer, wait_for, key, dtype, n_candidates):
    viewer.open_sample("napari-ensir", key)
    assert viewer.layers["ground truth"].data.dtype == dtype
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    assert widget.ground_truth.value is viewer.layers["ground truth"]
    names = [layer.name for layer in viewer.layers if layer.name not in ("ground truth", "noisy", "blurred")]
    assert len(names) == n_candidates
    widget.candidates.value = [viewer.layers[name] for name in names]
    widget.fit()
    wait_for(widget)
    scores, own = widget.result.scores, widget.result.chosen.held_out
    assert own > max(score.held_out for score in scores if score.role != "method")
    assert "Chosen: " in widget.message.value


def test_sample_without_a_truth_serves_as_two_exposures(viewer):
    from napari_ensir import fit_lut
    from napari_ensir.ensemble.checks.noise import check_own_input

    viewer.open_sample("napari-ensir", "exposures")
    first, second, *candidates = (
        viewer.layers[name].data
        for name in (
            "first exposure",
            "second exposure",
            "total variation",
            "wavelet",
            "non-local means",
            "Gaussian",
        )
    )
    assert len(viewer.layers) == 6
    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    assert restore.image.value is viewer.layers["first exposure"], "and not the candidate on top"
    assert second.dtype == np.uint16
    assert second.min() > 0
    assert second.max() < 4095  # noise that is cut off has no mean of zero
    assert check_own_input(candidates, second) == []
    assert check_own_input(candidates, first) != []
    lut = fit_lut([(candidates, second)], truth_noise="unknown", device="cpu")
    rows = lut.report["scores"]["rows"]
    assert min(rows, key=lambda row: row["difference"])["role"] == "ensemble"


def test_sample_is_the_same_each_time():
    from napari_ensir.viewer.plugin.sample_data import deconvolved_coins

    first, second = deconvolved_coins(), deconvolved_coins()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_canvas_is_not_black(viewer, wait_for, qtbot):
    viewer.open_sample("napari-ensir", "tissue")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = [viewer.layers[name] for name in ("wavelet", "non-local means")]
    widget.method.value = "em"
    widget.fit()
    wait_for(widget)
    shown = viewer.layers["ensemble · EM (paper)"]
    for layer in viewer.layers:
        layer.visible = layer is shown
    qtbot.wait(300)
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert (picture.max(axis=2) > 60).mean() > 0.2
    assert picture.std() > 20

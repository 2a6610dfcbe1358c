"""Sample data and the canvas."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("key", "dtype", "n_candidates"),
    [("tissue", "uint8", 4), ("coins", "float32", 4), ("stack", "uint16", 3)],
)
def test_the_ensemble_of_a_sample_is_better_than_its_candidates(viewer, wait_for, key, dtype, n_candidates):
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


def test_the_sample_of_two_exposures(viewer):
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
    assert restore.image.value is viewer.layers["first exposure"], "not the topmost candidate"
    assert second.dtype == np.uint16
    assert second.min() > 0
    assert second.max() < 4095  # clipped noise has a bias
    assert check_own_input(candidates, second) == []
    assert check_own_input(candidates, first) != []
    lut = fit_lut([(candidates, second)], truth_noise="unknown", device="cpu")
    rows = lut.report["scores"]["rows"]
    assert min(rows, key=lambda row: row["difference"])["role"] == "ensemble"


def test_samples_are_reproducible():
    from napari_ensir.viewer.plugin.sample_data import deconvolved_coins

    first, second = deconvolved_coins(), deconvolved_coins()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_canvas_is_not_black(viewer, images, wait_for, qtbot):
    for name, image in images.items():
        viewer.add_image(image, name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = list(viewer.layers)[1:3]
    widget.method.value = "em"
    widget.fit()
    wait_for(widget)
    shown = viewer.layers["ensemble · EM (paper)"]
    for layer in viewer.layers:
        layer.visible = layer is shown
    viewer.reset_view()
    qtbot.wait(300)
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert (picture.max(axis=2) > 60).mean() > 0.1
    assert picture.std() > 20

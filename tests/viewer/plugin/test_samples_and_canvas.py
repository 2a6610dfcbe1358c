"""Sample data and the canvas."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.viewer.plugin import sample_data

SAMPLES = {
    "denoised_tissue": ("uint8", 4),
    "deconvolved_coins": ("float32", 4),
    "denoised_stack": ("uint16", 3),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_ensemble_of_a_sample_is_better_than_its_candidates(name):
    """On one half of the images, with weights learned on the other."""
    layers = {keywords["name"]: image for image, keywords, _ in getattr(sample_data, name)()}
    truth = layers.pop("ground truth")
    candidates = [image for name, image in layers.items() if name not in ("noisy", "blurred")]
    assert (str(truth.dtype), len(candidates)) == SAMPLES[name]
    left, right = np.s_[..., :150, :], np.s_[..., 150:, :]
    lut = fit_lut([([each[left] for each in candidates], truth[left])], method="least-squares", device="cpu")
    ensemble = lut.apply([each[right] for each in candidates], device="cpu")
    error, *alone = (
        np.mean((each - truth[right]) ** 2.0) for each in (ensemble, *np.float32(candidates)[:, *right])
    )
    assert error < min(alone)


def test_a_sample_is_opened_and_fitted(viewer, wait_for):
    viewer.open_sample("napari-ensir", "stack")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    assert widget.ground_truth.value is viewer.layers["ground truth"]
    widget.candidates.choose_all()
    widget.planes.value = (8, 8)
    widget.method.value = "least-squares"
    widget.weights.value = "trusted"
    widget.fit()
    wait_for(widget)
    assert "The ensemble is" in widget.message.value
    assert "than the best candidate (" in widget.message.value


def test_the_sample_of_two_exposures(viewer):
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
    first, second = sample_data.denoised_stack(), sample_data.denoised_stack()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_canvas_is_not_black(viewer, images, wait_for, qtbot):
    for name, image in images.items():
        viewer.add_image(image, name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = list(viewer.layers)[1:]
    widget.method.value = "em"
    widget.fit()
    wait_for(widget)
    shown = viewer.layers["ensemble · EM (paper)"]
    for layer in viewer.layers:
        layer.visible = layer is shown
    viewer.reset_view()

    def is_shown():
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        return (picture.max(axis=2) > 60).mean() > 0.1 and picture.std() > 20

    qtbot.waitUntil(is_shown, timeout=60_000)

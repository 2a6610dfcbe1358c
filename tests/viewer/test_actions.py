"""Number of actions from noisy layers to a saved, better image and a saved lookup table."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.files.image import read_image
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from tests.helpers.actions import Actions


@pytest.fixture
def exposures(viewer):
    """Two noisy exposures of one field, and the clean image."""
    y, x = np.mgrid[:64, :64]
    clean = 120 + 60 * np.sin(x / 6) * np.cos(y / 9) + 40 * ((x // 16 + y // 16) % 2)
    rng = np.random.default_rng(0)
    noisy = [(clean + rng.normal(0, 18, clean.shape)).astype(np.float32) for _ in range(2)]
    for name, image in zip(("first exposure", "second exposure"), noisy, strict=True):
        viewer.add_image(image, name=name)
    return clean, *noisy


def error(image, clean):
    return float(np.mean((np.asarray(image, float) - clean) ** 2))


def test_one_noisy_image_takes_six_actions(viewer, exposures, monkeypatch, wait_for, tmp_path):
    clean, noisy, _ = exposures
    viewer.layers.remove("second exposure")
    user = Actions(viewer, monkeypatch)
    restore = user.open_panel("Restore")
    user.click(restore.run_button)
    wait_for(restore)
    assert restore.message.value.startswith("The ensemble is ")
    user.save_selected_layers(tmp_path / "better.tif")
    user.click_and_give(restore.save_button, tmp_path / "mine.lut.safetensors")
    assert user.count <= 6
    assert error(read_image(tmp_path / "better.tif"), clean) < error(noisy, clean) / 2
    assert load_lut(tmp_path / "mine.lut.safetensors").n_candidates == 4


def test_two_exposures_take_seven_actions(viewer, exposures, monkeypatch, wait_for, tmp_path):
    clean, first, second = exposures
    user = Actions(viewer, monkeypatch)
    restore = user.open_panel("Restore")
    image = restore.image.value
    assert list(restore.second_exposure.choices) == [
        None,
        *(layer for layer in viewer.layers if layer is not image),
    ]
    other = next(layer for layer in viewer.layers if layer is not image)
    user.choose(restore.second_exposure, other)
    user.click(restore.run_button)
    wait_for(restore)
    sentence, reason, *_ = restore.message.value.splitlines()
    assert sentence.startswith("The ensemble is ")
    assert reason == "The restorers are scored by the second exposure."
    user.save_selected_layers(tmp_path / "better.tif")
    user.click_and_give(restore.save_button, tmp_path / "mine.lut.safetensors")
    assert user.count <= 7
    lut = load_lut(tmp_path / "mine.lut.safetensors")
    assert lut.report.truth_noise == "unknown"
    saved = read_image(tmp_path / "better.tif")
    assert error(saved, clean) < min(error(first, clean), error(second, clean)) / 2
    candidates = [
        layer.data
        for layer in viewer.layers
        if layer.name not in ("first exposure", "second exposure") and OUTPUT_KEY not in layer.metadata
    ]
    np.testing.assert_allclose(saved, lut.apply(candidates), rtol=1e-5)


def test_a_second_exposure_is_in_what_is_copied(viewer, exposures):
    from qtpy.QtWidgets import QApplication

    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    restore.image.value = viewer.layers["first exposure"]
    restore.second_exposure.value = viewer.layers["second exposure"]
    restore.copy()
    assert "second_exposure=read_image('PATH OF second exposure.tif')" in QApplication.clipboard().text()
    restore.program.value = "combine-command"
    restore.copy()
    assert "choose no second exposure" in restore.message.value
    restore.image.value = viewer.layers["second exposure"]
    assert restore.second_exposure.value is None

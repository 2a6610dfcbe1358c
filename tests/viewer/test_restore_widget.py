"""The Restore widget, and the circle from one noisy image to an ensemble."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QComboBox

from napari_ensir.restorers import CLASSICAL
from napari_ensir.viewer.parameter_form import ParameterForm


@pytest.fixture
def restore(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    return widget


def noisy_pair(seed, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    truth = 120 + 60 * np.sin(x / 6 + seed) * np.cos(y / 9) + 40 * ((x // 16 + y // 16) % 2)
    noisy = truth + rng.normal(0, 18, truth.shape)
    return tuple(np.clip(image, 0, 255).astype(dtype) for image in (truth, noisy))


def test_each_ticked_restorer_adds_a_candidate_in_place(viewer, restore, wait_for):
    _, noisy = noisy_pair(0)
    layer = viewer.add_image(noisy, name="noisy", scale=(0.5, 0.5), units=("um", "um"))
    restore.image.choose(layer)
    restore.tick("Median", "Total variation")
    restore.run()
    wait_for(restore)
    added = [layer for layer in viewer.layers if layer.name != "noisy"]
    assert len(added) == 2
    assert {layer.name for layer in added} == {"noisy · Median", "noisy · Total variation"}
    for candidate in added:
        assert candidate.data.dtype == np.uint8
        assert candidate.data.shape == noisy.shape
        np.testing.assert_allclose(candidate.scale, (0.5, 0.5))
        assert candidate.units == layer.units


def test_colour_and_self_ensemble(viewer, restore, wait_for):
    _, noisy = noisy_pair(1)
    layer = viewer.add_image(np.stack([noisy] * 3, axis=-1), rgb=True, name="colour")
    restore.image.choose(layer)
    restore.tick("Gaussian")
    restore.self_ensemble.setChecked(True)
    restore.run()
    wait_for(restore)
    assert viewer.layers[-1].rgb
    assert viewer.layers[-1].name.endswith("x8")


@pytest.mark.parametrize("key", sorted(CLASSICAL))
def test_a_form_gives_back_what_it_was_given(qtbot, key):
    restorer = CLASSICAL[key]()
    form = ParameterForm(restorer)
    qtbot.addWidget(form)
    assert form.restorer() == restorer


def test_the_selected_layer_is_chosen_from_the_start(viewer):
    layer = viewer.add_image(np.eye(8), name="noisy")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    assert widget.image.layer() is layer


def test_wrong_choices_are_one_clear_sentence(viewer, restore, tmp_path):
    restore.run()
    assert "No image is chosen" in restore.message.text()
    restore.image.choose(viewer.add_image(noisy_pair(2)[1], name="noisy"))
    restore.run()
    assert "No restorer is ticked" in restore.message.text()
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    restore.open(str(tmp_path / "bad.safetensors"))
    assert "bad.safetensors" in restore.message.text()


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_network_of_ones_own(viewer, restore, wait_for, write_network, tmp_path, suffix):
    _, noisy = noisy_pair(5)
    restore.image.choose(viewer.add_image(noisy, name="noisy"))
    restore.open(str(write_network(tmp_path / f"dim{suffix}")))
    assert restore.message.text() == f"Opened dim{suffix}."
    # A machine without it says so, and the network's own settings are where to choose another.
    device = next(each for each in restore.forms.currentWidget().findChildren(QComboBox))
    assert device.accessibleName() == "Device"
    if not torch.backends.mps.is_available():
        device.setCurrentText("mps")
        restore.run()
        wait_for(restore)
        assert 'device "mps" is not available' in restore.message.text()
    device.setCurrentText("cpu")
    restore.run()
    wait_for(restore)
    assert len(viewer.layers) == 2, restore.message.text()
    np.testing.assert_allclose(viewer.layers[-1].data, noisy / 2, atol=0.51)
    assert "dim" in viewer.layers[-1].name


def test_dp_ir_takes_the_restorer_that_was_opened_before(
    viewer, restore, wait_for, write_network, write_dp_ir, tmp_path
):
    network = write_network(tmp_path / "dim.pt")
    checkpoint = write_dp_ir(tmp_path / "mine.safetensors", network)
    restore.open(str(checkpoint))
    assert "the restorer 'dim', which it cannot hold" in restore.message.text()
    assert "in Restore open it first" in restore.message.text()
    restore.open(str(network))
    restore.open(str(checkpoint))
    assert restore.message.text() == "Opened mine.safetensors."
    _, noisy = noisy_pair(6)
    restore.image.choose(viewer.add_image(noisy, name="noisy"))
    restore.run()
    wait_for(restore)
    assert [layer.name for layer in viewer.layers[1:]] == ["noisy · dim", "noisy · DP-IR, dim"], (
        restore.message.text()
    )
    assert restore.message.text().startswith("Added 2 candidates")


def test_the_circle_closes(viewer, restore, wait_for):
    """Four restorers, a fit on one field, and the table beats the best of them on another field."""
    truth, noisy = noisy_pair(3)
    other_truth, other_noisy = noisy_pair(4)
    titles = ("Median", "Total variation", "Wavelet", "Gaussian")
    fields = {}
    for name, image in (("field 1", noisy), ("field 2", other_noisy)):
        before = set(viewer.layers)
        layer = viewer.add_image(image, name=name)
        restore.image.choose(layer)
        restore.tick(*titles)
        restore.run()
        wait_for(restore)
        fields[name] = [added for added in viewer.layers if added not in before and added is not layer]
    viewer.add_image(truth, name="ground truth")
    _, fit = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    fit.method.setCurrentIndex(fit.method.findData("least-squares"))
    fit.candidates.choose(fields["field 1"])
    fit.run()
    wait_for(fit)
    ensemble = fit.result.lut.apply([layer.data for layer in fields["field 2"]])

    def error(image):
        return np.mean((image.astype(float) - other_truth) ** 2)

    assert error(ensemble) < min(error(layer.data) for layer in fields["field 2"])

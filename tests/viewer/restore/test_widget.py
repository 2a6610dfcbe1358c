"""The Restore panel, and the circle from one noisy image to an ensemble."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QFileDialog

from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import RESTORERS
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.viewer.controls.checklist import Checklist
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, RECORD_KEY
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.restore.picker import RestorerPicker
from napari_ensir.viewer.restore.widget import RestoreWidget
from tests.helpers.paths import DATA


@pytest.fixture
def restore(viewer):
    """The Restore panel with no restorer ticked."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    widget.restorers.value = []
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
    restore.image.value = layer
    restore.restorers.value = ["total-variation", "median"]
    restore.restore()
    wait_for(restore)
    added = [layer for layer in viewer.layers if layer.name != "noisy"]
    assert [layer.name for layer in added] == ["noisy · Total variation", "noisy · Median"]
    for candidate in added:
        assert candidate.data.dtype == np.uint8
        assert candidate.data.shape == noisy.shape
        np.testing.assert_allclose(candidate.scale, (0.5, 0.5))
        assert candidate.units == layer.units


def test_digits_beside_a_word_are_not_cut_off(viewer, restore, qtbot):
    viewer.window._qt_window.resize(1000, 700)
    restore.combining_section.open()
    box = restore.shrinkage.inner.native
    qtbot.waitUntil(box.isVisible, timeout=60_000)
    assert box.text() == "1000"
    needed = box.fontMetrics().horizontalAdvance("1000") + 4
    qtbot.waitUntil(lambda: box.lineEdit().width() >= needed, timeout=60_000)


def test_it_is_scripted_by_values_and_methods(viewer, restore, wait_for):
    viewer.add_image(noisy_pair(0)[1], name="noisy")
    proxied = restore.viewer.layers["noisy"]
    restore.update(image=proxied, restorers=["gaussian", "wavelet"], gaussian_sigma=3.0, self_ensemble=True)
    other = RestoreWidget(viewer)
    viewer.window.add_dock_widget(other, name="other")
    other.update(restore.asdict())
    assert other.asdict() == restore.asdict()
    assert [each.restorer.name for each in other.picker.chosen()] == ["Gaussian", "Wavelet"]
    assert other.picker.chosen()[0].restorer.sigma == 3.0
    with pytest.raises(EnsembleError, match="there is no entry 'magic'; choose from: gaussian, wavelet"):
        other.restorers.value = ["magic"]
    other.restore()
    wait_for(other)
    assert [layer.name for layer in viewer.layers[1:]] == ["noisy · Gaussian x8", "noisy · Wavelet x8"]


def test_colour_and_self_ensemble(viewer, restore, wait_for):
    _, noisy = noisy_pair(1)
    restore.image.value = viewer.add_image(np.stack([noisy] * 3, axis=-1), rgb=True, name="colour")
    restore.restorers.value = ["gaussian"]
    restore.self_ensemble.value = True
    restore.restore()
    wait_for(restore)
    assert viewer.layers[-1].rgb
    assert viewer.layers[-1].name.endswith("x8")


@pytest.mark.parametrize("key", sorted(RESTORERS))
def test_forms_give_back_what_they_were_given(qtbot, key):
    picker = RestorerPicker()
    assert picker.restorer(key) == RESTORERS[key]()
    picker.native.deleteLater()


def test_ticking_shows_the_settings_of_what_was_ticked(restore, qtbot):
    restore.picker.section.open()
    titles = [restore.restorers.title_of(key) for key in restore.restorers.keys()]  # noqa: SIM118
    assert sorted(titles) == sorted(kind.title for kind in RESTORERS.values())
    item = next(item for item in restore.restorers.items() if item.text() == "Gaussian")
    item.setCheckState(item.checkState().Checked)
    assert restore.heading.value == "Settings of Gaussian"
    qtbot.waitUntil(restore.gaussian_sigma.native.isVisible, timeout=60_000)
    assert not restore.median_size.native.isVisible()
    restore.restorers.select("median")
    assert restore.restorers.value == ["gaussian"]
    qtbot.waitUntil(restore.median_size.native.isVisible, timeout=60_000)


def test_ticks_are_told_once_and_in_order():
    ticks = Checklist({"a": ("A", "one"), "b": ("B", ""), "c": ("C", "")}, value=["b"], name="ticks")
    told = []
    ticks.changed.connect(told.append)
    ticks.value = ["c", "b"]
    ticks.value = ["c", "b"]
    ticks.add("d", "D", ticked=True)
    assert told == [["c", "b"], ["c", "b", "d"]]
    assert ticks.keys() == ["c", "b", "a", "d"]
    ticks.native.deleteLater()


def test_the_selected_layer_is_chosen_from_the_start(viewer):
    layer = viewer.add_image(np.eye(8), name="noisy")
    other = viewer.add_image(np.eye(8), name="other")
    viewer.layers.selection.active = layer
    dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    assert widget.image.value is layer
    viewer.window.remove_dock_widget(dock)
    for keywords in (
        {"name": "ensemble", "metadata": {OUTPUT_KEY: {"kind": "ensemble"}}},
        {"name": "noisy · Median", "metadata": {RECORD_KEY: {"kind": "restored"}}},
        {"name": "ground truth"},
    ):
        viewer.add_image(np.eye(8), **keywords)  # active from then on
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    assert widget.image.value is other, "the topmost that is likely"
    widget.image.value = viewer.layers["noisy · Median"]
    viewer.add_image(np.eye(8), name="later")
    assert widget.image.value is viewer.layers["noisy · Median"], "chosen by hand"


def test_wrong_choices_are_one_clear_sentence(viewer, restore, tmp_path, wait_for):
    restore.restore()
    assert "No image is chosen" in restore.message.value
    restore.image.value = viewer.add_image(noisy_pair(2)[1], name="noisy")
    restore.restore()
    assert "No restorer is ticked" in restore.message.value
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    restore.open(str(tmp_path / "bad.safetensors"))
    assert "bad.safetensors" in restore.message.value
    restore.restorers.value = ["gaussian"]
    restore.restore_and_combine()
    assert "nothing to combine" in restore.message.value
    if not torch.backends.mps.is_available():
        restore.device.value = "mps"
        restore.picker.add(ExternalNetwork(network=lambda x: x, label="same"), "same", ticked=True)
        restore.restore_button.native.click()
        wait_for(restore)
        assert 'device "mps" is not available' in restore.message.value


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_network_of_ones_own(viewer, restore, wait_for, write_network, tmp_path, suffix):
    _, noisy = noisy_pair(5)
    restore.image.value = viewer.add_image(noisy, name="noisy")
    restore.open(str(write_network(tmp_path / f"dim{suffix}")))
    assert restore.message.value == f"Opened dim{suffix}."
    assert restore.restorers.value == ["dim"]
    restore.device.value = "cpu"
    restore.restore()
    wait_for(restore)
    assert len(viewer.layers) == 2, restore.message.value
    np.testing.assert_allclose(viewer.layers[-1].data, noisy / 2, atol=0.51)
    assert viewer.layers[-1].name == "noisy · dim"


def test_a_network_for_raw_intensities(viewer, restore, wait_for):
    noisy = noisy_pair(5)[1].astype(np.uint16) * 16 + 400
    restore.image.value = viewer.add_image(noisy, name="noisy")
    restore.picker.add(
        ExternalNetwork(network=lambda x: x - 100, label="background", sides=1), "background", ticked=True
    )
    restore.device.value = "cpu"
    restore.restore()
    wait_for(restore)
    assert "background: the restoration has intensities around -3.7" in restore.message.value
    restore.background_intensities.value = "raw"
    restore.restore()
    wait_for(restore)
    assert restore.message.value == "Added 1 candidate; fit it with others in Fit ensemble."
    np.testing.assert_array_equal(viewer.layers[-1].data, noisy - 100)
    restore.background_intensities.value = "range"
    restore.background_data_range.value = (0.0, 1.0)  # by hand
    assert restore.picker.chosen()[0].data_range == (0.0, 1.0)


def test_how_a_network_of_careamics_takes_a_stack_and_that_it_is_unlike_its_images(viewer, restore, wait_for):
    network = DATA / "careamics" / "n2v_0.1.ckpt"
    plane = np.load(network.with_name("n2v_0.1_expected.npz"))["input"]
    restore.open(network)
    restore.device.value = "cpu"
    restore.image.value = viewer.add_image(np.stack([plane, plane]), name="stack")
    restore.restore()
    wait_for(restore)
    added, planes = restore.message.value.splitlines()
    assert added.startswith("Added 1 candidate; fit it")
    assert planes == "N2V, n2v_0.1 restored the 2 planes of this image one by one."
    restore.image.value = viewer.add_image(plane / np.float32(65535), name="scaled")
    restore.restore()
    wait_for(restore)
    assert "N2V, n2v_0.1 was trained on intensities around" in restore.message.value
    assert "the restoration has intensities" not in restore.message.value  # one reason is enough


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\x03\x04" + bytes(99), "is truncated"), (b"<html>404", "is a web page")],
)
def test_files_that_are_no_networks_are_one_sentence(restore, tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)
    restore.open(tmp_path / "a.zip")
    assert message in restore.message.value
    assert len(restore.message.value.splitlines()) == 1


def test_an_enlarged_image_lies_on_the_one_it_was_made_of(viewer, restore, wait_for):
    stack = np.stack([noisy_pair(5)[1]] * 2)
    turn = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    place = {"scale": (3, 0.5, 0.25), "translate": (1, 3, 4), "rotate": turn, "shear": (0, 0, 0.2)}
    layer = viewer.add_image(stack, name="small", **place)
    restore.image.value = layer
    twice = ExternalNetwork(
        network=lambda x: x.repeat_interleave(2, -1).repeat_interleave(2, -2), label="twice", enlarges=2
    )
    restore.picker.add(twice, "twice", ticked=True)
    restore.device.value = "cpu"
    restore.restore()
    wait_for(restore)
    large = viewer.layers[-1]
    assert large.data.shape == (2, 128, 128), restore.message.value
    np.testing.assert_array_equal(large.data[:, ::2, ::2], stack)
    corner = np.array([-0.5, -0.5, -0.5])  # of the first pixel: the same place in both
    np.testing.assert_allclose(large.data_to_world(corner), layer.data_to_world(corner))
    far = np.array([0, 64, 64])
    np.testing.assert_allclose(large.data_to_world(corner + 2 * far), layer.data_to_world(corner + far))


def test_dp_ir_takes_the_restorer_that_was_opened_before(
    viewer, restore, wait_for, write_network, write_dp_ir, tmp_path
):
    network = write_network(tmp_path / "dim.pt")
    checkpoint = write_dp_ir(tmp_path / "mine.safetensors", network)
    restore.open(str(checkpoint))
    assert "the restorer 'dim', which it does not contain" in restore.message.value
    assert "open it first in the Restore panel" in restore.message.value
    restore.open(str(network))
    restore.open(str(checkpoint))
    assert restore.message.value == "Opened mine.safetensors."
    _, noisy = noisy_pair(6)
    restore.image.value = viewer.add_image(noisy, name="noisy")
    restore.restore()
    wait_for(restore)
    assert [layer.name for layer in viewer.layers[1:]] == ["noisy · dim", "noisy · DP-IR, dim"]
    assert restore.message.value.startswith("Added 2 candidates")


def test_without_a_ground_truth(viewer, restore, wait_for, tmp_path, monkeypatch):
    """One noisy layer: candidates, ensemble and weights, and a table that other noisy layers can be given."""
    truth, noisy = noisy_pair(7)
    restore.image.value = viewer.add_image(noisy, name="field", scale=(0.5, 0.5))
    restore.restorers.value = ["gaussian", "median"]
    restore.update(offsets=2, stride=4, weights="layers", device="cpu")
    restore.run_button.native.click()
    wait_for(restore)
    assert viewer.layers.selection.active.metadata[OUTPUT_KEY]["kind"] == "ensemble"
    assert "Added 2 candidates, the ensemble and the weight maps." in restore.message.value
    kinds = [layer.metadata.get(OUTPUT_KEY, {}).get("kind") for layer in viewer.layers]
    assert kinds.count("ensemble") == 1
    assert kinds.count("weights") == 2
    assert {"field · Gaussian", "field · Median"} <= {layer.name for layer in viewer.layers}
    ((title, lut),) = get_session(viewer).tables.items()
    assert title == "field, no ground truth"
    candidates = [viewer.layers[f"field · {name}"] for name in lut.names]
    assert get_session(viewer).learned_on(lut) == candidates
    ensemble = viewer.layers[kinds.index("ensemble")]
    np.testing.assert_allclose(ensemble.data, lut.apply([each.data for each in candidates]), rtol=1e-6)
    np.testing.assert_allclose(ensemble.scale, (0.5, 0.5))
    error = [np.mean((each.data.astype(float) - truth) ** 2) for each in (ensemble, *candidates)]
    assert error[0] < max(error[1:])

    path = tmp_path / "mine.lut.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    restore.save_button.native.click()
    assert restore.message.value == "Saved mine.lut.safetensors."
    assert load_lut(path).names == ("Gaussian", "Median")
    restore.save(path)
    assert "already exists" in restore.message.value or "exists already" in restore.message.value
    assert len(restore.message.value.splitlines()) == 1
    restore.save(path, overwrite=True)
    assert restore.message.value == "Saved mine.lut.safetensors."


def test_four_restorers_are_ticked_at_first_and_the_panel_says_what_it_will_do(viewer):
    viewer.add_image(noisy_pair(0)[1], name="noisy")
    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    assert restore.restorers.value == ["total-variation", "wavelet", "non-local-means", "gaussian"]
    assert restore.run_button.text == "Restore and combine"
    assert restore.run_button.enabled
    assert restore.plan.value.startswith(
        "Restores the image with 4 restorers, learns their weights from the noisy image"
    )


def test_buttons_that_cannot_run_are_disabled_and_say_why(viewer, restore):
    tooltip = "No image is chosen; choose the degraded image to restore."
    for name in ("run_button", "restore_button", "rank_button", "copy_button"):
        assert not restore[name].enabled
        assert restore[name].tooltip == tooltip
    assert "no lookup table yet" in restore.save_button.tooltip
    layer = viewer.add_image(noisy_pair(0)[1], name="noisy")
    assert restore.image.value is layer  # the only image
    restore.restorers.value = ["gaussian"]
    assert restore.restore_button.enabled
    assert restore.restore_button.tooltip == "Add one candidate layer for each ticked restorer."
    assert not restore.run_button.enabled
    assert restore.plan.value == "There is nothing to combine; tick two or more restorers."
    restore.restorers.value = ["gaussian", "median"]
    assert restore.run_button.enabled
    assert restore.rank_button.enabled


def test_intensities_beyond_the_dtype_are_reported_and_kept_on_request(viewer, restore, wait_for):
    noisy = np.full((32, 32), 100, np.uint8)
    restore.image.value = viewer.add_image(noisy, name="noisy")
    brighter = ExternalNetwork(network=lambda x: x * 3, label="brighter", sides=1, intensities="raw")
    restore.picker.add(brighter, "brighter", ticked=True)
    restore.device.value = "cpu"
    restore.restore()
    wait_for(restore)
    assert "brighter: 1,024 pixels below 0 or above 255 (300 to 300) were clipped" in restore.message.value
    assert viewer.layers[-1].data.max() == 255
    restore.float_output.value = True
    restore.restore()
    wait_for(restore)
    assert "clipped" not in restore.message.value
    assert viewer.layers[-1].data.dtype == np.float32
    assert viewer.layers[-1].data.max() == 300


def test_channels_are_taken_from_the_axis_label_or_a_control(viewer, restore, wait_for):
    noisy = np.stack([noisy_pair(0)[1], noisy_pair(1)[1]])
    restore.image.value = viewer.add_image(noisy, name="cells", axis_labels=("c", "y", "x"))
    assert restore.channel_axis.visible
    assert restore.channel_axis.value == 0
    swap = ExternalNetwork(network=lambda x: x.flip(1), label="swap", sides=1)
    restore.picker.add(swap, "swap", ticked=True)
    restore.device.value = "cpu"
    restore.restore()
    wait_for(restore)
    np.testing.assert_array_equal(viewer.layers["cells · swap"].data, noisy[::-1])
    restore.restorers.value = ["gaussian", "median"]
    restore.update(offsets=1, stride=4)
    restore.restore_and_combine()
    wait_for(restore)
    assert restore.lut.n_channels == 2
    restore.channel_axis.value = None
    restore.image.value = viewer.add_image(noisy[0], name="plane")
    assert not restore.channel_axis.visible
    assert restore.channel_axis.value is None


def test_correlated_noise_is_reported(viewer, restore, wait_for):
    from scipy.ndimage import uniform_filter

    rng = np.random.default_rng(0)
    blurred = 100 + uniform_filter(rng.normal(0, 60, (128, 128)), 3)
    restore.image.value = viewer.add_image(blurred.astype(np.float32), name="field")
    restore.restorers.value = ["gaussian", "median"]
    restore.update(offsets=1, device="cpu")
    restore.restore_and_combine()
    wait_for(restore)
    assert "because the noise of neighbouring pixels is correlated" in restore.message.value


def test_the_circle_closes(viewer, restore, wait_for):
    """Two restorers, a fit on one field, and the table beats the best of them on another field."""
    truth, noisy = noisy_pair(3)
    other_truth, other_noisy = noisy_pair(4)
    keys = ["median", "total-variation"]
    fields = {}
    for name, image in (("field 1", noisy), ("field 2", other_noisy)):
        before = set(viewer.layers)
        layer = viewer.add_image(image, name=name)
        restore.image.value = layer
        restore.restorers.value = keys
        restore.restore()
        wait_for(restore)
        fields[name] = [added for added in viewer.layers if added not in before and added is not layer]
    viewer.add_image(truth, name="ground truth")
    _, fit = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    fit.method.value = "least-squares"
    fit.candidates.value = fields["field 1"]
    fit.fit()
    wait_for(fit)
    ensemble = fit.result.lut.apply([layer.data for layer in fields["field 2"]])

    def error(image):
        return np.mean((image.astype(float) - other_truth) ** 2)

    assert error(ensemble) < min(error(layer.data) for layer in fields["field 2"])

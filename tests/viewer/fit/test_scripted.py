"""The Fit panel by values and methods alone, as from napari's console; and what a new user ran into."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from napari.layers import Image
from napari.layers._layer_actions import _duplicate_layer
from napari.utils._proxies import PublicOnlyProxy

from napari_ensir import fit_lut, load_lut
from napari_ensir.settings import METHODS, FitSettings, settings_of
from napari_ensir.viewer.fit.widget import FitWidget
from napari_ensir.viewer.layers.layers import OUTPUT_KEY


def ours(viewer, kind):
    return [layer for layer in viewer.layers if layer.metadata.get(OUTPUT_KEY, {}).get("kind") == kind]


@pytest.fixture
def stack(viewer):
    """A hundred small planes, noisy in two ways, at places of their own."""
    rng = np.random.default_rng(1)
    truth = rng.integers(200, 3000, (100, 16, 16)).astype(np.uint16)
    layers = [viewer.add_image(truth, name="truth of the stack")]
    for name, sigma in (("a", 60), ("b", 200)):
        noisy = np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 4095).astype(np.uint16)
        layers.append(viewer.add_image(noisy, name=name))
    return layers


def test_it_is_scripted_by_values_and_methods(filled, images, wait_for, tmp_path):
    injected = PublicOnlyProxy(filled)  # as npe2 hands the viewer over
    widget = FitWidget(injected)
    filled.window.add_dock_widget(widget, name="scripted")
    names = ["good in the light", "good in the dark"]
    widget.candidates.value = [injected.layers[name] for name in names]
    widget.ground_truth.value = injected.layers["ground truth"]
    widget.method.value = "least-squares"
    widget.bin_width.value = 16
    widget.shrinkage.value = 500
    widget.device.value = "cpu"
    assert widget.result is None
    widget.fit()
    assert widget.is_running
    wait_for(widget)
    arrays = [images[name] for name in names]
    expected = fit_lut(
        [(arrays, images["ground truth"])], method="least-squares", bin_width=16, shrinkage=500
    )
    np.testing.assert_allclose(widget.result.lut.weights, expected.weights, atol=1e-9)
    widget.save(tmp_path / "scripted.lut.safetensors")
    assert load_lut(tmp_path / "scripted.lut.safetensors").names == tuple(names)

    state = widget.asdict()
    assert {each.name for each in settings_of(FitSettings)} <= set(state), "every setting can be reached"
    assert {"candidates", "ground_truth", "mask", "weights"} <= set(state)
    other = FitWidget(injected)
    filled.window.add_dock_widget(other, name="other")
    other.update(state)
    assert other.asdict() == state
    assert other.settings() == widget.settings()


def test_every_method_is_scored_at_once_and_a_click_chooses(filled, fit_widget, images, wait_for, tmp_path):
    fit_widget.fit()
    wait_for(fit_widget)
    scores = {score.method: score for score in fit_widget.result.scores if score.method}
    assert set(scores) == set(METHODS)
    arrays = [images[name] for name in fit_widget.result.lut.names]
    for method, score in scores.items():
        error = (
            fit_lut([(arrays, images["ground truth"])], method=method).apply(arrays) - images["ground truth"]
        )
        assert score.psnr == pytest.approx(
            10 * np.log10(255**2 / np.mean(error.astype(float) ** 2)), abs=1e-3
        )
        assert np.isfinite([score.held_out, score.ssim]).all()
        relative = np.linalg.norm(error) / np.linalg.norm(images["ground truth"].astype(float))
        assert score.metrics["nrmse"] == pytest.approx(relative, rel=1e-3)
    better = max(scores.values(), key=lambda score: score.held_out)
    own = scores["em"].held_out
    said = f"{better.name} is better here: {better.held_out:.2f} dB held out, against {own:.2f} dB"
    assert (said in fit_widget.message.value) == (better.held_out > scores["em"].held_out + 0.01)
    row = next(n for n, score in enumerate(fit_widget.scores.scores) if score.method == "least-squares")
    fit_widget.scores.native.cellClicked.emit(row, 0)
    wait_for(fit_widget)
    assert fit_widget.method.value == fit_widget.result.lut.method == "least-squares"
    assert fit_widget.scores.native.item(row, 0).text() == "● Least squares"
    shown = f"NRMSE {fit_widget.scores.scores[row].metrics['nrmse']:.4f}"
    assert shown in fit_widget.scores.native.item(row, 0).toolTip()
    fit_widget.export_scores(tmp_path / "scores.csv")
    rows = list(csv.reader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [line[0] for line in rows[1:]] == [score.name for score in fit_widget.result.scores]


def test_outputs_are_named_kept_duplicated_and_compared(filled, fit_widget, wait_for):
    fit_widget.fit()
    wait_for(fit_widget)
    ensemble, weights = ours(filled, "ensemble")[0], ours(filled, "weights")[0]
    assert ensemble.name == "ensemble · EM (paper)"
    assert filled.layers.index(weights) == filled.layers.index(ensemble) + 1
    assert tuple(ensemble.contrast_limits) == fit_widget.result.lut.data_range

    filled.layers.selection = {ensemble}
    _duplicate_layer(filled.layers)
    copy = filled.layers["ensemble · EM (paper) copy"]
    fit_widget.method.value = "least-squares"
    wait_for(fit_widget)
    assert ensemble.name == "ensemble · Least squares"
    assert ensemble.metadata[OUTPUT_KEY]["method"] == "least-squares"
    assert copy.metadata[OUTPUT_KEY]["method"] == copy.metadata[OUTPUT_KEY]["lut"].method == "em"
    filled.layers.remove(copy)

    fit_widget.keep()
    before = ensemble.data.copy()
    fit_widget.bin_width.value = 64
    wait_for(fit_widget)
    np.testing.assert_array_equal(ensemble.data, before)
    assert len(ours(filled, "ensemble")) == 2

    fit_widget.show_errors()
    wait_for(fit_widget)
    best, own = ours(filled, "error")
    assert tuple(best.contrast_limits) == tuple(own.contrast_limits)
    assert best.contrast_limits[0] == -best.contrast_limits[1]
    truth = filled.layers["ground truth"].data.astype(np.float32)
    np.testing.assert_allclose(own.data, fit_widget.result.combined.exact - truth, atol=1e-4)
    fit_widget.method.value = "em"
    wait_for(fit_widget)
    np.testing.assert_allclose(own.data, fit_widget.result.combined.exact - truth, atol=1e-4)


def test_the_slider_says_whose_weights_it_shows(filled, fit_widget, wait_for):
    overlay = filled.canvas.overlays.text if hasattr(filled, "canvas") else filled.text_overlay
    overlay.text, overlay.visible = "mine", False
    fit_widget.fit()
    wait_for(fit_widget)
    assert filled.dims.ndim == 2, "no slider while the weights are hidden"
    fit_widget.weights.value = "slider"
    wait_for(fit_widget)
    (weights,) = ours(filled, "weights")
    assert weights.name == "weights"
    for number, name in enumerate(fit_widget.result.lut.names):
        filled.dims.set_point(0, number)
        assert overlay.visible
        assert overlay.text == f"weight of {number + 1}  {name}"
        assert f"{number + 1}  {name}" in fit_widget.candidates.texts()
    weights.visible = False
    assert (overlay.text, overlay.visible) == ("mine", False)
    weights.visible = True
    filled.layers.remove(weights)
    assert (overlay.text, overlay.visible) == ("mine", False)


def test_a_hundred_planes_are_all_learned_from_unless_set_by_hand(viewer, stack, wait_for):
    truth, *candidates = stack
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.ground_truth.value = truth
    widget.candidates.value = candidates
    widget.fit()
    wait_for(widget)
    assert widget.result.session.reference.statistics.n_pixels == truth.data.size
    assert widget.result.session.unseen is None
    widget.planes.value = (20, 29)
    assert "press Fit" in widget.message.value
    widget.fit()
    wait_for(widget)
    assert widget.result.session.reference.statistics.n_pixels == 10 * 16 * 16
    assert widget.result.session.unseen.statistics.n_pixels == 90 * 16 * 16
    candidates[0].name = "renamed"
    widget.ground_truth.value = None
    widget.ground_truth.value = truth
    assert widget.planes.value == (20, 29)


def test_channels_have_tables_of_their_own_and_are_no_planes(viewer, wait_for):
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 255, (2, 24, 24)).astype(np.uint8)
    arrays = [np.clip(truth + rng.normal(0, s, truth.shape), 0, 255).astype(np.uint8) for s in (5, 20)]
    labels = ("channel", "y", "x")
    layers = [viewer.add_image(truth, name="truth", axis_labels=labels)]
    layers += [viewer.add_image(a, name=n, axis_labels=labels) for a, n in zip(arrays, "ab", strict=True)]
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    assert widget.ground_truth.value is layers[0]
    widget.candidates.value = layers[1:]
    assert widget.channel_axis.value == 0
    assert "channel (2)" in widget.channel_axis.native.currentText()
    assert widget._plane_axis() is None
    widget.fit()
    wait_for(widget)
    expected = fit_lut([(arrays, truth)], channel_axis=0)
    np.testing.assert_allclose(widget.result.lut.weights, expected.weights, atol=1e-9)
    assert widget.result.combined.maps.shape == (2, *truth.shape)
    widget.channel_axis.value = None
    assert widget._plane_axis() == 0
    widget.fit()
    wait_for(widget)
    assert widget.result.lut.n_channels == 1


def test_painting_in_the_mask_asks_for_a_fit_and_others_do_not(filled, fit_widget, wait_for, monkeypatch):
    labels = np.zeros((96, 96), int)
    labels[:48] = 1
    mask = filled.add_labels(labels, name="here")
    another = filled.add_labels(labels.copy(), name="elsewhere")
    fit_widget.mask.value = mask
    fit_widget.fit()
    wait_for(fit_widget)
    assert not fit_widget.is_stale()

    def no_more(*_):
        raise AssertionError("pixels of the mask were read")

    monkeypatch.setattr("napari_ensir.viewer.fit.request.mask_array", no_more)
    another.paint((80, 80), 1)
    assert not fit_widget.is_stale()
    mask.paint((80, 80), 1)
    assert fit_widget.is_stale()
    assert "press Fit" in fit_widget.message.value


def test_the_truth_is_guessed_when_it_comes_later_and_not_against_ones_will(viewer):
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    viewer.add_image(np.zeros((8, 8), np.uint8), name="a")
    assert widget.ground_truth.value is None
    truth = viewer.add_image(np.zeros((8, 8), np.uint8), name="Ground truth")
    assert widget.ground_truth.value is truth
    widget.ground_truth.value = None
    viewer.add_image(np.zeros((8, 8), np.uint8), name="b")
    assert widget.ground_truth.value is None


def test_what_looks_wrong_is_named(viewer, wait_for):
    rng = np.random.default_rng(3)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (96, 96)), 0), 1)
    truth = (3000 * (smooth - smooth.min()) / np.ptp(smooth) + 300).astype(np.uint16)
    noisy = np.clip(truth + rng.normal(0, 30, truth.shape), 0, 4095)
    layers = [viewer.add_image(truth, name="truth")]
    layers.append(viewer.add_image(noisy.astype(np.uint16), name="right"))
    layers.append(viewer.add_image(np.roll(noisy, 3, axis=1).astype(np.uint16), name="late"))
    small = viewer.add_image((noisy / 4095).astype(np.float32), name="small")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = [layers[1], small]
    assert '"small" ranges from' in widget.message.value, "before the fit"
    widget.candidates.value = layers[1:]
    assert "ranges from" not in widget.message.value
    widget.fit()
    wait_for(widget)
    assert 'Candidate "late": shifted by 3 pixels' in widget.message.value
    for warning in widget.result.lut.report["warnings"]:
        assert warning[:1].upper() + warning[1:] in widget.message.value


def test_bin_widths_are_shown_taken_and_narrowed(viewer, wait_for):
    scale = 1e-4  # small numbers need many digits in the control
    rng = np.random.default_rng(4)
    truth = rng.random((32, 32)).astype(np.float32) * np.float32(scale)
    for name, sigma in (("truth", 0), ("a", 0.02), ("b", 0.1)):
        viewer.add_image(truth + rng.normal(0, sigma * scale, truth.shape).astype(np.float32), name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = list(viewer.layers)[1:]
    widget.fit()
    wait_for(widget)
    in_use = widget.result.lut.bin_width
    assert widget.bin_width.value is None
    assert widget.bin_width.inner.value == pytest.approx(in_use, rel=1e-6)
    made = list(viewer.layers)
    for width in (in_use / 16, 0.1 * scale):  # narrower than the statistics hold, and no multiple of theirs
        widget.bin_width.value = width
        wait_for(widget)
        assert widget.result.lut.bin_width == pytest.approx(width, rel=1e-6)
    assert list(viewer.layers) == made, "the same layers"


def test_combine_layers_is_a_function_and_a_widget(filled, images):
    from napari_ensir.viewer.fit.function import combined

    layers = [Image(images[name], name=name) for name in ("good in the dark", "good in the light")]
    ensemble, *weights = combined(layers, Image(images["ground truth"]), "least-squares", 16)
    arrays = [layer.data for layer in layers]
    lut = fit_lut([(arrays, images["ground truth"])], method="least-squares", bin_width=16)
    np.testing.assert_allclose(ensemble[0], lut.apply(arrays), rtol=1e-6)
    np.testing.assert_allclose([each[0] for each in weights], lut.weight_maps(arrays), rtol=1e-6)
    assert ensemble[1]["name"] == "ensemble · Least squares"

    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Combine layers")
    widget.candidates.value = [filled.layers[name] for name in ("good in the dark", "good in the light")]
    widget.ground_truth.value = filled.layers["ground truth"]
    widget()
    added = ours(filled, "ensemble")[0]
    np.testing.assert_allclose(added.scale, filled.layers["good in the light"].scale)
    assert added.metadata[OUTPUT_KEY]["candidates"] == ["good in the dark", "good in the light"]

"""The Fit widget, driven as a user drives it."""

from __future__ import annotations

import re
import threading
import time

import dask.array as da
import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_ensir import fit_lut, load_lut
from napari_ensir.viewer.fit import worker as fitting
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.results.layers import PALETTE


def ours(viewer) -> dict:
    return {
        layer.metadata[OUTPUT_KEY]["kind"]: layer for layer in viewer.layers if OUTPUT_KEY in layer.metadata
    }


def test_fit_adds_ensemble_and_weights_where_the_candidates_are(filled, fit_widget, images, wait_for):
    fit_widget.weights.value = "slider"
    fit_widget.fit()
    wait_for(fit_widget)
    added = ours(filled)
    like = filled.layers["good in the light"]
    arrays = [images[name] for name in ("good in the dark", "good in the light")]
    lut = fit_lut([(arrays, images["ground truth"])], method="em")

    ensemble, maps = added["ensemble"], added["weights"]
    np.testing.assert_allclose(ensemble.data, lut.apply(arrays), rtol=1e-6)
    np.testing.assert_allclose(maps.data, lut.weight_maps(arrays), rtol=1e-6)
    assert maps.data.shape == (2, 96, 96)
    np.testing.assert_allclose(maps.data.sum(axis=0), 1, atol=1e-6)
    assert tuple(maps.contrast_limits) == (0, 1)
    assert maps.colormap.name == "viridis"
    for layer, extra in ((ensemble, 0), (maps, 1)):
        np.testing.assert_allclose(layer.scale[extra:], like.scale)
        np.testing.assert_allclose(layer.translate[extra:], like.translate)
        np.testing.assert_allclose(layer.rotate[extra:, extra:], like.rotate)
        np.testing.assert_allclose(layer.shear[-1:], like.shear)
        np.testing.assert_allclose(
            layer.affine.affine_matrix[extra:, extra:], like.affine.affine_matrix, atol=1e-12
        )
        assert tuple(layer.units[extra:]) == tuple(like.units)
        assert tuple(layer.axis_labels[extra:]) == tuple(like.axis_labels)
    assert maps.axis_labels[0] == "candidate"
    expected = like.data_to_world((17, 42))
    np.testing.assert_allclose(ensemble.data_to_world((17, 42)), expected)
    np.testing.assert_allclose(maps.data_to_world((1, 17, 42))[1:], expected)


def test_scores_mark_the_best_and_the_first_sentence_says_whether_it_is_the_ensemble(
    filled, fit_widget, wait_for
):
    fit_widget.fit()
    wait_for(fit_widget)
    table = fit_widget.scores.native
    names = [table.item(row, 0).text() for row in range(table.rowCount())]
    colours = [table.item(row, 0).data(1) for row in range(table.rowCount())]  # 1: the decoration
    assert [colour.name() for colour in colours[:2]] == list(PALETTE[:2])
    assert colours[2:] == [None] * 4
    methods = ["● EM (paper)", "○ EM (released code)", "○ Least squares"]
    assert names == ["good in the dark", "good in the light", "average", *methods]
    starred = [row for row in range(table.rowCount()) if table.item(row, 1).text().startswith("★")]
    assert set(starred) <= {3, 4, 5}, "an ensemble is the best here"
    truth = filled.layers["ground truth"].data.astype(float)
    exact = fit_widget.result.combined.exact
    psnr = 10 * np.log10(255**2 / np.mean((exact - truth) ** 2))
    assert float(table.item(3, 1).text().lstrip("★ ")) == pytest.approx(psnr, abs=0.006)
    assert float(table.item(3, 2).text().lstrip("★ ")) < psnr
    assert "too optimistic" in fit_widget.message.value
    first = fit_widget.message.value.splitlines()[0]
    found = re.fullmatch(
        r"The ensemble is better than the best candidate \((.+)\) by (\S+) ± \S+ dB( \(not significant\))?, "
        r"on pixels held out\.",
        first,
    )
    name, gain = found[1], found[2]
    alone = {row.name: row.held_out for row in fit_widget.result.scores if row.role == "candidate"}
    assert name == max(alone, key=alone.get)
    assert float(gain) == pytest.approx(fit_widget.result.chosen.held_out - alone[name], abs=0.5)


def test_candidates_are_held_as_layers_through_renames_and_removals(filled, fit_widget, wait_for):
    filled.add_image(np.zeros((96, 96), np.uint8), name="dark")
    fit_widget.candidates.choose_all()
    chosen = fit_widget.candidates.value
    chosen[0].name = "another name"
    assert fit_widget.candidates.value == chosen
    filled.layers.remove(chosen[1])
    assert fit_widget.candidates.value == [chosen[0], chosen[2]]
    filled.layers.reverse()
    assert fit_widget.candidates.value == [chosen[0], chosen[2]]
    filled.add_image(np.zeros((96, 96), np.uint8), name="a late one")
    fit_widget.fit()
    wait_for(fit_widget)
    assert fit_widget.result.lut.names == ("another name", "dark")


def test_ticks_and_order_decide_the_axes(filled, fit_widget):
    layers = fit_widget.candidates.value
    fit_widget.candidates.value = [layers[1], layers[0]]
    assert fit_widget.candidates.value == [layers[1], layers[0]]
    texts = fit_widget.candidates.texts()[:2]
    assert texts == ["1  good in the light", "2  good in the dark"]
    fit_widget.candidates.choose_all()
    assert len(fit_widget.candidates.value) == 2, "the ground truth cannot join"
    fit_widget.candidates.choose_none()
    assert fit_widget.candidates.value == []
    filled.layers.selection = {layers[1]}
    fit_widget.candidates.choose_selected()
    assert fit_widget.candidates.value == [layers[1]]


def test_layers_that_cannot_join_say_why(filled, fit_widget):
    filled.add_image(np.zeros((5, 7)), name="small")
    filled.add_labels(np.zeros((96, 96), int), name="cells")
    filled.add_image(np.zeros((96, 96, 3), np.uint8), name="colour", rgb=True)
    texts = fit_widget.candidates.texts()
    assert "small  (shape 5 × 7)" in texts
    assert "cells  (a labels layer, not an image)" in texts
    assert "colour  (colour)" in texts
    assert "ground truth  (the ground truth itself)" in texts


def test_second_run_overwrites_nothing(filled, fit_widget, wait_for):
    for _ in range(2):
        fit_widget.fit()
        wait_for(fit_widget)
    names = [layer.name for layer in filled.layers]
    assert len(names) == 3 + 2 * 3
    assert len(set(names)) == len(names)


def test_cancel_midway_changes_nothing_and_is_quick(filled, fit_widget, wait_for, monkeypatch):
    started, steps = threading.Event(), []

    def slow(request, progress):
        started.set()
        while True:
            steps.append(None)
            progress(0, 1, "waiting")
            time.sleep(0.005)

    monkeypatch.setattr("napari_ensir.viewer.fit.worker.fit", slow)
    before = list(filled.layers)
    fit_widget.fit()
    assert not fit_widget.run_button.enabled
    assert started.wait(60)
    fit_widget.cancel_button.native.click()
    after_click = len(steps)
    wait_for(fit_widget)
    assert len(steps) <= after_click + 1
    assert list(filled.layers) == before
    assert fit_widget.run_button.enabled
    assert "Cancelled" in fit_widget.message.value


def test_cancel_stops_the_real_fit(filled, fit_widget, wait_for, monkeypatch):
    real = fitting.fit

    def cancelled_at_first_report(request, progress):
        fit_widget.task._stop.set()
        return real(request, progress)

    # Undone before the viewer is checked: the function holds the widget.
    with monkeypatch.context() as patch:
        patch.setattr("napari_ensir.viewer.fit.worker.fit", cancelled_at_first_report)
        fit_widget.fit()
        wait_for(fit_widget)
    assert len(filled.layers) == 3
    assert fit_widget.result is None


def test_save_and_apply_from_the_file(filled, fit_widget, wait_for, tmp_path):
    fit_widget.save(str(tmp_path / "early"))
    assert "press Fit first" in fit_widget.message.value
    fit_widget.fit()
    wait_for(fit_widget)
    fit_widget.save(str(tmp_path / "nowhere" / "mine"))
    assert "cannot be written: there is no folder" in fit_widget.message.value
    assert list(tmp_path.iterdir()) == []
    fit_widget.save(str(tmp_path / "mine"))
    path = tmp_path / "mine.lut.safetensors"
    assert "mine.lut.safetensors" in fit_widget.message.value
    table = load_lut(path)
    assert table.names == fit_widget.result.lut.names
    assert table.report["inputs"]["listed"][0]["names"] == [*table.names, "ground truth"]

    _, apply_widget = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    apply_widget.open(str(path))
    assert apply_widget.summary.value.startswith(f"EM (paper), {len(table.rows)} bin sets of width 32 on 0")
    assert [layer.name for layer in apply_widget.layers] == list(fit_widget.result.lut.names)
    apply_widget.run()
    wait_for(apply_widget)
    ensembles = [layer for layer in filled.layers if layer.name.startswith("ensemble")]
    assert len(ensembles) == 2
    np.testing.assert_array_equal(ensembles[0].data, ensembles[1].data)


def test_wrong_choices_are_one_clear_sentence(filled, fit_widget):
    def says(words):
        fit_widget.fit()
        assert words in fit_widget.message.value
        assert fit_widget.task is None

    truth = fit_widget.ground_truth.value
    fit_widget.candidates.choose_none()
    says("No candidate is ticked")
    fit_widget.candidates.choose_all()
    fit_widget.ground_truth.value = None
    says("No ground truth is chosen")
    fit_widget.ground_truth.value = truth
    truth.data = np.zeros((9, 9))
    says("No candidate is ticked")


def test_constant_images_are_one_clear_sentence(viewer, wait_for):
    for name in ("ground truth", "a", "b"):
        viewer.add_image(np.full((32, 32), 7.0, np.float32), name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    widget.fit()
    wait_for(widget)
    assert "nothing to learn from constant images" in widget.message.value
    assert len(viewer.layers) == 3


def test_pixels_that_are_not_finite_are_left_out_and_counted(viewer, wait_for):
    rng = np.random.default_rng(1)
    truth = rng.random((40, 40), np.float32)
    noisy = truth + rng.normal(0, 0.1, truth.shape).astype(np.float32)
    noisy[3, :5] = np.nan
    viewer.add_image(truth, name="gt")
    viewer.add_image(noisy, name="a", contrast_limits=(0, 1))
    viewer.add_image(truth + 0.05, name="b")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    widget.fit()
    wait_for(widget)
    assert "5 pixels were left out" in widget.message.value


@pytest.mark.parametrize("ends", ["with all pixels", "cancelled"])
def test_a_large_lazy_stack_shows_an_estimate_from_a_sample_first(viewer, wait_for, qtbot, monkeypatch, ends):
    monkeypatch.setattr("napari_ensir.viewer.fit.request.SAMPLED_FROM", 1)
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 4000, (16, 32, 32)).astype(np.uint16)
    images = {
        name: truth + rng.integers(0, size, truth.shape, np.uint16) for name, size in (("a", 9), ("b", 99))
    }
    for name, image in {"gt": truth, **images}.items():
        viewer.add_image(da.from_array(image, chunks=(1, 32, 32)), name=name, contrast_limits=(0, 4000))
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    release, whole = threading.Event(), fitting.fit

    def held(request, progress):
        while not release.wait(0.01):
            progress(0, 1, "counting pixels")
        return whole(request, progress)

    monkeypatch.setattr(fitting, "fit", held)
    widget.fit()
    qtbot.waitUntil(lambda: "ensemble" in ours(viewer), timeout=60_000)
    assert "Estimated from 12.5% of the pixels." in widget.message.value
    assert widget.lut.report["pixels"] == 2 * 32 * 32
    widget.method.value = "em"  # takes effect on the result of all pixels
    if ends == "cancelled":
        widget.cancel()
        qtbot.waitUntil(lambda: widget.task is None, timeout=60_000)
    release.set()
    wait_for(widget)
    expected = whole(widget.request()).lut
    if ends == "cancelled":
        assert "Estimated from 12.5% of the pixels." in widget.message.value
    else:
        assert "Estimated" not in widget.message.value
        np.testing.assert_array_equal(widget.lut.weights, expected.weights)
    assert widget.lut.method == "em"


def test_the_viewer_stays_usable_while_it_fits(filled, fit_widget, wait_for, monkeypatch):
    running, release, real = threading.Event(), threading.Event(), fitting.fit

    def held(request, progress):
        running.set()
        release.wait(60)
        progress(1, 1, "done")
        return real(request, progress)

    monkeypatch.setattr(fitting, "fit", held)
    fit_widget.fit()
    assert running.wait(60)
    filled.dims.ndisplay = 3
    filled.dims.ndisplay = 2
    filled.layers.remove(filled.layers["good in the light"])
    QApplication.processEvents()
    release.set()
    wait_for(fit_widget)
    assert "ensemble" in ours(filled)

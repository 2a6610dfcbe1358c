"""What befalls layers, widgets, disks and devices while work runs: said in a sentence, and work goes on."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from napari.utils import progress

from napari_ensir.viewer.layers.layers import OUTPUT_KEY

WORK = {
    "Fit ensemble": "napari_ensir.viewer.fit.worker.fit",
    "Apply lookup table": "napari_ensir.viewer.apply.widget.combine",
}


def module_function(name):
    module, function = name.rsplit(".", 1)
    return getattr(__import__(module, fromlist=[function]), function)


@pytest.fixture
def gate(monkeypatch):
    """Holds the named work until opened; knows when it has begun."""

    class Gate:
        def __init__(self) -> None:
            self.begun, self.opened = threading.Event(), threading.Event()

        def hold(self, name: str) -> None:
            real = module_function(name)

            def held(*arguments, **options):
                self.begun.set()
                while not self.opened.is_set():
                    arguments[-1](0, 1, "waiting")  # as all work does: so it can be cancelled
                    time.sleep(0.005)
                return real(*arguments, **options)

            monkeypatch.setattr(name, held)

    gate = Gate()
    yield gate
    gate.opened.set()


def remove(viewer, layer):
    viewer.layers.remove(layer)


def rename_hide_and_reorder(viewer, layer):
    layer.name = "renamed"
    layer.visible = False
    viewer.layers.reverse()


def replace(viewer, layer):
    layer.data = layer.data // 2


def reshape(viewer, layer):
    layer.data = np.zeros((3, 5, 7), np.float32)


BEFALLS = [remove, rename_hide_and_reorder, replace, reshape]


@pytest.mark.parametrize(
    ("which", "befall"),
    [*(("good in the dark", each) for each in BEFALLS), ("ground truth", remove), ("ground truth", reshape)],
)
def test_layers_change_while_a_fit_runs(filled, fit_widget, images, wait_for, gate, befall, which):
    gate.hold(WORK["Fit ensemble"])
    fit_widget.fit()
    assert gate.begun.wait(60)
    befall(filled, filled.layers[which])
    gate.opened.set()
    wait_for(fit_widget)
    ensemble = next(layer for layer in filled.layers if OUTPUT_KEY in layer.metadata and layer.ndim == 2)
    names = ("good in the dark", "good in the light")
    assert fit_widget.result.lut.names == names
    expected = fit_widget.result.lut.apply([images[name] for name in names])
    np.testing.assert_allclose(ensemble.data, expected, rtol=1e-6)
    np.testing.assert_allclose(ensemble.scale, (0.5, 0.25))
    assert ("press Fit" in fit_widget.message.value) == (befall in (remove, replace, reshape))
    is_usable = which != "ground truth" or befall not in (remove, reshape)
    assert fit_widget.run_button.enabled == is_usable


@pytest.mark.parametrize("befall", [remove, rename_hide_and_reorder, replace])
def test_layers_change_while_a_table_is_applied(filled, fitted, images, wait_for, gate, befall):
    _, apply = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    gate.hold(WORK["Apply lookup table"])
    apply.run()
    assert gate.begun.wait(60)
    befall(filled, filled.layers["good in the dark"])
    gate.opened.set()
    wait_for(apply)
    (made,) = (one for one in filled.layers if one.metadata.get(OUTPUT_KEY, {}).get("kind") == "ensemble")
    np.testing.assert_allclose(made.data, fitted.apply(list(images.values())[1:]), rtol=1e-6)
    assert ("meanwhile" in apply.message.value) == (befall in (remove, replace, reshape))


@pytest.mark.parametrize("befall", [remove, rename_hide_and_reorder, reshape])
def test_layers_change_while_one_is_restored(filled, wait_for, befall):
    _, restore = filled.window.add_plugin_dock_widget("napari-ensir", "Restore")
    layer = filled.layers["good in the light"]
    restore.image.value = layer
    restore.restorers.value = ["gaussian"]
    restore.restore()
    befall(filled, layer)
    wait_for(restore)
    assert filled.layers["good in the light · Gaussian"].data.shape == (96, 96)
    np.testing.assert_allclose(filled.layers["good in the light · Gaussian"].scale, (0.5, 0.25))
    assert ("meanwhile" in restore.message.value) == (befall in (remove, replace, reshape))


def test_an_open_apply_follows_the_first_fit_and_the_live_one(filled, fit_widget, wait_for, qtbot):
    _, apply = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    assert not apply.run_button.enabled
    assert "No lookup table" in apply.run_button.tooltip
    fit_widget.fit()
    wait_for(fit_widget)
    assert apply.lut is fit_widget.result.lut
    apply.candidate_1.value = None
    assert not apply.run_button.enabled
    assert "good in the dark" in apply.run_button.tooltip
    apply.candidate_1.value = filled.layers["good in the light"]
    assert apply.run_button.enabled
    fit_widget.bin_width.value = 64
    qtbot.waitUntil(lambda: fit_widget.result.lut.bin_width == 64, timeout=60_000)
    assert apply.lut is fit_widget.result.lut
    assert apply.candidate_1.value.name == "good in the light"


def test_two_fits_at_once(filled, fit_widget, wait_for):
    from napari_ensir.viewer.fit.widget import FitWidget

    other = FitWidget(filled)
    filled.window.add_dock_widget(other)
    other.candidates.value = list(filled.layers)[2:]
    fit_widget.fit()
    other.fit()
    wait_for(fit_widget)
    wait_for(other)
    assert len(fit_widget.result.lut.names) == 2
    assert len(other.result.lut.names) == 1
    assert len(filled.layers) == 3 + (1 + 2) + (1 + 1)


def test_a_fit_an_apply_and_a_restoration_at_once(filled, fit_widget, wait_for, gate):
    fit_widget.fit()
    wait_for(fit_widget)
    _, apply = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    _, restore = filled.window.add_plugin_dock_widget("napari-ensir", "Restore")
    restore.image.value = filled.layers["good in the light"]
    restore.restorers.value = ["gaussian"]
    for name in WORK.values():
        gate.hold(name)
    for start in (fit_widget.fit, apply.apply, restore.restore):
        start()
    gate.opened.set()
    for widget in (fit_widget, apply, restore):
        wait_for(widget)
    kinds = [layer.metadata.get(OUTPUT_KEY, {}).get("kind") for layer in filled.layers]
    assert kinds.count("ensemble") == 3
    assert kinds.count("weights") == 6
    assert "good in the light · Gaussian" in filled.layers


@pytest.mark.parametrize("close", [pytest.param("viewer", marks=pytest.mark.own_viewer), "widget"])
@pytest.mark.parametrize("name", ["Fit ensemble", "Apply lookup table", "Restore"])
def test_what_is_closed_in_mid_run_leaves_nothing_running(filled, fitted, monkeypatch, qtbot, name, close):
    begun, ended = threading.Event(), threading.Event()

    def endless(*arguments, progress=None, **options):
        begun.set()
        report = progress or arguments[-1]
        try:
            while True:
                report(0, 1, "waiting")
                time.sleep(0.005)
        finally:
            ended.set()

    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", name)
    if name == "Fit ensemble":
        widget.candidates.choose_all()
    elif name == "Restore":
        widget.image.value = filled.layers["good in the light"]
        widget.restorers.value = ["gaussian"]
        monkeypatch.setattr(
            type(widget.picker.chosen()[0]), "__call__", lambda self, _, progress: endless(progress=progress)
        )
    if name in WORK:
        monkeypatch.setattr(WORK[name], endless)
    layers = len(filled.layers)
    (widget.restore if name == "Restore" else widget.run)()
    assert begun.wait(60)
    if close == "viewer":
        filled.close()
    else:
        native = getattr(widget, "native", widget)
        filled.window.remove_dock_widget(native)
        native.deleteLater()
    qtbot.waitUntil(ended.is_set, timeout=60_000)
    qtbot.waitUntil(lambda: not list(progress._all_instances), timeout=60_000)
    qtbot.wait(20)
    assert len(filled.layers) in (0, layers)


def test_a_lost_device_is_one_sentence_and_the_cpu_goes_on(filled, fit_widget, wait_for, monkeypatch):
    def lost(request, progress):
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")

    with monkeypatch.context() as patch:
        patch.setattr(WORK["Fit ensemble"], lost)
        fit_widget.fit()
        wait_for(fit_widget)
    text = fit_widget.message.value
    assert "The device failed (CUDA error: device-side assert triggered)" in text
    assert "\n" not in text
    assert len(filled.layers) == 3
    fit_widget.device.value = "cpu"
    fit_widget.fit()
    wait_for(fit_widget)
    assert fit_widget.result is not None


def test_a_full_disk_leaves_the_old_files_whole(filled, fit_widget, wait_for, monkeypatch, tmp_path):
    fit_widget.fit()
    wait_for(fit_widget)
    _, inspect = filled.window.add_plugin_dock_widget("napari-ensir", "Inspect lookup table")
    saves = {
        "t.lut.safetensors": (fit_widget.save, lambda: fit_widget.message.value),
        "scores.csv": (fit_widget.export_scores, lambda: fit_widget.message.value),
        "t.csv": (inspect.export_csv, lambda: inspect.message.value),
        "t.png": (inspect.export_png, lambda: inspect.message.value),
    }
    for name, (save, _) in saves.items():
        save(str(tmp_path / name))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(saves)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name, (save, said) in saves.items():
        options = {"overwrite": True} if save.__self__ is fit_widget else {}
        save(str(tmp_path / name), **options)
        assert "No space left on device" in said()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert fit_widget.result is not None

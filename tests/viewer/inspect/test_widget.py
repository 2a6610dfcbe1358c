"""Inspect panel: plots, bin sets of pixels, files."""

from __future__ import annotations

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_ensir import fit_lut, load_lut
from napari_ensir.ensemble.statistics.reference import name_inputs
from napari_ensir.ensemble.uncertainty.bias import bias_curve
from napari_ensir.files.image import read_record, write_image
from napari_ensir.viewer.inspect.widget import InspectWidget, describe_provenance
from napari_ensir.viewer.layers.session import get_session


@pytest.fixture
def docked(filled):
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Inspect lookup table")
    return widget


def test_plots_descriptions_and_exports(filled, fitted, docked, tmp_path):
    assert docked.lut is fitted
    for plot, n_axes in (("weights", 1), ("counts", 1), ("pair", 2)):
        docked.plot.value = plot
        docked.draw()
        assert len(docked.canvas.figure.axes) == n_axes
    like = filled.layers["good in the light"]
    text = docked.describe(like.data_to_world((20, 30)))
    values = [int(filled.layers[name].data[20, 30]) for name in fitted.names]
    weights = fitted.weights_for(values)
    for name, value, weight in zip(fitted.names, values, weights, strict=True):
        assert f"{name}: {value}, weight {weight:.3f}" in text
    ensemble = float(weights @ values)
    assert text.endswith(f"ensemble: {ensemble:.4g}"), "no ± without expected errors"
    assert "outside" in docked.describe(like.data_to_world((500, 500)))
    docked.export_png(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 5000
    docked.export_csv(str(tmp_path / "table.csv"))
    rows = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(rows) == len(fitted.rows) + 1


def test_the_plot_is_drawn_without_a_call(fitted, docked, qtbot):
    qtbot.waitUntil(lambda: docked._area._canvas is not None and docked.canvas.isVisible(), timeout=60_000)
    qtbot.waitUntil(lambda: docked.canvas.height() >= 220, timeout=60_000)


def test_values_can_be_copied_to_another_panel(filled, fitted, docked):
    docked.update(plot="pair", first="good in the light", second="good in the dark")
    other = InspectWidget(filled)
    filled.window.add_dock_widget(other, name="other")
    other.update(docked.asdict())
    assert other.asdict() == {
        "table": "fitted",
        "plot": "pair",
        "channel": 0,
        "first": "good in the light",
        "second": "good in the dark",
    }
    other.draw()
    assert other.canvas.figure.axes[0].get_ylabel() == "intensity of good in the light"


def test_a_table_per_colour_has_a_choice_of_channel(filled, docked):
    truth = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    lut = fit_lut([([truth // 2 * 2, truth // 8 * 8], truth)], channel_axis=-1)
    layers = [filled.add_image(image, rgb=True) for image in (truth // 2 * 2, truth // 8 * 8)]
    get_session(filled).keep("colour", lut, layers)
    assert [docked.channel.native.itemText(index) for index in range(3)] == ["red", "green", "blue"]
    docked.channel.value = 2
    docked.draw()
    assert ", blue: " in docked.describe((3, 4))


def test_exports_append_the_suffix(fitted, docked, tmp_path):
    docked.export_png(str(tmp_path / "plot"))
    assert docked.message.value == "Saved plot.png."
    docked.export_csv(str(tmp_path / "table.v1"))
    assert {path.name for path in tmp_path.iterdir()} == {"plot.png", "table.v1.csv"}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_table_messages_say_so(docked, tmp_path):
    docked.draw()
    assert "No lookup table yet" in docked.describe((0, 0))
    docked.export_csv(tmp_path / "none")
    assert "no lookup table to save" in docked.message.value
    assert not list(tmp_path.iterdir())


def test_pixels_are_read_from_the_layers_that_were_combined(filled, fitted, docked):
    layer = filled.layers["good in the light"]
    place = layer.data_to_world((20, 30))
    before = docked.describe(place)
    layer.name = "renamed"
    filled.add_image(np.zeros((96, 96), np.uint8), name="good in the light")
    assert docked.describe(place) == before
    arrays = [each.data for each in list(filled.layers)[1:3]]
    finer = fit_lut([(arrays, filled.layers[0].data)], names=fitted.names, bin_width=16)
    get_session(filled).replace("fitted", finer)  # as a live fit does
    assert f"good in the light: {layer.data[20, 30]}," in docked.describe(place)
    filled.layers.remove("good in the light")
    filled.layers.remove(layer)
    assert 'There is no layer "good in the light"' in docked.describe(place)


def test_the_panel_follows_live_fits_the_theme_and_clicks(filled, fitted, docked, qtbot):
    arrays = [each.data for each in list(filled.layers)[1:]]
    finer = fit_lut([(arrays, filled.layers[0].data)], names=fitted.names, bin_width=16)
    get_session(filled).replace("fitted", finer)
    assert docked.lut is finer
    docked.draw()
    before = docked.canvas.figure.get_facecolor()
    filled.theme = "light"
    qtbot.waitUntil(lambda: docked.canvas.figure.get_facecolor() != before, timeout=60_000)

    class Event:
        button, position = 1, tuple(filled.layers["good in the light"].data_to_world((20, 30)))

    for clicked in filled.mouse_drag_callbacks:
        clicked(filled, Event())
    assert docked.pixel.value.startswith("Bin set (")
    Event.position = None  # errors in a click are shown, not raised in napari
    docked._clicked(filled, Event())
    assert "TypeError" in docked.message.value


def test_a_pixel_has_an_expected_error_and_the_table_its_provenance(filled, fitted, docked, qtbot):
    arrays = [filled.layers[name].data for name in fitted.names]
    known = fitted.calibrated([(arrays, filled.layers[0].data)])
    get_session(filled).replace("fitted", known)
    text = docked.describe(filled.layers["good in the light"].data_to_world((20, 30)))
    value, error = known.apply(arrays)[20, 30], known.expected_error(arrays)[20, 30]
    assert f"ensemble: {value:.4g} ± {error:.2g} (expected root mean square error)" in text
    date, how, learned, hashes, held_out = docked._provenance.value.splitlines()
    assert known.report["date"] in date
    assert "numpy" in date
    assert how == "Method: EM (paper), bin_width 32, min_pixels 100, tolerance 1e-05."
    assert learned == "Learned from 1 image: 96 x 96, uint8."
    inputs = name_inputs(known.report["inputs"], [(*known.names, "gt")])
    named = replace(known, report=known.report | {"inputs": inputs})
    assert describe_provenance(named)[2] == f'{learned[:-1]}; its ground truth is "gt".'
    assert hashes == "The file has hashes (sha256) of 1 of 1 images."
    assert f"RMSE {known.errors.overall:.4g}, on 4 parts" in held_out
    report = {**known.report, "held_out": {**known.report["held_out"], "error_factor": 1.52}}
    held_out = describe_provenance(replace(known, report=report))[-1]
    assert f"RMSE {known.errors.overall:.4g}, within a factor of 1.5 on other fields, on 4 parts" in held_out


def test_bias_is_plotted_and_exported(filled, fitted, docked, tmp_path):
    docked.plot.value = "fidelity"
    docked.draw()
    (shown,) = docked.canvas.figure.axes[0].texts
    assert "no mean errors by intensity" in shown.get_text().replace("\n", " ")
    docked.export_csv(tmp_path / "none")
    assert "no mean errors by intensity" in docked.message.value
    assert not list(tmp_path.iterdir())

    arrays = [filled.layers[name].data for name in fitted.names]
    known = fitted.calibrated([(arrays, filled.layers[0].data)])
    get_session(filled).replace("fitted", known)
    for plot, by, label in (
        ("fidelity", "truth", "true intensity"),
        ("reading", "reading", "intensity of the image"),
    ):
        docked.plot.value = plot
        docked.draw()
        axes = docked.canvas.figure.axes[0]
        assert axes.get_xlabel().startswith(label)
        docked.canvas.draw()
        shown = axes.xaxis.label.get_window_extent()
        assert 0 <= shown.x0 < shown.x1 <= docked.canvas.figure.bbox.width, "it is not cut off"
        assert axes.get_ylabel() == "mean of image minus truth"
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == [*fitted.names, "ensemble"]
        docked.export_csv(tmp_path / f"{plot}.csv")
        rows = list(csv.DictReader((tmp_path / f"{plot}.csv").read_text().splitlines()))
        curve = bias_curve(known.report, by)
        assert len(rows) == curve.bias.size
        last = [row for row in rows if row["image"] == "ensemble"]
        for row, bias, error in zip(last, curve.bias[0, -1], curve.standard_error[0, -1], strict=True):
            for key, value in (("mean of image minus truth", bias), ("standard error", error)):
                assert row[key] == ("" if np.isnan(value) else str(value))


def test_a_table_from_a_file_has_no_histogram_of_a_bin_set(filled, fitted, docked, tmp_path):
    fitted.save(tmp_path / "rain")
    docked.open(tmp_path / "rain.lut.safetensors")
    docked.plot.value = "bin-set"
    event = SimpleNamespace(button=1, position=tuple(filled.layers[1].data_to_world((40, 50))))
    for clicked in filled.mouse_drag_callbacks:
        clicked(filled, event)
    assert docked.pixel.value.startswith("Bin set (")
    docked.draw()
    (axes,) = docked.canvas.figure.axes
    assert axes.get_legend() is None
    assert "does not contain the ground truth" in axes.texts[0].get_text().replace("\n", " ")


def test_missing_or_invalid_parts_of_a_report_are_left_out(fitted):
    garbled = {"date": 3, "versions": [], "inputs": {"images": "x", "listed": [1]}, "held_out": {"rmse": "?"}}
    assert describe_provenance(replace(fitted, report=garbled)) == []


@pytest.fixture
def ensemble(filled, fitted):
    """The ensemble of the layers, as a layer that this package computed."""
    arrays = [filled.layers[name].data for name in fitted.names]
    metadata = {"napari-ensir": {"kind": "ensemble", "lut": fitted}}
    return filled.add_image(fitted.apply(arrays), name="ensemble", metadata=metadata)


def assert_same_table(one, other):
    assert one.names == other.names
    assert one.binning == other.binning
    for name in ("rows", "weights", "counts", "fallback"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("name", ["e.ome.tif", "e.ome.zarr"])
def test_a_saved_ensemble_brings_its_table_back(filled, fitted, ensemble, docked, tmp_path, name):
    (path,) = ensemble.save(str(tmp_path / name))
    docked.open(path)
    assert docked.table.value == name
    assert docked.lut is not fitted
    assert_same_table(docked.lut, fitted)
    if name.endswith("zarr"):  # file dialogs do not choose folders
        docked.open(tmp_path / name / "zarr.json")
        assert get_session(filled).path_of(docked.table.value) is None


def test_an_image_may_name_the_file_of_its_table(fitted, docked, tmp_path):
    fitted.save(tmp_path / "rain")
    record = {"kind": "ensemble", "lut_file": "rain.lut.safetensors"}
    path = write_image(tmp_path / "e.ome.tif", np.eye(9, dtype=np.uint8), record=record)
    docked.open(path)
    assert_same_table(docked.lut, fitted)


def test_images_without_a_table_are_refused(fitted, ensemble, docked, tmp_path):
    write_image(tmp_path / "plain.tif", np.eye(9, dtype=np.uint8))
    docked.open(tmp_path / "plain.tif")
    assert "plain.tif holds no lookup table; open a *.lut.safetensors file" in docked.message.value
    (path,) = ensemble.save(str(tmp_path / "e.ome.tif"))
    record = read_record(path)
    for number, damaged in enumerate(
        (record["lut_data"][:-8], "not base64", record["lut_data"][:-900] + "A" * 900)
    ):
        path = tmp_path / f"damaged {number}.ome.tif"
        write_image(path, np.eye(9, dtype=np.uint8), record={**record, "lut_data": damaged})
        docked.open(path)
        assert f"the lookup table in the record of {path.name} is damaged" in docked.message.value
    assert docked.lut is fitted


def test_the_table_is_saved_but_not_over_a_file(fitted, docked, tmp_path, monkeypatch):
    docked.save(tmp_path / "rain")
    assert docked.message.value == "Saved rain.lut.safetensors."
    path = tmp_path / "rain.lut.safetensors"
    assert_same_table(load_lut(path), fitted)
    before = path.read_bytes()
    docked.save(path)
    assert "exists already; choose another name" in docked.message.value
    assert path.read_bytes() == before
    docked.save(path, overwrite=True)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "rain"), ""))
    asked = []
    monkeypatch.setattr(QMessageBox, "question", lambda *arguments: asked.append(arguments[2]))
    docked.save_button.native.click()
    assert asked == ["rain.lut.safetensors exists already. Overwrite it?"]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    docked.open_button.native.click()
    assert docked.table.value == path.name

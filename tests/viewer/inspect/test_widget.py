"""The Inspect panel: plots, a pixel's bin set, exports."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble.statistics.reference import named_report
from napari_ensir.ensemble.uncertainty.bias import fidelity_of
from napari_ensir.viewer.inspect.widget import InspectWidget, provenance_lines
from napari_ensir.viewer.layers.session import session_of


@pytest.fixture
def fitted(filled):
    """A table learned on the layers there, as Fit leaves it."""
    layers = list(filled.layers)[1:]
    names = [layer.name for layer in layers]
    lut = fit_lut([([layer.data for layer in layers], filled.layers[0].data)], names=names, method="em")
    session_of(filled).keep("fitted", lut, layers)
    session_of(filled).remember_layers(lut, layers)
    return lut


@pytest.fixture
def docked(filled):
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Inspect lookup table")
    return widget


def test_it_plots_describes_and_exports(filled, fitted, docked, tmp_path):
    assert docked.lut is fitted
    for plot, n_axes in (("weights", 1), ("counts", 1), ("pair", 2)):
        docked.plot.value = plot
        docked.draw()
        assert len(docked.canvas.figure.axes) == n_axes
    like = filled.layers["so so"]
    text = docked.describe(like.data_to_world((20, 30)))
    values = [int(filled.layers[name].data[20, 30]) for name in fitted.names]
    weights = fitted.weights_for(values)
    for name, value, weight in zip(fitted.names, values, weights, strict=True):
        assert f"{name}: {value}, weight {weight:.3f}" in text
    ensemble = float(weights @ values)
    assert text.endswith(f"ensemble: {ensemble:.4g}"), "no ± where the table does not know"
    assert "outside" in docked.describe(like.data_to_world((500, 500)))
    docked.export_png(str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 5000
    docked.export_csv(str(tmp_path / "table.csv"))
    rows = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(rows) == len(fitted.rows) + 1


def test_the_plot_is_seen_by_itself(fitted, docked, qtbot):
    qtbot.waitUntil(lambda: docked._canvas is not None and docked.canvas.isVisible(), timeout=20_000)
    qtbot.waitUntil(lambda: docked.canvas.height() >= 220, timeout=20_000)


def test_its_values_go_from_one_panel_to_another(filled, fitted, docked):
    docked.update(plot="pair", first="so so", second="good in the dark")
    other = InspectWidget(filled)
    filled.window.add_dock_widget(other, name="other")
    other.update(docked.asdict())
    assert other.asdict() == {
        "table": "fitted",
        "plot": "pair",
        "channel": 0,
        "first": "so so",
        "second": "good in the dark",
    }
    other.draw()
    assert other.canvas.figure.axes[0].get_ylabel() == "intensity of so so"


def test_a_table_per_colour_has_a_choice_of_channel(filled, docked):
    truth = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    lut = fit_lut([([truth // 2 * 2, truth // 8 * 8], truth)], channel_axis=-1)
    layers = [filled.add_image(image, rgb=True) for image in (truth // 2 * 2, truth // 8 * 8)]
    session_of(filled).keep("colour", lut, layers)
    session_of(filled).remember_layers(lut, layers)
    assert [docked.channel.native.itemText(place) for place in range(3)] == ["red", "green", "blue"]
    docked.channel.value = 2
    docked.draw()
    assert " of blue: " in docked.describe((3, 4))


def test_exports_take_the_suffix_of_what_they_are(fitted, docked, tmp_path):
    docked.export_png(str(tmp_path / "plot"))
    assert docked.message.value == "Wrote plot.png."
    docked.export_csv(str(tmp_path / "table.v1"))
    assert {path.name for path in tmp_path.iterdir()} == {"plot.png", "table.v1.csv"}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_table_it_says_so(docked, tmp_path):
    docked.draw()
    assert "No lookup table yet" in docked.describe((0, 0))
    docked.export_csv(tmp_path / "none")
    assert "no lookup table to export" in docked.message.value
    assert not list(tmp_path.iterdir())


def test_it_reads_the_layers_combined_whatever_their_names(filled, fitted, docked):
    layer = filled.layers["so so"]
    place = layer.data_to_world((20, 30))
    before = docked.describe(place)
    layer.name = "renamed"
    filled.add_image(np.zeros((96, 96), np.uint8), name="so so")
    assert docked.describe(place) == before
    arrays = [each.data for each in list(filled.layers)[1:4]]
    finer = fit_lut([(arrays, filled.layers[0].data)], names=fitted.names, bin_width=16)
    session_of(filled).replace("fitted", finer)  # as a live fit does
    assert f"so so: {layer.data[20, 30]}," in docked.describe(place)
    filled.layers.remove("so so")
    filled.layers.remove(layer)
    assert 'There is no layer "so so"' in docked.describe(place)


def test_it_follows_live_fits_the_theme_and_clicks(filled, fitted, docked, qtbot):
    arrays = [each.data for each in list(filled.layers)[1:]]
    finer = fit_lut([(arrays, filled.layers[0].data)], names=fitted.names, bin_width=16)
    session_of(filled).replace("fitted", finer)
    assert docked.lut is finer
    docked.draw()
    before = docked.canvas.figure.get_facecolor()
    filled.theme = "light"
    qtbot.waitUntil(lambda: docked.canvas.figure.get_facecolor() != before, timeout=20_000)

    class Event:
        button, position = 1, tuple(filled.layers["so so"].data_to_world((20, 30)))

    for clicked in filled.mouse_drag_callbacks:
        clicked(filled, Event())
    assert docked.pixel.value.startswith("Bin set (")
    Event.position = None  # whatever goes wrong in a click is said, and not raised in napari
    docked._clicked(filled, Event())
    assert "TypeError" in docked.message.value


def test_a_pixel_says_how_far_off_it_may_be_and_the_table_where_it_came_from(filled, fitted, docked, qtbot):
    arrays = [filled.layers[name].data for name in fitted.names]
    known = fitted.calibrated([(arrays, filled.layers[0].data)])
    session_of(filled).replace("fitted", known)
    text = docked.describe(filled.layers["so so"].data_to_world((20, 30)))
    value, error = known.apply(arrays)[20, 30], known.expected_error(arrays)[20, 30]
    assert f"ensemble: {value:.4g} ± {error:.2g} (root mean square" in text
    date, how, learned, hashes, held_out = docked._origin.value.splitlines()
    assert known.report["date"] in date
    assert "numpy" in date
    assert how == "By EM (paper): bin_width 32, min_pixels 100, tolerance 1e-05."
    assert learned == "Learned from 1 image: 96 x 96, uint8."
    named = replace(known, report=named_report(known.report, [(*known.names, "gt")]))
    assert provenance_lines(named)[2] == f'{learned[:-1]}; its ground truth is "gt".'
    assert hashes == "Content hashes (sha256) of 1 of 1 images in the file."
    assert f"RMSE {known.errors.overall:.4g}, on 4 parts" in held_out
    report = {**known.report, "held_out": {**known.report["held_out"], "error_factor": 1.52}}
    held_out = provenance_lines(replace(known, report=report))[-1]
    assert f"RMSE {known.errors.overall:.4g}, within x 1.5 on other fields, on 4 parts" in held_out


def test_it_shows_and_exports_whether_intensities_survive(filled, fitted, docked, tmp_path):
    docked.plot.value = "fidelity"
    docked.draw()
    (said,) = docked.canvas.figure.axes[0].texts
    assert "no mean errors by intensity" in said.get_text().replace("\n", " ")
    docked.export_csv(tmp_path / "none")
    assert "no mean errors by intensity" in docked.message.value
    assert not list(tmp_path.iterdir())

    arrays = [filled.layers[name].data for name in fitted.names]
    known = fitted.calibrated([(arrays, filled.layers[0].data)])
    session_of(filled).replace("fitted", known)
    for plot, by, label in (
        ("fidelity", "truth", "true intensity"),
        ("reading", "reading", "intensity read"),
    ):
        docked.plot.value = plot
        docked.draw()
        axes = docked.canvas.figure.axes[0]
        assert axes.get_xlabel().startswith(label)
        assert axes.get_ylabel() == "mean of image minus truth"
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == [*fitted.names, "ensemble"]
        docked.export_csv(tmp_path / f"{plot}.csv")
        rows = list(csv.DictReader((tmp_path / f"{plot}.csv").read_text().splitlines()))
        curve = fidelity_of(known.report, by)
        assert len(rows) == curve.bias.size
        last = [row for row in rows if row["image"] == "ensemble"]
        for row, bias, error in zip(last, curve.bias[0, -1], curve.standard_error[0, -1], strict=True):
            for key, value in (("mean of image minus truth", bias), ("standard error", error)):
                assert row[key] == ("" if np.isnan(value) else str(value))


def test_what_a_report_of_somebody_else_lacks_or_garbles_is_left_out(fitted):
    garbled = {"date": 3, "versions": [], "inputs": {"images": "x", "listed": [1]}, "held_out": {"rmse": "?"}}
    assert provenance_lines(replace(fitted, report=garbled)) == []

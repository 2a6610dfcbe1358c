"""Ranking restorers and trying values of a setting in Restore, and opening a folder of networks."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.restorers import CLASSICAL, calibrate_restorer, rank_restorers
from napari_ensir.restorers.self_supervised.calibrate import parameter_grid
from napari_ensir.settings import settings_of
from napari_ensir.viewer.restore.widget import SweepForm


@pytest.fixture
def restore(viewer):
    """The Restore panel with a noisy field chosen, and few runs."""
    rows, columns = np.mgrid[:72, :72]
    clean = 120 + 60 * np.sin(rows / 6) * np.cos(columns / 9) + 40 * ((rows // 16 + columns // 16) % 2)
    noisy = clean + np.random.default_rng(0).normal(0, 18, clean.shape)
    layer = viewer.add_image(noisy.astype(np.float32), name="field")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    widget.image.value = layer
    widget.update(restorers=[], stride=4, offsets=3, device="cpu")
    return widget


def rows_of(table):
    return [[str(cell) for cell in row] for row in table.value["data"]]


def test_ticked_restorers_are_ranked_and_the_best_ticked(viewer, restore, wait_for, write_network, tmp_path):
    assert not restore.ranking.native.isVisible()
    restore.restorers.value = ["gaussian", "total-variation", "median"]
    restore.gaussian_sigma.value = 6.0
    restore.open(write_network(tmp_path / "dim.pt"))  # halves what it sees: surely the worst
    restore.rank_button.native.click()
    wait_for(restore)
    assert len(viewer.layers) == 1
    assert restore.ranking.native.isVisible()
    scores = rank_restorers(viewer.layers[0].data, restore.picker.chosen(), stride=4, offsets=3)
    found = rows_of(restore.ranking)
    assert [name for name, _ in found] == [scores.names[place] for place in scores.ranked]
    assert [name for name, _ in found][-1] == "dim"
    assert found[0][0] == "Total variation"
    assert found[0][1].startswith("★ \u2212" if scores.best is not None else "≈ \u2212")
    assert dict(map(tuple, found))["average"] == "0"
    assert restore.message.value.startswith("The best candidate is Total variation")
    restore.best_button.native.click()
    assert restore.restorers.value == ["total-variation"]
    restore.ranking.clicked.emit(found.index(next(row for row in found if row[0] == "Median")))
    assert restore.picker.selected == "median"


def test_restoring_and_combining_shows_the_scores(viewer, restore, wait_for):
    restore.restorers.value = ["gaussian", "median"]
    restore.restore_and_combine()
    wait_for(restore)
    assert len(viewer.layers) > 3
    names = {row[0] for row in rows_of(restore.ranking)}
    assert names == {"Gaussian", "Median", "average", "ensemble", "noisy input"}
    first, second, third, *_ = restore.message.value.split("\n")
    assert first.startswith("The ensemble is ")
    assert second.startswith("The restorers are scored by the prediction of hidden pixels, because ")
    assert third == "Added 2 candidates, the ensemble and the weight maps."
    selected = restore.picker.selected
    row = [row[0] for row in rows_of(restore.ranking)].index("ensemble")
    restore.ranking.clicked.emit(row)  # it has no settings
    assert restore.picker.selected == selected


def test_networks_of_one_name_are_told_apart(viewer, restore, wait_for, write_network, tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        restore.open(write_network(tmp_path / place / "dim.pt"))
    restore.rank()
    wait_for(restore)
    assert [name for name, _ in rows_of(restore.ranking)][:2] in (["dim", "dim 2"], ["dim", "average"])
    assert "dim 2 is not significantly worse" in restore.message.value


def test_values_are_tried_drawn_and_taken(viewer, restore, wait_for, qtbot):
    restore.restorers.select("gaussian")
    assert not restore.sweep_form.native.isVisible()
    restore.sweep_section.open()
    form = restore.sweep_form
    qtbot.waitUntil(form.native.isVisible, timeout=60_000)
    assert form.setting.value == "sigma"
    form.between.value, form.steps.value = (0.3, 4.8), 5
    form.sweep_button.native.click()
    wait_for(restore)
    gaussian = CLASSICAL["gaussian"]()
    expected = calibrate_restorer(
        gaussian, "sigma", [0.3, 0.6, 1.2, 2.4, 4.8], viewer.layers[0].data, stride=4, offsets=3
    )
    np.testing.assert_allclose(form.sweep.differences, expected.differences)
    assert restore.message.value.startswith(f"Least error at sigma {expected.best:g}")
    (axes,) = form.plot.canvas.figure.axes
    curve = axes.lines[0]
    np.testing.assert_allclose(curve.get_xdata(), expected.values)
    np.testing.assert_allclose(curve.get_ydata(), expected.differences)
    assert axes.lines[1].get_xdata()[0] == expected.best
    before = axes.get_facecolor()
    viewer.theme = "light"
    qtbot.waitUntil(lambda: form.plot.canvas.figure.axes[0].get_facecolor() != before, timeout=60_000)
    restore.restorers.select("median")
    assert form.setting.value == "size"
    form.adopt_button.native.click()
    assert restore.gaussian_sigma.value == expected.best
    assert restore.picker.selected == "gaussian"
    assert len(viewer.layers) == 1


def test_trying_can_be_cancelled(restore, wait_for):
    restore.sweep_section.open()
    restore.restorers.select("non-local-means")
    restore.try_values()
    restore.cancel()
    wait_for(restore)
    assert restore.message.value == "Cancelled; nothing was changed."
    assert restore.sweep_form.sweep is None
    assert not restore.sweep_form.adopt_button.enabled


def test_wrong_choices_are_one_clear_sentence(viewer, restore, write_network, tmp_path):
    restore.restorers.value = ["gaussian"]
    restore.rank()
    assert "nothing to rank; tick two or more" in restore.message.value
    restore.sweep_section.open()
    restore.restorers.select("gaussian")
    restore.sweep_form.between.value = (3.0, 1.0)
    restore.try_values()
    assert "from 3 to 1; give the lower value first" in restore.message.value
    restore.sweep_form.between.value = (1.0, 80.0)
    restore.try_values()
    assert "sigma is 80.0; use a number from 0 to 50" in restore.message.value
    restore.image.value = None
    restore.try_values()
    assert "No image is chosen" in restore.message.value


@pytest.mark.parametrize("key", sorted(CLASSICAL))
def test_suggested_values_lie_within_the_limits(qtbot, key):
    form = SweepForm(None)  # without a viewer it draws nothing
    form.offer(CLASSICAL[key]())
    for name in [name for name in form.setting.choices if name is not None]:
        form.setting.value = name
        values = form.values()
        assert len(values) >= 3, (name, values)
        assert len(set(values)) == len(values)
    form.native.deleteLater()


def test_whole_numbers_stay_on_their_steps():
    size = next(each for each in settings_of(CLASSICAL["median"]) if each.name == "size")
    assert parameter_grid(size, 3, 15, 4) == [3, 5, 9, 15]
    assert all(isinstance(value, int) for value in parameter_grid(size, 3, 15, 4))


def test_a_folder_of_networks_opens_at_once(restore, write_network, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    folder = tmp_path / "models"
    folder.mkdir()
    write_network(folder / "dim.pt")
    write_network(folder / "dimmer.onnx")
    (folder / "bad.pt").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("of no matter")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    restore.folder_button.native.click()
    assert restore.restorers.value == ["dim", "dimmer"]
    first, *refused = restore.message.value.split("\n")
    assert first == "Opened 2 networks of models."
    assert len(refused) == 1
    assert "bad.pt" in refused[0]
    restore.open(tmp_path)
    assert "contains no network" in restore.message.value

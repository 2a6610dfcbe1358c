"""The panel Process a folder, by clicks: a folder of noisy images, and folders of candidates."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_ensir import fit_lut
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.files.image import read_image, write_image
from napari_ensir.restorers import CLASSICAL
from napari_ensir.restorers.base import FunctionRestorer
from tests.helpers.actions import Actions


def noisy_image(seed, size=32):
    y, x = np.mgrid[:size, :size]
    clean = 120 + 60 * np.sin(x / 6 + seed) * np.cos(y / 9)
    noise = np.random.default_rng(seed).normal(0, 18, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder of three noisy TIFFs and a file that is no image."""
    (tmp_path / "day 1").mkdir()
    for number in range(3):
        write_image(tmp_path / "day 1" / f"field {number}.tif", noisy_image(number))
    (tmp_path / "day 1" / "broken.tif").write_bytes(b"II*\0 cut off")
    return tmp_path / "day 1"


@pytest.fixture
def actions(viewer, monkeypatch):
    """What a user does, counted."""
    return Actions(viewer, monkeypatch)


def results(widget):
    names, texts = ([row[place] for row in widget.files.value["data"]] for place in (0, 1))
    return dict(zip(names, texts, strict=True))


def test_a_folder_of_noisy_images_takes_four_actions(viewer, actions, folder, wait_for):
    widget = actions.open_panel("Process a folder")
    actions.click_and_give(widget.images.choose_btn, folder)
    actions.click(widget.run_button)
    wait_for(widget)
    assert actions.count <= 6
    assert len(viewer.layers) == 0
    out = folder.with_name("day 1 ensemble")
    made = {"ensemble.lut.safetensors", "scores.csv", *(f"field {number}.tif" for number in range(3))}
    assert {each.name for each in out.iterdir()} == made, widget.message.value
    assert read_image(out / "field 0.tif").dtype == np.uint8
    assert results(widget) == {
        "broken": "failed",
        **{f"field {number}": "written" for number in range(3)},
    }
    lines = widget.message.value.splitlines()
    assert lines[0].startswith("The ensemble is ")
    assert lines[1] == "3 of 4 images were written to day 1 ensemble, 1 failed."
    assert lines[2].startswith("broken: ")
    assert [row.role for row in widget.scores.table.rows].count("ensemble") == 1
    lut = load_lut(out / "ensemble.lut.safetensors")
    before = read_image(out / "field 1.tif")
    (out / "field 1.tif").unlink()
    widget.run()
    wait_for(widget)
    assert results(widget)["field 0"] == "was there"
    assert results(widget)["field 1"] == "written"
    np.testing.assert_array_equal(read_image(out / "field 1.tif"), before)
    os.utime(folder / "field 2.tif", ns=(0, 0))
    widget.run()
    wait_for(widget)
    assert results(widget)["field 1"] == "was there"
    assert results(widget)["field 2"] == "made anew: image changed"
    assert "2 were there already.\n1 was made anew, because an input changed: field 2" in widget.message.value
    assert "the lookup table was learned before images changed" in widget.message.value
    assert load_lut(out / "ensemble.lut.safetensors").report == lut.report
    widget.gaussian_sigma.value = 4.0
    widget.run()
    wait_for(widget)
    assert "was learned with other restorers or settings" in widget.message.value


@pytest.fixture
def restored(tmp_path):
    """A folder of two images for each of two candidates, and a table with expected errors."""
    images = [noisy_image(number).astype(np.float32) for number in range(2)]
    candidates = {name: [CLASSICAL[name]()(image) for image in images] for name in ("gaussian", "median")}
    for name, made in candidates.items():
        (tmp_path / "restored" / name).mkdir(parents=True)
        for number, image in enumerate(made):
            write_image(tmp_path / "restored" / name / f"{number}.tif", image)
    pairs = [([each[0] for each in candidates.values()], images[0])]
    lut = fit_lut(pairs, names=tuple(candidates), device="cpu").calibrated(pairs, device="cpu")
    path = lut.save(tmp_path / "table")
    return SimpleNamespace(folder=tmp_path / "restored", candidates=candidates, lut=lut, path=path)


def assert_combined(widget, restored, out):
    assert results(widget) == {"0": "written", "1": "written"}, widget.message.value
    expected = restored.lut.apply([each[1] for each in restored.candidates.values()])
    np.testing.assert_allclose(read_image(out / "1.tif"), expected, rtol=1e-6)
    errors = read_image(out / "expected error" / "0.tif")
    assert float(widget.files.value["data"][0][2]) == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-3)


def test_folders_of_candidates_take_six_actions(viewer, actions, restored, wait_for):
    widget = actions.open_panel("Process a folder")
    actions.click_and_give(widget.images.choose_btn, restored.folder)
    assert widget.job.value == "apply"
    assert "No lookup table is chosen" in widget.run_button.tooltip
    actions.click_and_give(widget.lut.choose_btn, restored.path)
    assert widget.candidate_2.value == restored.folder / "median"
    assert widget.expected_error.value
    actions.click(widget.run_button)
    wait_for(widget)
    assert actions.count <= 6
    assert_combined(widget, restored, restored.folder.with_name("restored ensemble"))


def test_folders_of_candidates_can_be_chosen_one_by_one(viewer, actions, restored, wait_for):
    widget = actions.open_panel("Process a folder")
    actions.choose(widget.job, "apply")
    actions.click_and_give(widget.lut.choose_btn, restored.path)
    actions.click_and_give(widget.candidate_1.choose_btn, restored.folder / "gaussian")
    assert widget.candidate_2.value == restored.folder / "median"
    actions.click(widget.run_button)
    wait_for(widget)
    assert_combined(widget, restored, restored.folder / "gaussian ensemble")


def test_folders_and_tables_can_be_dropped(viewer, actions, restored, folder, wait_for):
    def drop(widget, path):
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        how = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
        entered = QDragEnterEvent(QPoint(5, 5), *how)
        QApplication.sendEvent(widget, entered)
        assert entered.isAccepted()
        QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), *how))

    widget = actions.open_panel("Process a folder")
    content = widget.native.widget()
    drop(content, folder)
    assert (widget.job.value, widget.images.value) == ("blind", folder)
    drop(content, restored.path)
    drop(content, restored.folder)
    assert (widget.job.value, widget.lut.value) == ("apply", restored.path)
    drop(widget.candidate_2.line_edit.native, restored.folder / "gaussian")
    assert widget.candidate_2.value == restored.folder / "gaussian"
    assert widget.candidate_1.value == restored.folder / "gaussian"
    actions.click(widget.run_button)
    wait_for(widget)
    assert "is given twice" in widget.message.value


def test_a_cancelled_run_goes_on_where_it_was(viewer, actions, folder, wait_for, qtbot):
    (folder / "broken.tif").unlink()
    widget = actions.open_panel("Process a folder")
    seen = []

    def slow(image, progress):
        seen.append(image)
        while len(seen) == 2:
            progress(0, 1, "waiting")  # until it is cancelled
        return image / 2

    class Slow(FunctionRestorer):
        def __call__(self, image, *, progress=None):
            return slow(image, progress)

    widget.job.value = "restore"
    widget.picker.add(Slow(lambda image: image, "slow"), "slow", ticked=True)
    widget.restorers.value = ["slow"]
    widget.images.value = folder
    out = folder.with_name("day 1 restored")
    assert widget.out.value == out
    actions.click(widget.run_button)
    qtbot.waitUntil(lambda: len(seen) == 2, timeout=60_000)
    actions.click(widget.cancel_button)
    wait_for(widget)
    assert [each.name for each in out.iterdir()] == ["field 0.tif"]
    assert widget.message.value.startswith("Cancelled; process again to go on. 1 of 3 images were written")
    actions.click(widget.run_button)
    wait_for(widget)
    assert results(widget) == {"field 0": "was there", "field 1": "written", "field 2": "written"}
    assert len(seen) == 4


def test_what_is_missing_is_one_sentence(viewer, actions, folder, tmp_path, wait_for):
    widget = actions.open_panel("Process a folder")
    assert widget.run_button.tooltip == "No folder of images is chosen; choose one."
    widget.images.value = tmp_path / "nothing here"
    widget.run()
    wait_for(widget)
    assert "there is no" in widget.message.value
    widget.images.value = folder
    widget.out.value = folder
    widget.run()
    wait_for(widget)
    assert "which is read" in widget.message.value
    assert len(list(folder.iterdir())) == 4
    widget.restorers.value = ["gaussian"]
    assert widget.run_button.tooltip == "Too few restorers are ticked; tick 2 or more."


def test_a_single_file_is_a_folder_of_one(viewer, actions, folder, wait_for):
    widget = actions.open_panel("Process a folder")
    widget.images.value = folder / "field 0.tif"
    widget.job.value, widget.restorers.value = "restore", ["median"]
    widget.run()
    wait_for(widget)
    assert [each.name for each in folder.with_name("day 1 restored").iterdir()] == ["field 0.tif"]

"""What is copied as Python or as a command does the same: it is run, and its pixels are compared."""

from __future__ import annotations

import shlex
import subprocess
import sys

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication
from typer.testing import CliRunner

from napari_ensir import fit_lut, load_lut
from napari_ensir.cli.commands import app
from napari_ensir.files.image import read_image, write_image
from napari_ensir.settings import ApplySettings, FitSettings
from napari_ensir.viewer.as_code import (
    apply_as_command,
    apply_as_python,
    fit_as_command,
    fit_as_python,
    path_of,
)

SETTINGS = FitSettings(
    method="least-squares", bin_width=16, shrinkage=500, data_range=(0, 255), prior=(1, 2, 1)
)


@pytest.fixture
def files(images, tmp_path, monkeypatch):
    """The images as files, where the work is done."""
    monkeypatch.chdir(tmp_path)
    for name, image in images.items():
        write_image(tmp_path / f"{name}.tif", image)
    names = list(images)[1:]
    return {name: f"{name}.tif" for name in names}


def run(text, how):
    if how == "python":
        subprocess.run([sys.executable, "-c", text], check=True)
        return
    program, *words = shlex.split(text)
    assert program == "napari-ensir"
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("how", ["python", "command"])
def test_what_is_copied_gives_the_same_pixels(how, files, images, tmp_path):
    arrays = [images[name] for name in files]
    pairs = [(arrays, images["ground truth"])]
    expected = fit_lut(pairs, names=tuple(files), **SETTINGS.keywords()).calibrated(pairs)
    as_text = fit_as_python if how == "python" else fit_as_command
    run(as_text(files, "ground truth.tif", SETTINGS), how)
    made = load_lut(tmp_path / "ensemble.lut.safetensors")
    np.testing.assert_array_equal(made.weights, expected.weights)
    np.testing.assert_array_equal(made.errors.squares, expected.errors.squares)
    as_text = apply_as_python if how == "python" else apply_as_command
    brighter = {name: f"bright {path}" for name, path in files.items()}
    for name, path in brighter.items():
        write_image(tmp_path / path, images[name].astype(np.uint16) * 2 + 50)
    text = as_text(
        "ensemble.lut.safetensors", brighter, ApplySettings(device="cpu"), match=True, with_errors=True
    )
    run(text, how)
    np.testing.assert_allclose(read_image("ensemble.tif"), 2 * expected.apply(arrays) + 50, atol=2)
    assert read_image("expected_error.tif").shape == arrays[0].shape


def test_a_layer_that_is_from_no_file_gets_a_path_that_says_so():
    assert path_of("so so", None) == "PATH OF so so.tif"
    assert path_of("so so", "/data/a.tif") == "/data/a.tif"


def test_the_panels_copy_what_is_chosen(filled, fit_widget, files, images, wait_for, tmp_path):
    filled.open(tmp_path / "ground truth.tif", plugin="napari")
    for path in files.values():
        filled.open(tmp_path / path, plugin="napari")
    opened = list(filled.layers)[-4:]
    fit_widget.ground_truth.value, fit_widget.candidates.value = opened[0], opened[1:]
    fit_widget.bin_width.value = 16
    fit_widget.python_button.native.click()
    text = QApplication.clipboard().text()
    assert fit_widget.message.value == "Copied."
    run(text, "python")
    expected = fit_lut(
        [([images[name] for name in files], images["ground truth"])], method="em", bin_width=16
    )
    np.testing.assert_array_equal(load_lut(tmp_path / "ensemble.lut.safetensors").weights, expected.weights)
    fit_widget.candidates.value = list(filled.layers)[1:4]
    fit_widget.ground_truth.value = filled.layers["ground truth"]
    fit_widget.command_button.native.click()
    assert "PATH OF so so.tif" in QApplication.clipboard().text()
    assert "PATH OF" in fit_widget.message.value

    _, apply = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    apply.open(tmp_path / "ensemble.lut.safetensors")
    for number, layer in enumerate(opened[1:], start=1):
        apply[f"candidate_{number}"].value = layer
    apply.command_button.native.click()
    assert apply.message.value == "Copied."
    run(QApplication.clipboard().text(), "command")
    arrays = [images[name] for name in files]
    np.testing.assert_array_equal(read_image("ensemble.tif"), expected.apply(arrays))

"""What is copied as Python or as a command does the same: it is run, and its pixels are compared."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtWidgets import QApplication
from typer.testing import CliRunner

from napari_ensir import fit_lut, load_lut
from napari_ensir.cli.app import app
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import read_image, write_image
from napari_ensir.restorers import RESTORERS, begin_training, open_restorer
from napari_ensir.restorers.base import with_settings
from napari_ensir.settings import ApplySettings, FitSettings, settings_of
from napari_ensir.viewer.code_export import (
    Chosen,
    Restoring,
    apply_as_command,
    apply_as_python,
    fit_as_command,
    fit_as_python,
    path_of_layer,
    restore_as_command,
    restore_as_python,
)

SETTINGS = FitSettings(method="least-squares", bin_width=16, shrinkage=500, data_range=(0, 255), prior=(1, 2))


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
        exec(text, {"__name__": "__main__"})
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
    layer = Image(np.zeros((4, 4)), name="so so")
    assert path_of_layer(layer) == "PATH OF so so.tif"


def test_corrections_become_options_of_the_command(files, images, tmp_path):
    arrays = [images[name] for name in files]
    first = next(iter(files))
    write_image(tmp_path / "larger.tif", np.pad(images[first], ((0, 6), (0, 4))))
    code = f"crop_image({{}}, (0, 0), {arrays[0].shape})"
    text = fit_as_command(
        {**files, first: "larger.tif"}, "ground truth.tif", SETTINGS, corrections={first: [code], "": [code]}
    )
    run(text, "command")
    expected = fit_lut([(arrays, images["ground truth"])], names=tuple(files), **SETTINGS.keywords())
    np.testing.assert_array_equal(load_lut("ensemble.lut.safetensors").weights, expected.weights)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a", "turn_image({}, 'upside down')"),
        ("a", "crop_image({}, (2, 0), (9, 9))"),
        ("", "match_intensities({}, 2.0, 1.0)"),
    ],
)
def test_corrections_without_an_option_are_named(name, code):
    whose = '"a"' if name else "the ground truth"
    text = f"no option for the correction of {whose}, {code.format('image')}; use Copy as Python"
    with pytest.raises(EnsembleError, match=re.escape(text)):
        fit_as_command({"a": "a.tif"}, "t.tif", FitSettings(), corrections={name: [code]})


def test_the_panels_copy_what_is_chosen(filled, fit_widget, files, images, wait_for, tmp_path):
    filled.open(tmp_path / "ground truth.tif", plugin="napari")
    for path in files.values():
        filled.open(tmp_path / path, plugin="napari")
    opened = list(filled.layers)[-3:]
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
    fit_widget.candidates.value = list(filled.layers)[1:3]
    fit_widget.ground_truth.value = filled.layers["ground truth"]
    fit_widget.command_button.native.click()
    assert "PATH OF good in the light.tif" in QApplication.clipboard().text()
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


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A consistency model, hardly trained, whose name and place have blanks."""
    path = tmp_path_factory.mktemp("of networks") / "my net.v2.safetensors"
    clean = np.random.default_rng(0).uniform(30, 220, (24, 32)).astype(np.uint8)
    trainer = begin_training("ir-cm", [(clean, clean)], steps=2, width=8, device="cpu")
    list(trainer.run())
    trainer.save(path)
    return path


def test_every_setting_of_every_restorer_goes_round_the_command_line(network):
    from napari_ensir.cli.options import with_restorer_options

    offered = {key: kind() for key, kind in RESTORERS.items()} | {"net": open_restorer(network, device="cpu")}
    changed = {}
    for key, restorer in offered.items():
        settings = {}
        for each in settings_of(restorer):
            if each.name == "device":
                continue
            if each.choices is not None:
                settings[each.name] = list(each.choices)[-1]
            elif each.kind == "flag":
                settings[each.name] = not each.default
            else:
                top = each.maximum if each.maximum is not None else 7
                settings[each.name] = type(each.checked(top))(top)
        changed[key] = with_settings(restorer, **settings)
        words = Restoring("x", [Chosen(key, settings)]).words()
        given = [word for before, word in pairwise(words) if before == "--set"]
        assert with_restorer_options(offered, given)[key] == changed[key]


@pytest.mark.parametrize(("how", "rgb"), [("python", False), ("command", True)])
def test_restore_copies_what_it_does(how, rgb, viewer, images, network, wait_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = images["good in the light"]
    write_image(tmp_path / "noisy one.tif", np.stack([image, image[::-1], image.T], -1) if rgb else image)
    viewer.open(tmp_path / "noisy one.tif", plugin="napari", rgb=rgb)
    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    restore.image.value = viewer.layers[0]
    restore.restorers.value = []
    restore.open(network)
    (key,) = restore.restorers.value
    restore.update(median_size=5, wavelet_wavelet="db4", device="cpu")
    restore.restorers.value = ["median", "wavelet", key]
    restore.update({f"{key.replace('-', '_').lower()}_steps": 2})
    restore.restore()
    wait_for(restore)
    restore.program.value = f"restore-{how}"
    restore.copy_button.native.click()
    assert restore.message.value == "Copied."
    run(QApplication.clipboard().text(), how)
    folder = tmp_path if how == "python" else tmp_path / "restored"
    for layer, name in zip(viewer.layers[1:], ("median", "wavelet", "my net"), strict=True):
        made = read_image(folder / f"{name}.tif")
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, layer.data)
    record = viewer.layers[1].metadata["napari-ensir record"]
    assert record["from"] == {"image": "noisy one"}
    assert record["restorer"]["settings"]["size"] == 5


@pytest.mark.parametrize("how", ["python", "command"])
def test_restore_and_combine_copies_what_it_does(how, viewer, images, wait_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "noisy.tif", images["good in the light"].astype(np.float32))
    viewer.open(tmp_path / "noisy.tif", plugin="napari")
    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    restore.image.value = viewer.layers[0]
    restore.update(median_size=5, stride=4, offsets=2, data_range=(0, 240), device="cpu")
    restore.restorers.value = ["median", "gaussian"]
    restore.restore_and_combine()
    wait_for(restore)
    restore.program.value = f"combine-{how}"
    restore.copy_button.native.click()
    assert restore.message.value == "Copied."
    run(QApplication.clipboard().text(), how)
    ensemble = next(layer for layer in viewer.layers if "ensemble" in layer.name)
    np.testing.assert_array_equal(read_image("ensemble.tif"), ensemble.data)
    lut = load_lut("ensemble.lut.safetensors")
    np.testing.assert_array_equal(lut.weights, ensemble.metadata["napari-ensir"]["lut"].weights)


def test_restore_says_what_is_missing(viewer, images):
    _, restore = viewer.window.add_plugin_dock_widget("napari-ensir", "Restore")
    restore.restorers.value = []
    assert not restore.copy_button.enabled
    assert "No image is chosen" in restore.copy_button.tooltip
    restore.image.value = viewer.add_image(images["good in the light"], name="noisy")
    assert not restore.copy_button.enabled
    assert "No restorer is ticked" in restore.copy_button.tooltip
    restore.restorers.value = ["median"]
    assert "nothing to combine" in restore.copy_button.tooltip
    restore.program.value = "restore-command"
    assert restore.copy_button.enabled
    restore.picker.add(RESTORERS["gaussian"](), "trained just now", ticked=True)
    restore.copy_button.native.click()
    text = QApplication.clipboard().text()
    assert "'PATH OF noisy.tif' --method median --network 'PATH OF Gaussian.safetensors'" in text
    assert "PATH OF" in restore.message.value


def test_two_networks_of_one_name_stay_two_in_python():
    dp_ir = Chosen("b", path="two/n.pt", parts={"ir": Chosen("ir", path="ir.pt")})
    two = Restoring("x.tif", [Chosen("a", path="one/n.pt"), dp_ir])
    text = restore_as_python(two)
    assert "'n': with_settings(open_restorer('one/n.pt'), **how)" in text
    assert "'n 2': with_settings(open_restorer('two/n.pt', ir=open_restorer('ir.pt')), **how)" in text
    assert "--network one/n.pt --network two/n.pt --ir ir.pt" in restore_as_command(two)
    soft = {"denoiser": Chosen("wavelet", {"strength": 0.5})}
    one = Restoring("x.tif", [Chosen("dp", path="dp.safetensors", parts=soft)])
    wanted = "open_restorer('dp.safetensors', denoiser=with_settings(RESTORERS['wavelet'](), strength=0.5))"
    assert wanted in restore_as_python(one)
    with pytest.raises(EnsembleError, match="settings of the denoiser of DP-IR"):
        restore_as_command(one)

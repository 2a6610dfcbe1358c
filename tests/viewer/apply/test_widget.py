"""The Apply panel: a table from here or from a file, on layers that it was not learned on."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.apply.widget import ApplyWidget
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.layers.session import get_session


@pytest.fixture
def docked(filled):
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    return widget


def one(viewer, kind):
    return [layer for layer in viewer.layers if layer.metadata.get(OUTPUT_KEY, {}).get("kind") == kind]


def test_it_is_scripted_by_values_and_methods(filled, fitted, docked, wait_for):
    assert docked.asdict() == {
        "table": "fitted",
        **{f"candidate_{m}": layer for m, layer in enumerate(list(filled.layers)[1:], start=1)},
        "weights": "layers",
        "device": "auto",
        "expected_error": False,
        "match": False,
    }
    docked.weights.value = "layers"
    docked.candidate_1.value = filled.layers["good in the light"]
    other = ApplyWidget(filled)
    filled.window.add_dock_widget(other, name="other")
    other.update(docked.asdict())
    assert other.asdict() == docked.asdict()
    with pytest.raises(EnsembleError, match="no table 'gone' in this viewer"):
        other.update(table="gone")
    docked.apply()
    wait_for(docked)
    layers = [filled.layers[name].data for name in ("good in the light", "good in the light")]
    np.testing.assert_allclose(one(filled, "ensemble")[0].data, fitted.apply(layers), rtol=1e-6)
    assert len(one(filled, "weights")) == 2
    twice = '"good in the light" is chosen for "good in the dark" and "good in the light"; choose a different'
    assert twice in docked.message.value


def test_a_table_for_other_candidates_brings_its_own_controls(filled, fitted, docked):
    get_session(filled).keep("one", fit_lut([([filled.layers[2].data], filled.layers[0].data)], names=("a",)))
    assert docked.table.value == "fitted"
    docked.table.value = "one"
    assert list(docked.asdict()) == ["table", "candidate_1", "weights", "device", "expected_error", "match"]
    docked.update({"table": "fitted", "candidate_2": filled.layers[1]})
    assert docked.layers[1] is filled.layers[1]


def test_layers_of_an_injected_viewer_work(fitted, docked):
    proxied = docked.viewer.layers["good in the light"]
    docked.candidate_1.value = proxied
    assert docked.layers[0].name == "good in the light"


def test_tables_fitted_here_are_offered(fitted, docked):
    assert docked.lut is fitted
    docked.candidate_1.value = None
    docked.apply()
    assert 'No layer is chosen for "good in the dark"' in docked.message.value
    assert 'No layer is chosen for "good in the dark"' in docked.run_button.tooltip
    assert not docked.run_button.enabled


def test_layers_that_come_after_the_table_are_matched(viewer, images):
    names = list(images)[1:]
    lut = fit_lut([([images[name] for name in names], images["ground truth"])], names=names)
    get_session(viewer).keep("early", lut)
    _, apply = viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    assert apply.layers == [None] * 2
    for name in names:
        viewer.add_image(images[name], name=f"x {name}")
    assert [layer.name for layer in apply.layers] == [f"x {name}" for name in names]


def test_layers_that_the_table_was_not_learned_on_come_first(filled, fitted, wait_for):
    for name in fitted.names:
        filled.add_image(filled.layers[name].data.astype(np.uint16) * 16, name=f"field 2 {name}")
    _, docked = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    assert [layer.name for layer in docked.layers] == [f"field 2 {name}" for name in fitted.names]
    docked.apply()
    wait_for(docked)
    assert "of another exposure" in docked.message.value


def test_a_layer_that_does_not_fit_is_one_clear_sentence(filled, fitted, docked):
    docked.candidate_2.value = filled.add_image(np.zeros((5, 7), np.uint8), name="small")
    docked.run_button.native.click()
    said = docked.message.value
    assert said.startswith('"small" cannot be the candidate "good in the light": shape 5 × 7, but')
    assert "has shape 96 × 96" in said


def test_dropping_a_table_opens_it_once(filled, fitted, tmp_path):
    path = fitted.save(tmp_path / "twice")
    before = len(filled.layers)
    for _ in range(2):
        filled.open(str(path), plugin="napari-ensir")
    assert len(filled.layers) == before
    assert list(get_session(filled).tables) == ["fitted", "twice.lut.safetensors"]
    _, apply = filled.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    assert apply.table.value == "twice.lut.safetensors"
    fit_lut(
        [([filled.layers["good in the light"].data], filled.layers["ground truth"].data)], names=("new",)
    ).save(path, overwrite=True)
    filled.open(str(path), plugin="napari-ensir")  # it holds another table now
    assert list(get_session(filled).tables) == ["fitted", "twice.lut.safetensors"]
    assert apply.lut.names == ("new",)
    path.write_bytes(b"nothing")
    filled.open(str(path), plugin="napari-ensir")
    assert "twice.lut.safetensors" in apply.message.value
    assert apply.lut.names == ("new",)


def test_one_table_for_many_sets(viewer, wait_for, images, tmp_path):
    arrays = [images["good in the dark"], images["good in the light"]]
    path = fit_lut([(arrays, images["ground truth"])], names=("A", "B"), method="em").save(tmp_path / "ab")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Apply lookup table")
    widget.apply_all()
    assert "No layers have the names" in widget.message.value
    for cell in ("cell 1", "cell 2", "cell 3"):
        for name, image in zip("AB", arrays, strict=True):
            if (cell, name) != ("cell 3", "B"):
                viewer.add_image(image, name=f"{cell} {name}")
    widget.open(str(path))
    assert {common: [layer.name for layer in s] for common, s in widget.sets().items()} == {
        "cell 1": ["cell 1 A", "cell 1 B"],
        "cell 2": ["cell 2 A", "cell 2 B"],
    }
    assert widget.sets_button.text == "Apply to all 2 matching sets"
    widget.sets_button.native.click()
    wait_for(widget)
    assert [layer.name for layer in one(viewer, "ensemble")] == [
        "cell 1 ensemble · EM (paper)",
        "cell 2 ensemble · EM (paper)",
    ]


def test_another_exposure_is_said_and_can_be_matched(filled, fitted, docked, wait_for, images):
    known = fitted.calibrated([([images[name] for name in fitted.names], images["ground truth"])])
    get_session(filled).replace("fitted", known)
    brighter = [
        filled.add_image(images[name].astype(np.uint16) * 4 + 100, name=f"{name} 4x") for name in fitted.names
    ]
    for number, layer in enumerate(brighter, start=1):
        docked[f"candidate_{number}"].value = layer
    docked.apply()
    wait_for(docked)
    assert "another exposure" in docked.message.value
    assert "tick Match exposure" in docked.message.value
    docked.expected_error.value = True
    assert docked.fix_button_0.native.text() == "Match intensities"
    docked.fix_button_0.native.click()
    wait_for(docked)
    assert docked.match.value
    assert filled.layers.selection.active.metadata[OUTPUT_KEY]["kind"] == "ensemble"
    assert "was matched to intensities of about 4 x + 100" in docked.message.value
    expected = 4 * fitted.apply([images[name] for name in fitted.names]) + 100
    np.testing.assert_allclose(one(filled, "ensemble")[-1].data, expected, atol=4)
    (errors,) = one(filled, "expected error")
    assert np.median(errors.data) == pytest.approx(
        4 * np.median(known.expected_error([images[name] for name in fitted.names])), rel=0.1
    )


def test_a_table_is_saved_and_not_overwritten_unasked(fitted, docked, tmp_path):
    path = tmp_path / "mine.lut.safetensors"
    docked.save(path)
    assert docked.message.value == "Saved mine.lut.safetensors."
    docked.save(path)
    assert "exists" in docked.message.value
    assert len(docked.message.value.splitlines()) == 1
    assert load_lut(path).names == fitted.names


def test_a_table_without_expected_error_says_so(filled, fitted, docked, wait_for):
    assert not docked.expected_error.enabled
    assert docked.expected_error.tooltip.startswith("This table has no expected error")
    docked.expected_error.value = True
    docked.apply()
    assert "no expected error" in docked.message.value
    assert not one(filled, "ensemble")

"""One layer, held as a layer: through new names, new order, exchange of names, and loss."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import Qt

from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import LayerWatcher
from napari_ensir.viewer.layers.picker import LayerPicker


@pytest.fixture
def model():
    """A viewer without a window."""
    model = ViewerModel()
    for name in "abc":
        model.add_image(np.zeros((4, 5), np.uint8), name=name)
    return model


@pytest.fixture
def followed(qtbot, model):
    """Make a control that follows the model's layers, and listen to it."""
    watchers = []

    def follow(control):
        qtbot.addWidget(control.native)
        watchers.append(LayerWatcher(model, control.reset_choices))
        values: list = []
        control.changed.connect(values.append)
        return control, values

    yield follow
    for watcher in watchers:
        watcher.stop()


def rename(model):
    model.layers["b"].name = "another"


def exchange(model):
    a, b = model.layers["a"], model.layers["b"]
    b.name = "for a moment"
    a.name, b.name = "b", "a"


def reverse(model):
    model.layers.reverse()


def add(model):
    model.add_image(np.zeros((4, 5)), name="late")


def remove_another(model):
    del model.layers["a"]


@pytest.mark.parametrize("befall", [rename, exchange, reverse, add, remove_another])
def test_the_layer_stays_chosen(model, followed, befall):
    b = model.layers["b"]
    choice, heard = followed(LayerChoice(model, name="layer", value=b))
    befall(model)
    assert choice.value is b
    assert choice.native.currentText() == b.name
    assert heard == []
    assert {choice.native.itemText(i) for i in range(1, len(model.layers) + 1)} == {
        x.name for x in model.layers
    }


@pytest.mark.parametrize("befall", [rename, exchange, reverse, add, remove_another])
def test_the_candidates_stay_ticked_and_in_order(model, followed, befall):
    c, b = model.layers["c"], model.layers["b"]
    picker, heard = followed(LayerPicker([c, b], viewer=model, name="candidates"))
    befall(model)
    assert picker.value == [c, b]
    assert picker.texts()[:2] == [f"1  {c.name}", f"2  {b.name}"]
    assert heard == []


def test_a_layer_lost_is_told_once(model, followed):
    b = model.layers["b"]
    choice, heard = followed(LayerChoice(model, name="layer", value=b))
    picker, ticked = followed(LayerPicker([b, model.layers["a"]], viewer=model, name="candidates"))
    model.layers.remove(b)
    assert choice.value is None
    assert heard == [None]
    assert picker.value == [model.layers["a"]]
    assert ticked == [[model.layers["a"]]]


def test_layers_of_an_injected_viewer_are_the_same_layers(model, followed):
    injected = PublicOnlyProxy(model)
    choice, _ = followed(LayerChoice(injected, name="layer"))
    picker, _ = followed(LayerPicker(viewer=injected, name="candidates"))
    choice.value = injected.layers["b"]
    picker.value = [injected.layers["c"], injected.layers["a"]]
    assert choice.value is model.layers["b"]
    assert picker.value == [model.layers["c"], model.layers["a"]]
    injected.layers.selection = {injected.layers["b"]}
    picker.choose_selected()
    assert picker.value == [model.layers["b"]]


def test_what_is_not_offered_cannot_be_chosen(model, followed):
    from napari.layers import Image

    elsewhere = Image(np.zeros((4, 5)), name="elsewhere")
    choice, _ = followed(LayerChoice(model, lambda layer: layer.name != "c", name="layer"))
    picker, _ = followed(LayerPicker(viewer=model, name="candidates"))
    for layer in (elsewhere, model.layers["c"]):
        with pytest.raises(ValueError, match="not a valid choice"):
            choice.value = layer
    with pytest.raises(ValueError, match='"elsewhere" is no layer of this viewer'):
        picker.value = [elsewhere]


def test_ticks_order_filter_and_reasons(model, followed):
    a, b, c = (model.layers[name] for name in "abc")
    picker, heard = followed(LayerPicker(viewer=model, name="candidates"))
    picker.truth = b
    picker.all_button.native.click()
    assert picker.value == [a, c]
    assert "b  (the ground truth itself)" in picker.texts()
    picker.value = [c, a]
    assert picker.texts()[:2] == ["1  c", "2  a"]
    picker.none_button.native.click()
    model.add_image(np.zeros((5, 7)), name="small")
    assert "small  (shape 5 × 7)" in picker.texts()
    picker._filter.value = "sm"
    assert [item.isHidden() for item in picker._rows.items_in_order()] == [True, True, True, False]
    assert heard == [[a, c], [c, a], []]


def test_a_row_ticked_by_hand_is_a_candidate(model, followed):
    picker, heard = followed(LayerPicker(viewer=model, name="candidates"))
    picker._rows.item(1).setCheckState(Qt.CheckState.Checked)
    assert heard == [[model.layers["b"]]]


def test_a_long_name_is_shortened_in_the_middle(model, followed):
    a = model.layers["a"]
    choice, _ = followed(LayerChoice(model, name="layer", value=a))
    a.name = "a very long name of an image whose end tells it from the others"
    choice.native.setFixedWidth(160)
    choice.native.show()
    shown = choice.shown_text()
    assert shown.startswith("a v")
    assert shown.endswith("rs")
    assert "…" in shown
    assert choice.native.itemData(1, Qt.ItemDataRole.ToolTipRole) == a.name
    picture = choice.native.grab().toImage()
    assert len({picture.pixel(x, picture.height() // 2) for x in range(picture.width())}) > 3, "it is painted"

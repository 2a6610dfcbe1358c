"""Choice of layers while layers are renamed, reordered, added and removed."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import Qt

from napari_ensir.viewer.layers.combo import LayerChoice, likely_truth, only_layer
from napari_ensir.viewer.layers.picker import LayerPicker


@pytest.fixture
def model():
    """A viewer model without a window."""
    model = ViewerModel()
    for name in "abc":
        model.add_image(np.zeros((4, 5), np.uint8), name=name)
    return model


@pytest.fixture
def followed(qtbot, model):
    """Connect a control to the model's layers, and record the values that it emits."""

    def follow(control):
        qtbot.addWidget(control.native)
        getattr(control, "_viewer", model).layers.events.connect(control.reset_choices)
        values: list = []
        control.changed.connect(values.append)
        return control, values

    return follow


def rename(model):
    model.layers["b"].name = "another"


def exchange_names(model):
    a, b = model.layers["a"], model.layers["b"]
    b.name = "temporary"
    a.name, b.name = "b", "a"


def reverse(model):
    model.layers.reverse()


def add(model):
    model.add_image(np.zeros((4, 5)), name="late")


def remove_another(model):
    del model.layers["a"]


@pytest.mark.parametrize("change", [rename, exchange_names, reverse, add, remove_another])
def test_the_chosen_layer_is_kept(model, followed, change):
    b = model.layers["b"]
    choice, emitted = followed(LayerChoice(model, name="layer", value=b))
    change(model)
    assert choice.value is b
    assert choice.native.currentText() == b.name
    assert emitted == []
    assert {choice.native.itemText(i) for i in range(1, len(model.layers) + 1)} == {
        x.name for x in model.layers
    }


@pytest.mark.parametrize("change", [rename, exchange_names, reverse, add, remove_another])
def test_ticks_and_order_of_candidates_are_kept(model, followed, change):
    c, b = model.layers["c"], model.layers["b"]
    picker, emitted = followed(LayerPicker([c, b], viewer=model, name="candidates"))
    change(model)
    assert picker.value == [c, b]
    assert picker.texts()[:2] == [f"1  {c.name}", f"2  {b.name}"]
    assert emitted == []


def test_the_removal_of_a_layer_is_emitted_once(model, followed):
    b = model.layers["b"]
    choice, emitted = followed(LayerChoice(model, name="layer", value=b))
    picker, ticked = followed(LayerPicker([b, model.layers["a"]], viewer=model, name="candidates"))
    model.layers.remove(b)
    assert choice.value is None
    assert emitted == [None]
    assert picker.value == [model.layers["a"]]
    assert ticked == [[model.layers["a"]]]


def test_layers_of_a_proxied_viewer_can_be_chosen(model, followed):
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


def test_other_layers_cannot_be_chosen(model, followed):
    from napari.layers import Image

    elsewhere = Image(np.zeros((4, 5)), name="elsewhere")
    choice, _ = followed(LayerChoice(model, "layer", admits=lambda layer: layer.name != "c"))
    picker, _ = followed(LayerPicker(viewer=model, name="candidates"))
    for layer in (elsewhere, model.layers["c"]):
        with pytest.raises(ValueError, match="not a valid choice"):
            choice.value = layer
    with pytest.raises(ValueError, match='"elsewhere" is not a layer of this viewer'):
        picker.value = [elsewhere]


def test_ticks_order_filter_and_reasons(model, followed):
    a, b, c = (model.layers[name] for name in "abc")
    picker, emitted = followed(LayerPicker(viewer=model, name="candidates"))
    picker.truth = b
    picker.all_button.native.click()
    assert picker.value == [a, c]
    assert "b  (the ground truth itself)" in picker.texts()
    picker.value = [c, a]
    assert picker.texts()[:2] == ["1  c", "2  a"]
    picker.none_button.native.click()
    model.add_image(np.zeros((5, 7)), name="small")
    assert "small  (shape 5 × 7)" in picker.texts()
    picker.filter.value = "sm"
    assert [item.isHidden() for item in picker.items()] == [True, True, True, False]
    assert emitted == [[a, c], [c, a], []]


def test_ticking_a_row_adds_a_candidate(model, followed):
    picker, emitted = followed(LayerPicker(viewer=model, name="candidates"))
    picker.rows.item(1).setCheckState(Qt.CheckState.Checked)
    assert emitted == [[model.layers["b"]]]


def test_long_names_are_elided_in_the_middle(model, followed):
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


def test_the_only_layer_is_chosen_if_asked_for(followed):
    model = ViewerModel()
    choice, emitted = followed(LayerChoice(model, guess=only_layer, name="layer"))
    a = model.add_image(np.zeros((4, 5)), name="a")
    assert choice.value is a
    b = model.add_image(np.zeros((4, 5)), name="b")
    assert choice.value is a
    model.layers.remove(a)
    assert choice.value is b
    assert emitted == [a, b]


def test_a_layer_is_guessed_by_its_name_until_the_user_chooses_none(followed):
    model = ViewerModel()
    choice, _ = followed(LayerChoice(model, guess=likely_truth, name="layer"))
    model.add_image(np.zeros((4, 5)), name="noisy")
    truth = model.add_image(np.zeros((4, 5)), name="Ground truth")
    assert choice.value is truth
    model.layers.remove(truth)
    assert choice.value is None
    target = model.add_image(np.zeros((4, 5)), name="target")
    assert choice.value is target, "the other was removed"
    choice.value = None
    model.add_image(np.zeros((4, 5)), name="gt")
    assert choice.value is None

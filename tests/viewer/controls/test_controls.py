"""Values, labels and widths of controls."""

from __future__ import annotations

import pytest
from magicgui.widgets import CheckBox, Container, SpinBox
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QComboBox

from napari_ensir.settings import FitSettings, RestoreSettings, settings_of
from napari_ensir.viewer.controls.combo import Choice, EditableChoice
from napari_ensir.viewer.controls.forms import Form, button
from napari_ensir.viewer.controls.inputs import (
    Message,
    Number,
    NumberRange,
    Numbers,
    OptionalValue,
    WithButton,
    create_control,
)

WORDS = {None: ("1/8 of the range", "The default."), "auto": ("best", "By cross-validation.")}


@pytest.fixture
def record_changes():
    """Return a list of the values that a control emits."""

    def record(widget) -> list:
        values: list = []
        widget.changed.connect(values.append)
        return values

    return record


@pytest.mark.parametrize("value", [1e-5, 3.2e-7, 0.1, 1 / 3, 32.0, 123456.5, 0.0, -2.25])
def test_numbers_keep_nine_digits(qtbot, value):
    number = Number(name="x")
    qtbot.addWidget(number.native)
    number.value = value
    assert number.value == pytest.approx(value, rel=1e-8)
    shown = number.native.text()
    assert "e" not in shown
    assert len(shown) < 14, "no trailing zeros"


def test_small_numbers_can_be_typed_if_the_range_is_small(qtbot):
    number = Number(name="x", min=0)
    qtbot.addWidget(number.native)
    number.suit(1e-4)
    number.native.lineEdit().clear()
    qtbot.keyClicks(number.native, "0.0000125")
    qtbot.keyClick(number.native, Qt.Key.Key_Enter)
    assert number.value == pytest.approx(1.25e-5, abs=1e-7)


def test_a_number_changes_when_typing_is_finished(qtbot, record_changes):
    number = Number(name="x")
    qtbot.addWidget(number.native)
    values = record_changes(number)
    number.native.lineEdit().clear()
    qtbot.keyClicks(number.native, "16")
    assert values == []
    qtbot.keyClick(number.native, Qt.Key.Key_Enter)
    assert values == [16.0]


def test_optional_values(qtbot, record_changes):
    control = OptionalValue(Number(min=0, name="own"), WORDS, name="bin_width")
    qtbot.addWidget(control.native)
    values = record_changes(control)
    assert control.value is None
    for value in (16.0, "auto", None, 1e-5):
        control.value = value
        assert control.value == value
    assert values == [16.0, "auto", None, 1e-5]
    control.value = 1e-5
    assert len(values) == 4, "no change"


def test_the_value_in_use_is_shown_and_can_be_edited(qtbot, record_changes):
    control = OptionalValue(Number(min=0, name="own"), WORDS, name="bin_width")
    qtbot.addWidget(control.native)
    control.native.show()
    assert not control.inner.native.isVisible()
    values = record_changes(control)
    control.show_value_in_use(32)
    assert control.native.findChild(QComboBox).currentText() == "32: 1/8 of the range"
    assert control.value is None
    assert values == []
    control.native.findChild(QComboBox).setCurrentIndex(2)
    assert control.inner.native.isVisible()
    assert control.value == 32, "by hand starts from the value in use"
    control.inner.value = 31
    assert values == [32, 31]
    control.show_value_in_use(5)
    assert control.value == 31, "a value entered by hand is kept"
    assert control.native.findChild(QComboBox).itemText(0) == "1/8 of the range"


def test_none_can_be_a_key_of_a_choice(qtbot, record_changes):
    choice = Choice({None: ("default", "a"), "em": ("EM", "b")}, name="method", value="em")
    qtbot.addWidget(choice.native)
    values = record_changes(choice)
    choice.value = None
    choice.value = "em"
    assert values == [None, "em"]
    assert choice.native.itemData(1, Qt.ItemDataRole.ToolTipRole) == "b"
    with pytest.raises(ValueError, match="not a valid choice"):
        choice.value = "no such"
    choice.offer({"em": ("EM of another title", ""), 3: ("three", "")})
    assert choice.value == "em"
    choice.offer({3: ("three", "")})
    assert choice.value == 3
    assert values == [None, "em", 3]


def test_text_that_is_not_suggested_can_be_entered(qtbot, record_changes):
    device = EditableChoice(("auto", "cpu"), name="device", value="cpu")
    qtbot.addWidget(device.native)
    values = record_changes(device)
    device.value = "cuda:3"
    assert device.value == "cuda:3"
    device.value = "auto"
    assert values == ["cuda:3", "auto"]


def test_lists_and_ranges_of_numbers(qtbot, record_changes):
    numbers = Numbers(name="prior")
    qtbot.addWidget(numbers.native)
    values = record_changes(numbers)
    numbers.value = (0.5, 0.25, 0.25)
    assert numbers.value == (0.5, 0.25, 0.25)
    assert values[-1] == (0.5, 0.25, 0.25)
    numbers.value = "half, half"
    assert numbers.value == "half, half"
    pair = NumberRange((0.0, 255.0), name="data_range")
    qtbot.addWidget(pair.native)
    values = record_changes(pair)
    pair.value = (3, 3710)
    assert pair.value == (3, 3710)
    assert values == [(3, 3710)], "emitted once"


def test_a_control_with_a_button_has_the_value_of_the_control(qtbot, record_changes):
    control = WithButton(Choice({1: ("one", ""), 2: ("two", "")}, name="table"), button("Open…", "x", "open"))
    qtbot.addWidget(control.native)
    values = record_changes(control)
    box = Container(widgets=[control])
    qtbot.addWidget(box.native)
    control.value = 2
    assert values == [2]
    assert box.asdict() == {"table": 2}


def test_messages_wrap_and_are_hidden_if_empty(qtbot):
    message = Message(name="message")
    form = Container(widgets=[message], labels=False)
    qtbot.addWidget(form.native)
    form.native.show()
    assert not message.native.isVisible()
    message.value = "word " * 200
    assert message.native.isVisible()
    assert form.native.minimumSizeHint().width() < 100
    message.value = ""
    assert not message.native.isVisible()


def test_labels_of_a_form_have_equal_width(qtbot):
    form = Form(
        SpinBox(name="a"), SpinBox(name="b", label="A much longer label"), CheckBox(name="c", text="c")
    )
    qtbot.addWidget(form.native)
    form.native.show()
    form.append(SpinBox(name="d", label="The longest label of all the labels"))
    fields = [w.native for w in form if not isinstance(w, CheckBox)]
    qtbot.waitUntil(lambda: len({w.mapTo(form.native, QPoint()).x() for w in fields}) == 1, timeout=60_000)


def test_the_wheel_does_not_change_controls_without_focus(qtbot):
    form = Form(
        Choice({1: ("one", ""), 2: ("two", "")}, name="a"), Number(name="b", value=3), SpinBox(name="c")
    )
    qtbot.addWidget(form.native)
    form.native.show()
    before = form.asdict()
    for control in form:
        place = QPointF(5, 5)
        wheel = QWheelEvent(
            place,
            place,
            QPoint(0, -120),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(control.native, wheel)
    assert form.asdict() == before


def test_all_parts_of_a_form_have_accessible_names(qtbot):
    form = Form(
        OptionalValue(NumberRange(name="own"), WORDS, name="data_range", label="Data range"),
        Choice({1: ("one", "")}, name="a", label="The choice"),
    )
    qtbot.addWidget(form.native)
    assert form.a.native.accessibleName() == "The choice"
    assert form.data_range.native.accessibleName() == "Data range"
    for part in form.data_range.inner:
        assert part.native.accessibleName()


SETTINGS = {each.name: each for kind in (FitSettings, RestoreSettings) for each in settings_of(kind)}
VALUES = {
    "method": ["em", "auto", "least-squares"],
    "bin_width": [None, 16.0, "auto", 1e-5],
    "shrinkage": [1000.0, "auto", 50.0],
    "truth_noise": [None, "unknown", 0.125],
    "match_truth": ["auto", "never"],
    "prior": [None, (0.5, 0.25, 0.25)],
    "max_iter": [None, 7],
    "data_range": [None, (0.0, 3710.0), (0.0, 1e-4)],
    "planes": [None, (4, 11), (3, 3)],
    "channel_axis": [None, 0, -1],
    "device": ["auto", "cpu", "cuda:1"],
    "self_ensemble": [False, True],
    "hash_inputs": [False, True],
    "seed": [0, 3],
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_every_setting_has_a_control(qtbot, setting):
    control = create_control(setting)
    form = Form(control)
    qtbot.addWidget(form.native)
    assert control.name == setting.name
    assert control.tooltip == setting.description
    assert control.native.accessibleName() == setting.title
    assert setting.checked(control.value) == setting.checked(setting.default)
    for value in VALUES.get(setting.name, [setting.default]):
        control.value = value
        assert setting.checked(control.value) == value
        assert form.asdict() == {setting.name: control.value}
    assert form.native.minimumSizeHint().width() < 330

"""Requirements that all panels meet: size, names, values, tooltips and accessible names."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from magicgui.widgets import Container
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QApplication, QComboBox, QLineEdit, QListWidget

import napari_ensir.viewer as viewer_package
from napari_ensir.viewer.controls.forms import Form

PANELS = (
    "Fit ensemble",
    "Apply lookup table",
    "Inspect lookup table",
    "Look side by side",
    "Restore",
    "Process a folder",
    "Train a restorer",
)


@pytest.fixture(params=PANELS)
def panel(request, viewer, qtbot):
    """Each panel, opened as a user opens it, with two images."""
    for name in (
        "a rather long name of a layer, which is common",
        "another name, no shorter than the first",
    ):
        viewer.add_image(np.eye(16, dtype=np.uint8), name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", request.param)
    qtbot.wait(100)
    return widget


def test_panels_meet_the_requirements(viewer, panel, qtbot):
    _check_names_and_tooltips(panel)
    _check_labels(panel, qtbot)
    _check_size(viewer, panel, qtbot)
    _check_values(panel)


def _check_size(viewer, panel, qtbot):
    window = viewer.window._qt_window
    window.resize(1000, 600)
    panel.say("A long message. " * 60)
    qtbot.waitUntil(lambda: panel.native.verticalScrollBar().maximum() > 0, timeout=60_000)
    assert panel.native.minimumWidth() <= 330
    assert panel.native.horizontalScrollBar().maximum() == 0
    assert window.height() <= 620


def _check_values(panel):
    state = panel.asdict()
    assert not {*state, *(each.name for each in panel)} & set(dir(Container))
    panel.update(state)
    assert panel.asdict() == state


def _check_labels(panel, qtbot):
    def is_aligned(form):
        seen = [each.native for each in form if each.native.isVisible() and not hasattr(each, "text")]
        return len({each.mapTo(panel.native.widget(), each.rect().topLeft()).x() for each in seen}) <= 1

    forms = [each for each in panel if isinstance(each, Form)]
    qtbot.waitUntil(lambda: all(map(is_aligned, forms)), timeout=60_000)


def _check_names_and_tooltips(panel):
    QApplication.processEvents()
    for kind in (QAbstractButton, QAbstractSpinBox, QComboBox, QListWidget):
        for control in panel.native.widget().findChildren(kind):
            if control.isVisible():
                assert control.accessibleName(), (kind.__name__, control.objectName(), control.parent())
    for line in panel.native.widget().findChildren(QLineEdit):
        if line.isVisible() and not isinstance(line.parent(), QAbstractSpinBox | QComboBox):
            assert line.accessibleName()
    seen = [each for each in _leaves(panel) if each.native.isVisible()]
    explained = [each for each in seen if not each.gui_only or hasattr(each, "text")]
    assert [each.name for each in explained if not each.tooltip] == []


def _leaves(container):
    for each in container:
        if isinstance(each, Container):
            yield from _leaves(each)
        else:
            yield each


MAGICGUI_WIDGETS = (
    *("QComboBox", "QSpinBox", "QDoubleSpinBox", "QCheckBox", "QLineEdit", "QPushButton", "QFormLayout"),
    *("QGroupBox", "QTableWidget", "QSlider", "QLabel", "QRadioButton", "QStackedWidget"),
)


def test_controls_are_magicgui_widgets():
    made = {}
    for path in Path(viewer_package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.func] if isinstance(node, ast.Call) else getattr(node, "bases", [])
            found = {each.id for each in names if isinstance(each, ast.Name)} & {*MAGICGUI_WIDGETS}
            if found:
                made.setdefault(path.name, set()).update(found)
    assert not made

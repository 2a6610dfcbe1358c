"""The base class of panels: values, docking, tasks and messages."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from magicgui.widgets import Container, PushButton
from qtpy.QtWidgets import QApplication

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form
from napari_ensir.viewer.controls.inputs import Number, OptionalValue
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.picker import LayerPicker
from napari_ensir.viewer.panel import Panel


class Example(Panel):
    """A panel with all kinds of controls."""

    def __init__(self, viewer) -> None:
        self.done: list = []
        self.work = lambda progress: 42
        self.picker = LayerPicker(viewer=viewer, name="candidates", label="Candidates")
        form = Form(
            LayerChoice(viewer, name="truth"),
            OptionalValue(Number(name="own"), {None: ("default", "")}, name="bin_width"),
            Choice({"a": ("A", ""), "b": ("B", "")}, name="method"),
            name="form",
        )
        super().__init__(viewer, self.picker, form, action="Work", about="Do it.")

    def run(self) -> None:
        self.start(lambda progress: self.work(progress), "Working", self.done.append)


@pytest.fixture
def docked(viewer):
    for name in "ab":
        viewer.add_image(np.zeros((8, 8), np.uint8), name=name)
    panel = Example(viewer)
    viewer.window.add_dock_widget(panel, name="example")
    return panel


def test_values_are_read_and_set_by_name(viewer, docked):
    a, b = viewer.layers
    docked.bin_width.value = 3
    docked.candidates.value = [b, a]
    docked.truth.value = a
    state = docked.asdict()
    assert state == {"candidates": [b, a], "truth": a, "bin_width": 3, "method": "a"}
    other = Example(viewer)
    viewer.window.add_dock_widget(other, name="other")
    emitted: list = []
    other.changed.connect(emitted.append)
    other.update(state, method="b")
    assert other.asdict() == {**state, "method": "b"}
    assert emitted == [other]
    with pytest.raises(EnsembleError, match=r"no control 'widht'; choose from: candidates, truth"):
        other.update(widht=3)


def test_no_control_has_the_name_of_a_container_attribute(docked):
    names = {*docked.asdict(), *(each.name for each in docked)}
    assert not names & set(dir(Container))


def test_a_task_shows_its_progress(docked, wait_for, qtbot):
    opened = threading.Event()

    def work(progress):
        while not opened.is_set():
            progress(40, 100, "counting")
            time.sleep(0.01)
        return 7

    docked.work = work
    docked.run_button.native.click()
    assert docked.is_running
    qtbot.waitUntil(lambda: "Counting, 40%" in docked.working.value, timeout=60_000)
    assert docked.working.value.endswith(" s")
    opened.set()
    wait_for(docked)
    assert docked.done == [7]
    assert not docked.is_running
    assert docked.working.value == ""


def test_one_task_at_a_time(docked, wait_for):
    docked.run()
    with pytest.raises(EnsembleError, match="task is running"):
        docked.run()
    wait_for(docked)
    assert docked.done == [42]


def test_errors_of_tasks_and_slots_are_shown(docked, wait_for):
    def fails(progress):
        raise EnsembleError("something failed.")

    docked.work = fails
    docked.run()
    wait_for(docked)
    assert docked.message.value == "something failed."
    docked.method.changed.connect(docked.safely(lambda: [].pop()))
    docked.method.value = "b"
    assert "IndexError" in docked.message.value


def test_closing_the_dock_cancels_the_task_and_the_panel_can_be_docked_again(viewer, docked, qtbot, wait_for):
    begun, ended = threading.Event(), threading.Event()

    def endless(progress):
        begun.set()
        try:
            while True:
                progress(0, 1, "waiting")
                time.sleep(0.005)
        finally:
            ended.set()

    def listeners():
        return len(viewer.layers.events.callbacks)

    docked.work = endless
    docked.run()
    assert begun.wait(60)
    open_ones = listeners()
    viewer.window.remove_dock_widget(docked.native)
    qtbot.waitUntil(ended.is_set, timeout=60_000)
    wait_for(docked)
    assert listeners() == open_ones - 1
    viewer.add_image(np.zeros((8, 8), np.uint8), name="while closed")
    viewer.window.add_dock_widget(docked, name="again")
    assert len(docked.candidates.keys()) == 3
    viewer.add_image(np.zeros((8, 8), np.uint8), name="after")
    assert len(docked.candidates.keys()) == 4
    docked.work = lambda progress: 1
    docked.run()
    wait_for(docked)
    assert docked.done == [1]


def test_the_panel_is_narrow_and_scrolls(viewer, docked, qtbot):
    window = viewer.window._qt_window
    window.resize(1000, 600)
    QApplication.processEvents()
    height = window.height()
    docked.say("A long message. " * 60)
    qtbot.waitUntil(lambda: docked.native.verticalScrollBar().maximum() > 0, timeout=60_000)
    assert docked.native.minimumWidth() <= 330
    assert docked.native.minimumSizeHint().height() < 300
    assert docked.native.horizontalScrollBar().maximum() == 0
    assert window.height() == height


def test_panels_are_below_each_other_in_a_tall_window_and_tabs_in_a_low_one(viewer, docked, qtbot):
    window = viewer.window._qt_window

    def seen(panel):
        return panel.native.visibleRegion().boundingRect().height()

    def opened_at(height):
        window.resize(1000, height)
        qtbot.waitUntil(lambda: abs(window.height() - height) < 20, timeout=60_000)
        panel = Example(viewer)
        return panel, viewer.window.add_dock_widget(panel, name=f"opened at {height}")

    second, dock = opened_at(1100)
    qtbot.waitUntil(lambda: min(seen(docked), seen(second)) >= 350, timeout=60_000)
    third, over = opened_at(1100)
    qtbot.waitUntil(lambda: min(seen(docked), seen(third)) >= 350, timeout=60_000)
    viewer.window.remove_dock_widget(over)
    docked.native.parent().setFloating(True)  # floating docks take no space
    third, beside = opened_at(900)
    qtbot.waitUntil(lambda: min(seen(second), seen(third)) >= 350, timeout=60_000)
    docked.native.parent().setFloating(False)
    viewer.window.remove_dock_widget(beside)
    viewer.window.remove_dock_widget(dock)
    third, dock = opened_at(700)
    qtbot.waitUntil(lambda: seen(third) >= 350, timeout=60_000)
    assert window.tabifiedDockWidgets(dock) == [docked.native.parent()]


def test_labels_are_aligned(docked, qtbot):
    def places():
        return {w.native.mapTo(docked.native.widget(), w.native.rect().topLeft()).x() for w in docked.form}

    qtbot.waitUntil(lambda: len(places()) == 1, timeout=60_000)


def test_all_buttons_have_tooltips_and_accessible_names(docked):
    def buttons(container):
        for each in container:
            if isinstance(each, PushButton):
                yield each
            elif hasattr(each, "__iter__"):
                yield from buttons(each)

    found = list(buttons(docked))
    assert len(found) == 2 + 3
    for each in found:
        assert each.tooltip
        assert each.native.accessibleName()

"""Work in turns of the event loop: in order, the window alive between steps, no failure lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from qtpy.QtCore import QObject, QTimer

from napari_ensir.viewer.controls.worker import Turns


@pytest.fixture
def parent(qapp):
    return QObject()


def counting(name, n, log):
    for number in range(n):
        log.append(f"{name}{number}")
        yield


def test_the_first_step_is_at_once_and_the_others_leave_the_loop_its_turns(parent, qtbot):
    log = []
    turns = Turns(parent, log.append)
    beat = QTimer(parent)
    beat.timeout.connect(lambda: log.append("beat"))
    beat.start(0)
    turns.take(counting("a", 4, log))
    assert log == ["a0"]
    assert turns.is_active
    qtbot.waitUntil(lambda: not turns.is_active)
    steps = [log.index(f"a{number}") for number in range(4)]
    assert all("beat" in log[one:other] for one, other in pairwise(steps))


def test_work_waits_for_the_work_before_it(parent, qtbot):
    log = []
    turns = Turns(parent, log.append)
    turns.take(counting("a", 2, log))
    turns.take(counting("b", 2, log))
    qtbot.waitUntil(lambda: not turns.is_active)
    assert log == ["a0", "a1", "b0", "b1"]


def test_a_failure_is_told_and_the_next_work_goes_on(parent, qtbot):
    log = []

    def failing():
        yield
        raise ValueError("no")

    turns = Turns(parent, lambda error: log.append(str(error)))
    turns.take(failing())
    turns.take(counting("b", 1, log))
    qtbot.waitUntil(lambda: not turns.is_active)
    assert log == ["no", "b0"]


def test_a_step_may_let_the_loop_run_and_may_give_more_work(parent, qtbot, qapp):
    log = []
    turns = Turns(parent, lambda error: pytest.fail(str(error)))

    def steps():
        turns.take(counting("b", 1, log))
        qapp.processEvents()
        log.append("a")
        yield

    turns.take(steps())
    qtbot.waitUntil(lambda: not turns.is_active)
    assert log == ["a", "b0"]


def test_what_is_dropped_is_not_done(parent, qtbot):
    log = []
    turns = Turns(parent, log.append)
    turns.take(counting("a", 3, log))
    turns.drop()
    assert not turns.is_active
    qtbot.wait(20)
    assert log == ["a0"]

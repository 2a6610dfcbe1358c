"""The queue of work for the main thread: order, responsiveness and errors."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from qtpy.QtCore import QObject, QTimer

from napari_ensir.viewer.controls.worker import MainThreadQueue


@pytest.fixture
def parent(qapp):
    return QObject()


def counting(name, n, log):
    for number in range(n):
        log.append(f"{name}{number}")
        yield


@pytest.mark.parametrize("interval", [0, 10])
def test_timers_that_are_due_come_before_the_next_step(parent, qtbot, interval):
    log = []

    def slow():
        for each in counting("a", 4, log):
            time.sleep(0.02)
            yield each

    queue = MainThreadQueue(parent, log.append)
    beat = QTimer(parent)
    beat.timeout.connect(lambda: log.append("beat"))
    beat.start(interval)
    queue.put(slow())
    assert log == ["a0"]
    assert queue.is_active
    qtbot.waitUntil(lambda: not queue.is_active, timeout=60_000)
    steps = [log.index(f"a{number}") for number in range(4)]
    assert all("beat" in log[one:other] for one, other in pairwise(steps))


def test_work_is_done_in_order(parent, qtbot):
    log = []
    queue = MainThreadQueue(parent, log.append)
    queue.put(counting("a", 2, log))
    queue.put(counting("b", 2, log))
    qtbot.waitUntil(lambda: not queue.is_active, timeout=60_000)
    assert log == ["a0", "a1", "b0", "b1"]


def test_an_error_is_reported_and_the_next_work_is_done(parent, qtbot):
    log = []

    def failing():
        yield
        raise ValueError("no")

    queue = MainThreadQueue(parent, lambda error: log.append(str(error)))
    queue.put(failing())
    queue.put(counting("b", 1, log))
    qtbot.waitUntil(lambda: not queue.is_active, timeout=60_000)
    assert log == ["no", "b0"]


def test_a_step_may_run_the_event_loop_and_add_work(parent, qtbot, qapp):
    log = []
    queue = MainThreadQueue(parent, lambda error: pytest.fail(str(error)))

    def steps():
        queue.put(counting("b", 1, log))
        qapp.processEvents()
        log.append("a")
        yield

    queue.put(steps())
    qtbot.waitUntil(lambda: not queue.is_active, timeout=60_000)
    assert log == ["a", "b0"]


def test_cleared_work_is_not_done(parent, qtbot):
    log = []
    queue = MainThreadQueue(parent, log.append)
    queue.put(counting("a", 3, log))
    queue.clear()
    assert not queue.is_active
    qtbot.wait(20)
    assert log == ["a0"]

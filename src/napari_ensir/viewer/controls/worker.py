"""Tasks in threads, and a queue of work for the main thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_ensir.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MainThreadQueue", "Task"]

_RUNNING: set[Task] = set()
"""References to running tasks: a QObject must be deleted on the thread that created it."""

_REPORT_INTERVAL = 0.25
"""Minimum number of seconds between progress reports."""


class Task(QObject):
    """Work in a thread that reports progress and can be cancelled.

    ``work`` is called with a callback ``progress(done, total, text)``, which raises
    :class:`~napari_ensir.errors.Cancelled` after :meth:`cancel`. Signals arrive on the main thread:
    ``progressed`` with thousandths done, 1000 and a text; then one of ``returned``, ``failed`` and
    ``cancelled``; then ``finished``.

    napari's progress bar is not used, since creating one repaints the window at once, which can crash OpenGL
    drivers.

    Parameters
    ----------
    work
        Takes the progress callback and returns the result.
    title
        Short description.
    """

    returned = Signal(object)
    failed = Signal(object)
    cancelled = Signal()
    finished = Signal()
    progressed = Signal(int, int, str)

    def __init__(self, work: Callable[[Callable[[int, int, str], None]], Any], title: str) -> None:
        super().__init__()
        self._work = work
        self._stop = threading.Event()
        self._last_report = 0.0
        self.title = title
        self._outcome: tuple[str, Any] = ("cancelled", None)
        # napari keeps all workers for ever; popping the method releases the task, its images and its panel.
        once = [self._run]
        self._worker = create_worker(lambda: once.pop()(), _start_thread=False)
        # A worker does not emit "returned" after napari has told it to quit.
        self._worker.finished.connect(self._end)

    def start(self) -> None:
        """Start the thread and return."""
        _RUNNING.add(self)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to stop; ``cancelled`` is emitted when it has stopped."""
        self._stop.set()

    @property
    def is_cancelling(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._stop.is_set()

    def _run(self) -> None:
        # Exceptions are stored, since napari would show a dialog for one that leaves a worker.
        try:
            self._outcome = "returned", self._work(self._report)
        except Cancelled:
            pass
        except Exception as error:
            self._outcome = "failed", error

    def _report(self, done: int, total: int, text: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._last_report >= _REPORT_INTERVAL:
            self._last_report = now
            # Thousandths, since counts of pixels exceed Qt's 32-bit int.
            self.progressed.emit(round(1000 * done / max(1, total)), 1000, text)

    def _end(self) -> None:
        kind, value = self._outcome
        # Releases images, and the frames of an exception with their tensors on an accelerator.
        self._outcome, self._work = ("cancelled", None), _do_nothing
        if kind == "returned" and self._stop.is_set():
            kind = "cancelled"  # after the last report
        if kind == "returned":
            self.returned.emit(value)
        elif kind == "failed":
            self.failed.emit(value)
        else:
            self.cancelled.emit()
        self.finished.emit()
        # Later, since this method is called by a signal of this object.
        QTimer.singleShot(0, lambda: _RUNNING.discard(self))


def _do_nothing(*_: object) -> None:
    """Replaces the work of a finished task."""


class MainThreadQueue:
    """First-in, first-out queue of iterators that the event loop advances step by step.

    Parameters
    ----------
    parent
        The queue stops when this object is deleted.
    fail
        Called with an exception that a step raises; the rest of its iterator is dropped.
    """

    def __init__(self, parent: QObject, fail: Callable[[Exception], object]) -> None:
        self._fail = fail
        self._waiting: deque[Iterator[object]] = deque()
        self._is_busy = False
        self._timer = QTimer(parent)
        self._timer.setInterval(1)  # with 0 it would precede other timers
        self._timer.timeout.connect(self._step)

    @property
    def is_active(self) -> bool:
        """Whether work is left."""
        return bool(self._waiting)

    def put(self, steps: Iterator[object]) -> None:
        """Append an iterator; its first step is done at once if nothing else is waiting."""
        self._waiting.append(steps)
        if len(self._waiting) == 1:
            self._step()
        if self._waiting:
            self._timer.start()

    def clear(self) -> None:
        """Drop all work that is left."""
        self._waiting.clear()
        self._timer.stop()

    def _step(self) -> None:
        if self._is_busy:  # the current step runs the event loop
            return
        if not self._waiting:
            self._timer.stop()
            return
        steps, self._is_busy = self._waiting[0], True
        try:
            next(steps)
            return
        except StopIteration:
            pass
        except Exception as error:
            self._fail(error)
        finally:
            self._is_busy = False
        if self._waiting and self._waiting[0] is steps:  # the step may have called clear()
            self._waiting.popleft()

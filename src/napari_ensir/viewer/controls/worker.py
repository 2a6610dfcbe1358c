"""Tasks in threads, and a queue of work for the main thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_ensir.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNNING: set[Task] = set()
"""References to running tasks: a QObject must be deleted on the thread that created it."""


class Task(QObject):
    """Work in a thread that reports progress and can be cancelled.

    Signals arrive on the main thread: ``returned`` with each result, ``failed`` with an exception, and at the
    end ``finished``. napari's progress bar is not used, since creating one repaints the window at once, which
    can crash OpenGL drivers.

    Parameters
    ----------
    work
        Called with a callback ``progress(done, total, text)``, which raises
        :class:`~napari_ensir.errors.Cancelled` after :meth:`cancel`. Returns a result, or an iterator of
        results.
    title
        Short description.

    Attributes
    ----------
    step : str
        Description of the current step.
    """

    returned = Signal(object)
    failed = Signal(object)
    finished = Signal()

    def __init__(self, work: Callable[[Callable[[int, int, str], None]], Any], title: str) -> None:
        super().__init__()
        self.step = title
        self._stop = threading.Event()
        # napari keeps all workers for ever; popping the work releases its images and its panel.
        once = [lambda: self._run(work)]
        self._worker = create_worker(lambda: once.pop()(), _start_thread=False)
        self._worker.finished.connect(self._end)

    def start(self) -> None:
        """Start the thread and return."""
        _RUNNING.add(self)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to stop; ``finished`` is emitted when it has stopped."""
        self._stop.set()

    @property
    def is_cancelling(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._stop.is_set()

    def _run(self, work: Callable[[Callable[[int, int, str], None]], Any]) -> None:
        # napari would show a dialog for an exception that leaves a worker.
        try:
            results = work(self._report)
            for result in results if isinstance(results, Iterator) else [results]:
                if not self._stop.is_set():
                    self.returned.emit(result)
        except Cancelled:
            pass
        except Exception as error:
            self.failed.emit(error)

    def _report(self, done: int, total: int, text: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        self.step = f"{text[:1].upper()}{text[1:]}, {done / max(1, total):.0%}"

    def _end(self) -> None:
        self.finished.emit()
        # Later, since this method is called by a signal of this object.
        QTimer.singleShot(0, lambda: _RUNNING.discard(self))


def delayed(parent: QObject, slot: Callable[[], object], milliseconds: int = 0) -> QTimer:
    """Return a timer that calls a slot once after each start, and is deleted with its parent."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer


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
        self._timer.setSingleShot(True)
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

    def clear(self) -> None:
        """Drop all work that is left."""
        self._waiting.clear()
        self._timer.stop()

    def _step(self) -> None:
        if self._is_busy or not self._waiting:  # busy: the current step runs the event loop
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
            if self._waiting:  # the step may have called clear()
                self._timer.start()  # now, so that timers that are due come before the next step
        if self._waiting and self._waiting[0] is steps:
            self._waiting.popleft()

"""Work beside the viewer: in a thread, with progress told as it goes, cancelled at once. Knows no layers.

Whoever starts a task shows its progress. napari's own bar is not used: making one paints the whole window
there and then, within whatever goes on, and that has ended in the OpenGL driver.
"""

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


__all__ = ["Task", "Turns"]


# A task's last reference must not be the thread's: a QObject has to die on the thread it was made on.
_RUNNING: set[Task] = set()

_LEAST_SECONDS = 0.25
"""Between two reports: more of them cannot be read."""


class Task(QObject):
    """One piece of work in a thread.

    ``work`` is called with a ``progress(done, total, text)`` callback, which raises
    :class:`~napari_ensir.errors.Cancelled` once :meth:`cancel` was called. The signals arrive on the main
    thread: exactly one of ``returned``, ``failed`` and ``cancelled``, then ``finished``; before them
    ``progressed`` with thousandths done, a thousand, and what is being done.

    Parameters
    ----------
    work
        Takes the progress callback, gives the result.
    title
        What is done, in a few words.
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
        # The outcome comes back as a value: an exception left in a worker would also open a dialog.
        # napari keeps every worker that ever ran, which must not keep the task, its images and its widget.
        once = [self._run]
        self._worker = create_worker(lambda: once.pop()(), _start_thread=False)
        # "finished" and not "returned", which a worker keeps to itself once napari has told it to quit.
        self._worker.finished.connect(self._end)

    def start(self) -> None:
        """Begin; returns at once."""
        _RUNNING.add(self)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to stop; ``cancelled`` follows when it has."""
        self._stop.set()

    @property
    def is_cancelling(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._stop.is_set()

    def _run(self) -> None:
        try:
            self._outcome = "returned", self._work(self._report)
        except Cancelled:
            pass
        except Exception as error:  # whatever it is, the main thread shows it
            self._outcome = "failed", error

    def _report(self, done: int, total: int, text: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._last_report >= _LEAST_SECONDS:
            self._last_report = now
            # Counts of pixels do not fit Qt's 32-bit int, and nobody needs more than this.
            self.progressed.emit(round(1000 * done / max(1, total)), 1000, text)

    def _end(self) -> None:
        kind, value = self._outcome
        # Neither images nor a failure's frames, with what they hold on an accelerator, outlive the task.
        self._outcome, self._work = ("cancelled", None), _nothing
        if kind == "returned" and self._stop.is_set():
            kind = "cancelled"  # asked to stop after the last report: what came of it is not wanted
        if kind == "returned":
            self.returned.emit(value)
        elif kind == "failed":
            self.failed.emit(value)
        else:
            self.cancelled.emit()
        self.finished.emit()
        # Not within a signal of this very object.
        QTimer.singleShot(0, lambda: _RUNNING.discard(self))


def _nothing(*_: object) -> None:
    """Stands for work that is done."""


class Turns:
    """A line of work, first come, first served.

    Parameters
    ----------
    parent
        Nothing is done any more once it is gone.
    fail
        Called with what a step raised; the rest of its work is dropped.
    """

    def __init__(self, parent: QObject, fail: Callable[[Exception], object]) -> None:
        self._fail = fail
        self._line: deque[Iterator[object]] = deque()
        self._is_busy = False
        self._timer = QTimer(parent)
        self._timer.setInterval(1)  # of 0 it would come before timers that wait longer
        self._timer.timeout.connect(self._step)

    @property
    def is_active(self) -> bool:
        """Whether something is still to be done."""
        return bool(self._line)

    def take(self, steps: Iterator[object]) -> None:
        """Do work that goes one step further at each ``next``: the first at once, unless other work waits."""
        self._line.append(steps)
        if len(self._line) == 1:
            self._step()
        if self._line:
            self._timer.start()

    def drop(self) -> None:
        """Forget what is still to be done."""
        self._line.clear()
        self._timer.stop()

    def _step(self) -> None:
        if self._is_busy:  # a step that lets the event loop run
            return
        if not self._line:
            self._timer.stop()
            return
        steps, self._is_busy = self._line[0], True
        try:
            next(steps)
            return
        except StopIteration:
            pass
        except Exception as error:
            self._fail(error)
        finally:
            self._is_busy = False
        if self._line and self._line[0] is steps:  # a step may have led to drop()
            self._line.popleft()

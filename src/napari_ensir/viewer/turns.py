"""Work of the main thread in steps, one in each turn of the event loop: the window lives between them.

What a step is, a layer added for instance, is for whoever gives them to say. Knows no layers and no widgets.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qtpy.QtCore import QObject

__all__ = ["Turns"]


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

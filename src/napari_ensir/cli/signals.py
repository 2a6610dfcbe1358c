"""How a process ends that is asked to stop: cleared up, with the status shells expect. Knows no commands.

Ctrl-C, a polite kill and a closed terminal raise in the main thread wherever it is, as Python's own Ctrl-C
does. Such an exception can be lost in a library's callback, and is then raised again a moment later, or
turned into another; the signal is remembered all the same.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

__all__ = ["Interrupted", "end"]

_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


class Interrupted(KeyboardInterrupt):
    """Raised where the process was asked to stop.

    Attributes
    ----------
    status : int
        What to exit with: 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def end(work: Callable[[], object]) -> NoReturn:
    """Do the work of a process and end it, with nothing half-written left.

    Parameters
    ----------
    work
        What to do; it may raise ``SystemExit``.
    """
    caught: list[int] = []
    over: list[bool] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not over and _is_compiling():
            _send_again(number)
            return
        caught.append(number)
        if not over:
            raise Interrupted(number)

    status: object = 0
    sys.unraisablehook = _raise_again
    try:
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    signal.signal(number, stop)
            work()
        except SystemExit as error:
            status = error.code
        except BaseException:
            if not caught:
                raise
        finally:
            over.append(True)
    except Interrupted:  # it came between the work's end and the mark that it is over
        over.append(True)
    finally:
        # Nothing that comes from here on may keep the rest from being done.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _clear()
    status = status if _flushed() or status else 1
    if caught:
        # Threads that still compute are not waited for: whatever they make is not wanted any more.
        os._exit(128 + caught[0])
    sys.exit(status)  # type: ignore[arg-type]


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal anew whose exception came where none can be raised, such as a callback from C."""
    if not isinstance(lost.exc_value, Interrupted):
        sys.__unraisablehook__(lost)
        return
    _send_again(lost.exc_value.status - 128)


def _send_again(number: int) -> None:
    later = threading.Timer(0.02, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()


def _is_compiling() -> bool:
    """Whether this thread is within numba's compiler, whose memory an exception there can leave in pieces."""
    room = sys.modules.get("numba.core.compiler_lock")
    return room is not None and bool(room.global_compiler_lock.is_locked())


def _clear() -> None:
    whole = sys.modules.get("napari_ensir.files.atomic")
    if whole is not None:
        whole.clear_parts()


def _flushed() -> bool:
    """Whether all that was said has been taken; if not, Python must not try again as it ends."""
    taken = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            taken = False
            if stream is sys.stdout and sys.stderr is not None:
                print(f"napari-ensir: standard output took no more ({error}).", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return taken

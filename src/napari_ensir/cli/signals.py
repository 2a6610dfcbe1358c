"""Signals end the command line: it cleans up and exits with 128 plus the number of the signal."""

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

_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


def run_and_exit(work: Callable[[], object]) -> NoReturn:
    """Call a function and exit the process; signals raise KeyboardInterrupt in the function.

    Parts of files are removed, and other threads, whose results are not needed any more, are not waited for.

    Parameters
    ----------
    work
        May raise ``SystemExit``.
    """
    caught: list[int] = []
    finished = False

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if not finished:
            raise KeyboardInterrupt

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        """Send the signal again if a callback of a library, such as ``__del__``, lost the exception."""
        if caught and isinstance(lost.exc_value, KeyboardInterrupt):
            threading.Timer(0.02, os.kill, (os.getpid(), caught[-1])).start()
        else:
            sys.__unraisablehook__(lost)

    sys.unraisablehook = raise_again
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    status: object = 0
    try:
        try:
            work()
        finally:
            finished = True
    except SystemExit as error:
        status = error.code
    except BaseException:
        if not caught:
            raise
    finally:
        finished = True  # not set above if a signal came just then
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if atomic := sys.modules.get("napari_ensir.files.atomic"):
            atomic.clear_parts()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        if not status and sys.stderr is not None:
            print(f"napari-ensir: cannot write to standard output ({error}).", file=sys.stderr)
        status = status or 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
    if caught:
        os._exit(128 + caught[0])
    sys.exit(status)  # type: ignore[arg-type]

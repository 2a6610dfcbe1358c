"""Exit of the command line: on signals it cleans up and exits with 128 plus the number of the signal."""

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

__all__ = ["run_and_exit"]

_SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


def run_and_exit(work: Callable[[], object]) -> NoReturn:
    """Call a function and exit the process; signals raise KeyboardInterrupt in the function.

    More than ``signal.signal`` is needed since the exception can be lost in a callback of a library, and must
    not be raised in numba's compiler. Parts of files are removed in any case, and other threads, whose
    results are not needed any more, are not waited for.

    Parameters
    ----------
    work
        May raise ``SystemExit``.
    """
    caught: list[int] = []
    finished = False

    def stop(number: int, frame: FrameType | None) -> None:
        if not finished and _is_compiling():
            _send_again(number)
            return
        caught.append(number)
        if not finished:
            raise KeyboardInterrupt

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if caught and isinstance(lost.exc_value, KeyboardInterrupt):
            _send_again(caught[-1])
        else:
            sys.__unraisablehook__(lost)

    status: object = 0
    sys.unraisablehook = raise_again
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
            finished = True
    except KeyboardInterrupt:  # raised just before ``finished`` was set
        finished = True
        if not caught:
            raise
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if atomic := sys.modules.get("napari_ensir.files.atomic"):
            atomic.clear_parts()
    status = status if _flush() or status else 1
    if caught:
        os._exit(128 + caught[0])
    sys.exit(status)  # type: ignore[arg-type]


def _send_again(number: int) -> None:
    later = threading.Timer(0.02, os.kill, (os.getpid(), number))
    later.daemon = True
    later.start()


def _is_compiling() -> bool:
    """Whether numba's compiler is running, whose state an exception could corrupt."""
    module = sys.modules.get("numba.core.compiler_lock")
    return module is not None and bool(module.global_compiler_lock.is_locked())


def _flush() -> bool:
    """Flush standard output and error; if that fails, prevent Python from trying again."""
    flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            flushed = False
            if stream is sys.stdout and sys.stderr is not None:
                print(f"napari-ensir: cannot write to standard output ({error}).", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return flushed

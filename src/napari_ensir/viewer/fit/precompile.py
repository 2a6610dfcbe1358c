"""Gets the numerical libraries ready while the user still chooses: the first fit would else wait for them.

Compiling holds Python's lock for seconds, and the window with it. So it is done in a process of its own,
which leaves the compiled code on disk; here it is only loaded.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.arrays.blocks import dtype_of, working_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["warm_up"]

_BEGUN: set[tuple[int, str]] = set()

_PROGRAM = (
    "import sys; from napari_ensir.ensemble.precompile import warm_up; "
    "warm_up(int(sys.argv[1]), sys.argv[2:])"
)

_LONGEST = 120
"""Seconds after which compiling is given up; the fit does it then."""


def warm_up(arrays: Sequence[Any]) -> None:
    """Have the loops for candidates like these ready, once for each kind; returns at once.

    Parameters
    ----------
    arrays : M arrays
        No pixel of them is read.
    """
    key = (len(arrays), str(working_dtype([dtype_of(array) for array in arrays])))
    if key not in _BEGUN:
        _BEGUN.add(key)
        threading.Thread(target=_prepare, args=key, name="napari-ensir warm-up", daemon=True).start()


def _prepare(n_candidates: int, dtype: str) -> None:
    import torch  # noqa: F401 -- the first fit needs it, whatever is compiled

    from napari_ensir.ensemble.precompile import warm_up as compile_loops

    _prepare_labels()
    command = [sys.executable, "-c", _PROGRAM, str(n_candidates), dtype]
    try:
        subprocess.run(command, timeout=_LONGEST, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):  # such as where Python is part of one large program
        return
    compile_loops(n_candidates, [dtype])


def _prepare_labels() -> None:
    """What napari's first layer of labels in a session would have the window wait for."""
    for name in ("pandas", "skimage.color"):
        importlib.import_module(name)
    try:
        from vispy.visuals.line.dash_atlas import DashAtlas
    except ImportError:  # it is no more than a wait saved
        return
    DashAtlas()  # patterns of dashed lines, drawn once a process

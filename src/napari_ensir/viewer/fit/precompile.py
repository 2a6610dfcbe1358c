"""Compile the kernels in the background, before the first fit.

The compiler holds Python's global lock for seconds, which would freeze the window. So a separate process
compiles and caches the code on disk; this process only loads it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble import engines
from napari_ensir.ensemble.arrays.blocks import dtype_of, working_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

_BEGUN: set[str] = set()
"""Dtypes that kernels are compiled for already, or being compiled."""

_PROGRAM = "import sys; from napari_ensir.ensemble.precompile import warm_up; warm_up(sys.argv[1:])"

_LONGEST = 120
"""Seconds until the process is stopped; the fit compiles then."""


def warm_up(arrays: Sequence[Any]) -> None:
    """Start compiling the kernels for the dtype of candidates, once; return at once.

    Parameters
    ----------
    arrays : M arrays
        Their pixels are not read.
    """
    dtype = str(working_dtype([dtype_of(array) for array in arrays]))
    if dtype not in _BEGUN:
        _BEGUN.add(dtype)
        threading.Thread(target=_prepare, args=(dtype,), name="napari-ensir warm-up", daemon=True).start()


def _prepare(dtype: str) -> None:
    from napari_ensir.ensemble.precompile import warm_up as compile_loops

    _prepare_labels()
    resolve_device("auto")  # imports torch where the first fit needs it
    command = [sys.executable, "-c", _PROGRAM, dtype]
    engines.compiles_elsewhere = True
    try:
        subprocess.run(command, timeout=_LONGEST, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):  # such as in an application that embeds Python
        return
    finally:
        engines.compiles_elsewhere = False
    compile_loops([dtype])


def _prepare_labels() -> None:
    """Import and build what napari's first labels layer of a session needs."""
    for name in ("pandas", "skimage.color"):
        importlib.import_module(name)
    try:
        from vispy.visuals.line.dash_atlas import DashAtlas
    except ImportError:
        return
    DashAtlas()  # cached per process

"""The compiled loops where there are any, and the sizes of blocks that they and torch work on. Runs none."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["BLOCK_PIXELS", "compiled_loops"]

BLOCK_PIXELS = {"compiled": 2**18, "cpu": 2**18, "gpu": 2**22}
"""Pixels worked on at once: what stays in a core's cache, or keeps an accelerator busy.

Torch on the CPU shares each operation out to threads of its own; with few pixels, starting them takes longer
than the work.
"""


@cache
def compiled_loops() -> Any:
    """The compiled loops of ``kernels.py``, or None where numba is absent."""
    try:
        from napari_ensir.ensemble import kernels
    except ImportError:
        return None
    return kernels

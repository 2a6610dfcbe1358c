"""What counting and combining share: sizes of blocks, and the compiled loops where there are any."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["BLOCK_PIXELS", "compiled_loops"]

BLOCK_PIXELS = {"compiled": 2**18, "cpu": 2**15, "gpu": 2**22}
"""Pixels worked on at once: what stays in a core's cache, or keeps an accelerator busy.

Torch on the CPU shares operations on more than 2**15 numbers out to threads of its own, one by one; here
blocks run side by side instead.
"""


@cache
def compiled_loops() -> Any:
    """The compiled loops of ``kernels.py``, or None where numba is absent."""
    try:
        from napari_ensir.ensemble import kernels
    except ImportError:
        return None
    return kernels

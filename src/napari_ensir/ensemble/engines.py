"""Block sizes of the compiled kernels and of torch, and the choice between the two."""

from __future__ import annotations

from typing import Any

__all__ = ["BLOCK_PIXELS", "compiled_kernels"]

BLOCK_PIXELS = {"compiled": 2**18, "cpu": 2**18, "gpu": 2**22}
"""Pixels per block: what fits a core's cache, or keeps an accelerator busy.

On the CPU, torch distributes each operation over threads; for small blocks, starting them takes longer than
the operation.
"""


def compiled_kernels() -> Any:
    """Return the module of compiled kernels; tests return None instead to select torch on the CPU."""
    from napari_ensir.ensemble import kernels

    return kernels

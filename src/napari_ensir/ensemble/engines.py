"""Block sizes of the engines, and the choice of the engine: compiled kernels, numpy or torch."""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

    Engine = Literal["compiled", "numpy", "torch"]

BLOCK_PIXELS = {"compiled": 2**18, "numpy": 2**18, "torch": 2**22}
"""Pixels per block: what fits a core's cache, or keeps an accelerator busy."""

SMALL = {"count": 2**25, "combine": 2**26}
"""Values that numpy processes before a kernel is compiled for their dtype; compiling takes as long."""

forced: Engine | None = None
"""Engine of the CPU, for tests and benchmarks."""

_processed: Counter[tuple[str, np.dtype[Any]]] = Counter()


def choose_engine(
    kernel: str, dtype: np.dtype[Any], n_values: int, device: torch.device | None = None
) -> Engine:
    """Choose the engine for a block; the results of all engines are the same.

    Small work does not wait for the compiler: until a kernel is compiled for a dtype, in this process or on
    disk, numpy processes the first :data:`SMALL` of its values.

    Parameters
    ----------
    kernel
        Name of the kernel, whose second argument is an array of the dtype.
    dtype
        Dtype of the block.
    n_values
        Number of values to process: pixels times images.
    device
        Accelerators work in torch.

    Examples
    --------
    >>> import numpy as np
    >>> choose_engine("combine", np.dtype(np.uint8), 2**30)
    'compiled'
    """
    if device is not None and device.type != "cpu":
        return "torch"
    if forced is not None:
        return forced
    _processed[kernel, dtype] += n_values
    is_large = _processed[kernel, dtype] > SMALL[kernel]
    return "compiled" if is_large or _is_compiled(kernel, dtype) else "numpy"


def compile_at_once(dtype: np.dtype[Any]) -> None:
    """Let the next block of a dtype wait for the compiler, however small it is."""
    for kernel, small in SMALL.items():
        _processed[kernel, dtype] = small + 1


def _is_compiled(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel is compiled for a dtype, in this process or on disk."""
    from numba import from_dtype

    from napari_ensir.ensemble import kernels

    kernel, wanted = getattr(kernels, name), from_dtype(dtype)
    if any(signature[1].dtype == wanted for signature in kernel.signatures):
        return True
    try:  # numba has no public name for the files of its cache
        file = kernel._cache._cache_file
        return wanted in _read_cached(file, os.stat(file._index_path).st_mtime_ns)
    except (AttributeError, OSError):
        return False


@lru_cache
def _read_cached(file: Any, changed: int) -> set[Any]:
    """Return the dtypes that one of numba's index files lists; it is read again when it has changed."""
    return {signature[1].dtype for signature, *_ in file._load_index()}

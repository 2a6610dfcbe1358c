"""Block sizes of the engines, and the choice of the engine: compiled kernels, numpy or torch."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

    Engine = Literal["compiled", "numpy", "torch"]

BLOCK_PIXELS = {"compiled": 2**18, "numpy": 2**18, "torch": 2**22}
"""Pixels per block: what fits a core's cache, or keeps an accelerator busy."""

DELAYS = {"count": 15, "combine": 10, "iterate_em": 150, "count_errors": 35, "look_up_errors": 15}
"""Nanoseconds per value that numpy takes longer than each compiled kernel."""

LOADING, COMPILING = 0.25e9, 3e9
"""Delays, in nanoseconds, from which on numba is imported for a kernel on disk, and a kernel is compiled.

Compiling takes as long; importing twice as long, but pixels that are counted are usually combined as well.
"""

forced: Engine | None = None
"""Engine of the CPU, for tests and benchmarks."""

compiles_elsewhere = False
"""Whether another process is compiling the kernels, so that this one does not."""

_delays: Counter[tuple[str, np.dtype[Any] | None]] = Counter()


def choose_engine(
    kernel: str,
    dtype: np.dtype[Any],
    n_values: int,
    device: torch.device | None = None,
    *,
    is_small: bool = False,
) -> Engine:
    """Choose the engine for a block; the results of all engines are the same, those of EM but for rounding.

    Small work waits neither for the import of numba nor for its compiler: numpy does the work until it has
    taken as much longer than compiled kernels as loading, or compiling, the kernel takes.

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
    is_small
        Use numpy on the CPU, whatever is compiled.

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
    if is_small:
        return "numpy"
    if _is_loaded(kernel, dtype):
        return "compiled"
    _delays[kernel, dtype] += n_values * DELAYS[kernel]
    if _KERNELS not in sys.modules and _delays.total() <= LOADING:
        return "numpy"
    may_compile = _delays[kernel, dtype] > COMPILING and not compiles_elsewhere
    return "compiled" if may_compile or _is_on_disk(kernel, dtype) else "numpy"


def is_small_fit(n_values: int, n_shares: int) -> bool:
    """Return whether a set is fitted without numba in a new process.

    Parameters
    ----------
    n_values
        Pixels times images of the reference set.
    n_shares
        Levels of the ground truth in the bin sets, times candidates, of one EM; a fit may run ten.
    """
    return max(n_values * DELAYS["count"], 10 * n_shares * DELAYS["iterate_em"]) <= LOADING


def expect_work(kernel: str, n_values: int) -> None:
    """Announce the size of work that begins, so that numba is not imported in the middle of it."""
    _delays[kernel, None] = max(_delays[kernel, None], n_values * DELAYS[kernel])


def compile_at_once(dtype: np.dtype[Any]) -> None:
    """Let the next block of a dtype wait for the compiler, however small it is."""
    import numpy as np

    real = np.result_type(dtype, np.float32)
    dtypes = {"iterate_em": np.dtype(np.float64), "count_errors": real, "look_up_errors": real}
    for kernel in DELAYS:
        _delays[kernel, dtypes.get(kernel, dtype)] = int(COMPILING) + 1


_KERNELS = "napari_ensir.ensemble.kernels"


def _is_loaded(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel is compiled for a dtype in this process."""
    if _KERNELS not in sys.modules:
        return False
    from numba import from_dtype

    kernel, wanted = getattr(sys.modules[_KERNELS], name, None), from_dtype(dtype)
    return any(signature[1].dtype == wanted for signature in getattr(kernel, "signatures", ()))


def _is_on_disk(name: str, dtype: np.dtype[Any]) -> bool:
    """Whether the code of a kernel for a dtype is on disk."""
    from numba import from_dtype

    from napari_ensir.ensemble import kernels

    try:  # numba has no public name for the files of its cache
        file = getattr(kernels, name)._cache._cache_file
        return from_dtype(dtype) in _read_cached(file, os.stat(file._index_path).st_mtime_ns)
    except (AttributeError, OSError):
        return False


@lru_cache
def _read_cached(file: Any, changed: int) -> set[Any]:
    """Return the dtypes that one of numba's index files lists; it is read again when it has changed."""
    return {signature[1].dtype for signature, *_ in file._load_index()}

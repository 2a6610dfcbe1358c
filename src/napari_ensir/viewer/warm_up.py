"""Gets the numerical libraries ready while the user still chooses: the first fit would else wait for them."""

from __future__ import annotations

import threading

__all__ = ["warm_up"]

_BEGUN = threading.Event()


def warm_up() -> None:
    """Import and compile in a thread, once a session; returns at once."""
    if not _BEGUN.is_set():
        _BEGUN.set()
        threading.Thread(target=_fit_a_little, name="napari-ensir warm-up", daemon=True).start()


def _fit_a_little() -> None:
    """Go once through what a fit of grey 8-bit images goes through."""
    import numpy as np

    from napari_ensir.ensemble.fit import fit_lut

    truth = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    candidates = [truth // 2 * 2, truth // 4 * 4]
    lut = fit_lut([(candidates, truth)], device="cpu")
    lut.apply(candidates, "cpu")
    lut.weight_maps(candidates, "cpu")

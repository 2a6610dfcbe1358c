"""What a header can say of a restorer, so that one trained around it finds it again. Rebuilds none."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.learned import LearnedRestorer

if TYPE_CHECKING:
    from napari_ensir.restorers.base import Restorer

__all__ = ["describe"]


def describe(restorer: Restorer) -> dict[str, Any]:
    """What a header can say of a restorer: enough to rebuild it where it is one of ours, else its name."""
    if isinstance(restorer, LearnedRestorer):
        return restorer.header()
    for key, kind in CLASSICAL.items():
        if type(restorer) is kind:
            return {"kind": "classical", "method": key, "settings": asdict(restorer)}
    return {"kind": "other", "name": restorer.name}

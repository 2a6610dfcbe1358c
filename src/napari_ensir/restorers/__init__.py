"""Where candidates can come from: callables from a degraded image to a restored one.

- :mod:`.classical`: methods of scikit-image, no training.
- :mod:`.self_ensemble`: eight orientations of any restorer, averaged.
- :mod:`.ir_cm`, :mod:`.dp_ir`, :mod:`.regression`, :mod:`.denoiser`: trained here, by :mod:`.training`
  with the settings of :mod:`.recipes`; :func:`load_restorer` reads their checkpoints. No weights are shipped.
- :mod:`.blind`: which of them to trust, learned from the noisy image alone.
- :mod:`.own_network`: a network of the user's; :mod:`.careamics`, :mod:`.bioimageio`: files of those.
  :func:`open_restorer` reads a file of any of these kinds.

The names below are imported when first used: torch and scikit-image are loaded by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_ensir.restorers.base import Progress, Restorer, with_channel_axis
    from napari_ensir.restorers.blind import blind_reference, learn_blind, restore_and_combine
    from napari_ensir.restorers.classical import CLASSICAL
    from napari_ensir.restorers.dp_ir import DPIR
    from napari_ensir.restorers.ir_cm import IRCM
    from napari_ensir.restorers.opening import open_restorer, open_restorers
    from napari_ensir.restorers.own_network import load_network, load_spandrel
    from napari_ensir.restorers.ranking import rank_restorers, sweep_setting
    from napari_ensir.restorers.recipes import RECIPES, begin_training, continue_training
    from napari_ensir.restorers.self_ensemble import SelfEnsemble
    from napari_ensir.restorers.trained import load_restorer, resume_training
    from napari_ensir.restorers.training import Trainer, TrainingPairs, TrainingSettings

__all__ = [
    "CLASSICAL",
    "DPIR",
    "IRCM",
    "RECIPES",
    "Progress",
    "Restorer",
    "SelfEnsemble",
    "Trainer",
    "TrainingPairs",
    "TrainingSettings",
    "begin_training",
    "blind_reference",
    "continue_training",
    "learn_blind",
    "load_network",
    "load_restorer",
    "load_spandrel",
    "open_restorer",
    "open_restorers",
    "rank_restorers",
    "restore_and_combine",
    "resume_training",
    "sweep_setting",
    "with_channel_axis",
]

_HOME = {
    "CLASSICAL": "classical",
    "DPIR": "dp_ir",
    "IRCM": "ir_cm",
    "RECIPES": "recipes",
    "Progress": "base",
    "Restorer": "base",
    "SelfEnsemble": "self_ensemble",
    "Trainer": "training",
    "TrainingPairs": "training",
    "TrainingSettings": "training",
    "begin_training": "recipes",
    "blind_reference": "blind",
    "continue_training": "recipes",
    "learn_blind": "blind",
    "load_network": "own_network",
    "load_restorer": "trained",
    "load_spandrel": "own_network",
    "open_restorer": "opening",
    "open_restorers": "opening",
    "rank_restorers": "ranking",
    "restore_and_combine": "blind",
    "resume_training": "trained",
    "sweep_setting": "ranking",
    "with_channel_axis": "base",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

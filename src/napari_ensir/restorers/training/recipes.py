"""Ready-made trainings: which model, and settings that suit it on a small machine.

A recipe fills in what a user need not know; :class:`napari_ensir.restorers.training.trainer.Trainer` takes
everything that can be set.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import Restorer, with_settings
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel, ConsistencySettings
from napari_ensir.restorers.training.load import load_restorer, resume_training
from napari_ensir.restorers.training.models import (
    Denoiser,
    DenoiserModel,
    DenoiserSettings,
    Regression,
    RegressionModel,
    RegressionSettings,
)
from napari_ensir.restorers.training.trainer import Trainer, TrainingPairs, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress

    Pairs = Sequence[tuple[NDArray[Any], NDArray[Any]]]

__all__ = ["RECIPES", "Recipe", "begin_training", "continue_training", "snapshot"]

# Of patches of 96 pixels the same time allows a quarter as many steps, and at 2e-3 they hardly converge
# (28.8 dB where these reach 31.2 dB, see benchmarks/restorers.md).
_UNET = TrainingSettings(batch=8, patch=48, learning_rate=1e-3)
_FUSION = TrainingSettings(batch=4, patch=32, learning_rate=2e-4)


@dataclass(frozen=True)
class Recipe:
    """One kind of training.

    Parameters
    ----------
    title, description
        A label, and one sentence.
    settings
        How to train, but for steps and seed.
    steps, width
        Sensible starts.
    linear_share
        Of IR-CM; see :class:`napari_ensir.restorers.training.ir_cm.ConsistencySettings`.
    """

    title: str
    description: str
    settings: TrainingSettings = _UNET
    steps: int = 2400
    width: int = 32
    linear_share: float = 0.5


RECIPES: dict[str, Recipe] = {
    "regression": Recipe(
        "Regression", "A network that returns the clean image at once, by the absolute error. Start here."
    ),
    "ir-cm": Recipe(
        "IR-CM, stages 1 and 2",
        "The consistency model: half of the steps on paths from the degraded image, half from the clean one.",
    ),
    "ir-cm-1": Recipe(
        "IR-CM, stage 1 only",
        "The consistency model on paths that start at the degraded image.",
        linear_share=1.0,
    ),
    "ir-cm-2": Recipe(
        "IR-CM, stage 2 only",
        "The consistency model on paths that start at the clean image.",
        linear_share=0.0,
    ),
    "denoiser": Recipe(
        "Denoiser",
        "A network that removes Gaussian noise of any level, learned from the clean image alone; "
        "DP-IR can use it.",
        steps=1200,
    ),
    "dp-ir": Recipe(
        "DP-IR",
        "A small network that fuses what a restorer and a denoiser say, both of which stay as they are.",
        settings=_FUSION,
        steps=600,
        width=64,
    ),
}
"""Every recipe under the key that scripts use."""


def begin_training(
    recipe: str,
    pairs: Pairs,
    *,
    channel_axis: int | None = None,
    steps: int | None = None,
    width: int | None = None,
    seed: int = 0,
    preview_every: int = 0,
    device: str = "auto",
    ir: Restorer | None = None,
    denoiser: Denoiser | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """A trainer that has made no step yet.

    Parameters
    ----------
    recipe
        A key of :data:`RECIPES`.
    pairs
        (degraded, clean) images.
    channel_axis
        Of every image.
    steps, width
        None: the recipe's.
    seed
        Of the network's first weights and of everything random in the training.
    preview_every
        Steps between previews; 0: none.
    device
        See :func:`napari_ensir.devices.resolve_device`.
    ir, denoiser
        For DP-IR: the restorer, which is needed, and the denoiser (None: one without weights). Both stay
        as they are.
    progress
        Follows the restorer that DP-IR is trained on.

    Returns
    -------
    Trainer

    Raises
    ------
    EnsembleError
        If the recipe is unknown, or the images or settings cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=1, width=8, device="cpu")
    >>> [event.step for event in trainer.run()]
    [1]
    """
    if recipe not in RECIPES:
        raise EnsembleError(f"there is no training {recipe!r}; choose one of {', '.join(RECIPES)}.")
    if recipe == "dp-ir" and ir is None:
        raise EnsembleError("DP-IR is built around a restorer; choose one as its IR network.")
    chosen = RECIPES[recipe]
    settings = replace(chosen.settings, steps=steps or chosen.steps, seed=seed, preview_every=preview_every)
    data = TrainingPairs.from_arrays(pairs, channel_axis=channel_axis)
    # The first weights are the seed's, whatever else has drawn numbers; nothing else notices.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, make = _untrained(recipe, data.channels, width or chosen.width, denoiser)
    if recipe == "dp-ir" and ir is not None:
        data = _restored(ir, device, pairs, channel_axis, data.data_range, progress)
        make = partial(DPIR, ir=ir)
    return Trainer(model, data, settings, make=make, device=device)


def _untrained(
    recipe: str, channels: int, width: int, denoiser: Denoiser | None
) -> tuple[Any, Callable[..., Any]]:
    """A recipe's model and the restorer that applies it."""
    if recipe == "dp-ir":
        d = None if denoiser is None else copy.deepcopy(denoiser.model)
        if d is not None and d.channels != channels:
            raise EnsembleError(
                f"the denoiser takes {d.channels} colour channels and the images have {channels}."
            )
        return FusionModel.around(d, channels=channels, width=width), DPIR
    if recipe == "regression":
        return RegressionModel(RegressionSettings(channels=channels, width=width)), Regression
    if recipe == "denoiser":
        return DenoiserModel(DenoiserSettings(channels=channels, width=width)), Denoiser
    share = RECIPES[recipe].linear_share
    return ConsistencyModel(ConsistencySettings(channels=channels, width=width, linear_share=share)), IRCM


def continue_training(
    path: str | Path,
    pairs: Pairs,
    *,
    channel_axis: int | None = None,
    preview_every: int = 0,
    device: str = "auto",
    ir: Restorer | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """A trainer that goes on where a checkpoint left off.

    With the images of before it makes the very steps that it would have made; other images serve as
    well, and are brought to the checkpoint's data range.

    Parameters
    ----------
    path
        A checkpoint that :meth:`Trainer.save` wrote.
    pairs, channel_axis, preview_every, device, progress
        As in :func:`begin_training`.
    ir
        For DP-IR around a restorer that its checkpoint could only name: that restorer.

    Returns
    -------
    Trainer

    Raises
    ------
    EnsembleError
        As in :func:`napari_ensir.restorers.training.load.resume_training`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=2, width=8, device="cpu")
    >>> next(trainer.run()).step
    1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     again = continue_training(f"{folder}/mine.safetensors", [(clean, clean)], device="cpu")
    >>> [event.step for event in again.run()]
    [2]
    """
    restorer = load_restorer(path, device=device, ir=ir)
    if isinstance(restorer, DPIR):
        data = _restored(restorer.ir, device, pairs, channel_axis, restorer.data_range, progress)
    else:
        data = TrainingPairs.from_arrays(pairs, channel_axis=channel_axis, data_range=restorer.data_range)
    trainer = resume_training(path, data, device=device, ir=ir)
    trainer.settings = replace(trainer.settings, preview_every=preview_every)
    return trainer


def snapshot(trainer: Trainer) -> Any:
    """The restorer as trained so far, with a model of its own, which further training leaves alone."""
    restorer = trainer.restorer()
    return replace(restorer, model=copy.deepcopy(restorer.model))


def _restored(
    ir: Restorer,
    device: str,
    pairs: Pairs,
    channel_axis: int | None,
    data_range: tuple[float, float] | None,
    progress: Progress | None,
) -> TrainingPairs:
    """What IR makes of the degraded images, beside the clean ones."""
    apply = with_settings(ir, channel_axis=channel_axis, device=device)
    restored = [(apply(degraded, progress=progress), clean) for degraded, clean in pairs]
    return TrainingPairs.from_arrays(restored, channel_axis=channel_axis, data_range=data_range)

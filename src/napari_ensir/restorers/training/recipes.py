"""Recipes: a model and training settings that suit it on a small machine."""

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

# Patches of 96 pixels allow a quarter of the steps in the same time and, at a learning rate of 2e-3, reach
# 28.8 dB where these settings reach 31.2 dB (benchmarks/restorers.md).
_UNET = TrainingSettings(batch=8, patch=48, learning_rate=1e-3)
_FUSION = TrainingSettings(batch=4, patch=32, learning_rate=2e-4)


@dataclass(frozen=True)
class Recipe:
    """A model with the settings to train it.

    Parameters
    ----------
    title, description
        A label and a sentence.
    settings
        Settings of the training; steps and seed are replaced.
    steps, width
        Default number of steps and of features.
    linear_share
        Share of stage 1 of IR-CM; see :class:`napari_ensir.restorers.training.ir_cm.ConsistencySettings`.
    """

    title: str
    description: str
    settings: TrainingSettings = _UNET
    steps: int = 2400
    width: int = 32
    linear_share: float = 0.5


RECIPES: dict[str, Recipe] = {
    "regression": Recipe(
        "Regression", "A network trained to return the clean image by the mean absolute error. Start here."
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
        "A small network that combines the images of a restorer and of a denoiser, which are not changed.",
        settings=_FUSION,
        steps=600,
        width=64,
    ),
}
"""Recipes by key."""


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
    """Make a trainer for a recipe.

    Parameters
    ----------
    recipe
        A key of :data:`RECIPES`.
    pairs
        (degraded, clean) images.
    channel_axis
        Colour axis of every image; None if there is none.
    steps, width
        Number of steps and of features; None takes the recipe's.
    seed
        Seed of the initial weights and of the training.
    preview_every
        Steps between previews; 0 makes none.
    device
        See :func:`napari_ensir.devices.resolve_device`.
    ir, denoiser
        For DP-IR: the restorer, which is required, and the denoiser (None: :class:`LocalWiener`). Neither is
        changed.
    progress
        Called while the restorer of DP-IR is applied to the degraded images.

    Returns
    -------
    Trainer
        A trainer that has made no step yet.

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
    # The initial weights depend on the seed alone, and torch's global generator is left unchanged.
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
    """Model of a recipe, and the restorer class that applies it."""
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
    """Make a trainer that continues from a checkpoint.

    With the same images, the result equals that of an uninterrupted training. Other images are scaled to the
    checkpoint's data range.

    Parameters
    ----------
    path
        A checkpoint that :meth:`Trainer.save` wrote.
    pairs, channel_axis, preview_every, device, progress
        As in :func:`begin_training`.
    ir
        The restorer of DP-IR, where the checkpoint stores only its name.

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
    """Return the restorer as trained so far, with a copy of the model."""
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
    """Pairs of the images restored by IR and the clean ones."""
    apply = with_settings(ir, channel_axis=channel_axis, device=device)
    restored = [(apply(degraded, progress=progress), clean) for degraded, clean in pairs]
    return TrainingPairs.from_arrays(restored, channel_axis=channel_axis, data_range=data_range)

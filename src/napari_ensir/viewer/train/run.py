"""Training in a thread, with its progress."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_channel_axis
from napari_ensir.restorers.networks.checkpoint import read_checkpoint
from napari_ensir.restorers.training.recipes import (
    begin_training,
    continue_training,
    read_training_images,
    snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress, Restorer
    from napari_ensir.restorers.training.trainer import Trainer
    from napari_ensir.settings import TrainSettings
    from napari_ensir.viewer.layers.layers import LayerSnapshot

_PREVIEWS = 25
"""Number of previews in a training; there are at least five steps between them."""


@dataclass(eq=False)
class TrainingRun:
    """Training that can be interrupted, saved and continued.

    Other threads may read ``losses`` and ``preview`` while it runs.

    Attributes
    ----------
    recipe : str
        A key of :data:`napari_ensir.restorers.training.recipes.RECIPES`.
    settings : TrainSettings
    layers : sequence of (degraded, clean) arrays
        The thread reads them; `clean` is None for recipes that need no such image.
    origin : LayerSnapshot or None
        The first degraded layer, which is restored when the training is finished; None if there are files.
    channel_axis : int or None
        Channel axis of all arrays.
    files : sequence of Path
        Instead of layers: as for :func:`napari_ensir.restorers.training.recipes.read_training_images`.
    ir, denoiser : Restorer or None
        See :func:`napari_ensir.restorers.training.recipes.begin_training`.
    checkpoint : Path or None
        File to continue.
    trainer : Trainer or None
        None before the first step.
    preview : (channels, rows, columns) array or None
    saved_step : int
    """

    recipe: str
    settings: TrainSettings
    layers: Sequence[tuple[Any, Any]] = ()
    origin: LayerSnapshot | None = None
    channel_axis: int | None = None
    files: Sequence[Path] = ()
    ir: Restorer | None = None
    denoiser: Restorer | None = None
    checkpoint: Path | None = None
    trainer: Trainer | None = None
    preview: NDArray[np.float32] | None = None
    saved_step: int = 0

    @property
    def losses(self) -> list[float]:
        """Loss of each completed step."""
        trainer = self.trainer  # the thread may set it to None
        return [] if trainer is None else list(trainer.losses)

    @property
    def step(self) -> int:
        """Number of completed steps."""
        trainer = self.trainer
        return 0 if trainer is None else trainer.step

    @property
    def times(self) -> int:
        """Enlargement of rows and columns of the first layer by the IR network of DP-IR; else 1."""
        trainer, origin = self.trainer, self.origin
        if trainer is None or origin is None:
            return 1
        return trainer.pairs.degraded[0].shape[-1] // origin.shape[origin.ndim - 1]

    def extend(self, settings: TrainSettings) -> None:
        """Set the total number of steps and the time limit.

        Raises
        ------
        EnsembleError
            If they are completed already.
        """
        if self.trainer is not None:
            self.trainer.extend(settings.steps or 0)
            self.settings = settings

    def run(self, progress: Progress) -> tuple[Restorer, NDArray[np.float32] | None]:
        """Train until the steps are completed or the time is over, then restore the first degraded layer.

        An exception of ``progress`` stops the training, which can then be continued.

        Returns
        -------
        restorer
            Has a copy of the model, which further training does not change.
        restored
            None if the images are files.
        """
        if self.trainer is None:
            self.trainer = self._make_trainer(progress)
        self._train(self.trainer, progress)
        restorer = with_channel_axis(snapshot(self.trainer), self.channel_axis)
        if self.origin is None:
            return restorer, None
        return restorer, restorer(np.asarray(self.origin.data), progress=progress)

    def _make_trainer(self, progress: Progress) -> Trainer:
        """Start a training, or continue the checkpoint to its number of steps or the requested one."""
        progress(0, 1, "preparing")
        axis, pairs = self.channel_axis, [_pixels(*pair) for pair in self.layers]
        if self.files:
            pairs, axis = read_training_images(self.files)
        steps = self.settings.steps or 0
        every = max(steps // _PREVIEWS, 5)
        how: dict[str, Any] = {"channel_axis": axis, "preview_every": every, "progress": progress}
        if self.checkpoint is None:
            how = {**self.settings.keywords(), **how, "ir": self.ir, "denoiser": self.denoiser}
            return begin_training(self.recipe, pairs, **how)
        entry = read_checkpoint(self.checkpoint)[1].get("ir")
        ir = self.ir if isinstance(entry, dict) and entry.get("kind") == "other" else None  # not its own
        trainer = continue_training(self.checkpoint, pairs, device=self.settings.device, ir=ir, **how)
        if trainer.step >= trainer.settings.steps:
            trainer.extend(steps)
        self.saved_step = trainer.step
        return trainer

    def _train(self, trainer: Trainer, progress: Progress) -> None:
        low, high = trainer.pairs.data_range
        minutes = self.settings.minutes
        deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        try:
            for event in trainer.run():
                if event.preview is not None:
                    self.preview = event.preview * np.float32(high - low) + np.float32(low)
                progress(event.step, event.steps, f"step {event.step}, loss {event.loss:.4g}")
                if time.monotonic() > deadline:
                    return
        except EnsembleError:
            self.trainer = None  # the training diverged
            raise


def _pixels(degraded: Any, clean: Any) -> Any:
    return np.asarray(degraded) if clean is None else (np.asarray(degraded), np.asarray(clean))

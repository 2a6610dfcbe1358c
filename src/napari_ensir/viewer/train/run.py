"""Training in a thread, with its progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_channel_axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress, Restorer
    from napari_ensir.restorers.training.trainer import Trainer
    from napari_ensir.settings import TrainSettings

_PREVIEWS = 25
"""Number of previews in a training; there are at least five steps between them."""


@dataclass(frozen=True)
class TrainRequest:
    """Images and settings of a training.

    Parameters
    ----------
    recipe
        A key of :data:`napari_ensir.restorers.training.recipes.RECIPES`.
    settings
    layers
        (degraded, clean) arrays, which the thread reads; `clean` is None for recipes that need no such image.
        The first degraded one is restored when the training is finished.
    channel_axis
        Channel axis of all arrays.
    files
        Instead of layers: as for :func:`napari_ensir.restorers.training.recipes.read_training_images`.
    ir, denoiser
        See :func:`napari_ensir.restorers.training.recipes.begin_training`.
    """

    recipe: str
    settings: TrainSettings
    layers: Sequence[tuple[Any, Any]] = ()
    channel_axis: int | None = None
    files: Sequence[Path] = ()
    ir: Restorer | None = None
    denoiser: Restorer | None = None

    @property
    def first(self) -> Any:
        """The first degraded layer; None if the images are files."""
        return self.layers[0][0] if self.layers else None

    def keywords(self, progress: Progress) -> dict[str, Any]:
        """Read the pixels, and return the arguments of both functions that make a trainer."""
        from napari_ensir.restorers.training.recipes import read_training_images

        pairs: list[Any] = [
            np.asarray(degraded) if clean is None else (np.asarray(degraded), np.asarray(clean))
            for degraded, clean in self.layers
        ]
        axis = self.channel_axis
        if self.files:
            pairs, axis = read_training_images(self.files)
        return {
            "pairs": pairs,
            "channel_axis": axis,
            "preview_every": max((self.settings.steps or 0) // _PREVIEWS, 5),
            "progress": progress,
        }


class TrainingRun:
    """Training that can be interrupted, saved and continued.

    Other threads may read ``losses`` and ``preview`` while it runs.

    Parameters
    ----------
    request
    """

    def __init__(self, request: TrainRequest) -> None:
        self.request = request
        self.trainer: Trainer | None = None
        self.preview: NDArray[np.float32] | None = None
        self.saved_step = 0

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
        trainer, first = self.trainer, self.request.first
        if trainer is None or first is None:
            return 1
        columns: int = first.shape[-1 if self.request.channel_axis is None else -2]
        return trainer.pairs.degraded[0].shape[-1] // columns

    def begin(self, progress: Progress) -> Any:
        """Start a new training; see :meth:`go_on`."""
        from napari_ensir.restorers.training.recipes import begin_training

        request = self.request
        progress(0, 1, "preparing")
        self.trainer = begin_training(
            request.recipe,
            **{**request.settings.keywords(), **request.keywords(progress)},
            ir=request.ir,
            denoiser=request.denoiser,
        )
        return self.go_on(progress)

    def resume(self, path: Path, progress: Progress) -> Any:
        """Continue a checkpoint to its number of steps, or the requested one if those are completed."""
        from napari_ensir.restorers.training.recipes import continue_training

        request = self.request
        progress(0, 1, "preparing")
        trainer = continue_training(
            path,
            **request.keywords(progress),
            device=request.settings.device,
            ir=_ir_for_checkpoint(path, request.ir),
        )
        if trainer.step >= trainer.settings.steps:
            trainer.extend(request.settings.steps or 0)
        self.trainer, self.saved_step = trainer, trainer.step
        return self.go_on(progress)

    def extend(self, settings: TrainSettings) -> None:
        """Set the total number of steps and the time limit.

        Raises
        ------
        EnsembleError
            If they are completed already.
        """
        if self.trainer is not None:
            self.trainer.extend(settings.steps or 0)
            self.request = replace(self.request, settings=settings)

    def go_on(self, progress: Progress) -> tuple[Restorer, NDArray[np.float32] | None]:
        """Train until the steps are completed or the time is over, then restore the first degraded layer.

        An exception of ``progress`` stops the training, which can then be continued.

        Returns
        -------
        restorer
            Has a copy of the model, which further training does not change.
        restored
            None if the images are files.
        """
        from napari_ensir.restorers.training.recipes import snapshot

        trainer = self.trainer
        assert trainer is not None
        self._train(trainer, progress)
        restorer = with_channel_axis(snapshot(trainer), self.request.channel_axis)
        first = self.request.first
        return restorer, None if first is None else restorer(np.asarray(first), progress=progress)

    def _train(self, trainer: Trainer, progress: Progress) -> None:
        low, high = trainer.pairs.data_range
        minutes = self.request.settings.minutes
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


def _ir_for_checkpoint(path: Path, ir: Restorer | None) -> Restorer | None:
    """The chosen IR network if the checkpoint is of DP-IR and does not contain its own."""
    from napari_ensir.restorers.networks.checkpoint import read_checkpoint

    entry = read_checkpoint(path)[1].get("ir")
    return ir if isinstance(entry, dict) and entry.get("kind") == "other" else None

"""A training beside the viewer: what is asked for, what it has told. Knows no widgets, no layers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_channel_axis

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import Progress, Restorer
    from napari_ensir.restorers.training.models import Denoiser
    from napari_ensir.restorers.training.trainer import Trainer

__all__ = ["TrainRequest", "TrainingRun"]

_PREVIEWS = 25
"""In a training; but no more often than every fifth step."""


@dataclass(frozen=True)
class TrainRequest:
    """What the controls say.

    Parameters
    ----------
    recipe
        A key of :data:`napari_ensir.restorers.training.recipes.RECIPES`.
    degraded, clean
        The layers' pixels; read in the worker.
    channel_axis
        Of both.
    steps, width, seed, device, ir, denoiser
        See :func:`napari_ensir.restorers.training.recipes.begin_training`.
    minutes
        When to stop, if the steps are not made by then; None: not before they are.
    """

    recipe: str
    degraded: Any
    clean: Any
    channel_axis: int | None
    steps: int
    width: int
    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    ir: Restorer | None = None
    denoiser: Denoiser | None = None

    def pairs(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The pixels, read."""
        return [(np.asarray(self.degraded), np.asarray(self.clean))]

    @property
    def preview_every(self) -> int:
        """Steps between previews."""
        return max(self.steps // _PREVIEWS, 5)


class TrainingRun:
    """A training that can be interrupted, saved and gone on with.

    One thread works in it while others may read ``losses`` and ``preview``.

    Parameters
    ----------
    request
        What to train on, and how.
    """

    def __init__(self, request: TrainRequest) -> None:
        self.request = request
        self.trainer: Trainer | None = None
        self.preview: NDArray[np.float32] | None = None
        self.saved_step = 0  # up to which a file holds it

    @property
    def losses(self) -> list[float]:
        """The loss of each step made."""
        trainer = self.trainer  # which the worker may take away at any moment
        return [] if trainer is None else list(trainer.losses)

    @property
    def step(self) -> int:
        """Steps made."""
        trainer = self.trainer
        return 0 if trainer is None else trainer.step

    def begin(self, progress: Progress) -> Any:
        """Train anew; see :meth:`go_on` for what comes back."""
        from napari_ensir.restorers.training.recipes import begin_training

        request = self.request
        progress(0, 1, "preparing")
        self.trainer = begin_training(
            request.recipe,
            request.pairs(),
            channel_axis=request.channel_axis,
            steps=request.steps,
            width=request.width,
            seed=request.seed,
            preview_every=request.preview_every,
            device=request.device,
            ir=request.ir,
            denoiser=request.denoiser,
            progress=progress,
        )
        return self.go_on(progress)

    def resume(self, path: Path, progress: Progress) -> Any:
        """Go on with a checkpoint, to its own number of steps, or to the request's if those are made."""
        from napari_ensir.restorers.training.recipes import continue_training

        request = self.request
        progress(0, 1, "preparing")
        trainer = continue_training(
            path,
            request.pairs(),
            channel_axis=request.channel_axis,
            preview_every=request.preview_every,
            device=request.device,
            ir=_only_if_needed(path, request.ir),
            progress=progress,
        )
        if trainer.step >= trainer.settings.steps:
            trainer.settings = replace(trainer.settings, steps=_more(request.steps, trainer.step))
        self.trainer, self.saved_step = trainer, trainer.step
        return self.go_on(progress)

    def extend(self, steps: int, minutes: float | None) -> None:
        """Ask for this many steps in all.

        Raises
        ------
        EnsembleError
            If they are made already.
        """
        if self.trainer is not None:
            steps = _more(steps, self.trainer.step)
            self.trainer.settings = replace(self.trainer.settings, steps=steps)
            self.request = replace(self.request, steps=steps, minutes=minutes)

    def go_on(self, progress: Progress) -> tuple[Restorer, NDArray[np.float32]]:
        """Train to the last step or minute; then restore the degraded image.

        What `progress` raises stops the training, which can be gone on with.

        Returns
        -------
        restorer, restored
            The restorer has a model of its own, which further training leaves alone.
        """
        from napari_ensir.restorers.training.recipes import snapshot

        trainer = self.trainer
        assert trainer is not None
        self._train(trainer, progress)
        restorer = with_channel_axis(snapshot(trainer), self.request.channel_axis)
        return restorer, restorer(np.asarray(self.request.degraded), progress=progress)

    def _train(self, trainer: Trainer, progress: Progress) -> None:
        low, high = trainer.pairs.data_range
        minutes = self.request.minutes
        deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        try:
            for event in trainer.run():
                if event.preview is not None:
                    self.preview = event.preview * np.float32(high - low) + np.float32(low)
                progress(event.step, event.steps, f"step {event.step}, loss {event.loss:.4g}")
                if time.monotonic() > deadline:
                    return
        except EnsembleError:
            self.trainer = None  # it diverged: there is nothing to keep
            raise


def _more(steps: int, made: int) -> int:
    if steps <= made:
        raise EnsembleError(f"All of its {made} steps are made; set Steps above that to train on.")
    return steps


def _only_if_needed(path: Path, ir: Restorer | None) -> Restorer | None:
    """The restorer chosen, where the checkpoint is DP-IR's and does not hold the one it was built around."""
    from napari_ensir.restorers.networks.checkpoint import read_checkpoint

    entry = read_checkpoint(path)[1].get("ir")
    return ir if isinstance(entry, dict) and entry.get("kind") == "other" else None

"""The command ``train``, which trains a restorer on files."""

from __future__ import annotations

import csv
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli.restore import open_named
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.files.paths import Place, check_output_paths
from napari_ensir.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_ensir.cli.app import TrainOptions
    from napari_ensir.restorers.training.trainer import Trainer

_CHECKS = 20
"""Number of times that a training is validated and saved."""

_COLUMNS = ("step", "loss", "validation", "seconds")


def train(options: TrainOptions) -> None:
    """Train on images and write the restorer, and the latest state beside it."""
    from napari_ensir.restorers import RECIPES, begin_training, continue_training
    from napari_ensir.restorers.training.recipes import read_training_images

    recipe, degraded, clean, out = options.recipe, options.degraded, options.clean, options.out
    resume, log, settings, output = options.resume, options.log, options.settings, options.output
    if recipe not in RECIPES:
        raise EnsembleError(f"there is no recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
    if recipe != "dp-ir" and (options.ir or options.denoiser):
        raise EnsembleError(f"--ir and --denoiser are for dp-ir; leave them out for {recipe}.")
    target = RECIPES[recipe].target
    if degraded is None and RECIPES[recipe].needs_degraded:
        raise EnsembleError(f"{recipe} needs --degraded, the images to learn from.")
    if clean is None and target:
        wanted = "clean images" if target == "Clean" else f"{target.lower()}s"
        raise EnsembleError(f"{recipe} needs --clean, the {wanted}.")
    if clean is not None and not target:
        raise EnsembleError(f"{recipe} learns from the degraded images alone; leave out --clean.")
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    last = out.with_suffix(".last.safetensors")
    given = {"--degraded": degraded, "--clean": clean}
    made = {"--out": out, "the latest state": last, "--log": log}
    read, written = (
        [Place(name, path) for name, path in paths.items() if path is not None] for paths in (given, made)
    )
    check_output_paths([*written, *output.places], read)
    output.check()
    for place in written:
        check_target(place.path, output.overwrite or resume, " With --resume, the training continues.")
    images, axis = read_training_images([place.path for place in read], settings.channel_axis)
    with output.progress() as progress:
        common: dict[str, Any] = {"ir": open_named(options.ir), "denoiser": open_named(options.denoiser)}
        common |= {"channel_axis": axis, "progress": progress}
        if not resume:
            trainer = begin_training(recipe, images, **{**settings.keywords(), **common})
        elif not last.exists():
            raise EnsembleError(f"there is no {last} to resume; leave out --resume.")
        else:
            common |= settings.keywords("device", "validation", "vgg")
            trainer = continue_training(last, images, recipe=recipe, **common)
            _check_unchanged(settings, trainer)
            if settings.steps is not None or trainer.step == trainer.settings.steps:
                trainer.extend(settings.steps or trainer.step)
        best = _TrainingRun(trainer, out, last, log, resume)
        best.train(settings.minutes, progress)
    results = {"out": str(out), "last": str(last), "step": trainer.step, "best_step": best.step}
    text = f"{best.summary} Written to {out}; {last.name} can be resumed."
    output.finish(results | {"validation": best.validation}, text)


def _check_unchanged(settings: TrainSettings, trainer: Trainer) -> None:
    """Refuse settings other than those of the training that is resumed."""
    default, stored = TrainSettings().keywords(), vars(trainer.model.settings) | vars(trainer.settings)
    for name, value in settings.keywords().items():
        if name == "steps" or value == default[name] or stored.get(name, value) == value:
            continue
        raise EnsembleError(
            f"--{name.replace('_', '-')} is {value}, but the training that is resumed has {stored[name]}; "
            "leave it out."
        )


class _TrainingRun:
    """Trains, validates and saves, and keeps the best restorer."""

    def __init__(self, trainer: Trainer, out: Path, last: Path, log: Path | None, resumed: bool) -> None:
        self.trainer, self.out, self.last, self.log, self.resumed = trainer, out, last, log, resumed
        self.validation: float | None = None
        self.step = trainer.step
        if resumed and trainer.held_out is not None and out.exists():
            self._compare_with_earlier()

    def _compare_with_earlier(self) -> None:
        """Validate the restorer that an earlier training found best."""
        from napari_ensir.restorers import load_restorer

        trainer = self.trainer
        now = trainer.restorer()
        parts = {name: getattr(now, name, None) for name in ("ir", "denoiser")}
        earlier = load_restorer(self.out, device=str(trainer.device), **parts)
        self.validation, self.step = trainer.validate(earlier.model), earlier.trained_steps

    @property
    def summary(self) -> str:
        """State what was trained, in a sentence."""
        trainer = self.trainer
        trained = f"Trained {trainer.restorer().name} for {trainer.step} of {trainer.settings.steps} steps"
        if self.validation is None:
            return f"{trained}."
        return f"{trained}; the least validation loss is {self.validation:.4g}, after {self.step} steps."

    def train(self, minutes: float | None, progress: Callable[[int, int, str], object] | None) -> None:
        """Train to the last step or until the time is over; the latest state is saved in any case."""
        trainer, began = self.trainer, time.monotonic()
        every = max(trainer.settings.steps // _CHECKS, 1)
        text = training = f"training {trainer.restorer().title}"
        log = Path(os.devnull) if self.log is None else self.log
        goes_on = self.resumed and log.exists()
        with ExitStack() as stack:
            stack.callback(self._save_last)
            mode = "a" if goes_on else "w"
            rows = csv.writer(stack.enter_context(log.open(mode, newline="", encoding="utf-8", buffering=1)))
            if not goes_on:
                rows.writerow(_COLUMNS)
            for event in trainer.run():
                seconds = time.monotonic() - began
                over = minutes is not None and seconds > 60 * minutes
                if event.step % every == 0 or event.step == event.steps or over:
                    value = self._check()
                    loss = float(np.mean(trainer.losses[-every:]))
                    told = "" if value is None else f"{value:.6g}"
                    rows.writerow((event.step, f"{loss:.6g}", told, f"{seconds:.1f}"))
                    text = f"{training}, loss {loss:.4g}{told and f', validation {told}'}"
                if progress is not None:
                    progress(event.step, event.steps, text)
                if over:
                    break

    def _check(self) -> float | None:
        """Validate, save the restorer if it is the best, and return the loss."""
        trainer = self.trainer
        value = None if trainer.held_out is None else trainer.validate()
        if value is None or self.validation is None or value < self.validation:
            trainer.restorer().save(self.out)
            self.validation, self.step = value, trainer.step
        self._save_last()
        return value

    def _save_last(self) -> None:
        if self.trainer.step:
            self.trainer.save(self.last)

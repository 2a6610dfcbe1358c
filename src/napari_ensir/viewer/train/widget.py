"""The Train panel: a restorer of the user's own, from a degraded layer and a clean one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, RECIPES, open_restorer
from napari_ensir.restorers.training.models import Denoiser
from napari_ensir.settings import TrainSettings, settings_of
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import ask_where_to_save, with_suffix
from napari_ensir.viewer.controls.forms import Form, button, dress, row
from napari_ensir.viewer.controls.inputs import WithButton, control_of
from napari_ensir.viewer.layers.combo import LayerChoice
from napari_ensir.viewer.layers.layers import (
    TRUTH_NAMES,
    Origin,
    changed_meanwhile,
    full_data,
    pixel_shape,
    unwrapped,
    why_not,
)
from napari_ensir.viewer.layers.matching import candidate_name
from napari_ensir.viewer.layers.session import preference
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.restore.controls import CHECKPOINTS
from napari_ensir.viewer.train.run import TrainingRun, TrainRequest
from napari_ensir.viewer.train.views import LossPlot, Preview

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import napari
    import numpy as np
    from napari.layers import Layer

    from napari_ensir.restorers import Restorer

__all__ = ["TrainWidget"]

_OURS = "Trained restorer (*.safetensors)"
_NO_DENOISER = ""


class TrainWidget(Panel):
    """Trains a restorer on a pair of layers; what it makes of the degraded one becomes a candidate.

    A training that was cancelled is kept: it can be saved, or resumed. Values: ``recipe``, ``degraded``,
    ``clean``, ``ir`` and ``denoiser`` (titles of what DP-IR is built from), ``steps``, ``minutes`` (None:
    until the steps are made), ``features``, ``seed``, ``device``.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.

    Examples
    --------
    In napari's console::

        widget = TrainWidget(viewer)
        widget.degraded.value, widget.clean.value = viewer.layers["noisy"], viewer.layers["clean"]
        widget.steps.value = 600
        widget.train()  # returns at once
        widget.save("mine.safetensors")  # once it is done, or was cancelled
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self.training: TrainingRun | None = None
        self._before: TrainingRun | None = None
        self._preview: Preview | None = None
        self._restorers: dict[str, Restorer] = {}
        self._guesses_clean = True
        self._ir = Choice(
            {},
            name="ir",
            label="IR network",
            tooltip="The restorer that DP-IR is built around: a classical one, one trained here, or one from "
            "a file.",
        )
        self._denoisers = Choice(
            {_NO_DENOISER: ("Local Wiener filter, no weights", "")},
            name="denoiser",
            label="Denoiser",
            tooltip="The Gaussian denoiser of DP-IR: train one first, or open one.",
        )
        self._plot = LossPlot(napari_viewer)
        self._make_buttons()
        super().__init__(
            napari_viewer,
            Form(*self._inputs(napari_viewer), *self._settings(), name="choice"),
            action="Train",
            about="Train anew on the two layers, then add what the network makes of the degraded one.",
            below=self._below(),
        )
        self.native.widget().layout().setStretchFactor(self.plot_place.native, 1)
        self.cancel_button.tooltip = "Stop; the training so far is kept, to be saved or resumed."
        for kind in CLASSICAL.values():
            self.offer(kind.title, kind())
        self._ir.value = next(iter(self._restorers))
        self._connect()
        self._follow_recipe()
        self._guess_layers()
        self._enable()

    def _make_buttons(self) -> None:
        self.resume_button = button(
            "Resume", "Go on with the training kept, up to the steps shown.", "resume_button"
        )
        self.resume_file_button = button(
            "Resume from…",
            "Go on with a training from a file, on the layers chosen. DP-IR around a network of another kind "
            "of file needs that network opened and chosen above first.",
            "resume_file_button",
        )
        self.save_button = button(
            "Save…", "Write the network and the state of its training to a file.", "save_button"
        )
        self.open_button = button(
            "Open…", "Choose an IR network's or a denoiser's file, as in Restore.", "open_button"
        )
        dress(self.open_button)

    def _inputs(self, viewer: napari.Viewer) -> list[Any]:
        recipes = {key: (each.title, each.description) for key, each in RECIPES.items()}
        layers = (
            ("degraded", "Degraded", "What the network is given: noisy, blurred, with rain..."),
            ("clean", "Clean", "What it is to make of it: the same field, pixel by pixel."),
        )
        return [
            Choice(
                recipes, name="recipe", label="Train", tooltip="The kind of network, and how it is trained."
            ),
            *(
                LayerChoice(
                    viewer,
                    lambda layer: not why_not(layer),
                    f"choose the {name} image",
                    name=name,
                    label=label,
                    tooltip=tip,
                )
                for name, label, tip in layers
            ),
            WithButton(self._ir, self.open_button),
            self._denoisers,
        ]

    def _settings(self) -> list[Any]:
        settings = {each.name: each for each in settings_of(TrainSettings)}
        return [
            control_of(settings["steps"]),
            control_of(settings["minutes"]),
            # Containers have a width of their own.
            control_of(settings["width"], name="features"),
            control_of(settings["seed"]),
            control_of(settings["device"], preference("device")),
        ]

    def _below(self) -> list[Any]:
        place: Container = Container(name="plot_place", labels=False, gui_only=True)
        place.margins = (0, 0, 0, 0)
        place.native.layout().addWidget(self._plot.canvas)
        buttons = (self.resume_button, self.resume_file_button, self.save_button)
        return [row(*buttons, name="training_buttons", gui_only=True), place]

    def _connect(self) -> None:
        # The worker changes no layer and draws nothing: this looks now and then at what it has told.
        self._look = QTimer(self.native)
        self._look.setInterval(250)
        self._look.timeout.connect(self.safely(self._show_progress))
        self.recipe.changed.connect(self.safely(self._follow_recipe))
        self.clean.changed.connect(self.safely(self._clean_chosen))
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self.save_button.changed.connect(self.safely(self._ask_and_save))
        self.resume_button.changed.connect(self.safely(self.resume))
        self.resume_file_button.changed.connect(self.safely(self._ask_and_resume))
        self.tie(self.viewer.events.theme, self._theme_changed)

    @property
    def loss_plot(self) -> LossPlot:
        """The loss over the steps."""
        return self._plot

    # -- choices ----------------------------------------------------------------------------------

    def update(self, mapping: Mapping | Iterable[tuple[str, Any]] = (), **kwargs: Any) -> None:
        """See Panel; the recipe first, for it sets steps and features."""
        values = {**dict(mapping), **kwargs}
        super().update({name: values.pop(name) for name in ("recipe",) if name in values} | values)

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        self._guess_layers()

    def _follow_recipe(self) -> None:
        recipe = RECIPES[self.recipe.value]
        for control in (self.ir, self.denoiser):
            control.visible = self.recipe.value == "dp-ir"
        self.steps.value, self.features.value = recipe.steps, recipe.width

    def _guess_layers(self) -> None:
        """Choose the layer whose name says that it is the clean one, until the user has chosen."""
        if not self._guesses_clean or self.clean.value is not None:
            return
        for layer in map(unwrapped, self.viewer.layers):
            if layer.name.lower().strip() in TRUTH_NAMES and not why_not(layer):
                with self.clean.changed.blocked():
                    self.clean.value = layer
                return

    def _clean_chosen(self) -> None:
        self._guesses_clean = False

    def offer(self, title: str, restorer: Restorer) -> None:
        """Offer a restorer as DP-IR's IR network and, if it is one, as its denoiser; choose it."""
        number, name = 2, title
        while name in self._restorers:
            name, number = f"{title} ({number})", number + 1
        self._restorers[name] = restorer
        self._ir.offer({each: (each, "") for each in self._restorers})
        if not isinstance(restorer, Denoiser):
            self._ir.value = name
            return
        denoisers = [each for each, kind in self._restorers.items() if isinstance(kind, Denoiser)]
        none = {_NO_DENOISER: ("Local Wiener filter, no weights", "")}
        self._denoisers.offer({**none, **{each: (each, "") for each in denoisers}})
        self._denoisers.value = name

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Offer a network from a file; see :func:`napari_ensir.restorers.formats.open.open_restorer`."""
        restorer = open_restorer(path, device=self.device.value)
        self.offer(f"{restorer.name} ({Path(path).name})", restorer)
        self.say(f"Opened {Path(path).name}.")

    def request(self) -> TrainRequest:
        """What the controls say.

        Raises
        ------
        EnsembleError
            If a layer is missing, or the two do not fit.
        """
        degraded, clean = self.degraded.value, self.clean.value
        if degraded is None or clean is None:
            missing = "degraded" if degraded is None else "clean"
            raise EnsembleError(
                f"No {missing} image is chosen; choose a degraded and a clean one to train on."
            )
        if degraded is clean:
            raise EnsembleError("The degraded and the clean image are the same layer; choose two.")
        if why := why_not(clean, like=degraded):
            shape = " × ".join(map(str, pixel_shape(degraded)))
            raise EnsembleError(
                f"The clean image has {why}, unlike the degraded one, {shape}; choose a pair."
            )
        around = self.recipe.value == "dp-ir"
        denoiser: Any = self._restorers.get(self.denoiser.value)
        chosen = TrainSettings(
            steps=self.steps.value,
            minutes=self.minutes.value,
            width=self.features.value,
            seed=self.seed.value,
            device=self.device.value,
        )
        return TrainRequest(
            recipe=self.recipe.value,
            degraded=full_data(degraded),
            clean=full_data(clean),
            channel_axis=-1 if degraded.rgb else None,
            ir=self._restorers[self.ir.value] if around else None,
            denoiser=denoiser if around else None,
            **chosen.keywords(),
        )

    # -- training ---------------------------------------------------------------------------------

    def run(self) -> None:
        """What the Train button does."""
        self.train()

    @shows_errors
    def train(self) -> None:
        """Train anew on the chosen layers; returns at once."""
        training = TrainingRun(self.request())
        if self._may_discard():
            self._go(training, training.begin)

    @shows_errors
    def resume(self) -> None:
        """Go on with the training kept, up to the steps shown."""
        training = self.training
        if training is None:
            raise EnsembleError("There is no training to resume; press Train, or open a checkpoint.")
        training.extend(self.steps.value, self.minutes.value)
        self._go(training, training.go_on)

    @shows_errors
    def resume_from(self, path: str | Path) -> None:
        """Go on with a checkpoint, on the chosen layers."""
        training = TrainingRun(self.request())
        if self._may_discard():
            self._go(training, lambda progress: training.resume(Path(path), progress))

    def _may_discard(self) -> bool:
        """Whether the training kept may make way for another: asks, if its last steps are in no file."""
        kept = self.training
        if kept is None or kept.step <= kept.saved_step:
            return True
        question = f"The training of {_steps(kept.step)} has not been saved. Discard it and train anew?"
        answer = QMessageBox.question(self.native, "Discard the training?", question)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _go(self, training: TrainingRun, work: Any) -> None:
        layer = self._layer_of(training)
        origin = None if layer is None else Origin(layer)
        before = self.training
        self.start(work, "Training", lambda result: self._trained(origin, result))
        self._before, self.training = before, training
        if self._preview is not None:
            self._preview.remove()
        self._preview = None if origin is None else Preview(self.viewer, origin)
        self._enable()
        self._look.start()

    def _layer_of(self, training: TrainingRun) -> Layer | None:
        """The layer that a training's degraded image is from, if it is still there."""
        mine = (layer for layer in map(unwrapped, self.viewer.layers) if not why_not(layer))
        return next((layer for layer in mine if full_data(layer) is training.request.degraded), None)

    def _show_progress(self) -> None:
        training = self.training
        if training is not None:
            self._plot.show_losses(training.losses)
            if self._preview is not None:
                self._preview.show(training.preview)

    def _theme_changed(self, *_: object) -> None:
        self.safely(self._plot.redraw)()

    def _trained(self, origin: Origin | None, result: tuple[Restorer, np.ndarray]) -> None:
        restorer, restored = result
        self.offer(f"{restorer.name}, trained here", restorer)
        if self._preview is not None:
            self._preview.remove()  # it would lie upon the image that it was a preview of
        assert self.training is not None
        said = f"Trained {restorer.name} for {_steps(self.training.step)}."
        if origin is None:
            said += " No layer was added, for the image trained on is no longer here: save the checkpoint."
        else:
            origin.add_candidate(self.viewer, restored, candidate_name(origin.name, restorer.name))
            said += " The layer added is of the image trained on, which flatters it: save the checkpoint and"
            said += " restore other images."
            said += f" {changed_meanwhile(self.viewer, [origin])}"
        self.say(said.strip())

    def _was_cancelled(self) -> None:
        step = 0 if self.training is None else self.training.step
        if step:
            self.say(f"Cancelled after {_steps(step)}, which are kept: save them, or press Resume.")
        else:
            super()._was_cancelled()

    def _has_finished(self) -> None:
        super()._has_finished()
        self._look.stop()
        self._show_progress()
        if self.training is not None and self.training.trainer is None:
            self.training = self._before  # it has not come to a first step
        self._before = None
        if self.training is not None and self.training.trainer is not None:
            self.steps.value = self.training.trainer.settings.steps
        self._enable()

    def _enable(self) -> None:
        """Let be pressed what can be done now."""
        idle = self.task is None
        self.resume_file_button.enabled = idle
        for each in (self.save_button, self.resume_button):
            each.enabled = idle and self.training is not None

    # -- files ------------------------------------------------------------------------------------

    @shows_errors
    def save(self, path: str | Path) -> None:
        """Write the training kept to a checkpoint; says so, or why not, under the buttons."""
        if self.training is None or self.training.trainer is None:
            raise EnsembleError("There is no training to save yet; press Train first.")
        target = with_suffix(path, ".safetensors")
        self.training.trainer.save(target)
        self.training.saved_step = self.training.step
        self.say(f"Saved {target.name}, after {_steps(self.training.step)}; Restore can open it.")

    def _ask_and_save(self) -> None:
        name, kind = "restorer.safetensors", "Trained restorer"
        path = ask_where_to_save(self.native, "Save a checkpoint", name, kind, ".safetensors")
        if path is not None:
            self.save(path)

    def _ask_and_resume(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, "Resume from a checkpoint", "", _OURS)
        if path:
            self.resume_from(path)

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, "Open a network", "", CHECKPOINTS)
        if path:
            self.open(path)


def _steps(count: int) -> str:
    """So many steps, in words."""
    return f"{count} step{'s' * (count != 1)}"

"""The Train widget: a restorer of the user's own, from a degraded layer and a clean one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QMessageBox,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, RECIPES, open_restorer
from napari_ensir.restorers.denoiser import Denoiser
from napari_ensir.viewer.fit_widget import TRUTH_NAMES
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import Origin, changed_meanwhile, full_data, pixel_shape, why_not
from napari_ensir.viewer.old_panel import Panel
from napari_ensir.viewer.restore_widget import CHECKPOINTS
from napari_ensir.viewer.saving import ask_where_to_save, with_suffix
from napari_ensir.viewer.session import preference
from napari_ensir.viewer.texts import combo_of, device_combo, explain
from napari_ensir.viewer.training_run import TrainingRun, TrainRequest
from napari_ensir.viewer.training_views import LossPlot, Preview

if TYPE_CHECKING:
    import napari
    import numpy as np
    from napari.layers import Layer

    from napari_ensir.restorers import Restorer

__all__ = ["TrainWidget"]

_OURS = "Trained restorer (*.safetensors)"


class TrainWidget(Panel):
    """Trains a restorer on a pair of layers; what it makes of the degraded one becomes a candidate.

    A training that was cancelled is kept: it can be saved, or resumed.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, "train", parent)
        explain(self.cancel_button, "cancel_training")
        self.training: TrainingRun | None = None
        self._before: TrainingRun | None = None
        self._preview: Preview | None = None
        self._restorers: dict[str, Restorer] = {}
        self.recipe = combo_of(
            {key: (each.title, each.description) for key, each in RECIPES.items()}, "recipe"
        )
        self.degraded = self._layer_combo("choose the degraded image", "train_degraded")
        self.clean = self._layer_combo("choose the clean image", "train_clean")
        self.ir = combo_of({}, "ir")
        self.denoiser = combo_of({"": ("Local Wiener filter, no weights", "")}, "denoiser")
        self.open_button = QPushButton("Open…")
        explain(self.open_button, "open_ir")
        self.steps = _whole_number(1, 10_000_000, 100, "steps")
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0, 100_000)
        self.minutes.setDecimals(2)
        self.minutes.setSuffix(" minutes")
        self.minutes.setSpecialValueText("no limit")
        explain(self.minutes, "minutes")
        self.width_ = _whole_number(4, 512, 8, "width")
        self.seed = _whole_number(0, 2**31 - 1, 1, "seed")
        self.device = device_combo(preference("device"))
        self.loss_plot = LossPlot(napari_viewer)
        self.save_button = QPushButton("Save checkpoint…")
        explain(self.save_button, "save_training")
        self.resume_button = QPushButton("Resume")
        explain(self.resume_button, "resume")
        self.resume_file_button = QPushButton("Resume from…")
        explain(self.resume_file_button, "resume_file")
        for kind in CLASSICAL.values():
            self.offer(kind.title, kind())
        self.ir.setCurrentIndex(0)
        self._lay_out()
        self._connect()
        self._follow_recipe()
        self._guess_layers()
        self._enable()

    def _layer_combo(self, nothing: str, key: str) -> LayerCombo:
        combo = LayerCombo(self.viewer, lambda layer: not why_not(layer), nothing=nothing)
        explain(combo, key)
        return combo

    def _lay_out(self) -> None:
        around = QHBoxLayout()
        around.addWidget(self.ir, 1)
        around.addWidget(self.open_button)
        around.setContentsMargins(0, 0, 0, 0)
        self._ir_row = QWidget()
        self._ir_row.setLayout(around)
        self.form = QFormLayout()
        self.form.setVerticalSpacing(3)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.form.addRow("Train", self.recipe)
        self.form.addRow("Degraded", self.degraded)
        self.form.addRow("Clean", self.clean)
        self.form.addRow("IR network", self._ir_row)
        self.form.addRow("Denoiser", self.denoiser)
        self.form.addRow("Steps", self.steps)
        self.form.addRow("At most", self.minutes)
        self.form.addRow("Width", self.width_)
        self.form.addRow("Seed", self.seed)
        self.form.addRow("Device", self.device)
        last = QHBoxLayout()
        for button in (self.save_button, self.resume_file_button):
            last.addWidget(button, 1)
        self.buttons.insertWidget(1, self.resume_button)
        self.body.addLayout(self.form)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.message)
        self.body.addWidget(self.loss_plot, 1)
        self.body.addLayout(last)

    def _connect(self) -> None:
        # The worker changes no layer and draws nothing: this looks now and then at what it has told.
        self._look = QTimer(self)
        self._look.setInterval(250)
        self._look.timeout.connect(self._show_progress)
        self.recipe.currentIndexChanged.connect(self._follow_recipe)
        self.open_button.clicked.connect(self._ask_and_open)
        self.save_button.clicked.connect(self._ask_and_save)
        self.resume_button.clicked.connect(self.resume)
        self.resume_file_button.clicked.connect(self._ask_and_resume)

    def _follow_recipe(self) -> None:
        recipe = RECIPES[self.recipe.currentData()]
        for row in (self._ir_row, self.denoiser):
            self.form.setRowVisible(row, self.recipe.currentData() == "dp-ir")
        self.steps.setValue(recipe.steps)
        self.width_.setValue(recipe.width)

    def _guess_layers(self) -> None:
        """Choose the layer whose name says that it is the clean one, if one does."""
        for layer in self.viewer.layers:
            if layer.name.lower().strip() in TRUTH_NAMES and not why_not(layer):
                self.clean.choose(layer)
                return

    # -- choices ----------------------------------------------------------------------------------

    def offer(self, title: str, restorer: Restorer) -> None:
        """Offer a restorer as DP-IR's IR network and, if it is one, as its denoiser; choose it."""
        number, name = 2, title
        while name in self._restorers:
            name, number = f"{title} ({number})", number + 1
        self._restorers[name] = restorer
        combos = (self.ir, self.denoiser) if isinstance(restorer, Denoiser) else (self.ir,)
        for combo in combos:
            combo.addItem(name, name)
        combos[-1].setCurrentIndex(combos[-1].count() - 1)

    def open(self, path: str) -> None:
        """Offer a network from a file; see :func:`napari_ensir.restorers.opening.open_restorer`."""
        try:
            restorer = open_restorer(path, device=self.device.currentData())
        except EnsembleError as error:
            self.fail(error)
            return
        self.offer(f"{restorer.name} ({Path(path).name})", restorer)
        self.say(f"Opened {Path(path).name}.")

    def request(self) -> TrainRequest:
        """What the controls say.

        Raises
        ------
        EnsembleError
            If a layer is missing, or the two do not fit.
        """
        degraded, clean = self.degraded.layer(), self.clean.layer()
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
        around = self.recipe.currentData() == "dp-ir"
        denoiser: Any = self._restorers.get(self.denoiser.currentData())
        return TrainRequest(
            recipe=self.recipe.currentData(),
            degraded=full_data(degraded),
            clean=full_data(clean),
            channel_axis=-1 if degraded.rgb else None,
            steps=self.steps.value(),
            width=self.width_.value(),
            seed=self.seed.value(),
            device=self.device.currentData(),
            minutes=self.minutes.value(),
            ir=self._restorers[self.ir.currentData()] if around else None,
            denoiser=denoiser if around else None,
        )

    # -- training ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Train anew on the chosen layers."""
        try:
            training = TrainingRun(self.request())
        except EnsembleError as error:
            self.fail(error)
            return
        if self._may_discard():
            self._go(training, training.begin)

    def resume(self) -> None:
        """Go on with the training kept, up to the steps shown."""
        training = self.training
        if training is None:
            self.fail(EnsembleError("There is no training to resume; press Train, or open a checkpoint."))
            return
        try:
            training.extend(self.steps.value(), self.minutes.value())
        except EnsembleError as error:
            self.fail(error)
            return
        self._go(training, training.go_on)

    def resume_from(self, path: str) -> None:
        """Go on with a checkpoint, on the chosen layers."""
        try:
            training = TrainingRun(self.request())
        except EnsembleError as error:
            self.fail(error)
            return
        if self._may_discard():
            self._go(training, lambda progress: training.resume(Path(path), progress))

    def _may_discard(self) -> bool:
        """Whether the training kept may make way for another: asks, if its last steps are in no file."""
        kept = self.training
        if kept is None or kept.step <= kept.saved_step:
            return True
        question = f"The training of {kept.step} steps has not been saved. Discard it and train anew?"
        answer = QMessageBox.question(self, "Discard the training?", question)
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _go(self, training: TrainingRun, work: Any) -> None:
        layer = self._layer_of(training)
        origin = None if layer is None else Origin(layer)
        self._before, self.training = self.training, training
        if self._preview is not None:
            self._preview.remove()
        self._preview = None if origin is None else Preview(self.viewer, origin)
        self.start(work, "Training", lambda result: self._trained(origin, result))
        self._enable()
        self._look.start()

    def _layer_of(self, training: TrainingRun) -> Layer | None:
        """The layer that a training's degraded image is from, if it is still there."""
        mine = (layer for layer in self.viewer.layers if not why_not(layer))
        return next((layer for layer in mine if full_data(layer) is training.request.degraded), None)

    def _show_progress(self) -> None:
        training = self.training
        if training is not None:
            self.loss_plot.show_losses(training.losses)
            if self._preview is not None:
                self._preview.show(training.preview)

    def _trained(self, origin: Origin | None, result: tuple[Restorer, np.ndarray]) -> None:
        restorer, restored = result
        self.offer(f"{restorer.name}, trained here", restorer)
        if self._preview is not None:
            self._preview.remove()  # it would lie upon the image that it was a preview of
        said = f"Trained {restorer.name} for {self.training.step} steps."
        if origin is None:
            said += " No layer was added, for the image trained on is no longer here: save the checkpoint."
        else:
            origin.add_candidate(self.viewer, restored, restorer.name)
            said += " The layer added is of the image trained on, which flatters it: save the checkpoint and"
            said += " restore other images."
            said += f" {changed_meanwhile(self.viewer, [origin])}"
        self.say(said.strip())

    def _was_cancelled(self) -> None:
        step = 0 if self.training is None else self.training.step
        if step:
            self.say(f"Cancelled after {step} steps, which are kept: save them, or press Resume.")
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
            self.steps.setValue(self.training.trainer.settings.steps)
        self._enable()

    def _enable(self) -> None:
        """Let be pressed what can be done now."""
        idle = self.task is None
        self.resume_file_button.setEnabled(idle)
        for button in (self.save_button, self.resume_button):
            button.setEnabled(idle and self.training is not None)

    # -- files ------------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Write the training kept to a checkpoint; says so, or why not, under the buttons."""
        if self.training is None or self.training.trainer is None:
            self.fail(EnsembleError("There is no training to save yet; press Train first."))
            return
        target = with_suffix(path, ".safetensors")
        try:
            self.training.trainer.save(target)
        except EnsembleError as error:
            self.fail(error)
            return
        self.training.saved_step = self.training.step
        self.say(f"Saved {target.name}, after {self.training.step} steps; Restore can open it.")

    def _ask_and_save(self) -> None:
        path = ask_where_to_save(
            self, "Save a checkpoint", "restorer.safetensors", "Trained restorer", ".safetensors"
        )
        if path is not None:
            self.save(str(path))

    def _ask_and_resume(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Resume from a checkpoint", "", _OURS)
        if path:
            self.resume_from(path)

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a network", "", CHECKPOINTS)
        if path:
            self.open(path)


def _whole_number(low: int, high: int, step: int, key: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setSingleStep(step)
    explain(box, key)
    return box

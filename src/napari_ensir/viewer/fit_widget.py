"""The Fit ensemble widget: choose layers, learn, see the result, save the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QFormLayout, QPushButton, QWidget

from napari_ensir.ensemble.estimate import METHODS
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.candidate_picker import CandidatePicker
from napari_ensir.viewer.fitting import Choices, FitRequest, FitResult, fit
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import why_not
from napari_ensir.viewer.outputs import add_ensemble, add_weight_maps
from napari_ensir.viewer.panel import Panel
from napari_ensir.viewer.score_table import ScoreTable
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    import napari

__all__ = ["FitWidget"]

_LUT_FILTER = "Lookup table (*.lut.safetensors)"


class FitWidget(Panel):
    """Learns from the chosen layers how far to trust each, and adds what came of it as new layers.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, "fit", parent)
        self.result: FitResult | None = None
        self.candidates = CandidatePicker(napari_viewer)
        self.truth = LayerCombo(
            napari_viewer, lambda layer: not why_not(layer), nothing="choose the ground truth"
        )
        explain(self.truth, "truth")
        self.method = QComboBox()
        for key, method in METHODS.items():
            self.method.addItem(method.title, key)
            self.method.setItemData(self.method.count() - 1, method.summary, 3)  # Qt.ToolTipRole
        explain(self.method, "method")
        self.bin_width = QDoubleSpinBox()
        self.bin_width.setRange(0, 1e9)
        self.bin_width.setDecimals(4)
        self.bin_width.setSpecialValueText("auto")
        self.bin_width.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        explain(self.bin_width, "bin_width")
        self.device = QComboBox()
        self.device.addItems(["auto", "cpu", "cuda", "mps"])
        explain(self.device, "device")
        self.scores = ScoreTable()
        self.save_button = QPushButton("Save LUT…")
        self.save_button.setEnabled(False)
        explain(self.save_button, "save")

        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Ground truth", self.truth)
        form.addRow("Method", self.method)
        form.addRow("Bin width", self.bin_width)
        form.addRow("Device", self.device)
        self.body.addWidget(self.candidates, 1)
        self.body.addLayout(form)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.message)
        self.body.addWidget(self.scores, 2)
        self.body.addWidget(self.save_button)

        self.truth.changed.connect(lambda: self.candidates.set_truth(self.truth.layer()))
        self.save_button.clicked.connect(self._ask_and_save)
        self._guess_truth()

    def choices(self) -> Choices:
        """What the controls say."""
        width = self.bin_width.value()
        return Choices(
            method=self.method.currentData(),
            bin_width=width if width > 0 else None,
            device=self.device.currentText(),
        )

    def run(self) -> None:
        """Fit with what is chosen."""
        layers = self.candidates.layers()
        try:
            request = FitRequest.of_layers(layers, self.truth.layer(), self.choices())
        except EnsembleError as error:
            self.fail(error)
            return
        like = layers[0]
        self.start(
            lambda progress: fit(request, progress),
            "Fitting the ensemble",
            lambda result: self._show(result, like),
        )

    def save(self, path: str) -> None:
        """Write the last fit's table to a file; says so, or why not, under the buttons."""
        if self.result is None:
            self.fail(EnsembleError("There is no lookup table yet; press Fit first."))
            return
        try:
            written = self.result.lut.save(path)
        except EnsembleError as error:
            self.fail(error)
            return
        self.say(f"Saved {written.name}.")

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the lookup table", "ensemble", _LUT_FILTER)
        if path:
            self.save(path)

    def _show(self, result: FitResult, like: napari.layers.Layer) -> None:
        self.result = result
        add_weight_maps(self.viewer, like, result.lut, result.combined)
        add_ensemble(self.viewer, like, result.lut, result.combined)
        self.scores.show_scores(result.scores)
        self.save_button.setEnabled(True)
        flatters = "PSNR and SSIM are on the fitted image and flatter the ensemble; held out does not."
        self.say("\n".join([flatters, *result.notes]))

    def _guess_truth(self) -> None:
        """Choose the layer whose name says that it is the ground truth, if one does."""
        words = ("ground truth", "ground_truth", "groundtruth", "truth", "gt", "target", "clean")
        for layer in self.viewer.layers:
            if layer.name.lower().strip() in words and not why_not(layer):
                self.truth.choose(layer)
                return

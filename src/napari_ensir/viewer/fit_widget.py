"""The Fit ensemble widget: choose layers, learn, see the result follow the controls, save the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QWidget,
)
from superqt import QLabeledRangeSlider
from superqt.utils import signals_blocked

from napari_ensir.ensemble.estimate import METHODS
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fitting import Choices, FitRequest, FitResult, bins_for, fit, refit, score_fully
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import LayerWatcher, Origin, pixel_shape, why_not
from napari_ensir.viewer.old_panel import Panel
from napari_ensir.viewer.old_picker import CandidatePicker
from napari_ensir.viewer.outputs import WEIGHT_VIEWS, Outputs
from napari_ensir.viewer.saving import ask_where_to_save
from napari_ensir.viewer.score_table import ScoreTable
from napari_ensir.viewer.session import preference, session_of
from napari_ensir.viewer.texts import combo_of, device_combo, explain

if TYPE_CHECKING:
    import napari

__all__ = ["TRUTH_NAMES", "FitWidget"]

_STALE = "The layers or the mask have changed; press Fit to learn from them."
TRUTH_NAMES = ("ground truth", "ground_truth", "groundtruth", "truth", "gt", "target", "clean", "reference")


class FitWidget(Panel):
    """Learns from the chosen layers how far to trust each, and adds what came of it as new layers.

    After a fit, method, bin width and shrinkage act at once, from the statistics kept; other layers or
    another mask ask for a new fit.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, "fit", parent)
        self.result: FitResult | None = None
        self._outputs: Outputs | None = None
        self._title = ""
        self.candidates = CandidatePicker(napari_viewer)
        self.truth = LayerCombo(
            napari_viewer, lambda layer: not why_not(layer), nothing="choose the ground truth"
        )
        explain(self.truth, "truth")
        self.learn_in = LayerCombo(
            napari_viewer, lambda layer: isinstance(layer, Labels | Shapes), nothing="learn everywhere"
        )
        explain(self.learn_in, "mask")
        self.planes = QLabeledRangeSlider()
        explain(self.planes, "planes")
        methods = {key: (method.title, method.summary) for key, method in METHODS.items()}
        self.method = combo_of(methods, "method", preference("method"))
        self.weight_view = combo_of(WEIGHT_VIEWS, "weight_view", preference("weights"))
        self.device = device_combo(preference("device"))
        self.bin_width = QDoubleSpinBox()
        self.bin_width.setRange(0, 1e9)
        self.bin_width.setDecimals(4)
        self.bin_width.setSpecialValueText("⅛ of the range")
        self.bin_width.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        explain(self.bin_width, "bin_width")
        self.best_width = QPushButton("Best")
        self.best_width.setEnabled(False)
        explain(self.best_width, "best_width")
        self.shrinkage = QDoubleSpinBox()
        self.shrinkage.setRange(0, 1e7)
        self.shrinkage.setDecimals(0)
        self.shrinkage.setValue(1000)
        self.shrinkage.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.shrinkage.setSuffix(" pixels")
        explain(self.shrinkage, "shrinkage")
        self.scores = ScoreTable()
        self.save_button = QPushButton("Save LUT…")
        self.save_button.setEnabled(False)
        explain(self.save_button, "save")
        self.compare_button = QPushButton("Compare methods")
        self.compare_button.setEnabled(False)
        explain(self.compare_button, "compare")
        self._lay_out()
        self._connect()
        self._guess_truth()
        self._follow_choices()

    def _lay_out(self) -> None:
        width = QHBoxLayout()
        width.setSpacing(6)
        width.addWidget(self.bin_width, 1)
        width.addWidget(self.best_width)
        self.form = QFormLayout()
        self.form.setVerticalSpacing(3)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.form.addRow("Ground truth", self.truth)
        self.form.addRow("Learn in", self.learn_in)
        self.form.addRow("Planes", self.planes)
        self.form.addRow("Method", self.method)
        self.form.addRow("Bin width", width)
        self.form.addRow("Shrinkage", self.shrinkage)
        self.form.addRow("Weights as", self.weight_view)
        self.form.addRow("Device", self.device)
        last = QHBoxLayout()
        last.addWidget(self.save_button, 1)
        last.addWidget(self.compare_button, 1)
        self.body.addWidget(self.candidates, 1)
        self.body.addLayout(self.form)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.message)
        self.body.addWidget(self.scores, 1)
        self.body.addLayout(last)

    def _connect(self) -> None:
        # A moment's rest of the controls before the work starts, so that a drag does not queue up.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(40)
        self._soon.timeout.connect(self._refit)
        self._scores_soon = QTimer(self)
        self._scores_soon.setSingleShot(True)
        self._scores_soon.setInterval(600)
        self._scores_soon.timeout.connect(self._rescore)
        self.truth.changed.connect(self._follow_choices)
        self.candidates.changed.connect(self._follow_choices)
        self.learn_in.changed.connect(self._follow_choices)
        self.planes.valueChanged.connect(self._ask_for_fit)
        self.method.currentIndexChanged.connect(self._follow_method)
        self.weight_view.currentIndexChanged.connect(self._soon.start)
        self.bin_width.valueChanged.connect(self._soon.start)
        self.shrinkage.valueChanged.connect(self._soon.start)
        self.best_width.clicked.connect(self.choose_best_width)
        self.save_button.clicked.connect(self._ask_and_save)
        self.compare_button.clicked.connect(self.compare)
        self._watcher = LayerWatcher(self.viewer, self._ask_for_fit)
        self.destroyed.connect(self._watcher.stop)
        self._follow_method()

    # -- choices ----------------------------------------------------------------------------------

    def choices(self) -> Choices:
        """What the controls say."""
        width = self.bin_width.value()
        return Choices(
            method=self.method.currentData(),
            bin_width=width if width > 0 else None,
            shrinkage=self.shrinkage.value(),
            device=self.device.currentData(),
        )

    def request(self) -> FitRequest:
        """What is chosen, ready for the worker.

        Raises
        ------
        EnsembleError
            If something is missing or does not fit.
        """
        planes = self.planes.value() if self.form.isRowVisible(self.planes) else None
        return FitRequest.of_layers(
            self.candidates.layers(), self.truth.layer(), self.choices(), self.learn_in.layer(), planes
        )

    def _follow_choices(self) -> None:
        """Keep picker and plane slider in step with the ground truth."""
        truth = self.truth.layer()
        if self.candidates.truth is not truth:
            self.candidates.set_truth(truth)
        n = 0 if truth is None else len(pixel_shape(truth)) - bool(truth.rgb)
        self.form.setRowVisible(self.planes, n > 2)
        if truth is not None and n > 2:
            last = pixel_shape(truth)[0] - 1
            if self.planes.maximum() != last:
                with signals_blocked(self.planes):
                    self.planes.setRange(0, last)
                    self.planes.setValue((0, last))
        self._ask_for_fit()

    def _follow_method(self) -> None:
        self.form.setRowVisible(self.shrinkage, self.method.currentData() == "least-squares")
        self._soon.start()

    def _ask_for_fit(self, *_: object) -> None:
        """Say so when what is shown no longer belongs to what is chosen."""
        if self.result is not None and self.task is None and self._is_stale():
            self.say(_STALE)

    def _is_stale(self) -> bool:
        if self.result is None:
            return True
        try:
            now = self.request()
        except EnsembleError:
            return True
        then = self.result.request
        same = len(now.candidates) == len(then.candidates) and all(
            a is b for a, b in zip(now.candidates, then.candidates, strict=True)
        )
        return not (same and now.truth is then.truth and _same_mask(now.mask, then.mask))

    # -- fitting ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Read the pixels of what is chosen, and fit."""
        layers = self.candidates.layers()
        try:
            request = self.request()
        except EnsembleError as error:
            self.fail(error)
            return
        origins = [Origin(layer) for layer in layers]
        self.start(
            lambda progress: fit(request, progress), "Fitting the ensemble", lambda r: self._new(r, origins)
        )

    def _new(self, result: FitResult, origins: list[Origin]) -> None:
        self._outputs = Outputs(self.viewer, origins[0])
        layers = [origin.layer for origin in origins]
        session_of(self.viewer).remember_layers(result.lut, layers)
        self._title = session_of(self.viewer).keep(" + ".join(result.lut.names), result.lut, layers)
        self.bin_width.setSingleStep(result.reference.statistics.binning.width)
        self.bin_width.setStepType(QDoubleSpinBox.StepType.DefaultStepType)
        for button in (self.save_button, self.compare_button, self.best_width):
            button.setEnabled(True)
        self._show(result)

    def _refit(self) -> None:
        """Let the result follow the controls, from the statistics kept."""
        if self.result is None or self._outputs is None:
            return
        if self.task is not None:
            self._soon.start()  # once what runs has ended
            return
        before, choices = self.result, self.choices()
        if choices == before.request.choices:
            self._outputs.show(before.lut, before.combined, self.weight_view.currentData())
            return
        self.start(
            lambda progress: refit(before.request, before.reference, before.unseen, choices, progress),
            "Refitting",
            self._show,
        )

    def _show(self, result: FitResult) -> None:
        self.result = result
        if self._outputs is not None:
            self._outputs.show(result.lut, result.combined, self.weight_view.currentData())
        session_of(self.viewer).replace(self._title, result.lut)
        self.scores.show_scores(result.scores)
        lines = [f"Bins are {result.lut.bin_width:g} wide.", *result.notes]
        if self._is_stale():
            lines.insert(0, _STALE)
        self.say("\n".join(lines))
        if any(score.ssim != score.ssim for score in result.scores):
            self._scores_soon.start()

    def _rescore(self) -> None:
        """SSIM and cross-validation take a moment; they follow once the controls rest."""
        result = self.result
        if result is None or self.task is not None:
            return

        def show(scores: Any) -> None:
            if self.result is result:
                self.scores.show_scores(scores)

        self.start(lambda progress: score_fully(result, progress), "Scoring", show, quiet=True)

    def choose_best_width(self) -> None:
        """Set bin width, and shrinkage for least squares, to what does best on held-out parts."""
        from napari_ensir.ensemble.validation import choose_bins

        if self.result is None:
            return
        reference, method = self.result.reference, self.method.currentData()

        def adopt(choice: Any) -> None:
            self.bin_width.setValue(choice.binning.width)
            self.shrinkage.setValue(choice.settings.shrinkage)

        self.start(
            lambda progress: choose_bins(reference, method, progress=progress),
            "Choosing the bin width",
            adopt,
        )

    def compare(self) -> None:
        """Rank all methods on held-out parts, and offer the best."""
        from napari_ensir.viewer.compare_dialog import CompareDialog, compare_methods

        if self.result is None:
            return
        result = self.result
        binning = bins_for(result.reference, self.choices().bin_width)

        def show(rows: Any) -> None:
            self.comparison = CompareDialog(rows, binning.width, self._adopt, self)
            self.comparison.show()

        self.start(
            lambda progress: compare_methods(result, binning, progress), "Comparing methods", show, quiet=True
        )

    def _adopt(self, method: str) -> None:
        self.method.setCurrentIndex(self.method.findData(method))

    # -- saving -----------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Write the table shown to a file; says so, or why not, under the buttons."""
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
        path = ask_where_to_save(
            self, "Save the lookup table", "ensemble", "Lookup table", ".lut.safetensors"
        )
        if path is not None:
            self.save(str(path))

    def _guess_truth(self) -> None:
        """Choose the layer whose name says that it is the ground truth, if one does."""
        for layer in self.viewer.layers:
            if layer.name.lower().strip() in TRUTH_NAMES and not why_not(layer):
                self.truth.choose(layer)
                return


def _same_mask(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool((one == other).all())

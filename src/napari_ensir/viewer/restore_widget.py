"""The Restore widget: candidates from one degraded layer, by as many restorers as are ticked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_ensir.errors import EnsembleError, MissingRestorer
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, open_restorer, with_channel_axis
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import Origin, changed_meanwhile, why_not
from napari_ensir.viewer.matching import candidate_name
from napari_ensir.viewer.old_panel import Panel
from napari_ensir.viewer.parameter_form import ParameterForm
from napari_ensir.viewer.session import preference
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    import napari

    from napari_ensir.restorers import Progress, Restorer

__all__ = ["RestoreWidget"]

CHECKPOINTS = "Restorers (*.safetensors *.pt *.pt2 *.pth *.ckpt);;All files (*)"
"""What a file dialog offers."""


class RestoreWidget(Panel):
    """Restores a layer by every restorer ticked, each giving one candidate layer.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, "restore", parent)
        self.image = LayerCombo(napari_viewer, lambda layer: not why_not(layer), nothing="choose an image")
        explain(self.image, "degraded")
        self.image.choose(napari_viewer.layers.selection.active)  # the one being looked at
        self.restorers = QListWidget()
        self.restorers.setMinimumHeight(90)
        explain(self.restorers, "restorers")
        self.forms = QStackedWidget()
        self.settings = QGroupBox("Settings")
        inside = QVBoxLayout(self.settings)
        inside.addWidget(self.forms)
        self.open_button = QPushButton("Open a network…")
        explain(self.open_button, "open_network")
        self.self_ensemble = QCheckBox("×8 self-ensemble")
        explain(self.self_ensemble, "self_ensemble")
        form = QFormLayout()
        form.addRow("Image", self.image)
        self.body.addLayout(form)
        self.body.addWidget(self.restorers, 1)
        self.body.addWidget(self.open_button)
        self.body.addWidget(self.settings)
        self.body.addWidget(self.self_ensemble)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.message)
        for kind in CLASSICAL.values():
            self.add_restorer(kind(), kind.title, kind.description)
        self.restorers.currentRowChanged.connect(self._show_settings)
        self.open_button.clicked.connect(self._ask_and_open)
        self.restorers.setCurrentRow(0)

    def add_restorer(self, restorer: Restorer, title: str, tip: str = "", ticked: bool = False) -> None:
        """Offer one more restorer."""
        item = QListWidgetItem(title)
        item.setToolTip(tip)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
        self.restorers.addItem(item)
        self.forms.addWidget(ParameterForm(restorer))

    def tick(self, *titles: str) -> None:
        """Tick these restorers, and no others."""
        for row in range(self.restorers.count()):
            item = self.restorers.item(row)
            state = item.text() in titles
            item.setCheckState(Qt.CheckState.Checked if state else Qt.CheckState.Unchecked)

    def chosen(self) -> list[Restorer]:
        """The restorers ticked, with the settings shown, wrapped where the self-ensemble is on."""
        ticked = [
            self.forms.widget(row).restorer()
            for row in range(self.restorers.count())
            if self.restorers.item(row).checkState() == Qt.CheckState.Checked
        ]
        if self.self_ensemble.isChecked():
            return [SelfEnsemble(restorer=restorer) for restorer in ticked]
        return ticked

    def open(self, path: str) -> None:
        """Offer a network from a file: trained here, TorchScript, torch.export, or spandrel's."""
        device = preference("device")
        offered = [self.forms.widget(row).restorer() for row in range(self.restorers.count())]
        try:
            try:
                restorer = open_restorer(path, device=device)
            except MissingRestorer as missing:
                ir = next((one for one in offered if one.name == missing.name), None)
                restorer = open_restorer(path, ir=ir, device=device)
        except EnsembleError as error:
            self.fail(error)
            return
        self.add_restorer(restorer, f"{restorer.name} ({Path(path).name})", str(path), ticked=True)
        self.restorers.setCurrentRow(self.restorers.count() - 1)
        self.say(f"Opened {Path(path).name}.")

    def run(self) -> None:
        """Restore the chosen image by every restorer ticked."""
        layer, restorers = self.image.layer(), self.chosen()
        if layer is None:
            self.fail(EnsembleError("No image is chosen; choose the degraded image to restore."))
            return
        if not restorers:
            self.fail(EnsembleError("No restorer is ticked; tick one or more."))
            return
        origin = Origin(layer)
        axis = -1 if origin.rgb else None
        work = [with_channel_axis(restorer, axis) for restorer in restorers]

        def restore(progress: Progress) -> list[tuple[str, np.ndarray]]:
            results = []
            for number, restorer in enumerate(work):
                progress(number, len(work), restorer.name)
                array = np.asarray(origin.data)
                results.append((restorer.name, restorer(array, progress=progress)))
            return results

        self.start(restore, "Restoring", lambda results: self._show(origin, results))

    def _show(self, origin: Origin, results: list[tuple[str, np.ndarray]]) -> None:
        for name, restored in results:
            origin.add_candidate(self.viewer, restored, candidate_name(origin.name, name))
        n = len(results)
        said = f"Added {n} candidate{'s' if n > 1 else ''}; fit them in Fit ensemble."
        self.say(f"{said} {changed_meanwhile(self.viewer, [origin])}".strip())

    def _show_settings(self, row: int) -> None:
        if row >= 0:
            self.forms.setCurrentIndex(row)
            self.settings.setTitle(f"Settings of {self.restorers.item(row).text()}")

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a network", "", CHECKPOINTS)
        if path:
            self.open(path)

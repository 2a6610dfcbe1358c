"""The Apply LUT widget: a saved table on layers without ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QFormLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fitting import Combined, combine
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import full_data, why_not
from napari_ensir.viewer.outputs import add_outputs
from napari_ensir.viewer.panel import Panel
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["ApplyWidget"]


class ApplyWidget(Panel):
    """Combines layers by a lookup table.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(napari_viewer, "apply", parent)
        self.lut: WeightLUT | None = None
        self.matches: list[LayerCombo] = []
        self.path = QLineEdit()
        self.path.setPlaceholderText("lookup table file")
        explain(self.path, "lut_file")
        self.path.editingFinished.connect(self._path_entered)
        self.open_button = QPushButton("Open…")
        explain(self.open_button, "open")
        self.open_button.clicked.connect(self._ask_and_open)
        chooser = QHBoxLayout()
        chooser.addWidget(self.path, 1)
        chooser.addWidget(self.open_button)
        self.about = QLabel("Open a lookup table (*.lut.safetensors) to see which candidates it combines.")
        self.about.setWordWrap(True)
        self._form_holder = QWidget()
        self.form = QFormLayout(self._form_holder)
        self.form.setContentsMargins(0, 0, 0, 0)
        explain(self._form_holder, "match")
        self.body.addLayout(chooser)
        self.body.addWidget(self.about)
        self.body.addWidget(self._form_holder)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.message)
        self.body.addStretch(1)
        self.run_button.setEnabled(False)

    def open(self, path: str) -> None:
        """Read a table and offer layers for its candidates; the old one stays if that fails."""
        from napari_ensir.ensemble.lut_file import load_lut

        try:
            lut = load_lut(path)
        except EnsembleError as error:
            self.fail(error)
            return
        self.path.setText(str(path))
        self.show_lut(lut)

    def show_lut(self, lut: WeightLUT) -> None:
        """Take a table, and match its candidates to layers, by name first."""
        self.lut = lut
        while self.form.rowCount():
            self.form.removeRow(0)
        self.matches = []
        taken: set[int] = set()
        for name in lut.names:
            combo = LayerCombo(self.viewer, lambda layer: not why_not(layer))
            explain(combo, "match")
            match = _best_match(name, list(self.viewer.layers), taken)
            if match is not None:
                taken.add(id(match))
                combo.choose(match)
            self.matches.append(combo)
            self.form.addRow(name, combo)
        low, high = lut.data_range
        self.about.setText(
            f"{lut.method}, {len(lut.rows):,} bin sets of width {lut.bin_width:g} on {low:g} to {high:g}, "
            f"learned from {max(0, int(lut.counts.clip(min=0).sum())):,} pixels."
        )
        self.run_button.setEnabled(True)
        self.say("")

    def run(self) -> None:
        """Combine the matched layers."""
        lut = self.lut
        if lut is None:
            self.fail(EnsembleError("No lookup table is open; open one first."))
            return
        chosen = [combo.layer() for combo in self.matches]
        layers: list[Layer] = []
        for name, layer in zip(lut.names, chosen, strict=True):
            if layer is None:
                self.fail(EnsembleError(f'No layer is chosen for "{name}"; choose the one that shows it.'))
                return
            layers.append(layer)
        arrays = [full_data(layer) for layer in layers]
        like = layers[0]
        rgb = bool(like.rgb)
        for name, layer in zip(lut.names, layers, strict=True):
            if reason := why_not(layer, like):
                self.fail(EnsembleError(f'"{layer.name}" cannot stand for "{name}": {reason}.'))
                return
        self.start(
            lambda progress: combine(lut, arrays, rgb, "auto", progress),
            "Applying the lookup table",
            lambda combined: self._show(lut, combined, like),
        )

    def _show(self, lut: WeightLUT, combined: Combined, like: Layer) -> None:
        add_outputs(self.viewer, like, lut, combined)
        self.say("Added the ensemble and its weight maps.")

    def _path_entered(self) -> None:
        if self.path.text():
            self.open(self.path.text())

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a lookup table", "", "Lookup table (*.lut.safetensors)"
        )
        if path:
            self.open(path)


def _best_match(name: str, layers: list[Layer], taken: set[int]) -> Layer | None:
    """The layer that bears this name, else the one that alone contains it."""
    free = [layer for layer in layers if id(layer) not in taken and not why_not(layer)]
    wanted = name.lower().strip()
    for layer in free:
        if layer.name == name:
            return layer
    for layer in free:
        if layer.name.lower().strip() == wanted:
            return layer
    near = [layer for layer in free if wanted in layer.name.lower()]
    return near[0] if len(near) == 1 else None

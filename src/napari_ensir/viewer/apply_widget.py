"""The Apply lookup table widget: a table on layers without ground truth, one set of them or many."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_ensir.ensemble.coverage import range_warning
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.fitting import Combined, combine
from napari_ensir.viewer.layer_combo import LayerCombo
from napari_ensir.viewer.layers import LayerWatcher, Origin, changed_meanwhile, why_not
from napari_ensir.viewer.matching import best_matches, cannot_combine, matching_sets
from napari_ensir.viewer.old_panel import Panel
from napari_ensir.viewer.outputs import add_outputs
from napari_ensir.viewer.session import preference, session_of
from napari_ensir.viewer.texts import device_combo, explain

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.inputs import Progress
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
        self.table = QComboBox()
        self.table.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.table.setMinimumContentsLength(12)
        explain(self.table, "table")
        self.table.activated.connect(self._table_chosen)
        self.open_button = QPushButton("Open…")
        explain(self.open_button, "open")
        self.open_button.clicked.connect(self._ask_and_open)
        chooser = QHBoxLayout()
        chooser.addWidget(self.table, 1)
        chooser.addWidget(self.open_button)
        self.sets_button = QPushButton()
        explain(self.sets_button, "all_sets")
        self.sets_button.clicked.connect(self.run_all)
        self.sets_button.hide()
        self.about = QLabel("Fit a lookup table, or open one (*.lut.safetensors), to see what it combines.")
        self.about.setWordWrap(True)
        self._form_holder = QWidget()
        self.form = QFormLayout(self._form_holder)
        self.form.setContentsMargins(0, 0, 0, 0)
        explain(self._form_holder, "match")
        self.body.addLayout(chooser)
        self.body.addWidget(self.about)
        self.device = device_combo(preference("device"))
        below = QFormLayout()
        below.addRow("Device", self.device)
        self.body.addWidget(self._form_holder)
        self.body.addLayout(below)
        self.body.addLayout(self.buttons)
        self.body.addWidget(self.sets_button)
        self.body.addWidget(self.message)
        self.body.addStretch(1)
        self.follow_obstacle()
        self._session = session_of(napari_viewer)
        self._session.changed.connect(self._list_tables)
        self._watcher = LayerWatcher(napari_viewer, self._count_sets)
        self.destroyed.connect(self._watcher.stop)
        session, listed = self._session, self._list_tables
        self.destroyed.connect(lambda: session.changed.disconnect(listed, missing_ok=True))
        self._list_tables()

    def open(self, path: str) -> None:
        """Read a table and offer layers for its candidates; the old one stays if that fails."""
        from napari_ensir.ensemble.lut_file import load_lut

        try:
            lut = load_lut(path)
        except EnsembleError as error:
            self.fail(error)
            return
        title = self._session.open(path, lut)
        lut = self._session.tables[title]
        self.table.setCurrentIndex(self.table.findText(title))
        self.show_lut(lut)

    def _list_tables(self) -> None:
        before = self.table.currentText()
        self.table.clear()
        self.table.addItems(list(self._session.tables))
        place = self.table.findText(before)
        self.table.setCurrentIndex(place if place >= 0 else self.table.count() - 1)
        lut = self._session.tables.get(self.table.currentText())
        if lut is None or lut is self.lut:
            return
        if self.lut is not None and self.lut.names == lut.names:
            self._take(lut)  # a live fit goes on: the layers chosen stay
        else:
            self.show_lut(lut)

    def _table_chosen(self, *_: object) -> None:
        lut = self._session.tables.get(self.table.currentText())
        if lut is not None:
            self.show_lut(lut)

    def show_lut(self, lut: WeightLUT) -> None:
        """Take a table, and match its candidates to layers, by name first."""
        while self.form.rowCount():
            self.form.removeRow(0)
        self.matches = []
        layers = list(self.viewer.layers)
        matches = best_matches(lut.names, layers, self._session.learned_on(lut))
        for name, match in zip(lut.names, matches, strict=True):
            combo = LayerCombo(self.viewer, lambda layer: not why_not(layer))
            explain(combo, "match")
            combo.choose(match)
            combo.changed.connect(self.follow_obstacle)  # once matched: the others are not yet there
            self.matches.append(combo)
            self.form.addRow(name, combo)
        self._take(lut)
        self.say("")

    def _take(self, lut: WeightLUT) -> None:
        """Combine by this table from now on, with the layers chosen."""
        self.lut = lut
        low, high = lut.data_range
        self.about.setText(
            f"{lut.method}, {len(lut.rows):,} bin sets of width {lut.bin_width:g} on {low:g} to {high:g}, "
            f"learned from {int(lut.counts.clip(min=0).sum()):,} pixels."
        )
        self.follow_obstacle()
        self._count_sets()

    def obstacle(self) -> str:
        """See Panel."""
        if self.lut is None:
            return "No lookup table is open; open one first."
        for name, combo in zip(self.lut.names, self.matches, strict=True):
            if combo.layer() is None:
                return f'No layer is chosen for "{name}"; choose the one that shows it.'
        return ""

    def run(self) -> None:
        """Combine the matched layers."""
        if reason := self.obstacle():
            self.fail(EnsembleError(reason))
            return
        self._combine({"": [layer for combo in self.matches if (layer := combo.layer()) is not None]})

    def sets(self) -> dict[str, list[Layer]]:
        """All sets of layers whose names match the table's candidates, by what is common to a set's names."""
        return {} if self.lut is None else matching_sets(self.lut.names, list(self.viewer.layers))

    def run_all(self) -> None:
        """Combine every matching set of layers."""
        self._combine(self.sets())

    def _combine(self, sets: dict[str, list[Layer]]) -> None:
        lut = self.lut
        assert lut is not None  # both callers have looked
        for layers in sets.values():
            if reason := cannot_combine(lut, layers):
                self.fail(EnsembleError(reason))
                return
        if len(sets) == 1:  # of several, none is the one to look at
            self._session.remember_layers(lut, next(iter(sets.values())))
        origins = [[Origin(layer) for layer in layers] for layers in sets.values()]
        device = self.device.currentData()

        def combine_all(progress: Progress) -> tuple[list[Combined], list[str]]:
            combined = [
                combine(lut, [o.data for o in each], each[0].rgb, device, progress) for each in origins
            ]
            return combined, [range_warning(lut, o.name, o.middle_plane()) for o in chain(*origins)]

        def show(results: tuple[list[Combined], list[str]]) -> None:
            for label, each, combined in zip(sets, origins, results[0], strict=True):
                add_outputs(self.viewer, each[0], lut, combined, preference("weights"), label)
            n = len(sets)
            said = [f"Added {'the ensemble' if n == 1 else f'{n} ensembles'} and the weight maps."]
            said += [*results[1], changed_meanwhile(self.viewer, chain.from_iterable(origins))]
            self.say(" ".join(filter(None, said)))

        self.start(combine_all, "Applying the lookup table", show)

    def _count_sets(self) -> None:
        n = len(self.sets())
        self.sets_button.setVisible(n > 1)
        self.sets_button.setText(f"Apply to all {n} matching sets")

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open a lookup table", "", "Lookup table (*.lut.safetensors)"
        )
        if path:
            self.open(path)

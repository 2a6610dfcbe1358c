"""The Inspect lookup table widget: what a table learned, and from how much. Changes nothing."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_ensir.ensemble.summary import bin_centres, pair_map, weights_along_intensity
from napari_ensir.errors import EnsembleError
from napari_ensir.files.whole import whole_file
from napari_ensir.viewer.layers import OUTPUT_KEY, LayerWatcher, full_data
from napari_ensir.viewer.outputs import PALETTE
from napari_ensir.viewer.saving import ask_where_to_save, with_suffix
from napari_ensir.viewer.session import session_of
from napari_ensir.viewer.texts import combo_of, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["InspectWidget"]

_PLOTS = {
    "curves": (
        "Weights along intensity",
        "Each candidate's weight where the candidates have that intensity.",
    ),
    "counts": ("Pixels behind each bin", "How many pixels the weights were learned from: few make a guess."),
    "pair": ("Map of two candidates", "The first candidate's weight, by its own intensity and another's."),
}


class InspectWidget(QWidget):
    """Plots a table in the viewer's theme; a click on the image tells what the table knows there.

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self._tables: dict[str, WeightLUT] = {}
        self.table = QComboBox()
        self.table.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.table.setMinimumContentsLength(12)
        explain(self.table, "table")
        self.plot = combo_of(_PLOTS, "plot")
        self.channel = QComboBox()
        explain(self.channel, "channel")
        self.first, self.second = QComboBox(), QComboBox()
        for combo in (self.first, self.second):
            combo.setMinimumContentsLength(5)
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            explain(combo, "pair")
        self._canvas: FigureCanvasQTAgg | None = None
        self._canvas_place = QVBoxLayout()
        self.pixel = QLabel("Click a pixel of the image to see its bin set, weights and count.")
        self.pixel.setWordWrap(True)
        explain(self.pixel, "pixel")
        self.png_button, self.csv_button = QPushButton("Export PNG…"), QPushButton("Export CSV…")
        explain(self.png_button, "export_png")
        explain(self.csv_button, "export_csv")
        self._lay_out()

        self._session = session_of(napari_viewer)
        self._session.changed.connect(self._list_tables)
        self._watcher = LayerWatcher(napari_viewer, self._list_tables)
        napari_viewer.mouse_drag_callbacks.append(self._clicked)
        napari_viewer.events.theme.connect(self._draw_soon)
        # Hundreds of changes in a row (a live fit) are drawn once.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(30)
        self._soon.timeout.connect(self.draw)
        self.destroyed.connect(_release(self, napari_viewer))
        self.table.currentIndexChanged.connect(self._table_chosen)
        for combo in (self.plot, self.channel, self.first, self.second):
            combo.currentIndexChanged.connect(self._draw_soon)
        self.png_button.clicked.connect(self._ask_and_export_png)
        self.csv_button.clicked.connect(self._ask_and_export_csv)
        self._list_tables()

    def _lay_out(self) -> None:
        pair = QHBoxLayout()
        pair.addWidget(self.first, 1)
        pair.addWidget(self.second, 1)
        self._pair_row = QWidget()
        self._pair_row.setLayout(pair)
        pair.setContentsMargins(0, 0, 0, 0)
        self.form = QFormLayout()
        self.form.setVerticalSpacing(3)
        self.form.addRow("Table", self.table)
        self.form.addRow("Show", self.plot)
        self.form.addRow("Channel", self.channel)
        self.form.addRow("Candidates", self._pair_row)
        buttons = QHBoxLayout()
        buttons.addWidget(self.png_button)
        buttons.addWidget(self.csv_button)
        layout = QVBoxLayout(self)
        layout.addLayout(self.form)
        layout.addLayout(self._canvas_place, 1)
        layout.addWidget(self.pixel)
        layout.addLayout(buttons)

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot, made when first drawn: importing matplotlib takes longer than opening a widget may."""
        if self._canvas is None:
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
            from matplotlib.figure import Figure

            self._canvas = FigureCanvasQTAgg(Figure(layout="constrained"))
            self._canvas.setMinimumSize(240, 220)
            explain(self._canvas, "canvas")
            self._canvas_place.addWidget(self._canvas)
        return self._canvas

    @property
    def lut(self) -> WeightLUT | None:
        """The table shown."""
        return self._tables.get(self.table.currentText())

    # -- choosing ---------------------------------------------------------------------------------

    def _list_tables(self) -> None:
        """Offer the tables of this viewer: fitted here, opened here, or remembered by an ensemble."""
        tables = dict(self._session.tables)
        for layer in self.viewer.layers:
            made = layer.metadata.get(OUTPUT_KEY, {})
            lut = made.get("lut")
            if made.get("kind") == "ensemble" and lut is not None and lut not in tables.values():
                tables[f"{layer.name} (layer)"] = lut
        before, self._tables = self.table.currentText(), tables
        self.table.blockSignals(True)
        self.table.clear()
        self.table.addItems(list(tables))
        place = self.table.findText(before)
        self.table.setCurrentIndex(place if place >= 0 else self.table.count() - 1)
        self.table.blockSignals(False)
        self._table_chosen()

    def _table_chosen(self, *_: object) -> None:
        lut = self.lut
        names = lut.names if lut is not None else ()
        colours = ("red", "green", "blue") if lut is not None and lut.n_channels == 3 else ()
        channels = [colours[i] if colours else str(i) for i in range(lut.n_channels)] if lut else []
        for combo, entries, default in (
            (self.channel, channels, 0),
            (self.first, names, 0),
            (self.second, names, 1),
        ):
            if [combo.itemText(i) for i in range(combo.count())] != list(entries):
                combo.blockSignals(True)
                combo.clear()
                combo.addItems(list(entries))
                combo.setCurrentIndex(min(default, combo.count() - 1))
                combo.blockSignals(False)
        self.form.setRowVisible(self.channel, len(channels) > 1)
        for button in (self.png_button, self.csv_button):
            button.setEnabled(lut is not None)
        self._draw_soon()

    # -- drawing ----------------------------------------------------------------------------------

    def _draw_soon(self, *_: object) -> None:
        self.form.setRowVisible(self._pair_row, self.plot.currentData() == "pair")
        self._soon.start()

    def draw(self) -> None:
        """Draw what is chosen, in the viewer's theme."""
        theme = get_theme(self.viewer.theme)
        ink, paper = (_rgb(theme.text), _rgb(theme.background))
        figure = self.canvas.figure
        figure.clear()
        figure.set_facecolor(paper)
        axes = figure.add_subplot()
        axes.set_facecolor(paper)
        lut = self.lut
        if lut is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "No lookup table yet:\nfit one, or open one.", color=ink, ha="center")
        elif self.plot.currentData() == "pair":
            self._draw_pair(axes, lut, ink)
        else:
            self._draw_curves(axes, lut, ink, paper)
        axes.tick_params(colors=ink, labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(ink)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        self.canvas.draw_idle()

    def _draw_curves(self, axes: Axes, lut: WeightLUT, ink: Any, paper: Any) -> None:
        weights, counts = weights_along_intensity(lut, max(0, self.channel.currentIndex()))
        centres = bin_centres(lut)
        axes.set_xlabel("intensity")
        if self.plot.currentData() == "counts":
            axes.bar(centres, np.maximum(counts, 0), width=0.9 * lut.bin_width, color=PALETTE[1])
            axes.set_yscale("symlog", linthresh=1)
            axes.axhline(100, color=ink, linewidth=0.8, linestyle=":")
            axes.set_ylabel("pixels" if (lut.counts >= 0).all() else "bin sets")
            return
        for m, name in enumerate(lut.names):
            colour = PALETTE[min(m, len(PALETTE) - 1)]
            axes.plot(centres, weights[:, m], color=colour, linewidth=1.4, label=name)
            # A hollow dot is a guess: fewer than 100 pixels behind it.
            sure = counts >= 100
            axes.scatter(centres[sure], weights[sure, m], s=18, color=colour)
            axes.scatter(centres[~sure], weights[~sure, m], s=18, facecolor=paper, edgecolor=colour)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("weight (hollow: under 100 pixels)")
        axes.legend(fontsize=7, labelcolor=ink, facecolor=paper, edgecolor=ink)

    def _draw_pair(self, axes: Axes, lut: WeightLUT, ink: Any) -> None:
        first, second = max(0, self.first.currentIndex()), max(0, self.second.currentIndex())
        weights, _ = pair_map(lut, first, second, max(0, self.channel.currentIndex()))
        low = lut.binning.low
        high = low + lut.binning.width * lut.binning.n_bins
        shown = axes.imshow(
            weights, origin="lower", extent=(low, high, low, high), vmin=0, vmax=1, cmap="viridis"
        )
        bar = self.canvas.figure.colorbar(shown, ax=axes, shrink=0.8)
        bar.set_label(f"weight of {lut.names[first]}", color=ink, fontsize=8)
        bar.ax.tick_params(colors=ink, labelsize=7)
        axes.set_xlabel(f"intensity of {lut.names[second]}")
        axes.set_ylabel(f"intensity of {lut.names[first]}")

    # -- a pixel ----------------------------------------------------------------------------------

    def _clicked(self, viewer: napari.Viewer, event: Any) -> None:
        if event.button == 1:
            self.pixel.setText(self.describe(tuple(event.position)))

    def describe(self, position: tuple[float, ...]) -> str:
        """What the table knows of the pixel at a place in the world, in a few lines."""
        lut = self.lut
        if lut is None:
            return "No lookup table yet."
        values = []
        for name, layer in zip(lut.names, self._session.layers_of(lut, self.viewer), strict=True):
            if layer is None:
                return f'There is no layer "{name}" to read the candidates\' intensities from.'
            place = np.round(layer.world_to_data(position)[-layer.ndim :]).astype(int)
            data = full_data(layer)
            if (place < 0).any() or (place >= data.shape[: layer.ndim]).any():
                return "That place lies outside the candidates."
            values.append(np.atleast_1d(np.asarray(data[tuple(place)])))
        channel = max(0, self.channel.currentIndex())
        intensities = [float(v[min(channel, len(v) - 1)]) for v in values]
        weights, count = lut.weights_for(intensities, channel), lut.count_for(intensities, channel)
        bins = lut.binning.bins(np.array(intensities))
        lines = [f"Bin set ({', '.join(map(str, bins))})"]
        if lut.n_channels > 1:
            lines[0] += f" of {self.channel.currentText()}"
        known = "never seen: fallback weights" if count == 0 else f"{count:,} pixels behind it"
        lines[0] += f": {known}." if count >= 0 else "; how many pixels stand behind it is not known."
        lines += [
            f"{name}: {value:g}, weight {weight:.3f}"
            for name, value, weight in zip(lut.names, intensities, weights, strict=True)
        ]
        return "\n".join(lines)

    # -- export -----------------------------------------------------------------------------------

    def export_png(self, path: str) -> None:
        """Write the plot as it is shown."""
        self.draw()
        figure = self.canvas.figure
        with self._writing(with_suffix(path, ".png")) as part:
            figure.savefig(part, format="png", dpi=200, facecolor=figure.get_facecolor())

    def export_csv(self, path: str) -> None:
        """Write every bin set: its lower edges, channel, weights and pixels."""
        lut = self.lut
        if lut is None:
            return
        with (
            self._writing(with_suffix(path, ".csv")) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            edges = [f"{name} from" for name in lut.names]
            writer.writerow([*edges, "channel", *(f"weight of {name}" for name in lut.names), "pixels"])
            for row, weights, count in zip(lut.rows, lut.weights, lut.counts, strict=True):
                low = lut.binning.low + row[:-1].astype(float) * lut.bin_width
                writer.writerow([*low.tolist(), int(row[-1]), *weights.tolist(), int(count)])

    @contextmanager
    def _writing(self, path: Path) -> Iterator[Path]:
        """Write a file whole or not at all; say which."""
        try:
            with whole_file(path, overwrite=True) as part:  # the dialog has asked
                yield part
        except EnsembleError as error:
            self.pixel.setText(str(error))
            show_error(str(error))
        else:
            self.pixel.setText(f"Wrote {path.name}.")

    def _ask_and_export_png(self) -> None:
        path = ask_where_to_save(self, "Export the plot", "lut.png", "Image", ".png")
        if path is not None:
            self.export_png(str(path))

    def _ask_and_export_csv(self) -> None:
        path = ask_where_to_save(self, "Export the table", "lut.csv", "Table", ".csv")
        if path is not None:
            self.export_csv(str(path))


def _rgb(colour: Any) -> tuple[float, float, float]:
    red, green, blue = colour.as_rgb_tuple()[:3]
    return red / 255, green / 255, blue / 255


def _release(widget: InspectWidget, viewer: napari.Viewer) -> Any:
    """Undo every connection to what outlives the widget; made while the widget is whole."""
    watcher, session, clicked, redraw = widget._watcher, widget._session, widget._clicked, widget._draw_soon
    listed = widget._list_tables

    def release(*_: object) -> None:
        watcher.stop()
        session.changed.disconnect(listed, missing_ok=True)
        viewer.events.theme.disconnect(redraw)
        if clicked in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(clicked)

    return release

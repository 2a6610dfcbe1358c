"""The Inspect lookup table panel: what a table learned, and from how much. Changes nothing."""

from __future__ import annotations

import csv
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container
from qtpy.QtCore import QTimer

from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.ensemble.uncertainty.bias import fidelity_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import ask_where_to_save, with_suffix
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, full_data
from napari_ensir.viewer.layers.session import session_of
from napari_ensir.viewer.panel import Panel, shows_errors
from napari_ensir.viewer.results.layers import method_title
from napari_ensir.viewer.results.plots import (
    draw_counts,
    draw_fidelity,
    draw_nothing,
    draw_pair,
    draw_weights,
    fresh_axes,
    new_canvas,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import napari
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.uncertainty.bias import BiasCurve, By

__all__ = ["InspectWidget", "provenance_lines"]


def provenance_lines(lut: WeightLUT) -> list[str]:
    """Date and versions, method and settings, what was learned from, hashes, what was held out: those known.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lines = provenance_lines(fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)]))
    >>> lines[2], lines[3]
    ('Learned from 1 image: 16 x 16, uint8.', 'Content hashes (sha256) of 1 of 1 images in the file.')
    """
    report = lut.report
    lines = []
    if isinstance(date := report.get("date"), str):
        versions = _dict(report.get("versions"))
        with_what = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"Made {date}" + (f" with {with_what}." if with_what else "."))
    settings = [
        f"{name} {value}" for name, value in _dict(report.get("settings")).items() if value is not None
    ]
    if settings:
        lines.append(f"By {method_title(lut)}: bin_width {figures(lut.bin_width)}, {', '.join(settings)}.")
    inputs = _dict(report.get("inputs"))
    lines += filter(None, [_learned_from(inputs), _hashes(inputs)])
    held_out = _dict(report.get("held_out"))
    if isinstance(rmse := held_out.get("rmse"), (int, float)):
        within = "" if (factor := lut.error_factor) is None else f", within x {factor:.2g} on other fields"
        lines.append(f"Held out: RMSE {rmse:.4g}{within}, on {held_out.get('kind', 'parts of the images')}.")
    return lines


def _learned_from(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    images = inputs.get("images")
    if not isinstance(images, int) or not isinstance(listed, list) or not listed:
        return ""
    first = _dict(listed[0])
    shape, dtypes = first.get("shape"), first.get("dtypes")
    if not isinstance(shape, list) or not isinstance(dtypes, list):
        return ""
    kinds = ", ".join(dict.fromkeys(map(str, dtypes)))
    more = "" if images == 1 else ", the first"
    many = f"{images} image{'s' if images != 1 else ''}{more}"
    names = first.get("names")
    truth = f'; its ground truth is "{names[-1]}"' if isinstance(names, list) and names else ""
    return f"Learned from {many}: {' x '.join(map(str, shape))}, {kinds}{truth}."


def _hashes(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        return ""
    hashed = sum(bool(one.get("sha256")) for one in listed)
    said = inputs.get("not_hashed")
    more = f" Not hashed: {said}." if isinstance(said, str) else ""
    return f"Content hashes (sha256) of {hashed} of {len(listed)} images in the file.{more}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_PLOT_SIZE = (260, 230)
"""Least width and height in pixels: the place is kept before there is a plot."""

_PLOTS = {
    "weights": (
        "Weights along intensity",
        "Each candidate's weight where the candidates have that intensity.",
    ),
    "counts": ("Pixels behind each bin", "How many pixels the weights were learned from: few make a guess."),
    "pair": ("Map of two candidates", "The first candidate's weight, by its own intensity and another's."),
    "fidelity": (
        "Fidelity by true intensity",
        "Mean error of candidates and ensemble where the truth has that intensity: do intensities survive?",
    ),
    "reading": (
        "Fidelity by intensity read",
        "Mean error where an image itself has that intensity: is a reading right, on average?",
    ),
}

_FIDELITY: dict[str, By] = {"fidelity": "truth", "reading": "reading"}
"""By what the plots of mean errors put pixels together."""


class InspectWidget(Panel):
    """Plots a table in the viewer's theme; a click on the image tells what the table knows there.

    Values: ``table`` (its title), ``plot`` (``"weights"``, ``"counts"``, ``"pair"``, ``"fidelity"`` or
    ``"reading"``), ``channel`` (from 0), ``first`` and ``second`` (the candidates of a map of two, by name).

    Parameters
    ----------
    napari_viewer
        The viewer to work in.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._session = session_of(napari_viewer)
        self._luts: dict[str, WeightLUT] = {}
        self._canvas: FigureCanvasQTAgg | None = None
        self._tables = Choice({}, name="table", label="Table", tooltip="A table fitted or opened here.")
        self._channels = Choice({}, name="channel", label="Channel", tooltip="Which channel's table to show.")
        self._first, self._second = (
            Choice({}, name=name, label=label, tooltip=tip)
            for name, label, tip in (
                ("first", "Weight of", "The candidate whose weight is shown."),
                ("second", "Against", "The candidate that it is shown against."),
            )
        )
        plot = Choice(_PLOTS, name="plot", label="Show", tooltip="What to show of the table.")
        self._canvas_place: Container = Container(name="canvas_place", labels=False, gui_only=True)
        self._canvas_place.margins = (0, 0, 0, 0)
        self._canvas_place.native.setMinimumSize(*_PLOT_SIZE)
        self._pixel = Message(
            "Click a pixel of the image to see its bin set, weights and count.", name="pixel", gui_only=True
        )
        self._origin = Message("", name="origin", gui_only=True)
        self.png_button = button("Export PNG…", "Save the plot as an image.", "png_button")
        self.csv_button = button(
            "Export CSV…",
            "Save every bin set with its weights and its number of pixels; of fidelity, the curves.",
            "csv_button",
        )
        super().__init__(
            napari_viewer,
            Form(self._tables, plot, self._channels, self._first, self._second, name="choice"),
            self._canvas_place,
            self._pixel,
            self._origin,
            row(self.png_button, self.csv_button, name="exports", gui_only=True),
        )
        # The plot takes what room there is.
        self.native.widget().layout().setStretchFactor(self._canvas_place.native, 1)
        # Hundreds of changes in a row (a live fit) are drawn once.
        self._soon = QTimer(self.native)
        self._soon.setSingleShot(True)
        self._soon.setInterval(30)
        self._soon.timeout.connect(self.safely(self.draw))
        self._connect()
        self._list_tables()

    def _connect(self) -> None:
        self._tables.changed.connect(self.safely(self._follow_table))
        for choice in (self.plot, self._channels, self._first, self._second):
            choice.changed.connect(self.safely(self._draw_soon))
        self.png_button.changed.connect(self.safely(self._ask_and_export_png))
        self.csv_button.changed.connect(self.safely(self._ask_and_export_csv))
        self.tie(self._session.changed, self._tables_changed)
        self.tie(self.viewer.events.theme, self._draw_soon)
        self.tie(_Clicks(self.viewer), self._clicked)

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot, made when first drawn: importing matplotlib takes longer than opening a panel may."""
        if self._canvas is None:
            self._canvas = new_canvas("Plot of the lookup table", "Drawn in the viewer's theme.", *_PLOT_SIZE)
            self._canvas_place.native.layout().addWidget(self._canvas)
            self._canvas.show()  # what joins a panel that is seen already stays hidden otherwise
        return self._canvas

    @property
    def lut(self) -> WeightLUT | None:
        """The table shown."""
        return self._luts.get(self._tables.value)

    # -- choosing ---------------------------------------------------------------------------------

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        self._list_tables()

    def _tables_changed(self) -> None:
        self.safely(self._list_tables)()

    def _list_tables(self) -> None:
        """Offer the tables of this viewer: fitted here, opened here, or remembered by an ensemble."""
        luts = dict(self._session.tables)
        for layer in self.viewer.layers:
            made = layer.metadata.get(OUTPUT_KEY, {})
            lut = made.get("lut")
            if made.get("kind") == "ensemble" and lut is not None and lut not in luts.values():
                luts[f"{layer.name} (layer)"] = lut
        self._luts = luts
        with self._tables.changed.blocked():
            before = self._tables.value
            self._tables.offer({title: (title, title) for title in luts})
            if luts and before not in luts:
                self._tables.value = list(luts)[-1]
        self._follow_table()

    def _follow_table(self) -> None:
        lut = self.lut
        names = lut.names if lut is not None else ()
        n_channels = lut.n_channels if lut is not None else 0
        colours = ("red", "green", "blue") if n_channels == 3 else tuple(map(str, range(n_channels)))
        with self._channels.changed.blocked():
            self._channels.offer({place: (colour, "") for place, colour in enumerate(colours)})
        self._channels.visible = n_channels > 1
        known = self._first.value in names and self._second.value in names
        for choice, default in ((self._first, 0), (self._second, 1)):
            with choice.changed.blocked():
                choice.offer({name: (name, "") for name in names})
                if names and not known:
                    choice.value = names[min(default, len(names) - 1)]
        self._origin.value = "" if lut is None else "\n".join(provenance_lines(lut))
        for each in (self.png_button, self.csv_button):
            each.enabled = lut is not None
        self._draw_soon()

    # -- drawing ----------------------------------------------------------------------------------

    def _draw_soon(self, *_: object) -> None:
        for choice in (self._first, self._second):
            choice.visible = self.plot.value == "pair"
        self._soon.start()

    def draw(self) -> None:
        """Draw what is chosen, in the viewer's theme."""
        axes, ink, paper = fresh_axes(self.canvas, self.viewer)
        lut, channel, plot = self.lut, self._channels.value or 0, self.plot.value
        if lut is None:
            draw_nothing(axes, "No lookup table yet:\nfit one, or open one.", ink)
        elif plot == "pair":
            pair = lut.names.index(self._first.value), lut.names.index(self._second.value)
            draw_pair(axes, lut, pair, channel, ink)
        elif plot == "counts":
            draw_counts(axes, lut, channel, ink)
        elif plot in _FIDELITY:
            try:
                curves = fidelity_of(lut.report, _FIDELITY[plot])
            except EnsembleError as error:
                draw_nothing(axes, fill(str(error), 40), ink)
            else:
                draw_fidelity(axes, curves, lut.names, channel, ink, paper)
        else:
            draw_weights(axes, lut, channel, ink, paper)
        self.canvas.draw_idle()

    # -- a pixel ----------------------------------------------------------------------------------

    def _clicked(self, viewer: napari.Viewer, event: Any) -> None:
        try:
            if event.button == 1:
                self._pixel.value = self.describe(tuple(event.position))
        except Exception as error:  # else napari would pass it on to whoever clicked
            self.fail(error)

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
        channel = self._channels.value or 0
        intensities = [float(v[min(channel, len(v) - 1)]) for v in values]
        weights, count = lut.weights_for(intensities, channel), lut.count_for(intensities, channel)
        bins = lut.binning.bins(np.array(intensities))
        lines = [f"Bin set ({', '.join(map(str, bins))})"]
        if lut.n_channels > 1:
            lines[0] += f" of {['red', 'green', 'blue'][channel] if lut.n_channels == 3 else channel}"
        known = "never seen: fallback weights" if count == 0 else f"{count:,} pixels behind it"
        lines[0] += f": {known}." if count >= 0 else "; how many pixels stand behind it is not known."
        lines += [
            f"{name}: {value:g}, weight {weight:.3f}"
            for name, value, weight in zip(lut.names, intensities, weights, strict=True)
        ]
        ensemble = float(weights @ intensities)
        if lut.errors is None:
            lines.append(f"ensemble: {ensemble:.4g}")
        else:
            error = lut.errors.at(ensemble, intensities, channel)
            lines.append(f"ensemble: {ensemble:.4g} ± {error:.2g} (root mean square error to expect)")
        return "\n".join(lines)

    # -- export -----------------------------------------------------------------------------------

    @shows_errors
    def export_png(self, path: str | Path) -> None:
        """Write the plot as it is shown; says so, or why not. ``.png`` is added where the name lacks it."""
        self.draw()
        figure = self.canvas.figure
        self._write(path, ".png", lambda part: figure.savefig(part, format="png", dpi=200))

    @shows_errors
    def export_csv(self, path: str | Path) -> None:
        """Write every bin set: its lower edges, channel, weights and pixels; says so, or why not.

        Where a plot of fidelity is shown, its curves instead. ``.csv`` is added where the name lacks it.
        """
        lut = self.lut
        if lut is None:
            raise EnsembleError("There is no lookup table to export; fit one, or open one.")
        if (by := _FIDELITY.get(self.plot.value)) is None:
            self._write(path, ".csv", lambda part: _write_table(lut, part))
            return
        curves = fidelity_of(lut.report, by)
        self._write(path, ".csv", lambda part: _write_curves(lut, curves, part))

    def _write(self, path: str | Path, suffix: str, write: Callable[[Path], object]) -> None:
        """Write a file whole or not at all, and say so."""
        target = with_suffix(path, suffix)
        with whole_file(target, overwrite=True) as part:  # the dialog has asked
            write(part)
        self.say(f"Wrote {target.name}.")

    def _ask_and_export_png(self) -> None:
        path = ask_where_to_save(self.native, "Export the plot", "lut.png", "Image", ".png")
        if path is not None:
            self.export_png(path)

    def _ask_and_export_csv(self) -> None:
        path = ask_where_to_save(self.native, "Export the table", "lut.csv", "Table", ".csv")
        if path is not None:
            self.export_csv(path)


def _write_table(lut: WeightLUT, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        edges = [f"{name} from" for name in lut.names]
        writer.writerow([*edges, "channel", *(f"weight of {name}" for name in lut.names), "pixels"])
        for place, weights, count in zip(lut.rows, lut.weights, lut.counts, strict=True):
            low = lut.binning.low + place[:-1].astype(float) * lut.bin_width
            writer.writerow([*low.tolist(), int(place[-1]), *weights.tolist(), int(count)])


def _write_curves(lut: WeightLUT, curves: BiasCurve, path: Path) -> None:
    what = "true intensity" if curves.by == "truth" else "intensity read"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([what, "channel", "image", "mean of image minus truth", "standard error", "pixels"])
        for channel, m, k in np.ndindex(curves.bias.shape):
            numbers = [float(each[channel, m, k]) for each in (curves.bias, curves.standard_error)]
            shown = ["" if np.isnan(one) else one for one in numbers]
            name = [*lut.names, "ensemble"][m]
            writer.writerow([curves.intensities[k], channel, name, *shown, int(curves.pixels[channel, m, k])])


class _Clicks:
    """The viewer's clicks as a signal."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer

    def connect(self, slot: Callable) -> None:
        self._viewer.mouse_drag_callbacks.append(slot)

    def disconnect(self, slot: Callable) -> None:
        if slot in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(slot)

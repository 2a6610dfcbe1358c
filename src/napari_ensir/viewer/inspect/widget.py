"""Panel that plots a lookup table and shows the table's weights at a pixel."""

from __future__ import annotations

import csv
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_ensir.ensemble.lut.load import SUFFIX
from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.ensemble.uncertainty.bias import bias_curve
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import ask_where_to_save, with_suffix
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message, WithButton
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, full_data
from napari_ensir.viewer.layers.records import open_lut
from napari_ensir.viewer.layers.session import get_session
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

__all__ = ["InspectWidget", "describe_provenance"]

_PLOT_SIZE = (260, 230)
"""Minimum width and height of the plot in pixels."""

_PLOTS = {
    "weights": (
        "Weights by intensity",
        "Mean weight of each candidate by the intensity of the median candidate.",
    ),
    "counts": ("Pixels per bin", "Number of pixels that the weights were learned from."),
    "pair": (
        "Map of two candidates",
        "Weight of the first candidate by its own intensity and that of another candidate.",
    ),
    "fidelity": (
        "Bias by true intensity",
        "Mean error of candidates and ensemble where the ground truth has that intensity.",
    ),
    "reading": (
        "Bias by image intensity",
        "Mean error of candidates and ensemble where the image itself has that intensity.",
    ),
}

_BIAS_BY: dict[str, By] = {"fidelity": "truth", "reading": "reading"}


class InspectWidget(Panel):
    """Plots a lookup table; a click on the image shows the bin set, weights and pixel count there.

    Values: ``table`` (its title), ``plot`` (``"weights"``, ``"counts"``, ``"pair"``, ``"fidelity"`` or
    ``"reading"``), ``channel`` (from 0), ``first`` and ``second`` (names of candidates, for the map of two).

    Parameters
    ----------
    napari_viewer

    Examples
    --------
    In napari's console::

        widget = InspectWidget(viewer)
        widget.open("ensemble.ome.tif")
        widget.save("rain.lut.safetensors")
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._session = get_session(napari_viewer)
        self._luts: dict[str, WeightLUT] = {}
        self._canvas: FigureCanvasQTAgg | None = None
        self._tables = Choice(
            {},
            name="table",
            label="Table",
            tooltip="Lookup tables that were fitted or opened in this viewer.",
        )
        self.open_button = button(
            "Open…",
            "Open a lookup table, or the table of an ensemble that was saved as OME-TIFF or OME-Zarr (choose "
            "the zarr.json in its folder).",
            "open_button",
        )
        self._channels = Choice({}, name="channel", label="Channel", tooltip="Channel of the table to show.")
        self._first, self._second = (
            Choice({}, name=name, label=label, tooltip=tooltip)
            for name, label, tooltip in (
                ("first", "Weight of", "Candidate whose weight is shown."),
                ("second", "Against", "Candidate whose intensity is on the other axis."),
            )
        )
        plot = Choice(_PLOTS, name="plot", label="Show", tooltip="Plot of the table to show.")
        self._canvas_place: Container = Container(name="canvas_place", labels=False, gui_only=True)
        self._canvas_place.margins = (0, 0, 0, 0)
        self._canvas_place.native.setMinimumSize(*_PLOT_SIZE)
        self._pixel = Message(
            "Click a pixel of the image to see its bin set, weights and the pixels learned from.",
            name="pixel",
            gui_only=True,
        )
        self._provenance = Message("", name="provenance", gui_only=True)
        self.save_button = button("Save LUT…", "Save the lookup table to a file.", "save_button")
        self.png_button = button("Export PNG…", "Save the plot as an image.", "png_button")
        self.csv_button = button(
            "Export CSV…",
            "Save all bin sets with their weights and pixel counts, or the curves of a plot of bias.",
            "csv_button",
        )
        super().__init__(
            napari_viewer,
            Form(
                WithButton(self._tables, self.open_button),
                plot,
                self._channels,
                self._first,
                self._second,
                name="choice",
            ),
            self._canvas_place,
            self._pixel,
            self._provenance,
            row(self.save_button, self.png_button, self.csv_button, name="exports", gui_only=True),
        )
        self.native.widget().layout().setStretchFactor(self._canvas_place.native, 1)
        # Draws once after a series of changes, as a live fit makes them.
        self._draw_timer = QTimer(self.native)
        self._draw_timer.setSingleShot(True)
        self._draw_timer.setInterval(30)
        self._draw_timer.timeout.connect(self.safely(self.draw))
        self._connect()
        self._list_tables()

    def _connect(self) -> None:
        self._tables.changed.connect(self.safely(self._show_table))
        for choice in (self.plot, self._channels, self._first, self._second):
            choice.changed.connect(self.safely(self._draw_soon))
        self.open_button.changed.connect(self.safely(self._ask_and_open))
        self.save_button.changed.connect(self.safely(self._ask_and_save))
        self.png_button.changed.connect(self.safely(self._ask_and_export_png))
        self.csv_button.changed.connect(self.safely(self._ask_and_export_csv))
        self.connect_while_open(self._session.changed, self._tables_changed)
        self.connect_while_open(self.viewer.events.theme, self._draw_soon)
        self.connect_while_open(_MouseClicks(self.viewer), self._clicked)

    # -- tables -----------------------------------------------------------------------------------

    @property
    def lut(self) -> WeightLUT | None:
        """The table shown."""
        return self._luts.get(self._tables.value)

    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        self._list_tables()

    def _tables_changed(self) -> None:
        self.safely(self._list_tables)()

    def _list_tables(self) -> None:
        """Offer the tables of the session, and those of ensemble layers."""
        luts = dict(self._session.tables)
        for layer in self.viewer.layers:
            output = layer.metadata.get(OUTPUT_KEY, {})
            lut = output.get("lut")
            if output.get("kind") == "ensemble" and lut is not None and lut not in luts.values():
                luts[f"{layer.name} (layer)"] = lut
        self._luts = luts
        with self._tables.changed.blocked():
            before = self._tables.value
            self._tables.offer({title: (title, title) for title in luts})
            if luts and before not in luts:
                self._tables.value = list(luts)[-1]
        self._show_table()

    def _show_table(self) -> None:
        lut = self.lut
        names = lut.names if lut is not None else ()
        n_channels = lut.n_channels if lut is not None else 0
        with self._channels.changed.blocked():
            channels = range(n_channels)
            self._channels.offer({channel: (_channel_name(channel, n_channels), "") for channel in channels})
        self._channels.visible = n_channels > 1
        keep = self._first.value in names and self._second.value in names
        for choice, default in ((self._first, 0), (self._second, 1)):
            with choice.changed.blocked():
                choice.offer({name: (name, "") for name in names})
                if names and not keep:
                    choice.value = names[min(default, len(names) - 1)]
        self._provenance.value = "" if lut is None else "\n".join(describe_provenance(lut))
        for each in (self.save_button, self.png_button, self.csv_button):
            each.enabled = lut is not None
        self._draw_soon()

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a lookup table, or the table in the record of a saved ensemble, and show it."""
        lut = open_lut(path)
        self._tables.value = self._session.open(path, lut)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the table shown; ``.lut.safetensors`` is appended if the name lacks it.

        Raises
        ------
        EnsembleError
            If there is no table, or the file exists and ``overwrite`` is off.
        """
        written = self._require_lut().save(path, overwrite=overwrite)
        self.say(f"Saved {written.name}.")

    def _require_lut(self) -> WeightLUT:
        if self.lut is None:
            raise EnsembleError("There is no lookup table to save; fit or open one.")
        return self.lut

    def _ask_and_open(self) -> None:
        patterns = f"*{SUFFIX} *.ome.tif *.ome.tiff zarr.json .zattrs"
        title, kind = "Open a lookup table", f"Lookup table or ensemble ({patterns})"
        path, _ = QFileDialog.getOpenFileName(self.native, title, "", kind)
        if path:
            self.open(path)

    def _ask_and_save(self) -> None:
        path = ask_where_to_save(self.native, "Save the lookup table", "ensemble", "Lookup table", SUFFIX)
        if path is not None:
            self.save(path, overwrite=True)

    # -- plot -------------------------------------------------------------------------------------

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot, created when first needed, since importing matplotlib takes long."""
        if self._canvas is None:
            self._canvas = new_canvas("Plot of the lookup table", "Plot of the lookup table.", *_PLOT_SIZE)
            self._canvas_place.native.layout().addWidget(self._canvas)
            self._canvas.show()  # widgets that are added to a visible panel are hidden
        return self._canvas

    def _draw_soon(self, *_: object) -> None:
        for choice in (self._first, self._second):
            choice.visible = self.plot.value == "pair"
        self._draw_timer.start()

    def draw(self) -> None:
        """Draw the chosen plot in the viewer's theme."""
        axes, ink, paper = fresh_axes(self.canvas, self.viewer)
        lut, channel, plot = self.lut, self._channels.value or 0, self.plot.value
        if lut is None:
            draw_nothing(axes, "No lookup table yet:\nfit or open one.", ink)
        elif plot == "pair":
            pair = lut.names.index(self._first.value), lut.names.index(self._second.value)
            draw_pair(axes, lut, pair, channel, ink)
        elif plot == "counts":
            draw_counts(axes, lut, channel, ink)
        elif plot in _BIAS_BY:
            try:
                curves = bias_curve(lut.report, _BIAS_BY[plot])
            except EnsembleError as error:
                draw_nothing(axes, fill(str(error), 40), ink)
            else:
                draw_fidelity(axes, curves, lut.names, channel, ink, paper)
        else:
            draw_weights(axes, lut, channel, ink, paper)
        self.canvas.draw_idle()

    # -- pixel ------------------------------------------------------------------------------------

    def _clicked(self, viewer: napari.Viewer, event: Any) -> None:
        try:
            if event.button == 1:
                self._pixel.value = self.describe(tuple(event.position))
        except Exception as error:  # napari would raise it in its own mouse handling
            self.fail(error)

    def describe(self, position: tuple[float, ...]) -> str:
        """Return the bin set, weights and pixel count at a position in world coordinates, as text."""
        lut = self.lut
        if lut is None:
            return "No lookup table yet."
        values = []
        for name, layer in zip(lut.names, self._session.layers_of(lut, self.viewer), strict=True):
            if layer is None:
                return f'There is no layer "{name}" to read the candidate\'s intensity from.'
            index = np.round(layer.world_to_data(position)[-layer.ndim :]).astype(int)
            data = full_data(layer)
            if (index < 0).any() or (index >= data.shape[: layer.ndim]).any():
                return "This position is outside the candidates."
            values.append(np.atleast_1d(np.asarray(data[tuple(index)])))
        channel = self._channels.value or 0
        intensities = [float(v[min(channel, len(v) - 1)]) for v in values]
        weights, count = lut.weights_for(intensities, channel), lut.count_for(intensities, channel)
        bins = lut.binning.bins(np.array(intensities))
        title = f"Bin set ({', '.join(map(str, bins))})"
        if lut.n_channels > 1:
            title += f", {_channel_name(channel, lut.n_channels)}"
        known = "no pixels, fallback weights" if count == 0 else f"learned from {count:,} pixels"
        lines = [f"{title}: {known}." if count >= 0 else f"{title}; number of pixels not known."]
        lines += [
            f"{name}: {value:g}, weight {weight:.3f}"
            for name, value, weight in zip(lut.names, intensities, weights, strict=True)
        ]
        ensemble = float(weights @ intensities)
        if lut.errors is None:
            lines.append(f"ensemble: {ensemble:.4g}")
        else:
            error = lut.errors.at(ensemble, intensities, channel)
            lines.append(f"ensemble: {ensemble:.4g} ± {error:.2g} (expected root mean square error)")
        return "\n".join(lines)

    # -- export -----------------------------------------------------------------------------------

    @shows_errors
    def export_png(self, path: str | Path) -> None:
        """Save the plot as PNG; ``.png`` is appended if the name lacks it. Overwrites an existing file."""
        self.draw()
        figure = self.canvas.figure
        self._write(path, ".png", lambda part: figure.savefig(part, format="png", dpi=200))

    @shows_errors
    def export_csv(self, path: str | Path) -> None:
        """Save all bin sets with their weights and pixel counts as CSV, or the curves of a plot of bias.

        ``.csv`` is appended if the name lacks it. Overwrites an existing file.
        """
        lut = self._require_lut()
        if (by := _BIAS_BY.get(self.plot.value)) is None:
            self._write(path, ".csv", lambda part: _write_table(lut, part))
            return
        curves = bias_curve(lut.report, by)
        self._write(path, ".csv", lambda part: _write_curves(lut, curves, part))

    def _write(self, path: str | Path, suffix: str, write: Callable[[Path], object]) -> None:
        target = with_suffix(path, suffix)
        with whole_file(target, overwrite=True) as part:
            write(part)
        self.say(f"Saved {target.name}.")

    def _ask_and_export_png(self) -> None:
        path = ask_where_to_save(self.native, "Export the plot", "lut.png", "Image", ".png")
        if path is not None:
            self.export_png(path)

    def _ask_and_export_csv(self) -> None:
        path = ask_where_to_save(self.native, "Export the table", "lut.csv", "Table", ".csv")
        if path is not None:
            self.export_csv(path)


class _MouseClicks:
    """The mouse callbacks of a viewer with the interface of a signal."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer

    def connect(self, slot: Callable) -> None:
        self._viewer.mouse_drag_callbacks.append(slot)

    def disconnect(self, slot: Callable) -> None:
        if slot in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(slot)


def _channel_name(channel: int, n_channels: int) -> str:
    return ("red", "green", "blue")[channel] if n_channels == 3 else f"channel {channel}"


def _write_table(lut: WeightLUT, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        edges = [f"{name} from" for name in lut.names]
        writer.writerow([*edges, "channel", *(f"weight of {name}" for name in lut.names), "pixels"])
        for bins, weights, count in zip(lut.rows, lut.weights, lut.counts, strict=True):
            low = lut.binning.low + bins[:-1].astype(float) * lut.bin_width
            writer.writerow([*low.tolist(), int(bins[-1]), *weights.tolist(), int(count)])


def _write_curves(lut: WeightLUT, curves: BiasCurve, path: Path) -> None:
    intensity = "true intensity" if curves.by == "truth" else "image intensity"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [intensity, "channel", "image", "mean of image minus truth", "standard error", "pixels"]
        )
        for channel, m, k in np.ndindex(curves.bias.shape):
            numbers = [float(each[channel, m, k]) for each in (curves.bias, curves.standard_error)]
            shown = ["" if np.isnan(one) else one for one in numbers]
            name = [*lut.names, "ensemble"][m]
            writer.writerow([curves.intensities[k], channel, name, *shown, int(curves.pixels[channel, m, k])])


def describe_provenance(lut: WeightLUT) -> list[str]:
    """Return date and versions, method and settings, training images and held-out error, if they are known.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lines = describe_provenance(fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)]))
    >>> lines[2], lines[3]
    ('Learned from 1 image: 16 x 16, uint8.', 'The file has hashes (sha256) of 1 of 1 images.')
    """
    report = lut.report
    lines = []
    if isinstance(date := report.get("date"), str):
        versions = ", ".join(
            f"{name} {version}" for name, version in _as_dict(report.get("versions")).items()
        )
        lines.append(f"Created {date}" + (f" with {versions}." if versions else "."))
    settings = [
        f"{name} {value}" for name, value in _as_dict(report.get("settings")).items() if value is not None
    ]
    if settings:
        width = figures(lut.bin_width)
        lines.append(f"Method: {method_title(lut)}, bin_width {width}, {', '.join(settings)}.")
    inputs = _as_dict(report.get("inputs"))
    lines += filter(None, [_describe_images(inputs), _describe_hashes(inputs)])
    held_out = _as_dict(report.get("held_out"))
    if isinstance(rmse := held_out.get("rmse"), (int, float)):
        factor = lut.error_factor
        within = "" if factor is None else f", within a factor of {factor:.2g} on other fields"
        lines.append(f"Held out: RMSE {rmse:.4g}{within}, on {held_out.get('kind', 'parts of the images')}.")
    return lines


def _describe_images(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    images = inputs.get("images")
    if not isinstance(images, int) or not isinstance(listed, list) or not listed:
        return ""
    first = _as_dict(listed[0])
    shape, dtypes = first.get("shape"), first.get("dtypes")
    if not isinstance(shape, list) or not isinstance(dtypes, list):
        return ""
    number = "1 image" if images == 1 else f"{images} images, the first"
    names = first.get("names")
    truth = f'; its ground truth is "{names[-1]}"' if isinstance(names, list) and names else ""
    dtype = ", ".join(dict.fromkeys(map(str, dtypes)))
    return f"Learned from {number}: {' x '.join(map(str, shape))}, {dtype}{truth}."


def _describe_hashes(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        return ""
    hashed = sum(bool(one.get("sha256")) for one in listed)
    reason = inputs.get("not_hashed")
    more = f" Not hashed: {reason}." if isinstance(reason, str) else ""
    return f"The file has hashes (sha256) of {hashed} of {len(listed)} images.{more}"


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

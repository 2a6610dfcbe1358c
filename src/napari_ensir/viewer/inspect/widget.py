"""Panel that plots a lookup table and shows the table's weights at a pixel."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_ensir.ensemble.lut.bin_set import bin_set_of
from napari_ensir.ensemble.lut.lut import figures
from napari_ensir.ensemble.uncertainty.bias import bias_curve
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_file
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import save_asked, with_suffix
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import Message
from napari_ensir.viewer.controls.worker import delayed
from napari_ensir.viewer.layers.layers import pixels_at
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.panel import shows_errors
from napari_ensir.viewer.results.layers import method_title
from napari_ensir.viewer.results.plots import (
    Plot,
    draw_bin_set,
    draw_counts,
    draw_fidelity,
    draw_pair,
    draw_text,
    draw_weights,
)
from napari_ensir.viewer.results.table_panel import TableChoice, TableChoicePanel, save_button

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import napari
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    from napari_ensir.ensemble.lut.bin_set import BinSet
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.uncertainty.bias import BiasCurve, By

_Kind = TypeVar("_Kind")

NO_TABLE = "There is no lookup table to save; fit or open one."

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
    "bin-set": (
        "Bin set of a pixel",
        "Histogram of the ground truth in the bin set of the pixel that was clicked last, and the weighted "
        "Gaussian of each candidate.",
    ),
}

_BIAS_BY: dict[str, By] = {"fidelity": "truth", "reading": "reading"}


class InspectWidget(TableChoicePanel):
    """Plots a lookup table; a click on the image shows the bin set, weights and pixel count there.

    Values: ``table`` (its title), ``plot`` (``"weights"``, ``"counts"``, ``"pair"``, ``"fidelity"``,
    ``"reading"`` or ``"bin-set"``), ``channel`` (from 0), ``first`` and ``second`` (names of candidates, for
    the map of two).

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
        tables = TableChoice(napari_viewer)
        self._position: tuple[float, ...] | None = None  # of the last click, in world coordinates
        self._channels = Choice({}, name="channel", label="Channel", tooltip="Channel of the table to show.")
        self._first = Choice({}, name="first", label="Weight of", tooltip="Candidate whose weight is shown.")
        self._second = Choice(
            {}, name="second", label="Against", tooltip="Candidate whose intensity is on the other axis."
        )
        plot = Choice(_PLOTS, name="plot", label="Show", tooltip="Plot of the table to show.")
        about = ("Plot of the lookup table", "Plot of the lookup table.", _PLOT_SIZE)
        self._area = Plot(napari_viewer, self._draw, "plot_area", *about)
        self._area.native.setMinimumSize(*_PLOT_SIZE)
        self._pixel = Message(
            "Click a pixel of the image to see its bin set, weights and the pixels learned from.",
            name="pixel",
            gui_only=True,
        )
        self._provenance = Message("", name="provenance", gui_only=True)
        csv_about = "Save all bin sets with their weights and pixel counts, or the curves of a plot of bias."
        super().__init__(
            napari_viewer,
            Form(tables, plot, self._channels, self._first, self._second, name="choice"),
            self._area,
            self._pixel,
            self._provenance,
            row(
                save_button(),
                button("Export PNG…", "Save the plot as an image.", "png_button"),
                button("Export CSV…", csv_about, "csv_button"),
                name="exports",
                gui_only=True,
            ),
            tables=tables,
        )
        self.native.widget().layout().setStretchFactor(self._area.native, 1)
        # Draws once after a series of changes, as a live fit makes them.
        self._draw_timer = delayed(self.native, self.safely(self.draw), 30)
        draw = dict.fromkeys(("plot", "channel", "first", "second"), self._draw_soon)
        self.on_change(**draw, png_button=self._ask_png, csv_button=self._ask_csv)
        self.connect_while_open(self.viewer.events.theme, self._draw_soon)
        clicks = self.viewer.mouse_drag_callbacks
        signal = SimpleNamespace(connect=clicks.append, disconnect=clicks.remove)
        self.connect_while_open(signal, self._clicked)
        self.table_changed()

    # -- tables -----------------------------------------------------------------------------------

    def table_changed(self) -> None:
        """See TableChoicePanel."""
        lut = self.lut
        names = () if lut is None else lut.names
        n_channels = 0 if lut is None else lut.n_channels
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
        self.update_run_button()
        self._draw_soon()

    def obstacles(self) -> Mapping[str, str]:
        """See TablePanel."""
        missing = "" if self.lut is not None else NO_TABLE
        return dict.fromkeys(("save_button", "png_button", "csv_button"), missing)

    # -- plot -------------------------------------------------------------------------------------

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot."""
        return self._area.canvas

    def _draw_soon(self, *_: object) -> None:
        for choice in (self._first, self._second):
            choice.visible = self.plot.value == "pair"
        self._draw_timer.start()

    def draw(self) -> None:
        """Draw the chosen plot in the viewer's theme, and describe the pixel that was clicked last."""
        if self._position is not None:
            self._pixel.value = self.describe(self._position)
        self._area.redraw()

    def _draw(self, axes: Axes) -> None:
        lut, channel, plot = self.lut, self._channel, self.plot.value
        if lut is None:
            draw_text(axes, "No lookup table yet: fit or open one.")
        elif plot == "pair":
            pair = lut.names.index(self._first.value), lut.names.index(self._second.value)
            draw_pair(axes, lut, pair, channel)
        elif plot == "counts":
            draw_counts(axes, lut, channel)
        elif plot == "weights":
            draw_weights(axes, lut, channel)
        elif plot == "bin-set":
            draw_bin_set(axes, self.bin_set(), lut.names)
        else:
            draw_fidelity(axes, bias_curve(lut.report, _BIAS_BY[plot]), lut.names, channel)

    # -- pixel ------------------------------------------------------------------------------------

    def _clicked(self, viewer: napari.Viewer, event: Any) -> None:
        try:
            if event.button == 1:
                self._position = tuple(event.position)
                self._pixel.value = self.describe(self._position)
                if self.plot.value == "bin-set":
                    self._draw_soon()
        except Exception as error:  # napari would raise it in its own mouse handling
            self.fail(error)

    def bin_set(self) -> BinSet:
        """Return the bin set of the pixel that was clicked last.

        Raises
        ------
        EnsembleError
            If no pixel was clicked, the fit of the table is not kept in this viewer, or no pixel was learned
            from in the bin set.
        """
        lut = self.lut
        statistics = None if lut is None else get_session(self.viewer).statistics_of(lut)
        if lut is None or statistics is None:
            raise EnsembleError(
                "A lookup table does not contain the ground truth; fit the images again in this viewer, and "
                "leave Fit ensemble open."
            )
        if self._position is None:
            raise EnsembleError("Click a pixel of the image.")
        return bin_set_of(lut, statistics, self._intensities_at(self._position, lut), self._channel)

    @property
    def _channel(self) -> int:
        return self._channels.value or 0

    def _intensities_at(self, position: tuple[float, ...], lut: WeightLUT) -> list[float]:
        """Intensities of the candidates at a position in world coordinates, in the chosen channel."""
        values = []
        for name, layer in zip(lut.names, get_session(self.viewer).layers_of(lut, self.viewer), strict=True):
            if layer is None:
                raise EnsembleError(f'There is no layer "{name}" to read the candidate\'s intensity from.')
            (value,), inside = pixels_at(layer, np.array([position]))
            if not inside.all():
                raise EnsembleError("This position is outside the candidates.")
            values.append(np.atleast_1d(value))
        return [float(v[min(self._channel, len(v) - 1)]) for v in values]

    def describe(self, position: tuple[float, ...]) -> str:
        """Return the bin set, weights and pixel count at a position in world coordinates, as text."""
        lut, channel = self.lut, self._channel
        if lut is None:
            return "No lookup table yet."
        try:
            intensities = self._intensities_at(position, lut)
        except EnsembleError as error:
            return str(error)
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
        self._write(path, ".png", lambda part: self.canvas.figure.savefig(part, format="png", dpi=200))

    @shows_errors
    def export_csv(self, path: str | Path) -> None:
        """Save all bin sets with their weights and pixel counts as CSV, or the curves of a plot of bias.

        ``.csv`` is appended if the name lacks it. Overwrites an existing file.
        """
        lut, by = self.lut, _BIAS_BY.get(self.plot.value)
        if lut is None:
            raise EnsembleError(NO_TABLE)
        rows = _table_rows(lut) if by is None else _curve_rows(lut, bias_curve(lut.report, by))

        def write(part: Path) -> None:
            with part.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)

        self._write(path, ".csv", write)

    def _write(self, path: str | Path, suffix: str, write: Callable[[Path], object]) -> None:
        target = with_suffix(path, suffix)
        with whole_file(target, overwrite=True) as part:
            write(part)
        self.say(f"Saved {target.name}.")

    def _ask_png(self) -> None:
        save_asked(self.native, "Export the plot", "lut.png", "Image", ".png", self.export_png)

    def _ask_csv(self) -> None:
        save_asked(self.native, "Export the table", "lut.csv", "Table", ".csv", self.export_csv)


def _channel_name(channel: int, n_channels: int) -> str:
    return ("red", "green", "blue")[channel] if n_channels == 3 else f"channel {channel}"


def _table_rows(lut: WeightLUT) -> list[list[Any]]:
    edges, weights = [f"{name} from" for name in lut.names], [f"weight of {name}" for name in lut.names]
    rows: list[list[Any]] = [[*edges, "channel", *weights, "pixels"]]
    low = lut.binning.low + lut.rows[:, :-1].astype(float) * lut.bin_width
    for edge, bins, weight, count in zip(low, lut.rows, lut.weights, lut.counts, strict=True):
        rows.append([*edge.tolist(), int(bins[-1]), *weight.tolist(), int(count)])
    return rows


def _curve_rows(lut: WeightLUT, curves: BiasCurve) -> list[list[Any]]:
    intensity = "true intensity" if curves.by == "truth" else "image intensity"
    rows: list[list[Any]] = [
        [intensity, "channel", "image", "mean of image minus truth", "standard error", "pixels"]
    ]
    for channel, m, k in np.ndindex(curves.bias.shape):
        numbers = [float(each[channel, m, k]) for each in (curves.bias, curves.standard_error)]
        shown = ["" if np.isnan(one) else one for one in numbers]
        name = [*lut.names, "ensemble"][m]
        rows.append([curves.intensities[k], channel, name, *shown, int(curves.pixels[channel, m, k])])
    return rows


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
    report, lines = lut.report, []
    if date := _find(str, report, "date"):
        versions = [f"{name} {version}" for name, version in _find(dict, report, "versions").items()]
        lines.append(f"Created {date}" + (f" with {', '.join(versions)}." if versions else "."))
    settings = [
        f"{name} {value}" for name, value in _find(dict, report, "settings").items() if value is not None
    ]
    if settings:
        width = figures(lut.bin_width)
        lines.append(f"Method: {method_title(lut)}, bin_width {width}, {', '.join(settings)}.")
    n, listed = _find(int, report, "inputs", "images"), _find(list, report, "inputs", "listed")
    shape, dtypes = _find(list, listed, 0, "shape"), _find(list, listed, 0, "dtypes")
    if n and shape and dtypes:
        number = "1 image" if n == 1 else f"{n} images, the first"
        names = _find(list, listed, 0, "names")
        truth = f'; its ground truth is "{names[-1]}"' if names else ""
        dtype = ", ".join(dict.fromkeys(map(str, dtypes)))
        lines.append(f"Learned from {number}: {' x '.join(map(str, shape))}, {dtype}{truth}.")
    if listed and all(isinstance(one, dict) for one in listed):
        hashed = sum(bool(one.get("sha256")) for one in listed)
        reason = _find(str, report, "inputs", "not_hashed")
        more = f" Not hashed: {reason}." if reason else ""
        lines.append(f"The file has hashes (sha256) of {hashed} of {len(listed)} images.{more}")
    if rmse := _find(float, report, "held_out", "rmse"):
        factor = lut.error_factor
        within = "" if factor is None else f", within a factor of {factor:.2g} on other fields"
        kind = _find(str, report, "held_out", "kind") or "parts of the images"
        lines.append(f"Held out: RMSE {rmse:.4g}{within}, on {kind}.")
    return lines


def _find(kind: type[_Kind], values: Any, *keys: str | int) -> _Kind:
    """Return an entry of nested dictionaries and lists; an empty value if there is none of this type."""
    try:
        for key in keys:
            values = values[key]
    except (KeyError, IndexError, TypeError):
        return kind()
    return values if isinstance(values, kind) else kind()

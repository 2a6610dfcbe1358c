"""Panel that shows two layers side by side, and candidates and ensemble along a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image, Shapes

from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.worker import delayed
from napari_ensir.viewer.layers.combo import LayerChoice, likely_truth, only_layer
from napari_ensir.viewer.layers.layers import pixels_at, unwrap_proxy
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.results.layers import colour_of
from napari_ensir.viewer.results.plots import Plot, ink_of
from napari_ensir.viewer.results.table_panel import TableChoice, TableChoicePanel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari
    from matplotlib.axes import Axes
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT


class Profile(NamedTuple):
    """Intensities along a line; of colour images the mean over the colours.

    Attributes
    ----------
    distances : (n,) array
        From the start of the line, in world units.
    candidates : (M, n) array
    ensemble : (n,) array
    expected : (n,) array or None
        Expected root mean square error of the ensemble, if the table is calibrated.
    truth : (n,) array or None
    """

    distances: NDArray[np.float64]
    candidates: NDArray[np.float64]
    ensemble: NDArray[np.float64]
    expected: NDArray[np.float64] | None
    truth: NDArray[np.float64] | None


def profile_of(
    lut: WeightLUT, layers: list[Layer], start: NDArray[Any], end: NDArray[Any], truth: Layer | None = None
) -> Profile:
    """Combine the pixels of layers along a line.

    Parameters
    ----------
    lut
    layers
        The layer of each candidate.
    start, end
        World coordinates, at least as many as the layers have axes.
    truth

    Raises
    ------
    EnsembleError
        If no pixel of the line lies in the layers.
    """
    first = layers[0]
    ends = [np.asarray(first.world_to_data(point[-first.ndim :])) for point in (start, end)]
    n = round(float(np.abs(ends[1] - ends[0]).max())) + 1
    points = np.linspace(start, end, n)
    sampled = [pixels_at(layer, points) for layer in [*layers, *([] if truth is None else [truth])]]
    inside = np.logical_and.reduce([known for _, known in sampled])
    if not inside.any():
        raise EnsembleError("The line does not cross the candidates; draw it on them.")
    values = [pixels[inside] for pixels, _ in sampled]
    axis = -1 if first.rgb and lut.n_channels > 1 else None
    if axis is None and lut.n_channels > 1:
        raise EnsembleError("This table has channels along an axis; profiles are for grey and RGB images.")
    arrays = values[: len(layers)]
    ensemble = np.asarray(lut.apply(arrays, "cpu", channel_axis=axis, check=False))
    expected = None
    if lut.errors is not None:
        expected = _mean(np.asarray(lut.expected_error(arrays, "cpu", channel_axis=axis)) ** 2) ** 0.5
    distances = np.linalg.norm(points - points[0], axis=1)[inside]
    shown = None if truth is None else _mean(values[-1])
    return Profile(distances, np.array([_mean(each) for each in arrays]), _mean(ensemble), expected, shown)


def _is_image(layer: Layer) -> bool:
    return isinstance(layer, Image)


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, np.float64) if values.ndim == 1 else values.mean(axis=-1, dtype=np.float64)


class ProfileWidget(TableChoicePanel):
    """Shows two layers side by side, and plots candidates, ensemble and ground truth along a line.

    Values: ``first`` and ``second`` (layers), ``table`` (its title), ``truth`` (a layer or None), ``line`` (a
    Shapes layer, of which the last shape counts).

    Parameters
    ----------
    napari_viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._hidden: list[Layer] = []
        tables = TableChoice(napari_viewer)
        about = "One of the two images to show side by side."
        images = [
            LayerChoice(napari_viewer, name, label, about, admits=_is_image)
            for name, label in (("first", "First layer"), ("second", "Second layer"))
        ]
        named = ("truth", "Ground truth", "Image that is plotted as well.", "none")
        truth = LayerChoice(napari_viewer, *named, admits=_is_image, guess=likely_truth)
        line = LayerChoice(
            napari_viewer,
            "line",
            "Line",
            "Shapes layer; the profile is taken along its last shape.",
            "draw a line first",
            admits=lambda layer: isinstance(layer, Shapes),
            guess=only_layer,
        )
        shown = "Candidates, ensemble with expected error, and truth along the line."
        self.plot_area = Plot(napari_viewer, self._draw, "plot_area", "Profile", shown, (260, 230))
        super().__init__(
            napari_viewer,
            Form(*images, name="sides"),
            row(
                button("Side by side", "Show only these two layers, in napari's grid.", "side_button"),
                button("Back", "Show all layers again that were hidden, without the grid.", "back_button"),
                name="grid_buttons",
                gui_only=True,
            ),
            Form(tables, truth, line, name="choice"),
            button("Draw a line", "Add a Shapes layer and start drawing.", "line_button"),
            self.plot_area,
            tables=tables,
        )
        self.native.widget().layout().setStretchFactor(self.plot_area.native, 1)
        self._soon = delayed(self.native, self.safely(self.plot_area.redraw), 50)
        self.on_change(
            side_button=self.side_by_side,
            back_button=self.back,
            line_button=self.draw_line,
            truth=self.table_changed,
            line=self.table_changed,
        )
        self.connect_while_open(self.viewer.dims.events.current_step, self.table_changed)
        self.connect_while_open(self.viewer.events.theme, self.table_changed)
        self.table_changed()

    def table_changed(self, *_: object) -> None:
        """See TableChoicePanel."""
        self._soon.start()

    def obstacles(self) -> Mapping[str, str]:
        """See Panel; the table cannot be saved here."""
        return {}

    # -- side by side -----------------------------------------------------------------------------

    def side_by_side(self) -> None:
        """Show only the two layers, in napari's grid, whose cameras are linked."""
        pair = [self.first.value, self.second.value]
        if None in pair or pair[0] is pair[1]:
            raise EnsembleError("Choose two different layers.")
        self.back()
        layers = list(map(unwrap_proxy, self.viewer.layers))
        self._hidden = [layer for layer in layers if layer.visible and layer not in pair]
        for layer in layers:
            layer.visible = layer in pair
        self._grid().enabled = True
        self.viewer.reset_view()

    def back(self) -> None:
        """Show the hidden layers again, without the grid."""
        for layer in self._hidden:
            layer.visible = True
        self._hidden = []
        self._grid().enabled = False

    def _grid(self) -> Any:
        canvas = getattr(self.viewer, "canvas", None)  # since napari 0.9
        return self.viewer.grid if canvas is None else canvas.grid

    # -- profile ----------------------------------------------------------------------------------

    def draw_line(self) -> None:
        """Add a Shapes layer in the mode in which lines are drawn, and choose it."""
        layer = self.viewer.add_shapes(ndim=2, name="profile", edge_color="yellow", face_color="transparent")
        layer.mode = "add_line"
        self.line.value = layer

    def profile(self) -> Profile:
        """Return the intensities along the line.

        Raises
        ------
        EnsembleError
            If there is no table, no line, or no layer for a candidate.
        """
        lut, line = self.lut, self.line.value
        if lut is None:
            raise EnsembleError("There is no lookup table yet; fit or open one.")
        if line is None or not len(line.data):
            raise EnsembleError("There is no line yet; press Draw a line, and drag on the image.")
        layers = get_session(self.viewer).layers_of(lut, self.viewer)
        for name, layer in zip(lut.names, layers, strict=True):
            if layer is None:
                raise EnsembleError(f'There is no layer "{name}"; add it to see its profile.')
        leading = self.viewer.dims.point
        start, end = (
            np.array([*leading[: len(leading) - line.ndim], *line.data_to_world(vertex)])
            for vertex in (line.data[-1][0], line.data[-1][-1])
        )
        return profile_of(lut, [layer for layer in layers if layer is not None], start, end, self.truth.value)

    def _draw(self, axes: Axes) -> None:
        found, ink = self.profile(), ink_of(axes)
        assert self.lut is not None  # profile has checked
        for m, name in enumerate(self.lut.names):
            axes.plot(found.distances, found.candidates[m], color=colour_of(m), linewidth=0.9, label=name)
        axes.plot(found.distances, found.ensemble, color=ink, linewidth=1.8, label="ensemble")
        if found.expected is not None:
            low, high = found.ensemble - found.expected, found.ensemble + found.expected
            axes.fill_between(found.distances, low, high, color=ink, alpha=0.25, linewidth=0)
        if found.truth is not None:
            axes.plot(found.distances, found.truth, color=ink, linewidth=1, linestyle=":", label="truth")
        axes.set_xlabel("distance along the line (band: expected error)")
        axes.set_ylabel("intensity")
        axes.legend()

"""Form for trying values of a setting of a restorer, with a plot of their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.self_supervised.calibrate import (
    default_grid_range,
    format_value,
    numeric_settings,
    parameter_grid,
)
from napari_ensir.settings import SweepSettings, settings_of
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.forms import Form, button, row
from napari_ensir.viewer.controls.inputs import NumberRange, create_control
from napari_ensir.viewer.results.plots import Plot, draw_sweep

if TYPE_CHECKING:
    import napari
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    from napari_ensir.restorers import Restorer
    from napari_ensir.restorers.self_supervised.calibrate import Sweep
    from napari_ensir.settings import Setting
    from napari_ensir.viewer.results.plots import Colour

_PLOT_SIZE = (220, 190)


class SweepForm(Container):
    """Form for the setting, the range and the number of values to try, with a plot of the errors.

    Parameters
    ----------
    viewer
        The viewer whose theme the plot follows.

    Attributes
    ----------
    sweep : Sweep or None
        The latest, of the restorer with the key ``swept``.
    """

    def __init__(self, viewer: napari.Viewer, **kwargs: Any) -> None:
        self._settings: dict[str, Setting] = {}
        self._restorer: Restorer | None = None
        self.sweep: Sweep | None = None
        self.swept = ""
        self.setting = Choice(
            {},
            name="sweep_setting",
            label="Setting",
            tooltip="A numeric setting of the restorer that is selected in the list.",
            gui_only=True,
        )
        self.between = NumberRange(
            name="sweep_between",
            label="From, to",
            tooltip="The smallest and the largest value.",
            gui_only=True,
        )
        (count,) = (each for each in settings_of(SweepSettings) if each.name == "count")
        self.steps = create_control(count, name="sweep_steps", gui_only=True)
        self.sweep_button = button(
            "Try values",
            "Restore with each value and compare the estimated errors; no ground truth is needed.",
            "sweep_button",
        )
        self.adopt_button = button(
            "Use the best", "Set the value with the smallest error.", "adopt_button", enabled=False
        )
        self._plot = Plot(
            viewer,
            self._draw,
            "sweep_plot",
            "Plot of the values tried",
            "Error of each value minus the smallest error, with a band of its standard error.",
            _PLOT_SIZE,
        )
        super().__init__(layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.extend(
            [
                Form(self.setting, self.between, self.steps, name="sweep_controls", gui_only=True),
                row(self.sweep_button, self.adopt_button, name="sweep_buttons", gui_only=True),
                self._plot,
            ]
        )
        self.setting.changed.connect(self._suggest)

    def offer(self, restorer: Restorer) -> None:
        """Offer the numeric settings of a restorer; an existing plot is kept."""
        self._restorer = restorer
        self._settings = {each.name: each for each in numeric_settings(restorer)}
        self.setting.offer({each.name: (each.title, each.description) for each in self._settings.values()})
        self.sweep_button.enabled = bool(self._settings)
        self._suggest()

    def _suggest(self, *_: object) -> None:
        """Suggest values around the current one."""
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            return
        low, high = default_grid_range(chosen, getattr(self._restorer, chosen.name))
        self.between.suit(high - low)
        self.between.value = (low, high)

    def values(self) -> list[Any]:
        """Return the values to try.

        Raises
        ------
        EnsembleError
            If there is no setting to try, or fewer than two values lie between.
        """
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            raise EnsembleError(
                "This restorer has no numeric setting to try; select another restorer in the list."
            )
        low, high = self.between.value
        return parameter_grid(chosen, low, high, self.steps.value)

    def show_sweep(self, sweep: Sweep, key: str) -> None:
        """Plot the errors of the restorer with this key."""
        self.sweep, self.swept = sweep, key
        self.adopt_button.enabled = True
        self.adopt_button.text = f"Use {format_value(sweep.best)}"
        self.redraw()

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot."""
        return self._plot.canvas

    def redraw(self, *_: object) -> None:
        """Plot the latest errors, if any, in the viewer's theme."""
        if self.sweep is not None:
            self._plot.redraw()

    def _draw(self, axes: Axes, ink: Colour, paper: Colour) -> None:
        assert self.sweep is not None  # checked before a plot is drawn
        draw_sweep(axes, self.sweep, self.sweep.setting.replace("_", " "), ink, paper)

"""The controls of trying values of one setting of a restorer, and the curve of what came out. Tries none."""

from __future__ import annotations

from dataclasses import is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container, SpinBox

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import settings_of
from napari_ensir.viewer.choices import Choice
from napari_ensir.viewer.controls import Between
from napari_ensir.viewer.forms import Form, button, row
from napari_ensir.viewer.plots import draw_sweep, fresh_axes, new_canvas

if TYPE_CHECKING:
    import napari
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    from napari_ensir.restorers import Restorer
    from napari_ensir.restorers.ranking import Sweep
    from napari_ensir.settings import Setting

__all__ = ["SweepForm", "values_between"]

STEPS = 7
"""Values tried where nothing is said."""

REACH = 4.0
"""From a value to how many times less and more of it is tried where nothing is said."""

_PLOT_SIZE = (220, 190)

_ELSEWHERE = ("tile", "overlap", "batch", "batch_size")
"""What a restorer computes by, and not what it makes."""


class SweepForm(Container):
    """Which setting, from where to where, in how many values; below them the curve and a button to take it.

    Parameters
    ----------
    viewer
        Whose theme to draw in.

    Attributes
    ----------
    sweep : Sweep or None
        The last one, of the restorer of the key ``swept``.
    """

    def __init__(self, viewer: napari.Viewer, **kwargs: Any) -> None:
        self._viewer = viewer
        self._canvas: FigureCanvasQTAgg | None = None
        self._settings: dict[str, Setting] = {}
        self._restorer: Restorer | None = None
        self.sweep: Sweep | None = None
        self.swept = ""
        self.setting = Choice(
            {},
            name="sweep_setting",
            label="Setting",
            tooltip="A number among the settings of the restorer selected above.",
            gui_only=True,
        )
        self.between = Between(
            name="sweep_between", label="From, to", tooltip="The least and the greatest value.", gui_only=True
        )
        self.steps = SpinBox(
            value=STEPS,
            name="sweep_steps",
            label="Values",
            tooltip="How many values to try, evenly spaced by ratio where all are above zero.",
            min=2,
            max=50,
            gui_only=True,
        )
        self.sweep_button = button(
            "Try values",
            "Restore with each value, some pixels hidden, and compare the errors; no ground truth is needed.",
            "sweep_button",
        )
        self.adopt_button = button(
            "Use the best", "Set the value of least error.", "adopt_button", enabled=False
        )
        self._place: Container = Container(name="sweep_place", labels=False, gui_only=True)
        self._place.margins = (0, 0, 0, 0)
        super().__init__(layout="vertical", labels=False, **kwargs)
        self.margins = (0, 0, 0, 0)
        self.extend(
            [
                Form(self.setting, self.between, self.steps, name="sweep_controls", gui_only=True),
                row(self.sweep_button, self.adopt_button, name="sweep_buttons", gui_only=True),
                self._place,
            ]
        )
        self.setting.changed.connect(self._suggest)

    def offer(self, restorer: Restorer) -> None:
        """Offer the numbers among a restorer's settings; the curve drawn stays until another is."""
        known: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
        self._restorer = restorer
        # Those that have a value first: what is estimated unless it is set is seldom what one looks for.
        numbers = sorted(filter(_can_be_tried, known), key=lambda each: getattr(restorer, each.name) is None)
        self._settings = {each.name: each for each in numbers}
        self.setting.offer({each.name: (each.title, each.description) for each in self._settings.values()})
        self.sweep_button.enabled = bool(self._settings)
        self._suggest()

    def _suggest(self, *_: object) -> None:
        """Suggest values around the one that is set."""
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            return
        now = getattr(self._restorer, chosen.name)
        low, high = _around(chosen, now)
        self.between.suit(high - low)
        self.between.value = (low, high)

    def values(self) -> list[Any]:
        """The values to try.

        Raises
        ------
        EnsembleError
            If there is no setting to try, or fewer than two values lie between.
        """
        chosen = self._settings.get(self.setting.value)
        if chosen is None:
            raise EnsembleError("This restorer has no number to try; select another one in the list.")
        low, high = self.between.value
        return values_between(chosen, low, high, self.steps.value)

    def show_sweep(self, sweep: Sweep, key: str) -> None:
        """Draw the curve of the restorer of this key."""
        self.sweep, self.swept = sweep, key
        self.adopt_button.enabled = True
        self.adopt_button.text = f"Use {sweep.best:.4g}"
        self.redraw()

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot, made when first drawn: importing matplotlib takes longer than opening a panel may."""
        if self._canvas is None:
            tip = "The error at each value above that of the best, with a band of its standard error."
            self._canvas = new_canvas("Plot of the values tried", tip, *_PLOT_SIZE)
            self._place.native.layout().addWidget(self._canvas)
            self._canvas.show()  # what joins a panel that is seen already stays hidden otherwise
        return self._canvas

    def redraw(self, *_: object) -> None:
        """Draw what is known in the viewer's theme; nothing where nothing was tried."""
        if self.sweep is not None:
            axes, ink, paper = fresh_axes(self.canvas, self._viewer)
            draw_sweep(axes, self.sweep, self.sweep.setting.replace("_", " "), ink, paper)
            self.canvas.draw_idle()

    def in_words(self) -> str:
        """The best value, and which may be as good, in a sentence."""
        if self.sweep is None:
            return ""
        best, alike = self.sweep.best, [value for value in self.sweep.alike if value != self.sweep.best]
        said = f"Least error at {self.sweep.setting.replace('_', ' ')} {best:.4g}"
        said += f"; {', '.join(f'{value:.4g}' for value in alike)} may be as good." if alike else "."
        if best in (min(self.sweep.values), max(self.sweep.values)):
            said += " That is the last value tried: there may be a better one beyond."
        return said


def _can_be_tried(setting: Setting) -> bool:
    """Whether it is a number of what is made, with three values or more to choose from."""
    if setting.kind not in ("number", "integer") or setting.name in _ELSEWHERE:
        return False
    if setting.kind == "number" or setting.minimum is None or setting.maximum is None:
        return True
    return setting.maximum - setting.minimum >= 2 * (setting.step or 1)


def _around(setting: Setting, now: Any) -> tuple[float, float]:
    """Values around the one that is set, within the limits."""
    least = setting.minimum if setting.minimum is not None and isfinite(setting.minimum) else 0.0
    step = setting.step or 1.0
    centre = float(now) if isinstance(now, int | float) and now else max(least, step)
    low, high = max(least, centre / REACH), centre * REACH
    if setting.kind == "integer":
        high = max(high, low + (STEPS - 1) * step)
    elif low <= 0:
        low, high = least, max(high, least + STEPS * step)
    return low, high if setting.maximum is None else min(high, setting.maximum)


def values_between(setting: Setting, low: float, high: float, number: int) -> list[Any]:
    """Values of a setting, evenly spaced by ratio where all are above zero, on its steps if it is whole.

    Raises
    ------
    EnsembleError
        If one is outside the setting's limits, or there are fewer than two.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Median, TotalVariation
    >>> size, = (each for each in settings_of(Median) if each.name == "size")
    >>> values_between(size, 1, 9, 4)
    [1, 3, 5, 9]
    >>> strength, = (each for each in settings_of(TotalVariation) if each.name == "strength")
    >>> values_between(strength, 0.5, 2, 3)
    [0.5, 1.0, 2.0]
    """
    if not low < high:
        raise EnsembleError(f"{setting.title} is to go from {low:g} to {high:g}; give the lower value first.")
    spaced = np.geomspace(low, high, number) if low > 0 else np.linspace(low, high, number)
    if setting.kind == "integer":
        step, start = int(setting.step or 1), int(setting.minimum or 0)
        on_steps = [start + step * round((float(value) - start) / step) for value in spaced]
        found: list[Any] = sorted({value for value in on_steps if low <= value <= high})
    else:
        found = sorted({float(f"{value:.3g}") for value in spaced})
    if len(found) < 2:
        raise EnsembleError(
            f"{setting.title} has fewer than two values from {low:g} to {high:g}; go further."
        )
    return [setting.checked(value) for value in found]

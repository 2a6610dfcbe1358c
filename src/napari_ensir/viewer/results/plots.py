"""Plots of lookup tables and parameter sweeps in the viewer's theme."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container
from napari.utils.theme import get_theme

from napari_ensir.ensemble.lut.lut import bin_centres, pair_map, weights_along_intensity
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.results.layers import colour_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
    from numpy.typing import NDArray

    from napari_ensir.ensemble.lut.bin_set import BinSet
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.uncertainty.bias import BiasCurve
    from napari_ensir.restorers.self_supervised.calibrate import Sweep

MOST_TICKS = 8
"""Maximum number of tick labels below a curve."""

MOST_BARS = 64
"""Maximum number of bars of a histogram."""

SURE = 100
"""Minimum number of pixels for a filled marker; markers for fewer pixels are hollow."""


class Plot(Container):
    """Place for a plot, which is created when it is first drawn.

    Parameters
    ----------
    viewer
        The viewer whose theme the plot follows.
    draw
        Called with the empty axes. The message of an EnsembleError is shown instead of a plot.
    name, title, tooltip
        Name of the widget, accessible name and tooltip of the plot.
    size
        Least width and height in pixels.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        draw: Callable[[Axes], None],
        name: str,
        title: str,
        tooltip: str,
        size: tuple[int, int],
    ) -> None:
        self._viewer, self._draw, self._about = viewer, draw, (title, tooltip)
        self._size = size
        self._canvas: FigureCanvasQTAgg | None = None
        super().__init__(name=name, labels=False, gui_only=True)
        self.margins = (0, 0, 0, 0)

    @property
    def canvas(self) -> FigureCanvasQTAgg:
        """The plot."""
        if self._canvas is None:
            # Import matplotlib only for plots, because the import takes half a second.
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
            from matplotlib.figure import Figure

            (title, tooltip), (width, height) = self._about, self._size
            figure = Figure(figsize=(width / 100, height / 100), layout="constrained")
            self._canvas = FigureCanvasQTAgg(figure)
            self._canvas.setMinimumSize(width, height)
            self._canvas.setAccessibleName(title)
            self._canvas.setToolTip(tooltip)
            self.native.layout().addWidget(self._canvas)
            self._canvas.show()  # widgets that are added to a visible panel are hidden
        return self._canvas

    def redraw(self, *_: object) -> None:
        """Draw in the viewer's theme."""
        from matplotlib import rc_context

        figure = self.canvas.figure
        theme = get_theme(self._viewer.theme)
        ink, paper = theme.text.as_hex(), theme.background.as_hex()
        figure.clear()
        figure.set_facecolor(paper)
        style: dict[Any, Any] = {"axes.facecolor": paper, "axes.labelsize": 9}
        style |= dict.fromkeys(("legend.fontsize", "legend.title_fontsize"), 7)
        style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "legend.edgecolor"), ink)
        with rc_context(style):
            axes = figure.add_subplot()
            axes.tick_params(which="both", colors=ink, labelsize=8)
            axes.xaxis.label.set_wrap(True)
            try:
                self._draw(axes)
            except EnsembleError as error:
                draw_text(axes, str(error))
        self.canvas.draw_idle()


def draw_text(axes: Axes, text: str) -> None:
    """Show a text instead of a plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, fill(text, 40), ha="center", va="center")


def ink_of(axes: Axes) -> Any:
    """Return the colour of the texts of a plot."""
    return axes.xaxis.label.get_color()


def _scatter(axes: Axes, x: Any, y: Any, filled: NDArray[np.bool_], colour: str, size: float) -> None:
    """Draw markers, some of them hollow."""
    faces = [colour if each else axes.get_facecolor() for each in filled]
    axes.scatter(x, y, s=size, facecolors=faces, edgecolors=colour, zorder=3)


def draw_weights(axes: Axes, lut: WeightLUT, channel: int) -> None:
    """Draw the weight of each candidate against intensity; markers for few pixels are hollow."""
    weights, counts = weights_along_intensity(lut, channel)
    centres = bin_centres(lut)
    for m, name in enumerate(lut.names):
        axes.plot(centres, weights[:, m], color=colour_of(m), linewidth=1.4, label=name)
        _scatter(axes, centres, weights[:, m], counts >= SURE, colour_of(m), 18)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(f"intensity (hollow: fewer than {SURE} pixels)")
    axes.set_ylabel("weight")
    axes.legend()


def draw_counts(axes: Axes, lut: WeightLUT, channel: int) -> None:
    """Draw the number of pixels from which the weights at each intensity were learned."""
    _, counts = weights_along_intensity(lut, channel)
    axes.bar(bin_centres(lut), np.maximum(counts, 0), width=0.9 * lut.bin_width, color=colour_of(1))
    axes.set_yscale("symlog", linthresh=1)
    axes.axhline(SURE, color=ink_of(axes), linewidth=0.8, linestyle=":")
    axes.set_xlabel("intensity")
    axes.set_ylabel("pixels" if (lut.counts >= 0).all() else "bin sets")


def draw_fidelity(axes: Axes, curves: BiasCurve, names: Sequence[str], channel: int) -> None:
    """Draw the mean error of each candidate and of the ensemble against intensity, with standard errors.

    Markers for few pixels are hollow. ``names`` are those of the candidates. Pooled channels share one curve.
    """
    place, ink = min(channel, len(curves.bias) - 1), ink_of(axes)
    axes.axhline(0, color=ink, linewidth=0.8, linestyle=":")
    for m, name in enumerate([*names, "ensemble"]):
        last = m == len(names)
        colour = ink if last else colour_of(m)
        seen = curves.pixels[place, m] > 0
        x, y = curves.intensities[seen], curves.bias[place, m][seen]
        # A single group has no standard error.
        error = np.nan_to_num(curves.standard_error[place, m][seen])
        axes.errorbar(x, y, error, color=colour, linewidth=2.2 if last else 1.2, elinewidth=0.8, label=name)
        _scatter(axes, x, y, curves.pixels[place, m][seen] >= SURE, colour, 10)
    what = "true intensity" if curves.by == "truth" else "intensity of the image"
    axes.set_xlabel(f"{what} (hollow: fewer than {SURE} pixels)")
    axes.set_ylabel("mean of image minus truth")
    axes.legend()


def draw_pair(axes: Axes, lut: WeightLUT, pair: tuple[int, int], channel: int) -> None:
    """Draw the weight of the first candidate as a map over the intensities of both candidates."""
    first, second = pair
    weights, _ = pair_map(lut, first, second, channel)
    low = lut.binning.low
    high = low + lut.binning.width * lut.binning.n_bins
    shown = axes.imshow(
        weights, origin="lower", extent=(low, high, low, high), vmin=0, vmax=1, cmap="viridis"
    )
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label(f"weight of {lut.names[first]}", fontsize=8)
    bar.ax.tick_params(colors=ink_of(axes), labelsize=7)
    axes.set_xlabel(f"intensity of {lut.names[second]}")
    axes.set_ylabel(f"intensity of {lut.names[first]}")


def draw_bin_set(axes: Axes, found: BinSet, names: Sequence[str]) -> None:
    """Draw the histogram of the ground truth in a bin set, and the weighted Gaussian of each candidate.

    The 0.5 % of the pixels with the lowest and the highest truth may lie outside the plot. A candidate that
    is constant in the bin set has no curve.
    """
    truth, counts, ink = found.truth, found.counts, ink_of(axes)
    width = found.step * max(1.0, np.ceil(np.ptp(truth) / found.step / MOST_BARS))
    edges = truth[0] - found.step / 2 + width * np.arange(np.ptp(truth) // width + 2)
    bars = np.histogram(truth, edges, weights=counts)[0] / (counts.sum() * width)
    axes.stairs(bars, edges, fill=True, color=ink, alpha=0.25)
    share = np.cumsum(counts) / counts.sum()
    shown = [*truth[np.searchsorted(share, (0.005, 0.995))], *found.means]
    x = np.linspace(min(shown) - 2 * width, max(shown) + 2 * width, 400)
    curves = found.densities(x)
    for m, name in enumerate(names):
        axes.plot(x, curves[m], color=colour_of(m), linewidth=1.4, label=f"{found.weights[m]:.3f} {name}")
        axes.axvline(found.means[m], color=colour_of(m), linewidth=0.8, linestyle=":")
    if found.is_fitted:
        axes.plot(x, curves.sum(axis=0), color=ink, linewidth=1.8, label="mixture")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(0, min(1.05 * np.nanmax([*bars, *np.nan_to_num(curves.sum(axis=0))]), 2 * bars.max()))
    axes.set_xlabel(f"ground truth ({counts.sum():,} pixels)")
    axes.set_ylabel("density")
    axes.legend(title="variances fitted by EM" if found.is_fitted else "candidates' own variances")


def draw_sweep(axes: Axes, sweep: Sweep, title: str) -> None:
    """Draw the error of each value of a setting minus the error of the best value, with standard errors.

    A line marks the best value; values that are not significantly worse have hollow markers.
    """
    values, errors = np.asarray(sweep.values, float), sweep.differences
    order = np.argsort(values)
    values, errors, spread = values[order], errors[order], np.nan_to_num(sweep.standard_errors)[order]
    line, best = colour_of(0), float(sweep.best)
    axes.fill_between(values, errors - spread, errors + spread, color=line, alpha=0.25, linewidth=0)
    axes.plot(values, errors, color=line, linewidth=1.4)
    _scatter(axes, values, errors, ~np.isin(values, np.asarray(sweep.equivalent, float)), line, 20)
    axes.axvline(best, color=colour_of(1), linewidth=1.2, linestyle="--")
    axes.annotate(
        f"{sweep.best:.3g}",
        (best, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if best == values[-1] else 3, -10),
        textcoords="offset points",
        ha="right" if best == values[-1] else "left",
        fontsize=9,
    )
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
    few = values[:: -(-len(values) // MOST_TICKS)]
    axes.set_xticks(few, [f"{value:.3g}" for value in few], fontsize=7)
    axes.minorticks_off()
    axes.set_xlabel(f"{title} (hollow: not significantly worse)")
    axes.set_ylabel("error above the best")

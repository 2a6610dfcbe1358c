"""Plot of the loss and preview layer of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.restorers.base import enlarged_transform
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.results.layers import PALETTE
from napari_ensir.viewer.results.plots import Plot, draw_nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari
    from matplotlib.axes import Axes
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_ensir.viewer.layers.layers import LayerSnapshot
    from napari_ensir.viewer.results.plots import Colour

_MOST_POINTS = 1500


class LossPlot(Plot):
    """Plot of the loss in the viewer's theme.

    Parameters
    ----------
    viewer
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._losses: Sequence[float] = ()
        tooltip = "Loss of each step, and its running mean."
        super().__init__(viewer, self._draw_losses, "loss_plot", "Plot of the loss", tooltip, (220, 150))
        self.redraw()

    def show_losses(self, losses: Sequence[float]) -> None:
        """Draw these losses, unless they are drawn already."""
        if len(losses) != len(self._losses) or list(losses[-1:]) != list(self._losses[-1:]):
            self._losses = losses
            self.redraw()

    def _draw_losses(self, axes: Axes, ink: Colour, _: Colour) -> None:
        if self._losses:
            steps, losses, smooth = _thinned(np.asarray(self._losses))
            axes.plot(steps, losses, ".", color=PALETTE[1], markersize=2, alpha=0.5)
            axes.plot(steps, smooth, color=PALETTE[0], linewidth=1.5)
            if losses.min() > 0:
                axes.set_yscale("log")
            axes.set_xlabel("step")
            axes.set_ylabel("loss")
        else:
            draw_nothing(axes, "The loss is plotted here.", ink)


def _thinned(losses: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return steps, losses and their running mean at no more points than a plot can show.

    Examples
    --------
    >>> steps, losses, smooth = _thinned(np.arange(4000.0))
    >>> len(steps) <= 1500, steps[:2].tolist(), float(smooth[1])
    (True, [1, 4], 1.5)
    """
    window = max(len(losses) // 40, 8)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    smooth = (sums[ends] - sums[starts]) / (ends - starts)
    every = slice(None, None, -(-len(losses) // _MOST_POINTS))
    return ends[every], losses[every], smooth[every]


class Preview:
    """Layer with the restored middle of the first degraded plane; it cannot be a candidate.

    Parameters
    ----------
    viewer
    like
        The degraded layer.
    """

    def __init__(self, viewer: napari.Viewer, like: LayerSnapshot) -> None:
        self._viewer, self._like = viewer, like
        self._layer: Layer | None = None
        self._shown: NDArray[np.float32] | None = None
        self._is_removed = False

    def show(self, preview: NDArray[np.float32] | None, times: int = 1) -> None:
        """Add or update the layer, unless it was removed.

        Parameters
        ----------
        preview
            Shape (channels, rows, columns), in intensity units; None: not computed yet.
        times
            Enlargement of rows and columns by the restorer.
        """
        if preview is None or preview is self._shown or self._is_removed:
            return
        self._shown = preview
        data = self._as_layer(preview)
        if self._layer is None:
            self._layer = self._add(data, times)
        elif self._layer in self._viewer.layers:
            self._layer.data = data

    def remove(self) -> None:
        """Remove the layer and ignore later previews."""
        self._is_removed = True
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)

    def _as_layer(self, preview: NDArray[np.float32]) -> NDArray[np.float32]:
        like = self._like
        planes = (1,) * (like.ndim - 2)
        if not like.rgb:
            return preview[0].reshape(planes + preview.shape[1:])
        dtype = like.dtype
        full = np.iinfo(dtype).max if dtype.kind in "iu" else 1.0
        colour = np.moveaxis(preview, 0, -1) / np.float32(full)
        return np.clip(colour, 0, 1).reshape(planes + colour.shape)

    def _add(self, data: NDArray[np.float32], times: int) -> Layer:
        like = self._like
        place = like.placement()
        factor = [1] * (like.ndim - 2) + [times] * 2
        linear = place["rotate"] @ place["shear"]
        scale, translate = enlarged_transform(place["scale"], place["translate"], factor, linear)
        start = np.zeros(like.ndim)
        # The part that Trainer.run previews.
        start[-2:] = [max(n * times - 256, 0) // 2 for n in like.shape[: like.ndim][-2:]]
        place |= {"scale": scale, "translate": translate + linear @ (scale * start)}
        appearance = {} if like.rgb else {"contrast_limits": like.contrast_limits, "colormap": like.colormap}
        mark = {OUTPUT_KEY: {"kind": "training preview"}}
        return self._viewer.add_image(
            data, name="training preview", rgb=like.rgb, metadata=mark, **appearance, **place
        )

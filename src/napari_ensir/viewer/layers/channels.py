"""Channel axes of layers, and the combo box that offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.layers.layers import pixel_shape

if TYPE_CHECKING:
    from napari.layers import Layer

_CHANNEL_LABELS = ("c", "channel", "channels", "ch")


class ChannelChoice(Choice):
    """Combo box of the channel axis of a layer; hidden if no axis can be one.

    Parameters
    ----------
    none : (title, tooltip)
        Entry for no channel axis.
    title, tip : str
        Title and tooltip of the entry for an axis; ``{}`` stands for its label.
    """

    def __init__(self, none: tuple[str, str], title: str, tip: str, **kwargs: Any) -> None:
        self._none, self._texts = none, (title, tip)
        self._axes: dict[int, str] = {}
        super().__init__({None: none}, name="channel_axis", label="Channels", **kwargs)

    def follow(self, layer: Layer | None) -> None:
        """Offer the axes of a layer; if they differ from those before, choose the likely channel axis."""
        axes = channel_axes(layer)
        self.visible = bool(axes)
        if axes != self._axes:
            self._axes = axes
            title, tip = self._texts
            entries = {axis: (title.format(label), tip.format(label)) for axis, label in axes.items()}
            self.offer({None: self._none, **entries}, likely_channel_axis(layer))


def leading_axes(layer: Layer) -> dict[int, str]:
    """Labels of the axes of an image that are neither colour nor one of the last two."""
    shape = pixel_shape(layer)[: layer.ndim]
    named = {}
    for axis in range(max(0, len(shape) - 2)):
        label = str(layer.axis_labels[axis])
        # napari numbers what was not named from the end: "-3".
        called = f"axis {axis}" if label.lstrip("-").isdigit() else label
        named[axis] = f"{called} ({shape[axis]})"
    return named


def channel_axes(layer: Layer | None) -> dict[int, str]:
    """Return the axes of an image that can be its channel axis, with their labels."""
    if layer is None:
        return {}
    return {-1: "red, green, blue"} if layer.rgb else leading_axes(layer)


def likely_channel_axis(layer: Layer | None) -> int | None:
    """Return the channel axis of an RGB image, or the axis with such a label; None if there is none."""
    if layer is not None and layer.rgb:
        return -1
    axes = channel_axes(layer).items()
    return next((axis for axis, label in axes if label.split(" (")[0].lower() in _CHANNEL_LABELS), None)

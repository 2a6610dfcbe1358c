"""What a napari layer is to us: pixels, a place in the world, a reason why it cannot join. No widgets."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels

from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.files.zarr import check_zarr_codecs
from napari_ensir.restorers.base import enlarged_transform, times_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import napari
    from napari.layers import Layer

__all__ = [
    "OUTPUT_KEY",
    "RECORD_KEY",
    "TRUTH_NAMES",
    "LayerWatcher",
    "Origin",
    "Versions",
    "changed_meanwhile",
    "full_data",
    "is_named_truth",
    "lies_on",
    "name_slider_places",
    "never_placed",
    "notice",
    "pixel_shape",
    "placement",
    "unwrapped",
    "why_not",
]


TRUTH_NAMES = ("ground truth", "ground_truth", "groundtruth", "truth", "gt", "target", "clean", "reference")
"""Names of layers, in small letters, that are taken for the ground truth."""

OUTPUT_KEY = "napari-ensir"
"""Key in ``layer.metadata`` that marks what we made and tells what it was made of."""

RECORD_KEY = "napari-ensir record"
"""Key in ``layer.metadata`` of what tells where a layer came from that can be a candidate."""


def unwrapped(layer: Any) -> Any:
    """The layer itself: a viewer that napari hands to a widget gives proxies, another at every access."""
    return getattr(layer, "__wrapped__", layer)


def full_data(layer: Layer) -> Any:
    """The layer's pixels at full resolution, never a thumbnail level of a pyramid."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def pixel_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of the full-resolution data, the colour axis included."""
    return tuple(full_data(layer).shape)


def is_named_truth(layer: Layer) -> bool:
    """Whether a layer's name says that it is the ground truth."""
    return layer.name.lower().strip() in TRUTH_NAMES


def why_not(layer: Layer, like: Layer | None = None, truth: Layer | None = None) -> str:
    """Why a layer cannot be a candidate, in a few words; empty if it can.

    Parameters
    ----------
    layer
        The layer in question.
    like
        A layer that it must match in shape, if one was chosen.
    truth
        The ground-truth layer, if one was chosen.
    """
    if not isinstance(layer, Image):
        return f"a {type(layer).__name__.lower()} layer, not an image"
    if layer is truth:
        return "the ground truth itself"
    if OUTPUT_KEY in layer.metadata:
        return "made by napari-ensir"
    data = full_data(layer)
    if 0 in data.shape:
        return "empty"
    if np.dtype(getattr(data, "dtype", float)).kind not in "iuf":
        return f"pixels of dtype {data.dtype}"
    try:
        check_zarr_codecs(data, layer.name)
    except EnsembleError as error:
        return str(error)
    if like is not None and like is not layer:
        if bool(layer.rgb) != bool(like.rgb):
            return "colour" if layer.rgb else "not in colour"
        if pixel_shape(layer) != pixel_shape(like):
            return "shape " + " × ".join(map(str, pixel_shape(layer)))
    return ""


def placement(layer: Layer, extra_axis: str | None = None) -> dict[str, Any]:
    """Keywords that put a new layer where this one is, in the same units.

    Parameters
    ----------
    layer
        The layer to sit upon.
    extra_axis
        Label of one more axis in front, with scale 1 and no unit but the pixel.
    """
    scale, translate = np.asarray(layer.scale), np.asarray(layer.translate)
    rotate, affine = np.asarray(layer.rotate), np.asarray(layer.affine.affine_matrix)
    shear = np.eye(layer.ndim)
    shear[np.triu_indices(layer.ndim, 1)] = np.asarray(layer.shear)
    units, labels = list(layer.units), list(layer.axis_labels)
    if extra_axis is not None:
        scale, translate = np.insert(scale, 0, 1.0), np.insert(translate, 0, 0.0)
        rotate, shear, affine = (_bordered(matrix) for matrix in (rotate, shear, affine))
        units, labels = ["pixel", *units], [extra_axis, *labels]
    return {
        "scale": scale,
        "translate": translate,
        "rotate": rotate,
        "shear": shear,
        "affine": affine,
        "units": units,
        "axis_labels": labels,
    }


def _bordered(matrix: np.ndarray) -> np.ndarray:
    """The same map in one more dimension, in front, which it leaves alone."""
    larger = np.eye(len(matrix) + 1)
    larger[1:, 1:] = matrix
    return larger


def lies_on(layer: Layer, image: Layer) -> bool:
    """Whether the same pixel of both is at the same place in the world, to half a pixel.

    Parameters
    ----------
    layer
        Of the image's axes, or of the last of them.
    image
        The layer that it should lie upon.
    """
    shape = np.array(pixel_shape(image)[: image.ndim], float)
    corners = np.vstack([np.zeros(image.ndim), np.diag(shape)])
    there = np.array([image.data_to_world(corner) for corner in corners])
    here = np.array([layer.data_to_world(corner[-layer.ndim :]) for corner in corners])
    pixel = min(np.linalg.norm(there[1:] - there[0], axis=1) / shape)
    return bool(np.all(np.abs(here - there[:, -layer.ndim :]) <= pixel / 2))


def never_placed(layer: Layer) -> bool:
    """Whether a layer's pixels are still its world: no scale, translation, rotation, shear or affine."""
    corners = np.vstack([np.zeros(layer.ndim), np.eye(layer.ndim)])
    return all(np.allclose(layer.data_to_world(corner), corner) for corner in corners)


class Origin:
    """A layer as it is when work on it begins: what is made of it goes there, whatever becomes of it since.

    Parameters
    ----------
    layer
        An image layer.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer, self.name = layer, layer.name
        self.data = full_data(layer)
        self.rgb, self.ndim, self.dtype = bool(layer.rgb), layer.ndim, np.dtype(layer.dtype)
        self.shape = tuple(self.data.shape)
        low, high = (float(limit) for limit in layer.contrast_limits)
        self.contrast_limits = (low, high)
        self.colormap = layer.colormap.name
        self._place, self._stacked = placement(layer), placement(layer, extra_axis="candidate")

    def placement(self, *, stacked: bool = False) -> dict[str, Any]:
        """Keywords that put a new layer there; with the candidates as one more axis in front if stacked."""
        return dict(self._stacked if stacked else self._place)

    def add_candidate(
        self, viewer: napari.Viewer, image: Any, name: str, dtype: np.dtype[Any] | None = None
    ) -> Layer:
        """Add what a restorer made of it: in its own dtype, so that one table serves both, or in another.

        An image of more rows and columns covers the same place with smaller pixels.
        """
        looks = {} if self.rgb else {"contrast_limits": self.contrast_limits}
        place = self.placement()
        times = times_between(self.shape[: self.ndim], image.shape[: self.ndim])
        if times not in (None, 1):
            place["scale"], place["translate"] = enlarged_transform(
                place["scale"],
                place["translate"],
                [1] * (self.ndim - 2) + [times] * 2,
                place["rotate"] @ place["shear"],
            )
        return viewer.add_image(
            as_dtype(image, dtype or self.dtype), name=name, rgb=self.rgb, **looks, **place
        )

    def middle_plane(self, image: Any = None) -> np.ndarray:
        """The pixels of the middle plane, in colour where the layer is: enough to judge intensities by.

        Of the layer, or of an image with as many planes.
        """
        leading = self.shape[: self.ndim - 2]
        data = self.data if image is None else image
        return np.asarray(data[tuple(n // 2 for n in leading)])

    def is_unchanged(self, viewer: napari.Viewer) -> bool:
        """Whether the layer is still there, with the very pixels it had."""
        return self.layer in viewer.layers and full_data(self.layer) is self.data


def changed_meanwhile(viewer: napari.Viewer, origins: Iterable[Origin]) -> str:
    """A sentence about layers removed or given other pixels since work on them began; empty if none was."""
    names = [f'"{origin.name}"' for origin in origins if not origin.is_unchanged(viewer)]
    if not names:
        return ""
    verb = "was" if len(names) == 1 else "were"
    return f"{', '.join(names)} {verb} removed or changed meanwhile; what was added is of the earlier pixels."


class LayerWatcher:
    """Tells when layers come, go, are renamed or get other data, until stopped.

    Parameters
    ----------
    viewer
        Whose layers to watch.
    on_change
        Called with no argument after each such change.
    on_data
        Called with the layer, instead, where a layer got other data or was painted in.
    """

    _PIXELS = ("data", "paint", "labels_update")

    def __init__(
        self,
        viewer: napari.Viewer,
        on_change: Callable[[], object],
        on_data: Callable[[Layer], object] | None = None,
    ) -> None:
        self._layers = viewer.layers
        self._on_change = on_change
        self._on_data = on_data or (lambda layer: self._on_change())
        self._watched: list[Layer] = []
        for event in self._list_events():
            event.connect(self._layers_changed)
        self._rewatch()

    def stop(self) -> None:
        """Listen no more; may be called twice."""
        for event in self._list_events():
            event.disconnect(self._layers_changed)
        for layer in self._watched:
            self._disconnect(layer)
        self._watched = []
        self._on_change = lambda: None
        self._on_data = lambda layer: None

    def _list_events(self) -> list[Any]:
        events = self._layers.events
        return [events.inserted, events.removed, events.reordered]

    def _layers_changed(self, event: Any = None) -> None:
        self._rewatch()
        self._on_change()

    def _renamed(self, event: Any = None) -> None:
        self._on_change()

    def _pixels_changed(self, event: Any) -> None:
        self._on_data(event.source)

    def _rewatch(self) -> None:
        present = list(self._layers)
        for layer in self._watched:
            if layer not in present:
                self._disconnect(layer)
        for layer in present:
            if layer not in self._watched:
                layer.events.name.connect(self._renamed)
                for event in self._pixel_events(layer):
                    event.connect(self._pixels_changed)
        self._watched = present

    def _pixel_events(self, layer: Layer) -> list[Any]:
        return [layer.events[name] for name in self._PIXELS if name in layer.events.emitters]

    def _disconnect(self, layer: Layer) -> None:
        layer.events.name.disconnect(self._renamed)
        for event in self._pixel_events(layer):
            event.disconnect(self._pixels_changed)


class Versions:
    """Counts how often layers got other pixels, so that nobody has to compare any."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[Layer, int] = WeakKeyDictionary()

    def changed(self, layer: Layer) -> None:
        """Count one more change."""
        self._counts[layer] = self._counts.get(layer, 0) + 1

    def of(self, layers: Iterable[Layer | None]) -> tuple[tuple[int, int, int], ...]:
        """What changes when a layer is another one, or has another array or other pixels in it."""
        return tuple(
            (0, 0, 0) if each is None else (id(each), _identity(each), self._counts.get(each, 0))
            for each in layers
        )


def _identity(layer: Layer) -> int:
    """Which array a layer holds; shapes make theirs anew at every access, and tell of their changes."""
    return id(full_data(layer)) if isinstance(layer, Image | Labels) else 0


def name_slider_places(viewer: napari.Viewer, layer: Layer, names: Sequence[str]) -> None:
    """Show which candidate the slider stands at, as long as the layer is there and visible.

    Parameters
    ----------
    viewer
        Where the layer is.
    layer
        Weight maps, candidates along the first axis.
    names
        The candidates', counted as they are in the picker.
    """
    _Caption(unwrapped(viewer), layer, tuple(names))


class _Caption:
    """Lives through its connections, and goes when its layer goes."""

    def __init__(self, viewer: Any, layer: Layer, names: tuple[str, ...]) -> None:
        self._viewer, self._layer, self._names = viewer, layer, names
        self._text = ""
        self._before: tuple[str, bool] = ("", False)
        # Functions, which emitters hold on to; of methods they hold none.
        self._slots = [
            (viewer.dims.events.current_step, lambda event=None: self._follow()),
            (layer.events.visible, lambda event=None: self._follow()),
            (viewer.layers.events.removed, lambda event=None: self._removed()),
        ]
        for emitter, slot in self._slots:
            emitter.connect(slot)
        self._follow()

    def _overlay(self) -> Any:
        canvas = getattr(self._viewer, "canvas", None)  # napari 0.9; before, the viewer itself had it
        return canvas.overlays.text if canvas is not None else self._viewer.text_overlay

    def _follow(self) -> None:
        overlay = self._overlay()
        if not self._layer.visible:
            if self._text and overlay.text == self._text:
                overlay.text, overlay.visible = self._before
            self._text = ""
            return
        if not self._text:
            self._before = (overlay.text, overlay.visible)
        place = self._viewer.dims.point[self._viewer.dims.ndim - self._layer.ndim]
        number = min(max(round(place), 0), len(self._names) - 1)
        self._text = f"weight of {number + 1}  {self._names[number]}"
        overlay.text, overlay.visible = self._text, True

    def _removed(self) -> None:
        if self._layer in self._viewer.layers:
            return
        for emitter, slot in self._slots:
            emitter.disconnect(slot)
        overlay = self._overlay()
        if self._text and overlay.text == self._text:
            overlay.text, overlay.visible = self._before
        self._text = ""


SAMPLES = 2**14
"""Pixels of a layer that are looked at, about."""

ANOTHER_SCALE = 8.0
"""How many times wider one layer's intensities have to spread than another's to be called another range."""


def notice(candidates: Sequence[Image], truth: Image | None) -> str:
    """A sentence about each candidate whose intensities are not the ground truth's; empty where all are.

    Parameters
    ----------
    candidates
        Layers of one shape.
    truth
        The ground truth; None: the first candidate is what the others are measured by.
    """
    if truth is None:
        if len(candidates) < 2:
            return ""
        truth, candidates = candidates[0], candidates[1:]
    low, high = _spread(truth)
    lines = []
    for layer in candidates:
        if pixel_shape(layer) != pixel_shape(truth):
            continue
        first, last = _spread(layer)
        ratio = (last - first) / (high - low) if high > low else 1.0
        if last > first and not 1 / ANOTHER_SCALE <= ratio <= ANOTHER_SCALE:
            lines.append(
                f'"{layer.name}" spreads from {first:.4g} to {last:.4g}, "{truth.name}" from {low:.4g} to '
                f"{high:.4g}: bring them into the same intensity units."
            )
    return "\n".join(lines)


def _spread(layer: Image) -> tuple[float, float]:
    """Between which intensities all but a few pixels lie."""
    data = full_data(layer)
    if not isinstance(data, np.ndarray) or isinstance(data, np.memmap):
        low, high = layer.contrast_limits_range
        return float(low), float(high)
    plane = data[tuple(n // 2 for n in data.shape[: layer.ndim - 2])]
    step = max(1, int((prod(plane.shape) / SAMPLES) ** 0.5))
    few = plane[::step, ::step]
    few = few[np.isfinite(few)]
    if few.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(few, (1, 99))
    return float(low), float(high)

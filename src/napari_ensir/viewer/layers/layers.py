"""Pixels, names, placement and changes of napari layers."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels

from napari_ensir.ensemble.arrays.blocks import as_array, is_dask
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.files.zarr import check_zarr_codecs
from napari_ensir.restorers.base import enlarged_transform, enlargement_factor

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import napari
    from napari.layers import Layer
    from numpy.typing import NDArray

OUTPUT_KEY = "napari-ensir"
"""Key in ``layer.metadata`` of layers that this package computed: their kind and their lookup table."""

RECORD_KEY = "napari-ensir record"
"""Key in ``layer.metadata`` of the provenance record of a layer that can be a candidate."""

_TRUTH_NAMES = ("ground truth", "ground_truth", "groundtruth", "truth", "gt", "target", "clean", "reference")

# -- pixels ---------------------------------------------------------------------------------------


def unwrap_proxy(layer: Any) -> Any:
    """Return the layer behind the proxy that napari gives to plugins; proxies are not identical."""
    return getattr(layer, "__wrapped__", layer)


class StoredArray:
    """Array in a file or store (zarr, h5py) that is read when it is indexed or converted.

    Parameters
    ----------
    array
        Has ``shape`` and ``dtype``, and can be sliced.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self.size = prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self._array[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._array[(slice(None),) * self.ndim], dtype=dtype)

    def astype(self, dtype: Any, copy: bool = True) -> NDArray[Any]:
        """Read all pixels and convert them."""
        return np.asarray(self).astype(dtype, copy=copy)


_PLAIN: WeakKeyDictionary[Layer, tuple[Any, Any]] = WeakKeyDictionary()
"""For each layer its array and the result of :func:`_as_plain`, which stays the same object."""


def full_data(layer: Layer) -> Any:
    """Return the pixels at full resolution as a numpy, dask or stored array.

    Labelled arrays (xarray) are replaced by their values, since they align by coordinates and not by pixel.
    """
    data = _held_data(layer)
    if isinstance(data, np.ndarray):
        return data
    key = unwrap_proxy(layer)
    known = _PLAIN.get(key)
    if known is None or known[0] is not data:
        known = _PLAIN[key] = (data, _as_plain(data))
    return known[1]


def _held_data(layer: Layer) -> Any:
    """The array that the layer holds; of a pyramid the first level."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _as_plain(data: Any) -> Any:
    array = as_array(data)
    return array if isinstance(array, np.ndarray) or is_dask(array) else StoredArray(array)


def coarser_levels(layers: Sequence[Layer]) -> list[list[Any]]:
    """Return the pixels of all layers at each lower resolution; empty unless all are equal pyramids."""
    if not all(getattr(layer, "multiscale", False) for layer in layers):
        return []
    levels = [list(map(_as_plain, arrays)) for arrays in zip(*(layer.data for layer in layers), strict=False)]
    return [arrays for arrays in levels[1:] if len({tuple(array.shape) for array in arrays}) == 1]


def pixels_at(layer: Layer, points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the pixels of a layer at points of one plane, and which points lie in the layer.

    Parameters
    ----------
    layer
    points : (n, d) array
        World coordinates; those of the layer are the last.
    """
    index = np.array([layer.world_to_data(point[-layer.ndim :]) for point in points]).round().astype(int)
    shape = np.array(pixel_shape(layer)[: layer.ndim])
    inside = np.all((index >= 0) & (index < shape), axis=1)
    index = index.clip(0, shape - 1)
    plane = np.asarray(full_data(layer)[tuple(index[0, :-2])])
    return plane[index[:, -2], index[:, -1]], np.asarray(inside)


def pixel_shape(layer: Layer) -> tuple[int, ...]:
    """Return the shape at full resolution, including the colour axis."""
    return tuple(_held_data(layer).shape)


# -- names ----------------------------------------------------------------------------------------


def has_truth_name(layer: Layer) -> bool:
    """Return whether the name of a layer is a usual name of a ground truth."""
    return layer.name.lower().strip() in _TRUTH_NAMES


def unique_name(name: str, taken: Collection[str]) -> str:
    """Append a number to a name if it is taken.

    Examples
    --------
    >>> unique_name("N2V", ()), unique_name("N2V", ("N2V", "N2V 2"))
    ('N2V', 'N2V 3')
    """
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name} {number}"
    return unique


def file_safe_name(name: str) -> str:
    """Replace characters that file systems refuse, since napari names files after layers.

    Examples
    --------
    >>> file_safe_name("field 1: a/b?"), file_safe_name("ensemble · EM (paper)")
    ('field 1_ a_b_', 'ensemble · EM (paper)')
    """
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(" .") or "_"


# -- candidates -----------------------------------------------------------------------------------


def exclusion_reason(layer: Layer, like: Layer | None = None, truth: Layer | None = None) -> str:
    """Return why a layer cannot be a candidate, in a few words; empty if it can.

    Parameters
    ----------
    layer
    like
        Layer whose shape it must have, if one is chosen.
    truth
        Ground truth, if one is chosen.
    """
    if not isinstance(layer, Image):
        return f"a {type(layer).__name__.lower()} layer, not an image"
    if layer is truth:
        return "the ground truth itself"
    if OUTPUT_KEY in layer.metadata:
        return "made by napari-ensir"
    data = _held_data(layer)
    if 0 in data.shape:
        return "empty"
    if np.dtype(getattr(data, "dtype", float)).kind not in "iuf":
        return f"pixels of dtype {data.dtype}"
    try:
        check_zarr_codecs(as_array(data), layer.name)
    except EnsembleError as error:
        return str(error)
    if like is not None and like is not layer:
        if bool(layer.rgb) != bool(like.rgb):
            return "colour" if layer.rgb else "not in colour"
        if pixel_shape(layer) != pixel_shape(like):
            return "shape " + " × ".join(map(str, pixel_shape(layer)))
    return ""


_SAMPLED_PIXELS = 2**14
_SCALE_RATIO = 8.0
"""Two layers have different intensity units if one's intensities spread this many times wider."""


def notice(candidates: Sequence[Image], truth: Image | None) -> str:
    """Return a warning for each candidate in other intensity units than the ground truth.

    Parameters
    ----------
    candidates
        Image layers.
    truth
        None: candidates are compared with the first candidate.
    """
    if truth is None:
        if len(candidates) < 2:
            return ""
        truth, candidates = candidates[0], candidates[1:]
    low, high = _intensity_range(truth)
    lines = []
    for layer in candidates:
        if pixel_shape(layer) != pixel_shape(truth):
            continue
        first, last = _intensity_range(layer)
        ratio = (last - first) / (high - low) if high > low else 1.0
        if last > first and not 1 / _SCALE_RATIO <= ratio <= _SCALE_RATIO:
            lines.append(
                f'"{layer.name}" ranges from {first:.4g} to {last:.4g}, but "{truth.name}" from {low:.4g} to '
                f"{high:.4g}; convert them to the same intensity units."
            )
    return "\n".join(lines)


def _intensity_range(layer: Image) -> tuple[float, float]:
    """The 1st and 99th percentile of the middle plane; of lazy arrays the contrast limits."""
    data = full_data(layer)
    if not isinstance(data, np.ndarray) or isinstance(data, np.memmap):
        low, high = layer.contrast_limits_range
        return float(low), float(high)
    plane = data[tuple(n // 2 for n in data.shape[: layer.ndim - 2])]
    step = max(1, int((prod(plane.shape) / _SAMPLED_PIXELS) ** 0.5))
    sample = plane[::step, ::step]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(sample, (1, 99))
    return float(low), float(high)


# -- placement ------------------------------------------------------------------------------------


def placement(layer: Layer, extra_axis: str | None = None) -> dict[str, Any]:
    """Return keywords that place a new layer exactly on a layer, in the same units.

    Parameters
    ----------
    layer
    extra_axis
        Label of an additional first axis, in pixels.
    """
    scale, translate = np.asarray(layer.scale), np.asarray(layer.translate)
    rotate, affine = np.asarray(layer.rotate), np.asarray(layer.affine.affine_matrix)
    shear = np.eye(layer.ndim)
    shear[np.triu_indices(layer.ndim, 1)] = np.asarray(layer.shear)
    units, labels = list(layer.units), list(layer.axis_labels)
    if extra_axis is not None:
        scale, translate = np.insert(scale, 0, 1.0), np.insert(translate, 0, 0.0)
        rotate, shear, affine = (_with_first_axis(matrix) for matrix in (rotate, shear, affine))
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


def _with_first_axis(matrix: np.ndarray) -> np.ndarray:
    """The transformation with one more axis in front, which it does not change."""
    larger = np.eye(len(matrix) + 1)
    larger[1:, 1:] = matrix
    return larger


def has_equal_placement(layer: Layer, image: Layer) -> bool:
    """Return whether equal pixels of two layers have the same world coordinates, to half a pixel.

    Parameters
    ----------
    layer
        Has the axes of the image, or the last of them.
    image
    """
    shape = np.array(pixel_shape(image)[: image.ndim], float)
    corners = np.vstack([np.zeros(image.ndim), np.diag(shape)])
    expected = np.array([image.data_to_world(corner) for corner in corners])
    found = np.array([layer.data_to_world(corner[-layer.ndim :]) for corner in corners])
    pixel = min(np.linalg.norm(expected[1:] - expected[0], axis=1) / shape)
    return bool(np.all(np.abs(found - expected[:, -layer.ndim :]) <= pixel / 2))


def has_default_placement(layer: Layer) -> bool:
    """Return whether world coordinates equal pixel coordinates: no scale, translation, rotation or shear."""
    corners = np.vstack([np.zeros(layer.ndim), np.eye(layer.ndim)])
    return all(np.allclose(layer.data_to_world(corner), corner) for corner in corners)


class LayerSnapshot:
    """Pixels, placement and appearance of an image layer at the start of a task.

    Results are placed accordingly, even if the layer has been changed or removed since.

    Parameters
    ----------
    layer
        An image layer.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer, self.name = layer, layer.name
        self.data = full_data(layer)
        self.rgb, self.ndim = bool(layer.rgb), layer.ndim
        self.dtype = np.dtype(layer.dtype).newbyteorder("=")
        self.shape = tuple(self.data.shape)
        low, high = (float(limit) for limit in layer.contrast_limits)
        self.contrast_limits = (low, high)
        self.colormap = layer.colormap.name
        self._place, self._stacked = placement(layer), placement(layer, extra_axis="candidate")

    def placement(self, *, stacked: bool = False, times: int = 1) -> dict[str, Any]:
        """Return keywords that place a new layer.

        Parameters
        ----------
        stacked
            Whether the new layer has a first axis for the candidates.
        times
            Enlargement of its rows and columns; it covers the same area with smaller pixels.
        """
        place = dict(self._stacked if stacked else self._place)
        if times != 1:
            factors = [1] * (self.ndim - 2) + [times] * 2
            linear = place["rotate"] @ place["shear"]
            enlarged = enlarged_transform(place["scale"], place["translate"], factors, linear)
            place["scale"], place["translate"] = enlarged
        return place

    def add_candidate(
        self, viewer: napari.Viewer, image: Any, name: str, dtype: np.dtype[Any] | None = None
    ) -> Layer:
        """Add a restored image in the dtype of the layer, since a table is for one dtype, or in another.

        An enlarged image covers the same area with smaller pixels.
        """
        appearance = {} if self.rgb else {"contrast_limits": self.contrast_limits}
        times = enlargement_factor(self.shape[: self.ndim], image.shape[: self.ndim]) or 1
        how = {"name": file_safe_name(name), "rgb": self.rgb, **appearance, **self.placement(times=times)}
        return viewer.add_image(as_dtype(image, dtype or self.dtype), **how)

    def is_unchanged(self, viewer: napari.Viewer) -> bool:
        """Return whether the layer is still in the viewer and holds the same array."""
        return self.layer in viewer.layers and full_data(self.layer) is self.data


def changed_layers_warning(viewer: napari.Viewer, origins: Iterable[LayerSnapshot]) -> str:
    """Return a warning about layers that were removed or changed since a task began; empty if none was."""
    names = [f'"{origin.name}"' for origin in origins if not origin.is_unchanged(viewer)]
    if not names:
        return ""
    verb = "was" if len(names) == 1 else "were"
    return (
        f"{', '.join(names)} {verb} removed or changed meanwhile; the results are those of "
        f"the earlier pixels."
    )


# -- changes --------------------------------------------------------------------------------------


class Versions:
    """Counts of the changes of layers' pixels, so that pixels need not be compared."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[Layer, int] = WeakKeyDictionary()

    def changed(self, layer: Layer) -> None:
        """Count a change."""
        self._counts[layer] = self._counts.get(layer, 0) + 1

    def of(self, layers: Iterable[Layer | None]) -> tuple[tuple[int, int, int], ...]:
        """Return a value that differs if a layer is replaced or its pixels change."""
        return tuple(
            (0, 0, 0) if each is None else (id(each), _data_id(each), self._counts.get(each, 0))
            for each in layers
        )


def _data_id(layer: Layer) -> int:
    """Identity of the array; shapes layers compute theirs at every access and emit events instead."""
    return id(_held_data(layer)) if isinstance(layer, Image | Labels) else 0


# -- overlays -------------------------------------------------------------------------------------


def add_slider_caption(viewer: napari.Viewer, layer: Layer, names: Sequence[str]) -> None:
    """Name the candidate at the slider's position on the canvas while the weight maps are on top.

    Parameters
    ----------
    viewer
    layer
        Weight maps, with the candidates along the first axis.
    names
        Names of the candidates.
    """
    viewer, layer = unwrap_proxy(viewer), unwrap_proxy(layer)
    canvas = getattr(viewer, "canvas", None)  # since napari 0.9
    overlay: Any = viewer.text_overlay if canvas is None else canvas.overlays.text
    caption, before = "", ("", False)

    def update() -> None:
        nonlocal caption, before
        images = [each for each in viewer.layers if each.visible and isinstance(each, Image)]
        if images and images[-1] is layer:
            if not caption:
                is_caption = overlay.text.startswith(_CAPTION)  # of other weight maps
                before = ("", False) if is_caption else (overlay.text, overlay.visible)
            place = viewer.dims.point[viewer.dims.ndim - layer.ndim]
            number = min(max(round(place), 0), len(names) - 1)
            caption = f"{_CAPTION}{number + 1}  {names[number]}"
            overlay.text, overlay.visible = caption, True
        elif caption:
            if overlay.text == caption:
                overlay.text, overlay.visible = before
            caption = ""

    def follow(event: Any) -> None:
        if event.type in ("current_step", "visible", "inserted", "removed", "reordered"):
            update()
        if layer not in viewer.layers:
            for emitter in emitters:
                emitter.disconnect(follow)

    emitters = (viewer.dims.events.current_step, viewer.layers.events)
    for emitter in emitters:
        emitter.connect(follow)
    update()


_CAPTION = "weight of "

"""Corrections of layers that do not match the ground truth, as new layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_ensir.ensemble.checks.diagnostic import Diagnostic
from napari_ensir.ensemble.corrections import (
    crop_image,
    find_subpixel_shift,
    match_intensities,
    shift_image,
    turn_image,
)
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.viewer.code_export import CORRECTION_KEY, path_of_layer
from napari_ensir.viewer.layers.layers import (
    OUTPUT_KEY,
    RECORD_KEY,
    exclusion_reason,
    full_data,
    pixel_shape,
    placement,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import napari
    from napari.layers import Layer

LARGEST_CROP = 0.1
"""Largest share of the rows or columns of an image for which cropping is offered."""

NOISIER = 3.0
"""Ratio of the noise of the ground truth and of the candidates above which a second exposure is likely."""

VISIBLE_NOISE = 0.05
"""Least noise of a likely second exposure, in standard deviations of the image."""

_EXPOSURES = ("second exposure", "2nd exposure", "other exposure", "another exposure", "exposure 2", "noisy")


@dataclass(frozen=True)
class Correction:
    """A function that corrects an image.

    Attributes
    ----------
    function : callable
        Called with the image and the arguments.
    arguments : tuple
    suffix : str
        What it does, for the layer's name.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    suffix: str

    @property
    def code(self) -> str:
        """Python expression of the corrected image, in which ``{}`` stands for the image."""
        prefix = "np." if self.function in (np.flip, np.reshape) else ""
        return f"{prefix}{self.function.__name__}({{}}, {', '.join(map(repr, self.arguments))})"

    def __call__(self, image: Any) -> Any:
        """Return the corrected image."""
        made, dtype = self.function(image, *self.arguments), np.dtype(image.dtype)
        if self.function is shift_image and dtype.kind in "iu":
            # Splines overshoot; clipping to the dtype would hide it.
            limits, rounded = np.iinfo(dtype), np.rint(made)
            if rounded.min() >= limits.min and rounded.max() <= limits.max:
                return rounded.astype(dtype)
        return made


def correction_of(image: Any, fix: Mapping[str, Any], truth: Any, channel_axis: int | None) -> Correction:
    """Return the correction of an image that the fix of a diagnostic stands for.

    Parameters
    ----------
    image, truth : arrays
    fix
        Of a :class:`~napari_ensir.ensemble.checks.diagnostic.Diagnostic`.
    channel_axis : int or None
    """
    action, axis = fix["action"], () if channel_axis is None else (channel_axis,)
    if action == "align":
        shift = find_subpixel_shift(truth, image, fix["shift"], channel_axis)
        return Correction(shift_image, (tuple(0.0 - round(each, 3) for each in shift), *axis), "aligned")
    if action == "match-intensities":
        numbers = tuple(float(f"{fix[name]:.6g}") for name in ("gain", "offset"))
        return Correction(match_intensities, numbers, "matched")
    if action == "transform":
        return Correction(turn_image, (fix["how"], *axis), "turned")
    if action == "reverse-channels":
        return Correction(np.flip, axis or (-1,), "channels reversed")
    if action == "crop-to-common-size":
        common = tuple(fix["shape"])
        return Correction(crop_image, (_best_starts(image, common, truth), common), "cropped")
    return Correction(np.reshape, (_squeezed(image.shape),), "squeezed")  # drop-axes


def _best_starts(image: Any, common: Sequence[int], truth: Any) -> tuple[int, ...]:
    """Where an image is cropped: at its centre if that is closer to the ground truth, else at its ends."""
    first = (0,) * len(common)
    centred = tuple((n - size) // 2 for n, size in zip(image.shape, common, strict=True))
    if tuple(truth.shape) != tuple(common):
        return first
    middle = tuple(n // 2 for n in common[:-2])
    wanted = np.asarray(truth[middle], np.float64)

    def error(starts: tuple[int, ...]) -> float:
        part = crop_image(image, starts, common)[middle]
        return float(np.nanmean((np.asarray(part, np.float64) - wanted) ** 2))

    return min((first, centred), key=error)


def add_corrected(viewer: napari.Viewer, layer: Layer, image: Any, correction: Correction) -> Layer:
    """Add a corrected image as a layer at the same place, with a record of the correction."""
    place = placement(layer)
    if correction.function is crop_image:
        first = place["scale"] * np.array(correction.arguments[0][: layer.ndim])
        place["translate"] = place["translate"] + place["rotate"] @ place["shear"] @ first
    if correction.function is np.reshape:
        kept = [axis for axis, size in enumerate(pixel_shape(layer)[: layer.ndim]) if size != 1]
        of_axes = ("scale", "translate", "units", "axis_labels")
        place = {name: [place[name][axis] for axis in kept] for name in of_axes}
    source, codes = layer.metadata.get(CORRECTION_KEY, (path_of_layer(layer), ()))
    looks = {} if layer.rgb else {"colormap": layer.colormap.name}
    if not layer.rgb and correction.function is not match_intensities:
        looks["contrast_limits"] = tuple(layer.contrast_limits)
    name = f"{layer.name} · {correction.suffix}"
    metadata = {
        RECORD_KEY: record_of("corrected", inputs={"image": layer.name}, correction=correction.code),
        CORRECTION_KEY: (source, (*codes, correction.code)),
    }
    return viewer.add_image(image, name=name, rgb=bool(layer.rgb), metadata=metadata, **looks, **place)


def find_unequal_sizes(layers: Iterable[Layer], truth: Layer | None) -> list[Diagnostic]:
    """Report images that differ from the ground truth only in singleton axes, or by a narrow border.

    Parameters
    ----------
    layers
        All layers of the viewer.
    truth
        The ground truth; None reports nothing.
    """
    if truth is None:
        return []
    shape = pixel_shape(truth)
    found = []
    for layer in layers:
        if not isinstance(layer, Image) or OUTPUT_KEY in layer.metadata or bool(layer.rgb) != bool(truth.rgb):
            continue
        other = pixel_shape(layer)
        if other == shape or exclusion_reason(layer):
            continue
        sizes = {layer.name: other, truth.name: shape}
        text = f'"{layer.name}" has shape {other} and "{truth.name}" has {shape}'
        if _squeezed(other) == _squeezed(shape):
            names = [name for name, size in sizes.items() if 1 in size]
            fix: dict[str, Any] = {"action": "drop-axes", "candidates": names}
            text += ": they differ only in axes of length 1."
            found.append(Diagnostic("singleton-axes", "warning", text, fix))
        elif len(other) == len(shape) and _is_border(other, shape):
            common = tuple(map(min, other, shape))
            names = [name for name, size in sizes.items() if size != common]
            fix = {"action": "crop-to-common-size", "candidates": names, "shape": common}
            found.append(Diagnostic("unequal-sizes", "warning", f"{text}; crop them to {common}.", fix))
    return found


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _is_border(one: Sequence[int], other: Sequence[int]) -> bool:
    return all(abs(n - m) <= LARGEST_CROP * max(n, m) for n, m in zip(one, other, strict=True))


def question_about_noise(candidates: Sequence[Layer], truth: Layer | None) -> list[Diagnostic]:
    """Report a ground truth that is named as a second exposure, or is much noisier than the candidates.

    Returns
    -------
    list of Diagnostic
        At most one.
    """
    if truth is None or not candidates:
        return []
    name = truth.name.lower()
    if any(words in name for words in _EXPOSURES):
        text = f'"{truth.name}" seems to be a second exposure'
    else:
        noise, spread = _noise(truth)
        others = float(np.median([_noise(layer)[0] for layer in candidates]))
        if noise <= max(NOISIER * others, VISIBLE_NOISE * spread):
            return []
        text = (
            f'"{truth.name}" is much noisier (standard deviation of about {noise:.3g}) than the candidates '
            f"({others:.3g}), so it may be a second exposure"
        )
    text += "; if so, set Ground truth is to a second exposure, because scores and weights depend on this."
    fix = {"action": "set-noise", "value": "unknown", "title": "It is a second exposure"}
    return [Diagnostic("noisy-truth", "warning", text, fix)]


def _noise(layer: Layer) -> tuple[float, float]:
    """Noise in the middle of a layer, from diagonal differences, and its standard deviation."""
    data = full_data(layer)
    index = tuple(n // 2 for n in data.shape[: layer.ndim - 2])
    rows, columns = (slice(max(0, n // 2 - 128), n // 2 + 128) for n in data.shape[len(index) :][:2])
    plane = np.asarray(data[(*index, rows, columns)], np.float64)
    if min(plane.shape[:2]) < 2:
        return 0.0, 0.0
    detail = plane[1:, 1:] - plane[1:, :-1] - plane[:-1, 1:] + plane[:-1, :-1]
    detail, known = detail[np.isfinite(detail)], plane[np.isfinite(plane)]
    if not detail.size:
        return 0.0, 0.0
    return float(np.median(np.abs(detail)) / (2 * 0.6745)), float(known.std())

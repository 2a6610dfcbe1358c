"""The arrays and settings of a fit, taken from the layers in the main thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes

from napari_ensir.ensemble.arrays.blocks import is_dask
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import FitSettings
from napari_ensir.viewer.layers.layers import (
    coarser_levels,
    exclusion_reason,
    full_data,
    has_default_placement,
    has_equal_placement,
    pixel_shape,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer

NO_CANDIDATE = "No candidate is ticked; tick the restorations to combine."
NO_TRUTH = "No ground truth is chosen; choose a layer with a clean image or a second exposure."

SAMPLED_FROM = 2**25
"""Pixels of the smallest dask stack that a sample is taken of."""

RUNS = 8
"""Maximum number of chunks in a sample along the axis of the planes, which are at most an eighth of all."""

Pair = tuple[tuple[Any, ...], Any]
Pairs = list[Pair]


@dataclass(frozen=True)
class FitRequest:
    """Arrays of the layers chosen, and the settings.

    Attributes
    ----------
    candidates : tuple of M arrays
    names : tuple of M str
    truth : array
    rgb : bool
        Whether the last axis is colour.
    settings : FitSettings
    mask : bool array of the shape without the channel axis, or of its last axes, or None
        Pixels to learn from.
    truth_name : str
    coarser : sequence of (candidates, truth)
        The same at lower resolutions, if all layers are pyramids.
    """

    candidates: tuple[Any, ...]
    names: tuple[str, ...]
    truth: Any
    rgb: bool
    settings: FitSettings = field(default_factory=FitSettings)
    mask: Any = None
    truth_name: str = "ground truth"
    coarser: Sequence[tuple[Sequence[Any], Any]] = ()

    @classmethod
    def of_layers(
        cls,
        candidates: Sequence[Layer],
        truth: Layer | None,
        settings: FitSettings,
        mask: Layer | None = None,
    ) -> FitRequest:
        """Make a request from layers.

        Parameters
        ----------
        candidates, truth
            Image layers.
        settings : FitSettings
        mask
            A labels or shapes layer: learn where it is not empty.

        Raises
        ------
        EnsembleError
            If no candidate or ground truth is chosen, a layer cannot be a candidate, the mask does not lie on
            the images, or a setting does not fit them.
        """
        if not candidates:
            raise EnsembleError(NO_CANDIDATE)
        if truth is None:
            raise EnsembleError(NO_TRUTH)
        for layer in candidates:
            reason = exclusion_reason(layer, truth, truth)
            if reason:
                raise EnsembleError(
                    f'"{layer.name}" cannot be a candidate ({reason}); the ground truth "{truth.name}" has '
                    f"shape {pixel_shape(truth)}."
                )
        made = cls(
            tuple(full_data(layer) for layer in candidates),
            tuple(layer.name for layer in candidates),
            full_data(truth),
            bool(truth.rgb),
            settings,
            truth_name=truth.name,
            coarser=[(arrays[:-1], arrays[-1]) for arrays in coarser_levels([*candidates, truth])],
        )
        made._check_planes()
        return made if mask is None else replace(made, mask=mask_array(truth, mask, made.spatial_shape))

    @property
    def channel_axis(self) -> int | None:
        """Axis along which each channel has its own table; 0 or more."""
        axis = self.settings.channel_axis
        return None if axis is None else axis % len(self.truth.shape)

    @property
    def colour_axis(self) -> int | None:
        """Axis of colours or channels, also if they are pooled."""
        return len(self.truth.shape) - 1 if self.rgb else self.channel_axis

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The shape without colours or channels."""
        axis = self.colour_axis
        return tuple(n for place, n in enumerate(self.truth.shape) if place != axis)

    def seen(self) -> tuple[Pairs, list[Any]]:
        """Pairs to learn from, and their masks: bool arrays or None."""
        first, last = self.settings.planes or (0, self.spatial_shape[0] - 1)
        pair, mask = self._part(first, last + 1, self.mask)
        return [pair], [mask]

    def sample(self) -> tuple[Pairs, list[Any], float] | None:
        """Evenly spaced chunks of planes of a large dask stack, as one pair, to learn from first.

        Returns
        -------
        pairs, masks
            As those of :meth:`seen`.
        share
            Share of the planes of :meth:`seen`.
        """
        axis = 1 if self.colour_axis == 0 else 0
        first, last = self.settings.planes or (0, self.spatial_shape[0] - 1)
        lazy = next((array for array in (self.truth, *self.candidates) if is_dask(array)), None)
        if lazy is None or prod(self.spatial_shape[1:]) * (last + 1 - first) < SAMPLED_FROM:
            return None
        edges = np.cumsum([0, *lazy.chunks[axis]]).clip(first, last + 1)
        chunks = [chunk for chunk in pairwise(edges.tolist()) if chunk[0] < chunk[1]]
        step = max(8, len(chunks) // RUNS)
        chosen = chunks[step // 2 :: step]
        if not chosen:
            return None
        import dask.array as da

        parts = [self._part(*chunk, self.mask) for chunk in chosen]
        cuts = zip(*((*candidates, truth) for (candidates, truth), _ in parts), strict=True)
        *candidates, truth = (da.concatenate(arrays, axis) for arrays in cuts)
        mask = None if self.mask is None else da.concatenate([mask for _, mask in parts])
        share = sum(stop - start for start, stop in chosen) / (last + 1 - first)
        return [(tuple(candidates), truth)], [mask], share

    def unseen(self) -> tuple[Pairs, list[Any]]:
        """Pairs and masks of all pixels that :meth:`seen` leaves out; empty if there are none."""
        n = self.spatial_shape[0]
        first, last = self.settings.planes or (0, n - 1)
        parts = [self._part(*part) for part in ((0, first), (last + 1, n)) if part[0] < part[1]]
        if self.mask is not None and not bool(self.mask.all()):
            parts.append(self._part(first, last + 1, ~self.mask))
        return [pair for pair, _ in parts], [mask for _, mask in parts]

    def _check_planes(self) -> None:
        planes, n = self.settings.planes, self.spatial_shape[0]
        if planes is not None and planes[1] >= n:
            raise EnsembleError(
                f"planes are {planes[0]} to {planes[1]}, but the images have {n}; use 0 to {n - 1}."
            )

    def _part(self, start: int, stop: int, mask: Any = None) -> tuple[Pair, Any]:
        """Candidates and truth of a range of planes, and of a mask, which may lack leading axes."""
        arrays = [*self.candidates, self.truth]
        if (start, stop) != (0, self.spatial_shape[0]):  # stored arrays are read when they are cut
            part = (slice(None),) * (self.colour_axis == 0) + (slice(start, stop),)
            arrays = [array[part] for array in arrays]
        mask = None if mask is None else np.broadcast_to(mask, self.spatial_shape)[start:stop]
        return (tuple(arrays[:-1]), arrays[-1]), mask


def mask_array(truth: Layer, mask: Layer, shape: tuple[int, ...]) -> Any:
    """Return where a mask layer is not empty, of the images' shape without colours or of its last axes.

    Raises
    ------
    EnsembleError
        If the mask is not aligned with the ground truth.
    """
    if isinstance(mask, Shapes):
        flat = mask.to_labels(labels_shape=shape[-2:]) if mask.ndim == 2 else mask.to_labels(shape)
    else:
        flat = full_data(mask)
    if tuple(flat.shape) != shape[len(shape) - len(flat.shape) :]:
        raise EnsembleError(
            f'the mask "{mask.name}" has shape {tuple(flat.shape)}, but the images have {shape}; '
            "draw it on these images."
        )
    # Labels from a file without pixel sizes are matched by pixel. A mask drawn in the viewer has a position.
    by_pixels = not isinstance(mask, Shapes) and tuple(flat.shape) == shape and has_default_placement(mask)
    if not by_pixels and not has_equal_placement(mask, truth):
        raise EnsembleError(
            f'the mask "{mask.name}" is not aligned with "{truth.name}"; give it the same scale, '
            "translation and rotation."
        )
    if not (isinstance(flat, np.ndarray) or is_dask(flat)):
        import dask.array as da

        flat = da.from_array(flat, name=False)  # type: ignore[no-untyped-call]
    return flat > 0  # a copy, so that the mask can be painted on while the fit runs


def low_resolution_input(layers: Sequence[Layer], truth: Layer | None) -> Any:
    """Return the pixels of the only image that is 2, 3, ... times smaller than the truth; None if none is.

    Only for grey and RGB images of one plane, which RefESR takes.
    """
    if truth is None or truth.ndim != 2:
        return None
    shape = pixel_shape(truth)

    def is_smaller(layer: Layer) -> bool:
        small = pixel_shape(layer)[:2]
        factors = {large / one for large, one in zip(shape, small, strict=False)}
        return (
            layer.ndim == 2 and layer.rgb == truth.rgb and len(factors) == 1 and min(factors) in range(2, 9)
        )

    found = [layer for layer in layers if isinstance(layer, Image) and is_smaller(layer)]
    return np.asarray(full_data(found[0])) if len(found) == 1 else None

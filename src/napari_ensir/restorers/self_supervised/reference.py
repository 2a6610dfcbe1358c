"""Noisy images to pairs of predictions and what they are judged by. Estimates no weight by itself.

Knows restorers and images; how pixels are hidden is told in :mod:`.hidden_pixels`, what is noise in them in
:mod:`.noise_told`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.checks.noise import correlated_noise_warning
from napari_ensir.ensemble.fit import learn
from napari_ensir.ensemble.scoring.scores import NoisyScores, block_errors, joined
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import as_restorer, check_image, check_keeps_size, with_channel_axis
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid, restore_checked, restore_hidden
from napari_ensir.restorers.self_supervised.noise import curvature, without_noise
from napari_ensir.settings import BlindSettings, FitSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import BlockErrors
    from napari_ensir.restorers.base import AnyRestorer, Progress, Restorer

    Pair = tuple[tuple[NDArray[np.float32], ...], NDArray[Any]]

__all__ = [
    "HIDING",
    "LEARNING",
    "BlindReference",
    "CorrelatedNoiseWarning",
    "Hiding",
    "blind_reference",
    "images_of",
    "restorers_of",
]


HIDING = ("stride", "offsets", "seed", "channel_axis")
LEARNING = ("bin_width", "shrinkage", "data_range", "device")
"""Of :class:`~napari_ensir.settings.BlindSettings`, what hiding pixels takes and what learning takes."""


class CorrelatedNoiseWarning(UserWarning):
    """The noise of neighbouring pixels is correlated, so that hidden noise can be guessed."""


class Hiding(TypedDict, total=False):
    """What :func:`blind_reference` can be told beside images and restorers, and whoever calls it."""

    stride: int
    offsets: int
    channel_axis: int | None
    mask: ArrayLike | Sequence[ArrayLike | None] | None
    seed: int
    progress: Progress | None


@dataclass(frozen=True)
class BlindReference:
    """Predictions of pixels beside the noisy pixels themselves: a reference set without a truth.

    Whatever takes a reference set takes :attr:`pairs`, such as :func:`napari_ensir.compare`. Tables and
    scores are of :attr:`both`.

    Attributes
    ----------
    pairs : tuple of (candidates, noisy)
        Predictions by restorers that did not see the pixels; one pair per image. An image of shape
        ``(..., rows, columns)`` gives arrays of shape ``(..., offsets, rows // stride, columns // stride)``,
        its channels, if any, along one more axis, the last. Candidates are float32, the noisy pixels of the
        image's own dtype.
    ordinary : tuple of (candidates, told)
        What the restorers make of the same pixels when they see them, beside the pixels with as much of their
        noise taken off as can be told; of the same shapes, float32.
    masks : tuple of bool arrays, one per image, or None
        Where to learn, of the same shape, with or without channels.
    names : tuple of str
    channel_axis : -1 or None
        Of the pairs.
    image_channel_axis : int or None
        Of the images.
    data_range : (low, high)
        The dtype's for 8 bit, else what the predictions show.
    has_channels : bool
        Whether the pairs' last axis is that of channels; they are pooled where ``channel_axis`` is None.
    settings : dict
        Stride, offsets and seed.
    warnings : tuple of str
        What makes it doubtful, a sentence each.
    """

    pairs: tuple[Pair, ...]
    ordinary: tuple[Pair, ...]
    masks: tuple[NDArray[np.bool_] | None, ...] | None
    names: tuple[str, ...]
    channel_axis: Literal[-1] | None
    image_channel_axis: int | None
    data_range: tuple[float, float]
    has_channels: bool = False
    settings: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def learn(
        self,
        *,
        bin_width: float | Literal["auto"] | None = None,
        data_range: tuple[float, float] | None = None,
        shrinkage: float | Literal["auto"] = 1000.0,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> WeightLUT:
        """The table that least squares learns from it.

        Parameters
        ----------
        bin_width, data_range, shrinkage, device, progress
            As for :func:`learn_blind`.

        Returns
        -------
        WeightLUT
        """
        given = FitSettings(
            bin_width=bin_width,
            shrinkage=shrinkage,
            channel_axis=self.channel_axis,
            data_range=data_range or self.data_range,
            truth_noise="unknown",
        )
        pairs, masks = self.both
        lut = learn(pairs, given, names=self.names, mask=masks, device=device, progress=progress)
        said = {"blind": dict(self.settings), "warnings": [*lut.report["warnings"], *self.warnings]}
        if data_range is None:
            said["data_range_from"] = "dtype" if self._is_byte else "data"
        return replace(lut, channel_axis=self.image_channel_axis, report=lut.report | said)

    def scores(self) -> NoisyScores:
        """The restorers and the average of their candidates, scored on the pixels that were hidden."""
        low, high = self.data_range
        return NoisyScores.of(self.names, [self.block_errors()], high - low)

    def block_errors(self, average: bool = True) -> BlockErrors:
        """Squared errors against the noisy pixels, block by block.

        Parameters
        ----------
        average : bool
            Of the average of the candidates as well, after them.

        Returns
        -------
        BlockErrors
        """
        parts = []
        pairs, masks = self.both
        for (candidates, noisy), mask in zip(pairs, masks or (None,) * len(pairs), strict=True):
            images = [*candidates, np.mean(candidates, axis=0)] if average else list(candidates)
            valid = None
            if mask is not None:
                valid = np.broadcast_to(mask if mask.ndim == noisy.ndim else mask[..., None], noisy.shape)
            channels = -1 if self.has_channels else None
            parts.append(block_errors(noisy, images, valid=valid, channel_axis=channels))
        return joined(parts)

    @property
    def both(self) -> tuple[tuple[Pair, ...], tuple[NDArray[np.bool_] | None, ...] | None]:
        """Hidden and seen pixels side by side along the axis of the runs, and their masks.

        So they are counted in the same blocks and held out in the same parts: they are the same pixels.
        """
        if not self.ordinary:
            return self.pairs, self.masks
        axis = -4 if self.has_channels else -3
        pairs = tuple(
            (
                tuple(np.concatenate(each, axis) for each in zip(hidden, seen, strict=True)),
                np.concatenate([noisy, told], axis),
            )
            for (hidden, noisy), (seen, told) in zip(self.pairs, self.ordinary, strict=True)
        )
        if self.masks is None:
            return pairs, None
        return pairs, tuple(None if mask is None else self._twice(mask) for mask in self.masks)

    def _twice(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        with_channels = self.has_channels and mask.ndim == self.pairs[0][1].ndim
        return np.concatenate([mask, mask], -4 if with_channels else -3)

    @property
    def _is_byte(self) -> bool:
        return byte_range(noisy.dtype for _, noisy in self.pairs) is not None


def blind_reference(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    stride: int = 6,
    offsets: int = 6,
    channel_axis: int | None = None,
    mask: ArrayLike | Sequence[ArrayLike | None] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    restored: Sequence[Sequence[NDArray[np.float32]]] | None = None,
    seen: bool = True,
) -> BlindReference:
    """Restore noisy images with some pixels hidden, and once with none, and keep what comes out at those.

    Parameters
    ----------
    images, restorers, names, stride, offsets, channel_axis, mask, seed, progress
        As for :func:`learn_blind`.
    restored : for each image M arrays of its shape, optional
        What the restorers make of it, where that is known already.
    seen : bool
        Whether to restore once with no pixel hidden; else there is nothing ``ordinary``.

    Returns
    -------
    BlindReference
        Its ``pairs`` are candidates and noisy pixels; its method ``learn`` makes a table of them.

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> (candidates, pixels), = blind_reference(noisy, [Gaussian(), Median()]).pairs
    >>> len(candidates), pixels.shape
    (2, (6, 8, 10))
    """
    BlindSettings(stride=stride, offsets=offsets, channel_axis=channel_axis, seed=seed)
    arrays = images_of(images, channel_axis)
    masks = _masks(mask, images, len(arrays))
    chosen = restorers_of(restorers, channel_axis)
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    axis = _channels(chosen, channel_axis)
    pairs, ordinary, kept_masks = [], [], []
    doubts = _doubts(arrays, axis)
    once = seen and restored is None
    each = offsets + once  # runs of a restorer on an image
    runs = len(arrays) * len(chosen) * each
    for number, (image, where) in enumerate(zip(arrays, masks, strict=True)):
        grid = HiddenGrid(image.shape, axis, stride, offsets, seed)
        planes = grid.planes(image)
        noisy, hidden, whole = grid.kept(planes), [], list(restored[number] if restored else ())
        for index, restorer in enumerate(chosen):
            before = (number * len(chosen) + index) * each
            if once:
                whole.append(restore_checked(image, restorer, scaled_progress(progress, before, runs)))
            part = scaled_progress(progress, before + once, runs, offsets)
            hidden.append(restore_hidden(image, restorer, grid, part))
        pairs.append((tuple(hidden), noisy))
        if seen:
            curved = None if doubts[number] else grid.kept(curvature(planes))
            told = without_noise(noisy, hidden, curved, channels=axis is not None)
            ordinary.append((tuple(grid.kept(grid.planes(one)) for one in whole), told))
        kept_masks.append(None if where is None else _hidden_of_mask(where, grid, number))
    return BlindReference(
        tuple(pairs),
        tuple(ordinary),
        None if mask is None else tuple(kept_masks),
        checked,
        None if axis is None or channel_axis is None else -1,
        None if channel_axis is None else _as_fitted(channel_axis, arrays[0].ndim),
        _range_of([*pairs, *ordinary], arrays),
        axis is not None,
        {"stride": stride, "offsets": offsets, "seed": seed},
        tuple(filter(None, doubts)),
    )


def restorers_of(given: Sequence[AnyRestorer], channel_axis: int | None) -> list[Restorer]:
    """Restorers and functions, as restorers of images with their channels along this axis.

    Raises
    ------
    EnsembleError
        If there is none, or one cannot be called, or enlarges.
    """
    chosen = [as_restorer(each) for each in given]
    if not chosen:
        raise EnsembleError("there is no restorer; give at least one.")
    for each in chosen:
        check_keeps_size(each)
    if channel_axis is None:
        return chosen
    return [with_channel_axis(each, channel_axis) for each in chosen]


def _channels(restorers: Sequence[Restorer], channel_axis: int | None) -> int | None:
    """The axis along which pixels are hidden together."""
    if channel_axis is not None:
        return channel_axis
    found = [getattr(each, "channel_axis", None) for each in restorers]
    own = sorted({axis for axis in found if axis is not None})
    if len(own) > 1:
        raise EnsembleError(f"the restorers have different channel axes, {own}; give channel_axis.")
    return own[0] if own else None


def images_of(images: Any, channel_axis: int | None) -> list[NDArray[Any]]:
    """One image or several, as arrays that can be restored.

    Raises
    ------
    EnsembleError
        If there is none, or one cannot be used; the sentence says which.
    """
    given = [images] if hasattr(images, "shape") else list(images)
    if not given:
        raise EnsembleError("there is no image; give at least one.")
    arrays = []
    for number, image in enumerate(given):
        try:
            arrays.append(check_image(image, channel_axis))
        except EnsembleError as error:
            raise EnsembleError(f"image {number + 1}: {error}") from None
    return arrays


def _doubts(images: Sequence[NDArray[Any]], channel_axis: int | None) -> list[str]:
    """For each image a sentence about noise that neighbours have in common, or none; warned of as well."""
    found = [correlated_noise_warning(image, channel_axis) for image in images]
    doubts = [
        "" if doubt is None else (f"image {number + 1}: " if len(found) > 1 else "") + doubt
        for number, doubt in enumerate(found)
    ]
    for doubt in filter(None, doubts):
        warnings.warn(doubt, CorrelatedNoiseWarning, stacklevel=4)
    return doubts


def _masks(mask: Any, images: Any, n_images: int) -> list[Any]:
    if mask is None:
        return [None] * n_images
    given = [mask] if hasattr(images, "shape") and hasattr(mask, "shape") else list(mask)
    if len(given) != n_images:
        raise EnsembleError(
            f"there are {len(given)} masks for {n_images} images; give one mask (or None) per image."
        )
    return given


def _hidden_of_mask(mask: Any, grid: HiddenGrid, number: int) -> NDArray[np.bool_]:
    where = np.asarray(mask).astype(bool)
    if where.shape == grid.shape:
        return cast("NDArray[np.bool_]", grid.kept(grid.planes(where)))
    if grid.channel_axis is not None:
        axis = grid.channel_axis % len(grid.shape)
        spatial = grid.shape[:axis] + grid.shape[axis + 1 :]
        if where.shape == spatial:
            flat = replace(grid, shape=spatial, channel_axis=None)
            return cast("NDArray[np.bool_]", flat.kept(flat.planes(where)))
    raise EnsembleError(
        f"image {number + 1}: the mask has shape {where.shape}; the image's shape, {grid.shape}, would fit."
    )


def _range_of(pairs: Sequence[Pair], images: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The dtype's range for 8 bit, else the predictions', which is narrower than that of noisy pixels."""
    if (limits := byte_range(image.dtype for image in images)) is not None:
        return limits
    low = min(float(each.min()) for candidates, _ in pairs for each in candidates)
    high = max(float(each.max()) for candidates, _ in pairs for each in candidates)
    if not low < high:
        raise EnsembleError(f"every restored pixel is {low:g}; constant images teach nothing.")
    return low, high


def _as_fitted(channel_axis: int, ndim: int) -> int:
    """The channel axis as a table keeps it: the last one counted from the end, so that stacks fit as well."""
    axis = channel_axis % ndim
    return -1 if axis == ndim - 1 else axis

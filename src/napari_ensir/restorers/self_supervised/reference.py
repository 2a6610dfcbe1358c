"""Reference sets made from noisy images without ground truth, for learning, ranking and calibration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.checks.noise import LEAST, noise_correlation
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.scoring.scores import (
    BlockErrors,
    NoisyScores,
    block_errors,
    joined,
    scores_of_reference,
    side_by_side,
    verdict,
)
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import (
    as_restorer,
    check_image,
    check_keeps_size,
    trained_on,
    with_channel_axis,
)
from napari_ensir.restorers.classical import ClassicalRestorer
from napari_ensir.restorers.noise_model import estimate_noise_model
from napari_ensir.restorers.self_ensemble import SelfEnsemble
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid, restore_checked, restore_hidden
from napari_ensir.restorers.self_supervised.noise import subtract_noise
from napari_ensir.restorers.self_supervised.sure import RUNS, SHRINKAGE_FACTOR, STEP, stack_runs, sure_pair
from napari_ensir.settings import SHRINKAGE, BlindSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.restorers.base import AnyRestorer, Progress, Restorer
    from napari_ensir.restorers.noise_model import NoiseModel

    Pair = tuple[tuple[NDArray[np.float32], ...], NDArray[Any]]

__all__ = [
    "LEARN_KEYWORDS",
    "REFERENCE_KEYWORDS",
    "BlindReference",
    "CorrelatedNoiseWarning",
    "ReferenceKeywords",
    "blind_reference",
    "images_of",
    "restorers_of",
]

REFERENCE_KEYWORDS = ("stride", "offsets", "seed", "channel_axis")
"""Fields of :class:`~napari_ensir.settings.BlindSettings` that :func:`blind_reference` takes."""

LEARN_KEYWORDS = ("bin_width", "shrinkage", "data_range", "device")
"""Fields of :class:`~napari_ensir.settings.BlindSettings` that :meth:`BlindReference.learn` takes."""

Criterion = Literal["hidden pixels", "SURE"]

MIN_ERROR = 0.2
"""Minimum mean squared error, as a fraction of the variance of the noise, for which a PSNR is reported."""


class CorrelatedNoiseWarning(UserWarning):
    """The noise of neighbouring pixels is correlated."""


class ReferenceKeywords(TypedDict, total=False):
    """Keywords of :func:`blind_reference` that other functions pass on."""

    stride: int
    offsets: int
    channel_axis: int | None
    mask: ArrayLike | Sequence[ArrayLike | None] | None
    seed: int
    progress: Progress | None


@dataclass(frozen=True)
class BlindReference:
    """A reference set without ground truth: predicted pixels, and noisy pixels to score them against.

    Functions that take a reference set, such as :func:`napari_ensir.compare`, accept :attr:`pairs`. Tables
    and scores use :attr:`scored_pairs`.

    Attributes
    ----------
    pairs : tuple of (candidates, noisy), one per image
        With the criterion ``"hidden pixels"``: predictions of pixels that were hidden from the restorers, and
        the noisy pixels in the dtype of the image. For an image of shape ``(..., rows, columns)`` the arrays
        have shape ``(..., offsets, rows // stride, columns // stride)``. With ``"SURE"``: restorations of the
        image with noise added and subtracted, and references with the opposite noise, of shape ``(..., 2,
        rows, columns)``. Channels, if any, are the last axis. Candidates are float32.
    visible_pairs : tuple of (candidates, denoised), one per image
        With hidden pixels: the restorations of the complete image at the same pixels, and the noisy pixels
        minus an estimate of their noise, float32, of the same shapes. With SURE: empty.
    masks : tuple of bool arrays, one per image, or None
        Pixels to learn from, of the same shape, with or without channels.
    names : tuple of str
    channel_axis : -1 or None
        Channel axis of the pairs.
    image_channel_axis : int or None
        Channel axis of the images.
    data_range : (low, high)
        Range of the dtype for 8-bit images, else that of the predictions.
    has_channels : bool
        Whether the last axis of the pairs is the channel axis. Channels are pooled if ``channel_axis`` is
        None.
    settings : dict
        Stride, offsets and seed.
    criterion : "hidden pixels" or "SURE"
        How restorers are scored: by the prediction of hidden pixels if the noise is white, or by Stein's
        unbiased risk estimate if the noise of neighbouring pixels is correlated.
    reason : str
        One sentence that states the criterion and why it was chosen.
    noise_power : float
        Mean variance of the noise of the images, squared intensity units.
    error_offset : float
        Mean squared error in :attr:`scored_pairs` minus the mean squared error against the truth.
    """

    pairs: tuple[Pair, ...]
    visible_pairs: tuple[Pair, ...]
    masks: tuple[NDArray[np.bool_] | None, ...] | None
    names: tuple[str, ...]
    channel_axis: Literal[-1] | None
    image_channel_axis: int | None
    data_range: tuple[float, float]
    has_channels: bool = False
    settings: dict[str, int] = field(default_factory=dict)
    criterion: Criterion = "hidden pixels"
    reason: str = ""
    noise_power: float = 0.0
    error_offset: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """The reason for the criterion, if the noise is correlated."""
        return (self.reason,) if self.criterion == "SURE" else ()

    def learn(
        self,
        *,
        bin_width: float | Literal["auto"] | None = None,
        data_range: tuple[float, float] | None = None,
        shrinkage: float | Literal["auto"] = SHRINKAGE,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> WeightLUT:
        """Learn a lookup table by least squares.

        Parameters
        ----------
        bin_width, data_range, shrinkage, device, progress
            As for :func:`learn_blind`.

        Returns
        -------
        WeightLUT
        """
        return self.learn_with_scores(
            bin_width=bin_width, data_range=data_range, shrinkage=shrinkage, device=device, progress=progress
        )[0]

    def learn_with_scores(
        self,
        *,
        bin_width: float | Literal["auto"] | None = None,
        data_range: tuple[float, float] | None = None,
        shrinkage: float | Literal["auto"] = SHRINKAGE,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> tuple[WeightLUT, NoisyScores]:
        """Learn a lookup table, and score the candidates, their average, the ensemble and the noisy input.

        Parameters
        ----------
        bin_width, data_range, shrinkage, device, progress
            As for :func:`learn_blind`.

        Returns
        -------
        lut : WeightLUT
        scores : NoisyScores
            The ensemble is scored on held-out parts of the images.
        """
        pairs, masks = self.scored_pairs
        if shrinkage != "auto" and self.criterion == "SURE":
            shrinkage *= SHRINKAGE_FACTOR
        session = FitSession(
            pairs,
            self.names,
            mask=masks,
            progress=progress,
            check_input=False,
            method="least-squares",
            bin_width=bin_width,
            shrinkage=shrinkage,
            channel_axis=self.channel_axis,
            data_range=data_range or self.data_range,
            truth_noise="unknown",
            device=str(device),
        )
        collected = session.collect(fine=False)
        lut = session.estimate()
        scores = self._with_input(scores_of_reference(collected, lut, session.used))
        report = lut.report | {
            "blind": {**self.settings, "criterion": self.criterion, "reason": self.reason},
            "warnings": [*lut.report["warnings"], *self.warnings],
            "scores": scores.to_dict() | {"summary": verdict(scores)},
        }
        if data_range is None:
            report["data_range_from"] = "dtype" if self._is_byte else "data"
        return replace(lut, channel_axis=self.image_channel_axis, report=report), scores

    def _with_input(self, scores: NoisyScores) -> NoisyScores:
        """Add the noisy input; set the noise level if it is accurate enough to correct the errors."""
        counts = scores.blocks.counts
        sums = counts[:, np.newaxis].astype(np.float64) * (self.noise_power + self.error_offset)
        least = scores.errors.min() - self.error_offset
        known = self.criterion == "hidden pixels" and least > MIN_ERROR * self.noise_power
        return replace(
            scores,
            names=(*scores.names, "noisy input"),
            roles=(*scores.roles, "input"),
            blocks=side_by_side([scores.blocks, BlockErrors(sums, counts)]),
            noise=float(np.sqrt(max(self.error_offset, 0.0))) if known else "unknown",
        )

    def scores(self) -> NoisyScores:
        """Score the restorers and the average of their results."""
        low, high = self.data_range
        return NoisyScores.of(self.names, [self.block_errors()], high - low)

    def block_errors(self, average: bool = True) -> BlockErrors:
        """Sum the squared errors against the reference in blocks of pixels.

        Parameters
        ----------
        average : bool
            Whether to add the average of the candidates as the last image.

        Returns
        -------
        BlockErrors
        """
        parts = []
        pairs, masks = self.scored_pairs
        for (candidates, noisy), mask in zip(pairs, masks or (None,) * len(pairs), strict=True):
            images = [*candidates, np.mean(candidates, axis=0)] if average else list(candidates)
            valid = None
            if mask is not None:
                valid = np.broadcast_to(mask if mask.ndim == noisy.ndim else mask[..., None], noisy.shape)
            channels = -1 if self.has_channels else None
            parts.append(block_errors(noisy, images, valid=valid, channel_axis=channels))
        return joined(parts)

    @property
    def scored_pairs(self) -> tuple[tuple[Pair, ...], tuple[NDArray[np.bool_] | None, ...] | None]:
        """Hidden and visible pairs concatenated along the axis of the runs, and their masks.

        Both values of a pixel are therefore in the same block and in the same held-out part.
        """
        if not self.visible_pairs:
            return self.pairs, self.masks
        axis = -4 if self.has_channels else -3
        pairs = tuple(
            (
                tuple(np.concatenate(each, axis) for each in zip(hidden, visible, strict=True)),
                np.concatenate([noisy, denoised], axis),
            )
            for (hidden, noisy), (visible, denoised) in zip(self.pairs, self.visible_pairs, strict=True)
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
    visible: bool = True,
    criterion: Criterion | Literal["auto"] = "auto",
) -> BlindReference:
    """Make a reference set from noisy images without ground truth.

    Parameters
    ----------
    images, restorers, names, stride, offsets, channel_axis, mask, seed, progress
        As for :func:`learn_blind`.
    restored : for each image M arrays of its shape, optional
        Results of the restorers, if already computed.
    visible : bool
        With hidden pixels: whether to also score the restorations of the complete image.
    criterion : "auto", "hidden pixels" or "SURE"
        ``"auto"``: SURE if the noise of neighbouring pixels is significantly correlated in any image, else
        hidden pixels.

    Returns
    -------
    BlindReference
        Call its method ``learn`` to fit a table, or ``scores`` to rank the restorers.

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> reference = blind_reference(noisy, [Gaussian(), Median()])
    >>> reference.criterion, reference.pairs[0][1].shape
    ('hidden pixels', (6, 8, 10))
    """
    BlindSettings(stride=stride, offsets=offsets, channel_axis=channel_axis, seed=seed)
    arrays = images_of(images, channel_axis)
    masks = _masks(mask, images, len(arrays))
    chosen = [trained_on(each, arrays, progress) for each in restorers_of(restorers, channel_axis)]
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    axis = _channels(chosen, channel_axis)
    grids = [HiddenGrid(image.shape, axis, stride, offsets, seed) for image in arrays]
    models = [_noise_models(image, axis) for image in arrays]
    found, reason = _choose_criterion(arrays, models, axis, criterion)
    where = tuple(_mask_of_pair(*each, found, n) for n, each in enumerate(zip(masks, grids, strict=True)))
    if found == "SURE":
        warnings.warn(reason, CorrelatedNoiseWarning, stacklevel=3)
    pairs: list[Pair] = []
    visible_pairs: list[Pair] = []
    noise_powers: list[float] = []
    error_offsets: list[float] = []
    for number, (image, grid, noise) in enumerate(zip(arrays, grids, models, strict=True)):
        part = scaled_progress(progress, number, len(arrays))
        fixed = [_fixed_to(image, each) for each in chosen]
        if found == "SURE":
            pairs.append(sure_pair(image, fixed, noise, channel_axis=axis, seed=seed, progress=part))
            noise_powers.append(float(np.mean([model.level**2 for model in noise])))
            error_offsets.append(noise_powers[-1] * (1 + 1 / STEP**2))
            continue
        whole = list(restored[number]) if restored else []
        once = visible and not whole
        runs = len(chosen) * (offsets + once)
        hidden = []
        for index, restorer in enumerate(fixed):
            before = index * (offsets + once)
            if once:
                whole.append(restore_checked(image, restorer, scaled_progress(part, before, runs)))
            rest = scaled_progress(part, before + once, runs, offsets)
            hidden.append(restore_hidden(image, restorer, grid, rest))
        noisy = grid.select(grid.planes(image))
        pairs.append((tuple(hidden), noisy))
        denoised, power, offset = subtract_noise(noisy, hidden, noise, channels=axis is not None)
        noise_powers.append(power)
        error_offsets.append((power + offset) / 2 if visible else power)
        if visible:
            visible_pairs.append((tuple(grid.select(grid.planes(one)) for one in whole), denoised))
    return BlindReference(
        tuple(pairs),
        tuple(visible_pairs),
        None if mask is None else where,
        checked,
        None if axis is None or channel_axis is None else -1,
        None if channel_axis is None else _as_fitted(channel_axis, arrays[0].ndim),
        _range_of([*pairs, *visible_pairs], arrays),
        axis is not None,
        {"stride": stride, "offsets": offsets, "seed": seed},
        found,
        reason,
        float(np.average(noise_powers, weights=[image.size for image in arrays])),
        float(np.average(error_offsets, weights=[image.size for image in arrays])),
    )


def _fixed_to(image: NDArray[Any], restorer: Restorer) -> Restorer:
    """Fix the settings that a restorer estimates from the image, so that small changes do not affect them."""
    if isinstance(restorer, SelfEnsemble):
        return replace(restorer, restorer=_fixed_to(image, restorer.restorer))
    return restorer.fixed_to(image) if isinstance(restorer, ClassicalRestorer) else restorer


def _noise_models(image: NDArray[Any], channel_axis: int | None) -> list[NoiseModel]:
    """Estimate the noise of each channel."""
    channels = [image] if channel_axis is None else np.moveaxis(image, channel_axis, 0)
    return [estimate_noise_model(channel) for channel in channels]


def _choose_criterion(
    images: Sequence[NDArray[Any]],
    models: Sequence[Sequence[NoiseModel]],
    channel_axis: int | None,
    asked: Criterion | Literal["auto"],
) -> tuple[Criterion, str]:
    """Choose the criterion by the correlation of the noise; return it with a sentence that explains it."""
    measured = [_correlation_of_noise(image, channel_axis) for image in images]
    value, error = max((each for each in measured if each is not None), default=(0.0, np.inf))
    correlated = any(
        each is not None and each[0] > 2 * each[1] and any(model.correlation is not None for model in noise)
        for noise, each in zip(models, measured, strict=True)
    )
    found: Criterion = ("SURE" if correlated else "hidden pixels") if asked == "auto" else asked
    how = "Stein's unbiased risk estimate (SURE)" if found == "SURE" else "the prediction of hidden pixels"
    shown = f"{value:.2f}" + (f" ± {error:.2f}" if 0 < error < np.inf else "")
    if asked != "auto":
        why = "as requested"
    elif not any(measured):
        why = "because the image is too small to measure the correlation of its noise"
    else:
        why = (
            f"because the noise of neighbouring pixels is {'' if correlated else 'not '}correlated ({shown})"
        )
    return found, f"The restorers are scored by {how}, {why}."


def _correlation_of_noise(image: NDArray[Any], channel_axis: int | None) -> tuple[float, float] | None:
    """Return the noise correlation of neighbouring pixels, and its standard error over four quarters."""
    value = noise_correlation(image, channel_axis)
    if value is None:
        return None
    channel = None if channel_axis is None else channel_axis % image.ndim
    rows, columns = [axis for axis in range(image.ndim) if axis != channel][-2:]
    if min(image.shape[rows], image.shape[columns]) < 2 * LEAST:
        return value, 0.0
    quarters = [
        noise_correlation(quarter, channel_axis)
        for half in np.array_split(image, 2, rows)
        for quarter in np.array_split(half, 2, columns)
    ]
    known = [each for each in quarters if each is not None]
    return value, float(np.std(known, ddof=1) / np.sqrt(len(known)))


def restorers_of(given: Sequence[AnyRestorer], channel_axis: int | None) -> list[Restorer]:
    """Convert restorers and functions to restorers of images with channels along this axis.

    Raises
    ------
    EnsembleError
        If there is no restorer, or one is not callable or enlarges images.
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
    """Return the axis along which pixels are hidden together."""
    if channel_axis is not None:
        return channel_axis
    found = [getattr(each, "channel_axis", None) for each in restorers]
    own = sorted({axis for axis in found if axis is not None})
    if len(own) > 1:
        raise EnsembleError(f"the restorers have different channel axes, {own}; give channel_axis.")
    return own[0] if own else None


def images_of(images: Any, channel_axis: int | None) -> list[NDArray[Any]]:
    """Convert one image or several to a list of arrays that can be restored.

    Raises
    ------
    EnsembleError
        If there is no image, or one is invalid; the message states its number.
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


def _masks(mask: Any, images: Any, n_images: int) -> list[Any]:
    if mask is None:
        return [None] * n_images
    given = [mask] if hasattr(images, "shape") and hasattr(mask, "shape") else list(mask)
    if len(given) != n_images:
        raise EnsembleError(
            f"there are {len(given)} masks for {n_images} images; give one mask (or None) per image."
        )
    return given


def _mask_of_pair(mask: Any, grid: HiddenGrid, criterion: Criterion, number: int) -> NDArray[np.bool_] | None:
    """Return the mask of an image with the shape of its pair, with or without channels."""
    if mask is None:
        return None
    where, axis = np.asarray(mask).astype(bool), grid.channel_axis
    if axis is not None and where.shape == grid.spatial_shape:
        grid, axis = replace(grid, shape=where.shape, channel_axis=None), None
    if where.shape != grid.shape:
        raise EnsembleError(
            f"image {number + 1}: the mask has shape {where.shape}; give one of shape {grid.shape}."
        )
    found = stack_runs([where] * RUNS, axis) if criterion == "SURE" else grid.select(grid.planes(where))
    return np.asarray(found, bool)


def _range_of(pairs: Sequence[Pair], images: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the range of the dtype for 8 bit, else of the predictions, which have less noise."""
    if (limits := byte_range(image.dtype for image in images)) is not None:
        return limits
    low = min(float(each.min()) for candidates, _ in pairs for each in candidates)
    high = max(float(each.max()) for candidates, _ in pairs for each in candidates)
    if not low < high:
        raise EnsembleError(f"every restored pixel is {low:g}; a constant image cannot be learned from.")
    return low, high


def _as_fitted(channel_axis: int, ndim: int) -> int:
    """Return the channel axis for a table: -1 if it is the last, so that the table also fits stacks."""
    axis = channel_axis % ndim
    return -1 if axis == ndim - 1 else axis

"""Reference sets made from noisy images without ground truth, for learning, ranking and calibration."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.checks.noise import noise_correlation
from napari_ensir.ensemble.checks.planes import LEAST_SAMPLE
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.scoring.scores import (
    BlockErrors,
    NoisyScores,
    block_errors,
    joined,
    side_by_side,
    verdict,
)
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import (
    as_restorer,
    channels_first,
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

REFERENCE_KEYWORDS = ("stride", "offsets", "seed", "channel_axis")
"""Fields of :class:`~napari_ensir.settings.BlindSettings` that :func:`blind_reference` takes."""

LEARN_KEYWORDS = ("bin_width", "shrinkage", "data_range", "device")
"""Fields of :class:`~napari_ensir.settings.BlindSettings` that :meth:`BlindReference.learn` takes."""

Criterion = Literal["hidden pixels", "SURE"]

MIN_ERROR = 0.2
"""Minimum mean squared error, as a fraction of the variance of the noise, for which a PSNR is reported."""


class CorrelatedNoiseWarning(UserWarning):
    """The noise of neighbouring pixels is correlated."""


@dataclass(frozen=True, kw_only=True)
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
    image_channel_axis : int or None
        Channel axis of the images.
    data_range : (low, high)
        Range of the dtype for 8-bit images, else that of the predictions.
    has_channels : bool
        Whether the last axis of the pairs is the channel axis. Channels are pooled if ``image_channel_axis``
        is None.
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
    restored : for each image M float32 arrays of its shape
        Restorations of the complete images; empty if they were not asked for.
    """

    pairs: tuple[Pair, ...]
    visible_pairs: tuple[Pair, ...]
    masks: tuple[NDArray[np.bool_] | None, ...] | None
    names: tuple[str, ...]
    image_channel_axis: int | None
    data_range: tuple[float, float]
    has_channels: bool
    settings: dict[str, int]
    criterion: Criterion
    reason: str
    noise_power: float
    error_offset: float
    restored: tuple[tuple[NDArray[np.float32], ...], ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The reason for the criterion, if the noise is correlated."""
        return (self.reason,) if self.criterion == "SURE" else ()

    def learn(self, **settings: Any) -> WeightLUT:
        """Learn a lookup table by least squares.

        Parameters
        ----------
        **settings
            As for :meth:`learn_with_scores`.

        Returns
        -------
        WeightLUT
        """
        return self.learn_with_scores(**settings)[0]

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
            channel_axis=None if self.image_channel_axis is None else -1,
            data_range=data_range or self.data_range,
            truth_noise="unknown",
            device=str(device),
        )
        session.collect(fine=False)
        lut = session.estimate()
        scores = self._with_input(session.compare_with_noisy_truth())
        report = lut.report | {
            "blind": {**self.settings, "criterion": self.criterion, "reason": self.reason},
            "warnings": [*lut.report["warnings"], *self.warnings],
            "scores": scores.to_dict() | {"summary": verdict(scores)},
        }
        if data_range is None:
            is_byte = byte_range(noisy.dtype for _, noisy in self.pairs) is not None
            report["data_range_from"] = "dtype" if is_byte else "data"
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
        ndim = self.pairs[0][1].ndim

        def both(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
            with_channels = self.has_channels and one.ndim == ndim  # a mask may have none
            return np.concatenate([one, other], -4 if with_channels else -3)

        pairs = tuple(
            (tuple(map(both, hidden, visible)), both(noisy, denoised))
            for (hidden, noisy), (visible, denoised) in zip(self.pairs, self.visible_pairs, strict=True)
        )
        masks = self.masks and tuple(None if each is None else both(each, each) for each in self.masks)
        return pairs, masks


class _Measured(NamedTuple):
    """Results of one image; see :class:`BlindReference`."""

    restored: tuple[NDArray[np.float32], ...]
    pair: Pair
    visible: Pair | None
    noise_power: float
    error_offset: float


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
    keep_restored: bool = False,
    visible: bool = True,
    criterion: Criterion | Literal["auto"] = "auto",
) -> BlindReference:
    """Make a reference set from noisy images without ground truth.

    Parameters
    ----------
    images, restorers, names, stride, offsets, channel_axis, mask, seed, progress
        As for :func:`learn_blind`.
    keep_restored : bool
        Whether to keep the restorations of the complete images, as ``restored``.
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
    arrays = _as_images(images, channel_axis)
    chosen = [trained_on(each, arrays, progress) for each in _as_restorers(restorers, channel_axis)]
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    axis = _hidden_axis(chosen, channel_axis)
    grids = [HiddenGrid(image.shape, axis, stride, offsets, seed) for image in arrays]
    models = [list(map(estimate_noise_model, channels_first(image, axis))) for image in arrays]
    found, reason = _choose_criterion(arrays, models, axis, criterion)
    masks = _as_masks(mask, images, grids, found)
    if found == "SURE":
        warnings.warn(reason, CorrelatedNoiseWarning, stacklevel=3)
    visible = visible and found == "hidden pixels"
    n_whole = len(chosen) if visible or keep_restored else 0
    each_runs = RUNS if found == "SURE" else offsets
    runs = n_whole + len(chosen) * each_runs

    def measure(image: NDArray[Any], grid: HiddenGrid, noise: list[NoiseModel], part: Any) -> _Measured:
        whole = tuple(
            restore_checked(image, each, scaled_progress(part, number, runs))
            for number, each in enumerate(chosen[:n_whole])
        )
        fixed = [_fixed_to(image, each) for each in chosen]
        if found == "SURE":
            rest = scaled_progress(part, n_whole, runs, runs - n_whole)
            pair = sure_pair(image, fixed, noise, channel_axis=axis, seed=seed, progress=rest)
            power = float(np.mean([model.level**2 for model in noise]))
            return _Measured(whole, pair, None, power, power * (1 + 1 / STEP**2))
        hidden = tuple(
            restore_hidden(image, each, grid, scaled_progress(part, n_whole + n * offsets, runs, offsets))
            for n, each in enumerate(fixed)
        )
        noisy = grid.select(grid.planes(image))
        denoised, power, offset = subtract_noise(noisy, hidden, noise, channels=axis is not None)
        if not visible:
            return _Measured(whole, (hidden, noisy), None, power, power)
        seen = tuple(grid.select(grid.planes(one)) for one in whole)
        return _Measured(whole, (hidden, noisy), (seen, denoised), power, (power + offset) / 2)

    measured = [
        measure(*each, scaled_progress(progress, number, len(arrays)))
        for number, each in enumerate(zip(arrays, grids, models, strict=True))
    ]
    sizes = [image.size for image in arrays]
    pairs = tuple(each.pair for each in measured)
    visible_pairs = tuple(each.visible for each in measured if each.visible is not None)
    return BlindReference(
        pairs=pairs,
        visible_pairs=visible_pairs,
        masks=masks,
        names=checked,
        image_channel_axis=None if channel_axis is None else _as_fitted(channel_axis, arrays[0].ndim),
        data_range=_range_of([*pairs, *visible_pairs], arrays),
        has_channels=axis is not None,
        settings={"stride": stride, "offsets": offsets, "seed": seed},
        criterion=found,
        reason=reason,
        noise_power=float(np.average([each.noise_power for each in measured], weights=sizes)),
        error_offset=float(np.average([each.error_offset for each in measured], weights=sizes)),
        restored=tuple(each.restored for each in measured) if keep_restored else (),
    )


def _fixed_to(image: NDArray[Any], restorer: Restorer) -> Restorer:
    """Fix the settings that a restorer estimates from the image, so that small changes do not affect them."""
    if isinstance(restorer, SelfEnsemble):
        return replace(restorer, restorer=_fixed_to(image, restorer.restorer))
    return restorer.fixed_to(image) if isinstance(restorer, ClassicalRestorer) else restorer


def _choose_criterion(
    images: Sequence[NDArray[Any]],
    models: Sequence[Sequence[NoiseModel]],
    channel_axis: int | None,
    asked: Criterion | Literal["auto"],
) -> tuple[Criterion, str]:
    """Choose the criterion by the correlation of the noise; return it with a sentence that explains it."""
    measured = [_correlation_of_noise(image, channel_axis) for image in images]
    value, error = max(filter(None, measured), default=(0.0, np.inf))
    correlated = any(
        each is not None and each[0] > 2 * each[1] and any(model.correlation is not None for model in noise)
        for noise, each in zip(models, measured, strict=True)
    )
    found: Criterion = ("SURE" if correlated else "hidden pixels") if asked == "auto" else asked
    how = "Stein's unbiased risk estimate (SURE)" if found == "SURE" else "the prediction of hidden pixels"
    shown = f"{value:.2f}" + (f" ± {error:.2f}" if 0 < error < np.inf else "")
    why = f"because the noise of neighbouring pixels is {'' if correlated else 'not '}correlated ({shown})"
    if asked != "auto":
        why = "as requested"
    elif not any(measured):
        why = "because the image is too small to measure the correlation of its noise"
    return found, f"The restorers are scored by {how}, {why}."


def _correlation_of_noise(image: NDArray[Any], channel_axis: int | None) -> tuple[float, float] | None:
    """Return the noise correlation of neighbouring pixels, and its standard error over four quarters."""
    axis = None
    if channel_axis is not None:
        image, axis = np.moveaxis(image, channel_axis, 0), 0
    value = noise_correlation(image, axis)
    if value is None or min(image.shape[-2:]) < 2 * LEAST_SAMPLE:
        return None if value is None else (value, 0.0)
    halves = np.array_split(image, 2, -2)
    quarters = [noise_correlation(each, axis) for half in halves for each in np.array_split(half, 2, -1)]
    known = [each for each in quarters if each is not None]
    return value, float(np.std(known, ddof=1) / np.sqrt(len(known)))


def _as_restorers(given: Sequence[AnyRestorer], channel_axis: int | None) -> list[Restorer]:
    """Convert restorers and functions to restorers of images with channels along this axis."""
    chosen = [as_restorer(each) for each in given]
    if not chosen:
        raise EnsembleError("there is no restorer; give at least one.")
    for each in chosen:
        check_keeps_size(each)
    return chosen if channel_axis is None else [with_channel_axis(each, channel_axis) for each in chosen]


def _hidden_axis(restorers: Sequence[Restorer], channel_axis: int | None) -> int | None:
    """Return the axis along which pixels are hidden together."""
    if channel_axis is not None:
        return channel_axis
    found = (getattr(each, "channel_axis", None) for each in restorers)
    own = sorted({axis for axis in found if axis is not None})
    if len(own) > 1:
        raise EnsembleError(f"the restorers have different channel axes, {own}; give channel_axis.")
    return own[0] if own else None


def _as_images(images: Any, channel_axis: int | None) -> list[NDArray[Any]]:
    """Convert one image or several to a list of arrays that can be restored."""
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


def _as_masks(
    mask: Any, images: Any, grids: Sequence[HiddenGrid], criterion: Criterion
) -> tuple[NDArray[np.bool_] | None, ...] | None:
    """Convert one mask or several to masks of the shapes of the pairs, with or without channels."""
    if mask is None:
        return None
    given = [mask] if hasattr(images, "shape") and hasattr(mask, "shape") else list(mask)
    if len(given) != len(grids):
        raise EnsembleError(
            f"there are {len(given)} masks for {len(grids)} images; give one mask (or None) per image."
        )
    found: list[NDArray[np.bool_] | None] = []
    for number, (each, grid) in enumerate(zip(given, grids, strict=True), start=1):
        if each is None:
            found.append(None)
            continue
        where = np.asarray(each).astype(bool)
        if grid.channel_axis is not None and where.shape == grid.spatial_shape:
            grid = replace(grid, shape=where.shape, channel_axis=None)
        if where.shape != grid.shape:
            raise EnsembleError(
                f"image {number}: the mask has shape {where.shape}; give one of shape {grid.shape}."
            )
        is_sure = criterion == "SURE"
        runs = stack_runs([where] * RUNS, grid.channel_axis) if is_sure else grid.select(grid.planes(where))
        found.append(runs)
    return tuple(found)


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

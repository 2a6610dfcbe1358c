"""Learning lookup tables from noisy images alone.

A prediction that does not see a pixel has an error that is uncorrelated with the noise of that pixel, if
the noise is independent from pixel to pixel (Batson and Royer 2019, arXiv 1901.11365). The noisy image is
to such predictions what a second exposure is to ordinary results: a reference whose noise adds the same
number to every squared error, so that it changes no weight of least squares.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

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
from napari_ensir.errors import EnsembleError, errors_of
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
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid, restore_each, restore_hidden
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

Criterion = Literal["hidden pixels", "SURE"]

MIN_ERROR = 0.2
"""Minimum mean squared error, as a fraction of the variance of the noise, for which a PSNR is reported."""


class CorrelatedNoiseWarning(UserWarning):
    """The noise of neighbouring pixels is correlated."""


def learn_blind(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    stride: int = 6,
    offsets: int = 6,
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    mask: ArrayLike | Sequence[ArrayLike | None] | None = None,
    shrinkage: float | Literal["auto"] = SHRINKAGE,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> WeightLUT:
    """Learn from noisy images alone how far to trust each restorer at each intensity.

    If the noise is white, one pixel in ``stride`` x ``stride`` is hidden, the image is restored, the
    results at the hidden pixels are kept, and this is repeated for other pixels; each restorer also runs
    once with no pixel hidden. Weights are those of least squares of the predictions against the noisy
    pixels, and of the ordinary results against the noisy pixels minus an estimate of their noise
    (:mod:`napari_ensir.restorers.self_supervised.noise`), with equal weight.

    If the noise of neighbouring pixels is significantly correlated, hidden pixels would favour restorers
    that keep it. Then the errors are those of Stein's unbiased risk estimate
    (:mod:`napari_ensir.restorers.self_supervised.sure`), which takes two runs of each restorer, and the
    shrinkage is 20 times as large. The report states which was used and why. The table is meant for the
    restorers' ordinary results in both cases.

    The method is for denoising: the noisy image has to be the truth plus noise of mean zero. Blur or rain
    would be kept. It works best where a pixel can be predicted from its neighbours; finer structures make
    sharp restorers seem worse than they are.

    Parameters
    ----------
    images : an array, or a sequence of arrays
        Noisy images of any integer or float dtype, with at least two axes beside the channels. Axes before
        the last two count planes, each of which has its own grid of hidden pixels.
    restorers : sequence of M restorers
        Any of :mod:`napari_ensir.restorers`, networks included, or functions from an image to one of its
        shape. Each uses its own device and tile size.
    names : M strings, optional
        Default: the names of the restorers.
    stride : int
        Distance of hidden pixels along rows and columns, 2 or more. A small stride needs fewer runs per
        pixel, but more neighbours of a hidden pixel are replaced.
    offsets : int
        Number of runs with hidden pixels. Each hides other pixels, ``offsets / stride ** 2`` of all together.
    bin_width, data_range, shrinkage
        As for :func:`napari_ensir.fit_lut`.
    channel_axis : int, optional
        Axis of the channels, for the restorers as well. Channels are hidden together, and each has its own
        table. Default: the restorers' own ``channel_axis``; channels are hidden together and pooled.
    mask : array, or sequence of arrays (or None), one per image, optional
        Where to learn: bool, of the image's shape, with or without the channel axis.
    device : str or torch.device
        Device for counting pixels.
    seed : int
        Seed of the order in which pixels are hidden, or of the noise added. Equal seeds give equal tables.
    progress
        Called with (done, total, text); an exception that it raises cancels the work.

    Returns
    -------
    WeightLUT
        Its report has ``"truth_noise": "unknown"``, the ``"criterion"`` and its ``"reason"`` under
        ``"blind"``, and under ``"scores"`` the scores of the noisy input, the candidates, their average and
        the ensemble, the latter on parts of the images that were held out, with a one-sentence
        ``"summary"``.

    Raises
    ------
    EnsembleError
        If an image cannot be used, a name is missing, or a number is outside its limits.

    Warns
    -----
    CorrelatedNoiseWarning
        If the noise of neighbouring pixels is correlated, so that SURE is used. The report's ``"warnings"``
        have the sentence as well.

    References
    ----------
    J. Batson and L. Royer. Noise2Self: Blind Denoising by Self-Supervision. ICML 2019, arXiv 1901.11365.

    S. Ramani, T. Blu and M. Unser. Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters
    for General Denoising Algorithms. IEEE Transactions on Image Processing 17, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + rows + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> restorers = {"as it is": Gaussian(sigma=0.1), "smooth": Gaussian(sigma=2)}
    >>> lut = learn_blind(noisy, list(restorers.values()), list(restorers), device="cpu")
    >>> bool(lut.weights_for((130, 130))[1] > 0.9)
    True
    """
    given = BlindSettings(
        stride=stride,
        offsets=offsets,
        seed=seed,
        bin_width=bin_width,
        shrinkage=shrinkage,
        channel_axis=channel_axis,
        data_range=data_range,
        device=str(device),
    )
    reference = blind_reference(images, restorers, names, mask=mask, progress=progress, settings=given)
    return reference.learn(progress)


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
    data_range : (low, high)
        Range of the dtype for 8-bit images, else that of the predictions.
    has_channels : bool
        Whether the last axis of the pairs is the channel axis. Channels are pooled if the settings have no
        channel axis.
    settings : BlindSettings
        Those given to :func:`blind_reference`.
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
    data_range: tuple[float, float]
    has_channels: bool
    settings: BlindSettings
    criterion: Criterion
    reason: str
    noise_power: float
    error_offset: float
    restored: tuple[tuple[NDArray[np.float32], ...], ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The reason for the criterion, if the noise is correlated."""
        return (self.reason,) if self.criterion == "SURE" else ()

    def learn(self, progress: Progress | None = None, **settings: Any) -> WeightLUT:
        """Learn a lookup table by least squares.

        Parameters
        ----------
        progress, **settings
            As for :meth:`learn_with_scores`.

        Returns
        -------
        WeightLUT
        """
        return self.learn_with_scores(progress, **settings)[0]

    def learn_with_scores(
        self, progress: Progress | None = None, **settings: Any
    ) -> tuple[WeightLUT, NoisyScores]:
        """Learn a lookup table, and score the candidates, their average, the ensemble and the noisy input.

        Parameters
        ----------
        progress
            As for :func:`learn_blind`.
        **settings
            ``bin_width``, ``data_range``, ``shrinkage``, ``device``: as for that function, instead of the
            settings of the reference set.

        Returns
        -------
        lut : WeightLUT
        scores : NoisyScores
            The ensemble is scored on held-out parts of the images.
        """
        given = replace(self.settings, **settings)
        axis, shrinkage = given.channel_axis, given.shrinkage
        if shrinkage != "auto" and self.criterion == "SURE":
            shrinkage *= SHRINKAGE_FACTOR
        data_range, channels = given.data_range or self.data_range, None if axis is None else -1
        fitted = replace(given, shrinkage=shrinkage, data_range=data_range, channel_axis=channels)
        pairs, masks = self.scored_pairs
        how = {"mask": masks, "progress": progress, "check_input": False}
        lut, scores = _learn_from_noisy(pairs, self.names, fitted, **how)
        scores = self._with_input(scores)
        hiding = self.settings.keywords("stride", "offsets", "seed")
        report = _with_scores(lut, scores).report | {
            "blind": {**hiding, "criterion": self.criterion, "reason": self.reason},
            "warnings": [*lut.report["warnings"], *self.warnings],
        }
        if given.data_range is None:
            is_byte = byte_range(noisy.dtype for _, noisy in self.pairs) is not None
            report["data_range_from"] = "dtype" if is_byte else "data"
        if axis is not None:  # -1 if it is the last, so that the table also fits stacks
            ndim = self.pairs[0][1].ndim - 1
            axis = -1 if axis % ndim == ndim - 1 else axis % ndim
        return replace(lut, channel_axis=axis, report=report), scores

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


def blind_reference(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    mask: ArrayLike | Sequence[ArrayLike | None] | None = None,
    progress: Progress | None = None,
    keep_restored: bool = False,
    visible: bool = True,
    criterion: Criterion | Literal["auto"] = "auto",
    settings: BlindSettings | None = None,
    **keywords: Any,
) -> BlindReference:
    """Make a reference set from noisy images without ground truth.

    Parameters
    ----------
    images, restorers, names, mask, progress
        As for :func:`learn_blind`.
    keep_restored : bool
        Whether to keep the restorations of the complete images, as ``restored``.
    visible : bool
        With hidden pixels: whether to also score the restorations of the complete image.
    criterion : "auto", "hidden pixels" or "SURE"
        ``"auto"``: SURE if the noise of neighbouring pixels is significantly correlated in any image, else
        hidden pixels.
    settings : BlindSettings, optional
    **keywords
        Fields of the settings, such as ``stride`` and ``channel_axis``; they take precedence.

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
    given = replace(settings or BlindSettings(), **keywords)
    arrays = _as_images(images, given.channel_axis)
    chosen = [trained_on(each, arrays, progress) for each in _as_restorers(restorers, given.channel_axis)]
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    axis = _hidden_axis(chosen, given.channel_axis)
    hiding = given.keywords("stride", "offsets", "seed")
    grids = [HiddenGrid(image.shape, axis, **hiding) for image in arrays]
    models = [list(map(estimate_noise_model, channels_first(image, axis))) for image in arrays]
    found, reason = _choose_criterion(arrays, models, axis, criterion)
    masks = _as_masks(mask, images, grids, found)
    if found == "SURE":
        warnings.warn(reason, CorrelatedNoiseWarning, stacklevel=3)
    visible = visible and found == "hidden pixels"
    n_whole = len(chosen) if visible or keep_restored else 0
    runs = n_whole + len(chosen) * (RUNS if found == "SURE" else given.offsets)

    def measure(image: NDArray[Any], grid: HiddenGrid, noise: list[NoiseModel], part: Any) -> tuple[Any, ...]:
        whole = restore_each(image, chosen[:n_whole], scaled_progress(part, 0, runs, n_whole))
        fixed = [_fixed_to(image, each) for each in chosen]
        rest = scaled_progress(part, n_whole, runs, runs - n_whole)
        if found == "SURE":
            pair = sure_pair(image, fixed, noise, channel_axis=axis, seed=given.seed, progress=rest)
            power = float(np.mean([model.level**2 for model in noise]))
            return whole, pair, None, power, power * (1 + 1 / STEP**2)
        hidden = tuple(
            restore_hidden(image, each, grid, scaled_progress(rest, number, len(fixed)))
            for number, each in enumerate(fixed)
        )
        noisy = grid.select(grid.planes(image))
        denoised, power, offset = subtract_noise(noisy, hidden, noise, channels=axis is not None)
        if not visible:
            return whole, (hidden, noisy), None, power, power
        seen = tuple(grid.select(grid.planes(one)) for one in whole)
        return whole, (hidden, noisy), (seen, denoised), power, (power + offset) / 2

    measured = [
        measure(*each, scaled_progress(progress, number, len(arrays)))
        for number, each in enumerate(zip(arrays, grids, models, strict=True))
    ]
    restored, pairs, visible_pairs, powers, error_offsets = zip(*measured, strict=True)
    visible_pairs = visible_pairs if visible else ()
    sizes = [image.size for image in arrays]
    return BlindReference(
        pairs=pairs,
        visible_pairs=visible_pairs,
        masks=masks,
        names=checked,
        data_range=_range_of([*pairs, *visible_pairs], arrays),
        has_channels=axis is not None,
        settings=given,
        criterion=found,
        reason=reason,
        noise_power=float(np.average(powers, weights=sizes)),
        error_offset=float(np.average(error_offsets, weights=sizes)),
        restored=restored if keep_restored else (),
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
    for number, image in enumerate(given, start=1):
        with errors_of(f"image {number}"):
            arrays.append(check_image(image, channel_axis))
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


@dataclass(frozen=True)
class BlindResult:
    """Result of :func:`restore_and_combine`.

    Attributes
    ----------
    candidates : tuple of M float32 arrays of the image's shape
    ensemble : float32 array of that shape
    lut : WeightLUT
    reference : BlindReference or None
        Reference set that the table was learned from; None if that was a second exposure.
    scores : NoisyScores
        Scores of the candidates, their average, the ensemble and the noisy input. The ensemble is scored on
        parts of the image that its weights were not learned from.
    """

    candidates: tuple[NDArray[np.float32], ...]
    ensemble: NDArray[np.float32]
    lut: WeightLUT
    reference: BlindReference | None
    scores: NoisyScores

    @property
    def reason(self) -> str:
        """What the restorers are scored by."""
        if self.reference is None:
            return "The restorers are scored by the second exposure."
        return self.reference.reason

    @property
    def summary(self) -> str:
        """One sentence that states whether the ensemble is better than the best candidate."""
        return verdict(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return self.lut.names


def restore_and_combine(
    image: ArrayLike,
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    second_exposure: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> BlindResult:
    """Restore a noisy image in several ways and combine the results, without a ground truth.

    Parameters
    ----------
    image : array
        One noisy image.
    restorers, names, mask, progress
        As for :func:`learn_blind`.
    second_exposure : array, optional
        Another noisy image of the same field, with independent noise. It is the reference instead of the
        image itself, so that each restorer runs once.
    **settings
        ``stride``, ``offsets``, ``seed``, ``bin_width``, ``shrinkage``, ``channel_axis``, ``data_range``,
        ``device``: as for that function.

    Returns
    -------
    BlindResult
        The ``candidates``, their ``ensemble``, the ``lut`` that combined them, its ``scores`` and their
        ``summary``.

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> combined = restore_and_combine(noisy, [Gaussian(), Median()], device="cpu")
    >>> combined.names, combined.ensemble.shape
    (('Gaussian', 'Median'), (48, 60))
    >>> combined.scores.names
    ('Gaussian', 'Median', 'average', 'ensemble', 'noisy input')
    """
    given = BlindSettings(**settings)
    masks = None if mask is None else [mask]
    reference = None
    if second_exposure is None:
        reference = blind_reference(
            [image], restorers, names, mask=masks, progress=progress, keep_restored=True, settings=given
        )
        lut, scores = reference.learn_with_scores()
        (candidates,) = reference.restored
    else:
        chosen = _as_restorers(restorers, given.channel_axis)
        candidates = restore_each(check_image(image, given.channel_axis), chosen, progress)
        names = names or [each.name for each in chosen]
        pairs = [(candidates, second_exposure)]
        lut, scores = _learn_from_noisy(pairs, names, given, mask=masks, progress=progress)
        lut = _with_scores(lut, scores)
    ensemble = lut.apply(candidates, given.device, check=False)
    return BlindResult(candidates, ensemble, lut, reference, scores)


def _learn_from_noisy(
    pairs: Any, names: Sequence[str], given: BlindSettings, **how: Any
) -> tuple[WeightLUT, NoisyScores]:
    """Learn a table from pairs of candidates and a noisy reference, and score it."""
    fields = given.keywords("bin_width", "shrinkage", "data_range", "channel_axis", "device")
    session = FitSession(pairs, names, method="least-squares", truth_noise="unknown", **fields, **how)
    session.collect(fine=False)
    return session.estimate(), session.compare_with_noisy_truth()


def _with_scores(lut: WeightLUT, scores: NoisyScores) -> WeightLUT:
    return replace(lut, report=lut.report | {"scores": scores.to_dict() | {"summary": verdict(scores)}})

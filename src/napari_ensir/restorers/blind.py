"""Learns from noisy images alone, with restorers that did not see the pixels they are judged by.

Knows restorers, and that a reference set becomes a table. How pixels are hidden is told in
:mod:`.hidden_pixels`, how weights are estimated in :mod:`napari_ensir.ensemble`.

The error of a prediction that did not see a pixel and that pixel's own noise are uncorrelated, where the
noise of a pixel says nothing of its neighbours' (Batson and Royer 2019, arXiv 1901.11365). So the noisy image
is to these predictions what a second exposure is to ordinary ones: a reference whose noise changes every
squared error by the same number, and with it no weight of least squares.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from napari_ensir.ensemble.fit import fit_lut
from napari_ensir.ensemble.inputs import check_names
from napari_ensir.ensemble.noise_checks import correlated_noise_warning
from napari_ensir.ensemble.noisy_scores import NoisyScores, block_errors, joined
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import as_restorer, check_image, with_channel_axis
from napari_ensir.restorers.enlarging import check_keeps_size
from napari_ensir.restorers.hidden_pixels import HiddenGrid, restore_hidden
from napari_ensir.settings import BlindSettings

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.ensemble.noisy_scores import BlockErrors
    from napari_ensir.restorers.base import AnyRestorer, Progress, Restorer

__all__ = [
    "BlindReference",
    "Combined",
    "CorrelatedNoiseWarning",
    "blind_reference",
    "learn_blind",
    "restore_and_combine",
]


class CorrelatedNoiseWarning(UserWarning):
    """The noise of neighbouring pixels is correlated, so that hidden noise can be guessed."""


@dataclass(frozen=True)
class BlindReference:
    """Predictions of hidden pixels beside the noisy pixels themselves: a reference set without a truth.

    Whatever takes a reference set takes :attr:`pairs`, such as :func:`napari_ensir.compare`.

    Attributes
    ----------
    pairs : tuple of (candidates, noisy)
        One per image. An image of shape ``(..., rows, columns)`` gives arrays of shape
        ``(..., offsets, rows // stride, columns // stride)``, its channels, if any, along one more axis, the
        last. Candidates are float32, the noisy pixels of the image's own dtype.
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

    pairs: tuple[tuple[tuple[NDArray[np.float32], ...], NDArray[Any]], ...]
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
        """The table that least squares learns from it; parameters as for :func:`learn_blind`."""
        lut = fit_lut(
            self.pairs,
            self.names,
            "least-squares",
            bin_width,
            data_range or self.data_range,
            self.channel_axis,
            mask=self.masks,
            device=device,
            progress=progress,
            shrinkage=shrinkage,
        )
        report = {
            **lut.report,
            "truth_noise": "unknown",
            "blind": dict(self.settings),
            "scores": self.scores().to_dict(),
            "warnings": list(self.warnings),
        }
        if data_range is None:
            report["data_range_from"] = "dtype" if self._is_byte else "data"
        return replace(lut, channel_axis=self.image_channel_axis, report=report)

    def scores(self) -> NoisyScores:
        """The restorers and the average of their candidates, scored on hidden pixels."""
        low, high = self.data_range
        return NoisyScores.of(self.names, [self.block_errors()], high - low)

    def block_errors(self, average: bool = True) -> BlockErrors:
        """Squared errors against the noisy pixels, block by block.

        Parameters
        ----------
        average : bool
            Of the average of the candidates as well, after them.
        """
        parts = []
        masks = self.masks or (None,) * len(self.pairs)
        for (candidates, noisy), mask in zip(self.pairs, masks, strict=True):
            images = [*candidates, np.mean(candidates, axis=0)] if average else list(candidates)
            valid = None
            if mask is not None:
                valid = np.broadcast_to(mask if mask.ndim == noisy.ndim else mask[..., None], noisy.shape)
            channels = -1 if self.has_channels else None
            parts.append(block_errors(noisy, images, valid=valid, channel_axis=channels))
        return joined(parts)

    @property
    def _is_byte(self) -> bool:
        return all(noisy.dtype.kind in "iu" and noisy.dtype.itemsize == 1 for _, noisy in self.pairs)


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
) -> BlindReference:
    """Restore noisy images with some pixels hidden, and keep what comes out at those.

    Parameters
    ----------
    images, restorers, names, stride, offsets, channel_axis, mask, seed, progress
        As for :func:`learn_blind`.

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
    arrays = _checked(images, channel_axis)
    masks = _masks(mask, images, len(arrays))
    chosen = _restorers(restorers, channel_axis)
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    axis = _channels(chosen, channel_axis)
    pairs, kept_masks = [], []
    doubts = _doubts(arrays, axis)
    for number, (image, where) in enumerate(zip(arrays, masks, strict=True)):
        grid = HiddenGrid(image.shape, axis, stride, offsets, seed)
        predictions = []
        for index, restorer in enumerate(chosen):
            place = (number * len(chosen) + index, len(arrays) * len(chosen))
            predictions.append(restore_hidden(image, restorer, grid, _part(progress, *place)))
        pairs.append((tuple(predictions), grid.kept(grid.planes(image))))
        kept_masks.append(None if where is None else _hidden_of_mask(where, grid, number))
    return BlindReference(
        tuple(pairs),
        None if mask is None else tuple(kept_masks),
        checked,
        None if axis is None or channel_axis is None else -1,
        None if channel_axis is None else _as_fitted(channel_axis, arrays[0].ndim),
        _range_of(pairs),
        axis is not None,
        {"stride": stride, "offsets": offsets, "seed": seed},
        tuple(doubts),
    )


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
    shrinkage: float | Literal["auto"] = 1000.0,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> WeightLUT:
    """Learn from noisy images alone how far to trust each restorer at each intensity.

    Hides one pixel in ``stride`` x ``stride``, restores, keeps what each restorer makes of the hidden pixels,
    and repeats that for other pixels; then least squares of these predictions against the noisy pixels. The
    table is meant for the restorers' ordinary results.

    It is for denoising: a noisy image is noise about the truth. An image that is blurred, or behind rain, is
    about something else, and would teach to leave it so. It works best where a pixel can be guessed from
    its neighbours; structures finer than that make sharp restorers look worse than they are. And
    the noise must not be correlated between pixels; a warning is given where it shows in the image.

    Parameters
    ----------
    images : an array, or a sequence of arrays
        Noisy images of any integer or float dtype, with at least two axes beside the channels. Axes before
        the last two count planes, each of which has a grid of its own.
    restorers : sequence of M restorers
        Any of :mod:`napari_ensir.restorers`, networks included, or functions from an image to one of its
        shape. They compute where, and in tiles of the size, that each is set to.
    names : M strings, optional
        None: the restorers' own.
    stride : int
        Pixels from one hidden pixel to the next along rows and columns, 2 or more. Nearer ones cost fewer
        runs per pixel, and spoil each other's surroundings more.
    offsets : int
        How often each restorer runs: each run hides other pixels, so ``offsets / stride ** 2`` of all.
    bin_width, data_range, shrinkage
        As for :func:`napari_ensir.fit_lut`.
    channel_axis : int, optional
        Axis of the channels: hidden together, told to the restorers, and each with a table of its own. None:
        channels are hidden together along the restorers' own ``channel_axis``, and pooled.
    mask : array, or sequence of arrays (or None), one per image, optional
        Where to learn: bool, of the image's shape, the channel axis left out or not.
    device : str or torch.device
        Where to count pixels.
    seed : int
        Of the order in which pixels are hidden; the same one gives the same table.
    progress
        Called with (done, total, text); what it raises stops the work and passes through.

    Returns
    -------
    WeightLUT
        Its report says ``"truth_noise": "unknown"``, as ``"blind"`` how pixels were hidden, and as ``"scores"``
        what can be said of the candidates.

    Raises
    ------
    EnsembleError
        If an image cannot be used, a name is missing, or a number is out of its limits.

    Warns
    -----
    CorrelatedNoiseWarning
        If the noise of neighbouring pixels is correlated. The report's ``"warnings"`` have the sentence too.

    References
    ----------
    J. Batson and L. Royer. Noise2Self: Blind Denoising by Self-Supervision. ICML 2019, arXiv 1901.11365.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + rows + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> restorers = {"as it is": Gaussian(sigma=0.1), "smooth": Gaussian(sigma=2)}
    >>> lut = learn_blind(noisy, list(restorers.values()), list(restorers), device="cpu")
    >>> bool(lut.weights_for((130, 130))[1] > 0.9)
    True
    """
    reference = blind_reference(
        images,
        restorers,
        names,
        stride=stride,
        offsets=offsets,
        channel_axis=channel_axis,
        mask=mask,
        seed=seed,
        progress=progress,
    )
    return reference.learn(
        bin_width=bin_width, data_range=data_range, shrinkage=shrinkage, device=device, progress=progress
    )


@dataclass(frozen=True)
class Combined:
    """What :func:`restore_and_combine` makes of a noisy image.

    Attributes
    ----------
    candidates : tuple of M float32 arrays of the image's shape
    ensemble : float32 array of that shape
    lut : WeightLUT
    reference : BlindReference
        What the table was learned from; scores and rankings can be made of it.
    """

    candidates: tuple[NDArray[np.float32], ...]
    ensemble: NDArray[np.float32]
    lut: WeightLUT
    reference: BlindReference

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return self.lut.names


def restore_and_combine(
    image: ArrayLike,
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    stride: int = 6,
    offsets: int = 6,
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    mask: ArrayLike | None = None,
    shrinkage: float | Literal["auto"] = 1000.0,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Combined:
    """Restore a noisy image in several ways and combine the results, with nothing but the image.

    Parameters
    ----------
    image : array
        One noisy image.
    restorers, names, stride, offsets, bin_width, data_range, channel_axis, mask, shrinkage, device, seed
        As for :func:`learn_blind`.
    progress
        As for :func:`learn_blind`.

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> combined = restore_and_combine(noisy, [Gaussian(), Median()], device="cpu")
    >>> combined.names, combined.ensemble.shape
    (('Gaussian', 'Median'), (48, 60))
    """
    (array,) = _checked([image], channel_axis)
    chosen = _restorers(restorers, channel_axis)
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    runs = len(chosen) * (offsets + 1)
    candidates = []
    for index, restorer in enumerate(chosen):
        candidates.append(restorer(array, progress=_part(progress, index, runs)))
    reference = blind_reference(
        [array],
        chosen,
        checked,
        stride=stride,
        offsets=offsets,
        channel_axis=channel_axis,
        mask=None if mask is None else [mask],
        seed=seed,
        progress=_after(progress, len(chosen), runs),
    )
    lut = reference.learn(bin_width=bin_width, data_range=data_range, shrinkage=shrinkage, device=device)
    ensemble = lut.apply(candidates, device)
    return Combined(tuple(candidates), ensemble, lut, reference)


def _restorers(given: Sequence[AnyRestorer], channel_axis: int | None) -> list[Restorer]:
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


def _checked(images: Any, channel_axis: int | None) -> list[NDArray[Any]]:
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
    """Sentences about noise that neighbours have in common, also said as a warning of Python's."""
    found = [correlated_noise_warning(image, channel_axis) for image in images]
    doubts = [
        (f"image {number + 1}: " if len(found) > 1 else "") + doubt
        for number, doubt in enumerate(found)
        if doubt
    ]
    for doubt in doubts:
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


def _range_of(pairs: Sequence[tuple[tuple[NDArray[np.float32], ...], NDArray[Any]]]) -> tuple[float, float]:
    """The dtype's range for 8 bit, else the predictions', which is narrower than that of noisy pixels."""
    kinds = {noisy.dtype for _, noisy in pairs}
    if len(kinds) == 1 and (kind := kinds.pop()).kind in "iu" and kind.itemsize == 1:
        return float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    low = min(float(each.min()) for candidates, _ in pairs for each in candidates)
    high = max(float(each.max()) for candidates, _ in pairs for each in candidates)
    if not low < high:
        raise EnsembleError(f"every restored pixel is {low:g}; constant images teach nothing.")
    return low, high


def _as_fitted(channel_axis: int, ndim: int) -> int:
    """The channel axis as a table keeps it: the last one counted from the end, so that stacks fit as well."""
    axis = channel_axis % ndim
    return -1 if axis == ndim - 1 else axis


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """`progress` for one of several pieces of work."""
    if progress is None:
        return None
    return lambda done, total, text: progress(number * max(total, 1) + done, parts * max(total, 1), text)


def _after(progress: Progress | None, before: int, parts: int) -> Progress | None:
    """`progress` for what follows `before` of `parts` pieces of work."""
    if progress is None:
        return None
    rest = parts - before
    return lambda done, total, text: progress(
        before * max(total, 1) + rest * done, parts * max(total, 1), text
    )

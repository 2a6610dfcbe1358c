"""Restorers without training: denoisers and deconvolutions, most of them from scikit-image."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import ImageRestorer, Progress, channels_first
from napari_ensir.restorers.noise_model import (
    NoiseModel,
    estimate_noise_model,
    find_hot_pixels,
    replace_hot_pixels,
)
from napari_ensir.settings import check_settings, noise_setting, seed_setting, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import FloatImage


def _strength(what: str, default: float, low: float, high: float) -> Any:
    """Declare the setting ``strength``, in units of the noise."""
    return _number(f"{what} in units of the noise; higher is smoother.", default, low, high, 0.1)


def _number(description: str, default: float, low: float, high: float, step: float, **about: str) -> Any:
    """Declare a setting that is a number with limits."""
    return setting(default, description=description, limits=(low, high), step=step, **about)


_MIN_NOISE = 1e-6  # on the unit scale: the methods divide by the noise, which is 0 in a noiseless image
_MIN_SIZE = 5  # rows and columns: the wavelet of the noise estimate is four pixels wide
_BAND_ROWS = 32  # rows that the bilateral filter works on at once, so that its windows stay in a core's cache


def estimate_noise(image: FloatImage) -> float:
    """Estimate the standard deviation of the noise, averaged over channels.

    Where the noise depends on the signal it is the root mean variance of
    :func:`~napari_ensir.restorers.noise_model.estimate_noise_model`, else the estimate of Donoho and
    Johnstone (1994) from wavelet coefficients.

    Parameters
    ----------
    image : (channels, ..., rows, columns) or (rows, columns) float array

    Returns
    -------
    float
        In the units of the image.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 0.1, (1, 64, 64)).astype(np.float32)
    >>> round(estimate_noise(noise), 2)
    0.1
    """
    if image.ndim == 2:
        image = image[np.newaxis]
    sigmas = _wavelet_noise(image)
    if min(image.shape[-2:]) >= _MIN_SIZE:
        for channel, model in enumerate(map(estimate_noise_model, image)):
            if model.is_signal_dependent:
                sigmas[channel] = model.level
    return float(np.mean(sigmas))


def _wavelet_noise(image: FloatImage) -> NDArray[np.float64]:
    """Donoho and Johnstone's estimate for each channel, shape (channels,)."""
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        # scikit-image takes the median of all non-zero coefficients; a constant image has none.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        sigmas = estimate_sigma(image, channel_axis=0)  # type: ignore[no-untyped-call]
    return np.nan_to_num(np.array(sigmas, np.float64))


@dataclass(frozen=True, kw_only=True)
class ClassicalRestorer(ImageRestorer):
    """Base class of restorers that process planes or volumes one by one.

    The last `spatial_ndim` axes (beside the channel axis) are restored together. Work can be cancelled
    between planes or volumes, but not within one. Hot pixels are replaced first.
    """

    description: ClassVar[str]
    planes_only: ClassVar[bool] = False

    spatial_ndim: int = _number(
        "2 restores plane by plane; 3 takes the last three axes as a volume.", 2, 2, 3, 1, title="Dimensions"
    )
    hot_pixels: bool = setting(
        True,
        "Replace isolated pixels far brighter than the noise by the median of their neighbours.",
        title="Replace hot pixels",
    )

    noise_models: tuple[NoiseModel, ...] | None = field(default=None, repr=False)
    """Noise of each channel on the unit scale; None: estimated from each image. See :meth:`fixed_to`."""

    def fixed_to(self, image: NDArray[Any]) -> Self:
        """Return a restorer with the data range and the noise models of an image, for images like it.

        Parameters
        ----------
        image : array

        Returns
        -------
        ClassicalRestorer
        """
        low, high = self.range_of(image)
        unit = (image.astype(np.float64) - low) / (high - low)
        channels = channels_first(unit, self.channel_axis).astype(np.float32)
        return replace(self, data_range=(low, high), noise_models=tuple(map(estimate_noise_model, channels)))

    def notes(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`ImageRestorer.notes`."""
        channels = channels_first(image, self.channel_axis)
        return self._notes(channels, list(map(estimate_noise_model, channels)))

    def _notes(self, image: NDArray[Any], models: Sequence[NoiseModel]) -> list[str]:
        count = int(self._hot_pixels(image, models).sum())
        s, its = ("", "its") if count == 1 else ("s", "their")
        return [f"replaced {count} hot pixel{s} by the median of {its} neighbours"] if count else []

    def restore_unit(self, image: FloatImage, scale: float, progress: Progress) -> FloatImage:
        """See :meth:`ImageRestorer.restore_unit`."""
        self._check(image)
        models = self.noise_models or list(map(estimate_noise_model, image))
        image = replace_hot_pixels(image, self._hot_pixels(image, models))
        return self._restore(image, models, scale, progress)

    def _hot_pixels(self, image: NDArray[Any], models: Sequence[NoiseModel]) -> NDArray[np.bool_]:
        if not self.hot_pixels:
            return np.zeros(image.shape, bool)
        return np.stack([find_hot_pixels(*each) for each in zip(image, models, strict=True)])

    def _restore(
        self, image: FloatImage, models: Sequence[NoiseModel], scale: float, progress: Progress
    ) -> FloatImage:
        """Restore an image whose channels have these noise models."""
        before = image.shape[1 : image.ndim - self.spatial_ndim]
        total = int(np.prod(before))
        restored = np.empty_like(image)
        progress(0, total, self.name)
        for done, index in enumerate(np.ndindex(before), start=1):
            at = (slice(None), *index)
            restored[at] = self.restore_block(image[at], scale)
            progress(done, total, self.name)
        return restored

    @abstractmethod
    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """Restore one plane or volume of shape (channels, [planes,] rows, columns), range 0..1.

        Parameters
        ----------
        block : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Width of the data range in intensity units.

        Returns
        -------
        float32 array of the same shape
        """

    def _check(self, image: FloatImage) -> None:
        if self.planes_only and self.spatial_ndim != 2:
            raise EnsembleError(f"{self.name} works plane by plane: spatial_ndim has to be 2.")
        if self.spatial_ndim not in (2, 3) or self.spatial_ndim > image.ndim - 1:
            raise EnsembleError(
                f"{self.name} cannot restore {self.spatial_ndim} dimensions of an image with "
                f"{image.ndim - 1} beside the channel axis; use 2{' or 3' if image.ndim > 3 else ''}."
            )
        if min(image.shape[-2:]) < _MIN_SIZE:
            raise EnsembleError(
                f"the image has {image.shape[-2]} x {image.shape[-1]} pixels; at least "
                f"{_MIN_SIZE} x {_MIN_SIZE} are needed."
            )
        check_settings(self, f"{self.name}: ")


@dataclass(frozen=True, kw_only=True)
class NoiseAwareRestorer(ClassicalRestorer):
    """Base class of denoisers whose strength is in units of the noise.

    With ``noise="auto"`` and noise that depends on the signal, they restore the generalised Anscombe
    transform of the image, whose noise has one level; see :mod:`napari_ensir.restorers.noise_model`.
    """

    noise: float | Literal["auto"] | None = noise_setting(
        "auto",
        none="one level for all intensities, estimated from the image",
        auto="estimated from the image, with its dependence on the intensity",
    )

    def noise_of(self, block: FloatImage, scale: float) -> float:
        """Return the noise of a block on the unit scale, given or estimated, at least 1e-6.

        Parameters
        ----------
        block : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Width of the data range in intensity units.

        Returns
        -------
        float
        """
        if isinstance(self.noise, int | float):
            return max(self.noise / scale, _MIN_NOISE)
        sigma = estimate_noise(block) if self.noise is None else float(np.mean(_wavelet_noise(block)))
        return max(sigma, _MIN_NOISE)

    def _notes(self, image: NDArray[Any], models: Sequence[NoiseModel]) -> list[str]:
        stabilised = [str(model) for model in models if self.noise == "auto" and model.is_signal_dependent]
        found = [f"used a variance-stabilising transform ({each})" for each in dict.fromkeys(stabilised)]
        return super()._notes(image, models) + found

    def _restore(
        self, image: FloatImage, models: Sequence[NoiseModel], scale: float, progress: Progress
    ) -> FloatImage:
        """Restore behind a variance-stabilising transform if the noise of a channel depends on the signal."""
        if self.noise != "auto" or not any(model.is_signal_dependent for model in models):
            return super()._restore(image, models, scale, progress)
        noisy = [c for c, model in enumerate(models) if model.level > 0]
        stabilised = np.stack([models[c].stabilise(image[c]) for c in noisy])
        low, width = float(stabilised.min()), float(np.ptp(stabilised))
        unit = ((stabilised - low) / width).astype(np.float32)
        denoised = replace(self, noise=1.0)._restore(unit, models, width, progress)
        restored = image.copy()  # channels without noise are not changed
        for c, channel in zip(noisy, denoised, strict=True):
            restored[c] = models[c].unstabilise(channel * np.float64(width) + low)
        return restored


def _with_channels(function: Callable[..., Any], block: FloatImage, **settings: Any) -> FloatImage:
    """Call a scikit-image function on a block whose channel axis is the first."""
    if len(block) == 1:  # with a channel axis of length 1, non-local means of scikit-image 0.26 transposes
        return np.asarray(function(block[0], **settings), np.float32)[np.newaxis]
    restored = function(np.moveaxis(block, 0, -1), channel_axis=-1, **settings)
    return np.moveaxis(np.asarray(restored, np.float32), -1, 0)


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(NoiseAwareRestorer):
    """Non-local means: the average of pixels with similar patches (Buades, Coll and Morel 2005)."""

    title: ClassVar[str] = "Non-local means"
    description: ClassVar[str] = "Averages pixels whose patches are similar; preserves repeated texture."

    strength: float = _strength("Cut-off of the similarity", 0.8, 0.01, 10.0)
    patch_size: int = _number("Side of the patches, in pixels.", 5, 3, 21, 2)
    patch_distance: int = _number("Largest distance of the patches compared, in pixels.", 6, 1, 50, 1)

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_nl_means

        sigma = self.noise_of(block, scale)
        patches = {"patch_size": self.patch_size, "patch_distance": self.patch_distance}
        return _with_channels(denoise_nl_means, block, h=self.strength * sigma, sigma=sigma, **patches)


@dataclass(frozen=True, kw_only=True)
class TotalVariation(NoiseAwareRestorer):
    """Total variation denoising (Chambolle 2004)."""

    title: ClassVar[str] = "Total variation"
    description: ClassVar[str] = "Smooths regions and preserves their edges; removes fine texture first."

    strength: float = _strength("Weight of the smoothness", 0.7, 0.01, 20.0)
    iterations: int = _number("Largest number of iterations.", 200, 1, 5000, 10)

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_tv_chambolle

        weight = self.strength * self.noise_of(block, scale)
        return _with_channels(denoise_tv_chambolle, block, weight=weight, max_num_iter=self.iterations)


@dataclass(frozen=True, kw_only=True)
class Wavelet(NoiseAwareRestorer):
    """Wavelet shrinkage (Chang, Yu and Vetterli 2000; Donoho and Johnstone 1994)."""

    title: ClassVar[str] = "Wavelet"
    description: ClassVar[str] = "Shrinks small wavelet coefficients, which are mostly noise; fast."

    wavelet: str = setting("db2", "Family of the wavelet.", choices=("db1", "db2", "sym4", "coif1", "db4"))
    method: str = setting(
        "BayesShrink",
        "BayesShrink adapts to each subband; VisuShrink uses one threshold and is smoother.",
        title="Thresholds",
        choices=("BayesShrink", "VisuShrink"),
    )

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_wavelet

        settings = {"sigma": self.noise_of(block, scale), "wavelet": self.wavelet, "method": self.method}
        with warnings.catch_warnings():
            # PyWavelets warns if a block is hardly larger than the wavelet; the result is right.
            warnings.filterwarnings("ignore", message="Level value of")
            return _with_channels(denoise_wavelet, block, rescale_sigma=False, **settings)


def bilateral(image: FloatImage, intensity: float, distance: float) -> FloatImage:
    """Average pixels with Gaussian weights of their distance in space and in intensity.

    The bilateral filter of Tomasi and Manduchi (1998). The window reaches three standard deviations of the
    distance, at least two pixels; the image is mirrored at its border.

    Parameters
    ----------
    image : (C, Y, X) float32
        The distance in intensity is Euclidean over channels.
    intensity : float
        Standard deviation of the weight by intensity, intensity units; above 0.
    distance : float
        Standard deviation of the weight by distance, pixels; above 0.

    Returns
    -------
    (C, Y, X) float32

    Examples
    --------
    >>> step = np.repeat(np.float32([[[10, 90]]]), 6, axis=-1) + np.float32([[[1], [-1], [1], [-1]]])
    >>> np.unique(bilateral(step, intensity=5, distance=2).round())
    array([10., 90.], dtype=float32)
    """
    reach = max(2, ceil(3 * distance))
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    rows, columns = image.shape[1:]
    by_distance = np.exp(-np.square(np.arange(-reach, reach + 1) / distance) / 2).astype(np.float32)
    scale = np.float32(-1 / (2 * intensity**2))
    result = np.empty_like(image)
    for first in range(0, rows, _BAND_ROWS):
        here = image[:, first : first + _BAND_ROWS]
        total, weights = np.zeros_like(here), np.zeros(here.shape[1:], np.float32)
        for down, right in product(range(2 * reach + 1), repeat=2):
            other = padded[:, first + down : first + down + here.shape[1], right : right + columns]
            weight = np.exp(np.square(other - here).sum(axis=0) * scale)
            weight *= by_distance[down] * by_distance[right]
            total += weight * other
            weights += weight
        result[:, first : first + _BAND_ROWS] = total / weights
    return result


@dataclass(frozen=True, kw_only=True)
class Bilateral(NoiseAwareRestorer):
    """Bilateral filter (Tomasi and Manduchi 1998); see :func:`bilateral`."""

    title: ClassVar[str] = "Bilateral"
    description: ClassVar[str] = "Averages nearby pixels of similar intensity; plane by plane only."

    planes_only: ClassVar[bool] = True
    spatial_ndim: int = 2  # not a setting: the window of a volume would have thousands of pixels
    strength: float = _strength("Standard deviation of the intensity weight", 1.2, 0.1, 50.0)
    radius: float = _number("Standard deviation of the distance weight, in pixels.", 1.5, 0.1, 20.0, 0.1)

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        return bilateral(block, self.strength * self.noise_of(block, scale), self.radius)


@dataclass(frozen=True, kw_only=True)
class Gaussian(ClassicalRestorer):
    """Gaussian filter."""

    title: ClassVar[str] = "Gaussian"
    description: ClassVar[str] = "Blurs noise and detail; the simplest method."

    sigma: float = _number("Standard deviation of the Gaussian, in pixels.", 1.0, 0.0, 50.0, 0.1)

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.filters import gaussian

        settings = {"mode": "reflect", "preserve_range": True, "channel_axis": 0}
        return np.asarray(gaussian(block, self.sigma, **settings), np.float32)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Median(ClassicalRestorer):
    """Median filter with a square or cubic neighbourhood."""

    title: ClassVar[str] = "Median"
    description: ClassVar[str] = "Removes outlying pixels and preserves edges."

    size: int = _number("Side of the neighbourhood, in pixels.", 3, 1, 51, 2)

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.filters import median

        footprint = np.ones((self.size,) * self.spatial_ndim)
        filtered = [median(each, footprint, mode="reflect") for each in block]  # type: ignore[no-untyped-call]
        return np.stack(filtered)


@dataclass(frozen=True, kw_only=True)
class _Deconvolution(ClassicalRestorer):
    """Base class of deconvolutions with a Gaussian point spread function."""

    psf_sigma: float = _number(
        "Standard deviation of the Gaussian point spread function, in pixels.",
        1.0,
        0.1,
        20.0,
        0.1,
        title="Blur",
    )

    def restore_block(self, block: FloatImage, scale: float) -> FloatImage:
        """See :meth:`ClassicalRestorer.restore_block`."""
        reach = int(np.ceil(4 * self.psf_sigma))
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.psf_sigma) ** 2)
        psf = reduce(np.multiply.outer, [line] * self.spatial_ndim)
        psf /= psf.sum()
        # Both methods assume a dark or periodic surround; a mirrored one has no ringing.
        pad = [(2 * reach, 2 * reach)] * self.spatial_ndim
        inner = (slice(2 * reach, -2 * reach),) * self.spatial_ndim
        return np.stack([self.deconvolve(np.pad(each, pad, "symmetric"), psf)[inner] for each in block])

    @abstractmethod
    def deconvolve(self, channel: FloatImage, psf: NDArray[np.float64]) -> FloatImage:
        """Deconvolve one padded channel with a point spread function that sums to 1."""


@dataclass(frozen=True, kw_only=True)
class RichardsonLucy(_Deconvolution):
    """Richardson-Lucy deconvolution (Richardson 1972, Lucy 1974).

    The lower end of the data range is taken as zero intensity; values below it are set to it.
    """

    title: ClassVar[str] = "Richardson-Lucy"
    description: ClassVar[str] = "Deblurs an image; more iterations also amplify noise."

    iterations: int = _number("Number of iterations.", 10, 1, 1000, 5)

    def deconvolve(self, channel: FloatImage, psf: NDArray[np.float64]) -> FloatImage:
        """See :meth:`_Deconvolution.deconvolve`."""
        from skimage.restoration import richardson_lucy

        restored = richardson_lucy(  # type: ignore[no-untyped-call]
            np.clip(channel, 0, None), psf, num_iter=self.iterations, clip=False, filter_epsilon=1e-6
        )
        return np.asarray(restored, np.float32)


@dataclass(frozen=True, kw_only=True)
class UnsupervisedWiener(_Deconvolution):
    """Wiener-Hunt deconvolution with estimated regularisation (Orieux, Giovannelli and Rodet 2010)."""

    title: ClassVar[str] = "Unsupervised Wiener"
    description: ClassVar[str] = "Deblurs an image; estimates the regularisation from it."

    planes_only: ClassVar[bool] = True
    spatial_ndim: int = 2  # not a setting: scikit-image restores planes only
    seed: int = seed_setting()

    def deconvolve(self, channel: FloatImage, psf: NDArray[np.float64]) -> FloatImage:
        """See :meth:`_Deconvolution.deconvolve`."""
        from skimage.restoration import unsupervised_wiener

        restored, _ = unsupervised_wiener(channel, psf, clip=False, rng=self.seed)  # type: ignore[no-untyped-call]
        return np.asarray(restored, np.float32)


CLASSICAL: dict[str, type[ClassicalRestorer]] = {
    "non-local-means": NonLocalMeans,
    "total-variation": TotalVariation,
    "wavelet": Wavelet,
    "bilateral": Bilateral,
    "gaussian": Gaussian,
    "median": Median,
    "richardson-lucy": RichardsonLucy,
    "unsupervised-wiener": UnsupervisedWiener,
}
"""Classical restorers by the keys that scripts and the command line use.

Each class has a ``title`` and a ``description``; its settings are listed by
:func:`napari_ensir.settings.settings_of`."""
